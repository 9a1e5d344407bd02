"""One-step off-policy: while the last update of a problem batch trains, the next batch runs up to its first update.

    batch b    sample | train                                 synchronous
    batch b+1                 | sample | train

    batch b    sample | train  |                              with `one_step_off_policy`
    batch b+1         | sample | train |

From the third batch on, the first update of a batch has samples from weights that are one update old. They keep that
version, the trainer gets the lag, and the ratio corrects for it (see `Trainer.apply`). Later updates of a batch
(ThinkTwice's refinement) are not affected.

Results do not depend on timing. A batch's last update cannot be known beforehand: it is assumed to be number n, the mean
number of updates per batch so far, rounded up. If another update follows, the samples of the next batch are discarded and
drawn again with the newest weights, so no sample is ever older than one update. If update n never comes, nothing is
sampled early.

Method, verifiers and policies run in the main thread; only the trainer moves to another thread. A method's code never
resumes during training, and the policy meanwhile samples from frozen weights. The next batch works on a copy of the
method's state and of the position in the problems, which must therefore not change after a batch's last update.

Several ranks do the same in lockstep: no decision depends on what a single rank sees, except for a failure, which
ends it and so the others. They exchange samples over a second connection (`open_sampling_group`), independent of how far
training is on each.

A checkpoint contains the samples and scores of the next batch, also those of a teacher or another role, which may answer
otherwise when it is asked again. A resumed run replays them to the method, and continues as if it had never stopped. For
the same reason the last batch of a run is followed by one more sampling: the run may be extended.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Event
from typing import Any

from rethink import threads
from rethink.distributed import CommonError
from rethink.errors import UserError
from rethink.objectives import Update
from rethink.policies.base import Policy, PolicyWrapper
from rethink.sample_data import reply_from_data, reply_to_data
from rethink.training.batch import Batch, Metrics
from rethink.training.run import Run
from rethink.types import Group, Prompt, Sample, Sampling


class OneStepOffPolicy:
    """The schedule that trains the last update of each batch while it samples the next batch."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._next: tuple[Batch, ReplayedPolicy] | None = None
        self._failure: Exception | None = None
        self._state: dict[str, Any] = {}  # the method's state when the next batch was sampled,
        self._position = (0, 0)  # and the position in the problems
        self._n_expected = self._n_updates = 0
        self._lag = 0  # of the next update

    def next_batch(self) -> Batch:
        """Return the next batch: sampled already, by this process or in the checkpoint, or a new one."""
        run = self.run
        self._lag = 1
        if self._next is not None:
            batch = self._next[0]
        elif run.sampled_ahead is not None:
            batch = self._restore_batch(run.sampled_ahead)
        else:
            batch = Batch(run, run.n_batches, run.state, run.stream)
            self._lag = 0
        self._next = run.sampled_ahead = None
        run.state = batch.state
        self._n_updates = 0
        if run.n_batches:
            self._n_expected = -(-run.trainer.version // run.n_batches)
        return batch

    def train(self, batch: Batch, update: Update) -> Metrics:
        """Train in this thread, or in another one while this one samples the next batch."""
        lag, self._lag = self._lag, 0
        self._discard_next(batch)
        self._n_updates += 1
        if self._n_updates == self._n_expected:
            metrics = self._train_while_sampling(batch, update, lag)
        else:
            self.run.policy.release_memory()
            metrics = batch.train(update, lag)
        return {**metrics, "lag_updates": lag}

    def finish_batch(self, batch: Batch) -> None:
        """Raise the error of sampling the next batch, or UserError if the method has changed its state since."""
        if self._failure is not None:
            raise self._failure
        self.run.stream = batch.stream
        if self._next is not None:
            self.run.ranks.on_rank0(self._refuse_late_change)
            self.run.sampled_ahead = self._next[1].recording

    def _refuse_late_change(self) -> None:
        changes = "" if self.run.state == self._state else "changes its state (actors.state)"
        if self.run.stream.position != self._position:
            changes = "draws problems (actors.more_problems)"
        if changes:
            raise UserError(
                f"the method {self.run.recipe.method['name']!r} {changes} after the last update of a batch, but the next "
                "batch is sampled already; start a new run with one_step_off_policy=false"
            )

    def _train_while_sampling(self, batch: Batch, update: Update, lag: int) -> Metrics:
        """Train in another thread and sample the next batch in this one. Raise an error of training at once, one of
        sampling in `finish_batch`. An interrupt ends sampling at once, and is raised after the update.

        On several ranks, sampling continues when training fails: the other ranks may wait for the samples."""
        run, failed = self.run, Event()
        self._state, self._position = copy.deepcopy(run.state), batch.stream.position
        policy = ReplayedPolicy(run.policy)
        if run.ranks.size == 1:
            policy.replay.stop = failed
        next_batch = Batch(run, run.n_batches + 1, copy.deepcopy(run.state), batch.stream, policy, policy.beside)
        work = partial(_train, batch, update, lag, failed)
        with run.policy.frozen_weights(), threads.running([work]) as (training,):
            try:
                next_batch.run_to_first_update()
            except threads.Stopped:
                pass  # `training` raises the reason
            except Exception as err:
                self._failure = err  # raised in `finish_batch`, after the current update
        if run.ranks.size > 1 and self._failure is not None and not isinstance(self._failure, CommonError):
            raise self._failure  # the other ranks wait, and see that this one has ended
        policy.finish_replay()
        self._next = next_batch, policy
        return training.result()

    def _discard_next(self, batch: Batch) -> None:
        """Discard the next batch, because this one has more updates than expected. Its cost counts for this batch."""
        if self._next is not None:
            batch.meter.add(self._next[0].meter)
        self._next = self._failure = None

    def _restore_batch(self, recording: dict[str, Any]) -> Batch:
        """Return the batch whose samples are in the checkpoint."""
        policy = ReplayedPolicy(self.run.policy, recording)
        batch = Batch(self.run, self.run.n_batches, self.run.state, self.run.stream, policy, policy.beside)
        batch.run_to_first_update()
        policy.finish_replay()
        return batch


def _train(batch: Batch, update: Update, lag: int, failed: Event, _stop: Event) -> Metrics:
    try:
        return batch.train(update, lag)
    except BaseException:
        failed.set()
        raise


@dataclass
class Replay:
    """What the policies of one batch record or replay, call by call. `remaining` is None while it is recorded."""

    recording: dict[str, Any]
    remaining: list[dict[str, Any]] | None
    is_finished: bool = False
    stop: Event = field(default_factory=Event)

    def next(self, kind: str, asked: Sequence[str]) -> list[Any]:
        """Return the result of the next recorded call. Raise UserError if that was another call."""
        call = self.remaining.pop(0) if self.remaining else {}
        if call.get("asked") != asked or kind not in call:
            raise UserError(OTHER_PROMPTS)
        found: list[Any] = call[kind]
        return found


class ReplayedPolicy(PolicyWrapper):
    """The policy of a method up to its first update. It records its samples and scores as plain data; given a `recording`,
    it replays that instead, with the recorded version. After `finish_replay` it only forwards calls.

    Once `replay.stop` is set, sampling raises threads.Stopped at the next finished group. `beside` returns the same for a
    policy that is not trained, whose calls are part of the same recording."""

    def __init__(
        self, policy: Policy, recording: dict[str, Any] | None = None, role: str = "", replay: Replay | None = None
    ) -> None:
        super().__init__(policy)
        calls = None if recording is None else list(recording["calls"])
        self.replay = replay or Replay(recording or {"version": policy.version, "calls": []}, calls)
        self._role = role

    def beside(self, role: str, policy: Policy) -> ReplayedPolicy:
        """Return the policy of a role, which records and replays together with this one."""
        return ReplayedPolicy(policy, role=role, replay=self.replay)

    @property
    def recording(self) -> dict[str, Any]:
        return self.replay.recording

    @property
    def version(self) -> int:
        return self.policy.version if self._role or self.replay.is_finished else self.recording["version"]

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        asked = self._asked(prompt.group for prompt in prompts)
        if self.replay.is_finished:
            yield from self.policy.groups(prompts, n, sampling)
        elif self.replay.remaining is not None:
            replayed = self.replay.next("groups", asked)
            rest = dict(enumerate(prompts))
            for i, replies in replayed:
                yield i, _restored(replies, rest.pop(i))
            if rest and not self.replay.is_finished:  # the method stopped here when it was recorded
                raise UserError(OTHER_PROMPTS)
            if rest:
                places = list(rest)
                for k, group in self.policy.groups(list(rest.values()), n, sampling):
                    yield places[k], group
        else:
            found: list[list[Any]] = []
            self.recording["calls"].append({"asked": asked, "groups": found})  # in the order in which calls begin
            for i, group in self.policy.groups(prompts, n, sampling):
                if self.replay.stop.is_set():
                    raise threads.Stopped
                found.append([i, [reply_to_data(sample) for sample in group]])
                yield i, group

    def extend(
        self, samples: Sequence[Sample], texts: Sequence[str], sampling: Sampling | None = None
    ) -> list[Sample | None]:
        if self.replay.is_finished:
            return self.policy.extend(samples, texts, sampling)
        asked = self._asked(f"{s.prompt.group} {s.index}{text}" for s, text in zip(samples, texts, strict=True))
        found: list[Sample | None] = []
        if self.replay.remaining is not None:
            for sample, reply in zip(samples, self.replay.next("extended", asked), strict=True):
                found.append(None if reply is None else reply_from_data(reply, sample.prompt))
            return found
        found = self.policy.extend(samples, texts, sampling)
        if self.replay.stop.is_set():
            raise threads.Stopped
        replies = [None if sample is None else reply_to_data(sample) for sample in found]
        self.recording["calls"].append({"asked": asked, "extended": replies})
        return found

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        if self.replay.is_finished:
            return self.policy.score(samples, prompts)
        asked = self._asked(f"{sample.prompt.group} {sample.index}" for sample in samples)
        if self.replay.remaining is not None:
            return [tuple(log_probs) for log_probs in self.replay.next("scores", asked)]
        scores = self.policy.score(samples, prompts)
        self.recording["calls"].append({"asked": asked, "scores": list(map(list, scores))})
        return scores

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        return replace(self.policy.transcribe(prompt, reply), version=self.version)

    def reprompt(self, sample: Sample, prompt: Prompt) -> Sample:
        return replace(self.policy.reprompt(sample, prompt), version=self.version)

    def finish_replay(self) -> None:
        """Forward all calls to the policy from now on, after the first update. Raise UserError if recorded calls remain."""
        if self.replay.remaining:
            raise UserError(OTHER_PROMPTS)
        self.replay.is_finished = True

    def _asked(self, what: Iterable[str]) -> list[str]:
        """Return what identifies a call: the role that is asked, if it is not the policy, and for what."""
        return [*([self._role] if self._role else []), *what]


OTHER_PROMPTS = (
    "the checkpoint holds samples of the next batch, but for other prompts; restore the data and the package version that "
    "this run started with, or start a new run"
)


def _restored(replies: Sequence[dict[str, Any]], prompt: Prompt) -> Group:
    return tuple(reply_from_data(reply, prompt) for reply in replies)
