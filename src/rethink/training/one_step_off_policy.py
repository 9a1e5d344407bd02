"""One batch ahead: while the last update of a problem batch trains, the next batch runs to its first update.

    batch b    sample | train                                 one after the other
    batch b+1                 | sample | train

    batch b    sample | train  |                              with `one_step_off_policy`
    batch b+1         | sample | train |

The first update of each batch but the very first is then made from samples of weights that are one update old: they carry
that version, the trainer is told, and the ratio corrects (see `Trainer.apply`). Further updates of a batch (ThinkTwice's
refinement) are as without it.

Nothing here depends on timing. Which update is a batch's last is not known beforehand: it is taken to be the one whose
number is the mean number of updates per batch so far, rounded up. If one more comes after all, what was sampled ahead is
dropped, and the next batch is sampled again with the newest weights: no sample is ever older. If it never comes, nothing
was sampled ahead.

Method, verifiers and policies run in the main thread; only the trainer is moved to another one. A method's code is never
resumed while it trains, and the policy samples from frozen weights meanwhile. What a method remembers is copied for the
batch ahead. It must not change after a batch's last update: that would come too late.

Several ranks do all of this in lockstep: nothing here is decided by what one of them alone sees, but for a failure of its
own, which ends it, and so the others. What they sample goes over a second connection (`open_sampling_group`), so how far
training is on each does not matter.

A checkpoint holds what was sampled (and scored) ahead: a run that is resumed gives it to the method again, and continues
as if it had never been stopped. For the same reason the last batch of a run is followed by one more sampling: the run may
be made longer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from threading import Event
from typing import Any

from rethink import threads
from rethink.distributed import CommonError
from rethink.errors import UserError
from rethink.objectives import Update
from rethink.policies.base import Policy, PolicyWrapper
from rethink.training.batch import Batch, Metrics
from rethink.training.run import Run
from rethink.types import Group, Prompt, Sample, Sampling


class OneStepOffPolicy:
    """Gives the loop its batches and trains their updates, the last one of each batch beside the next batch's sampling."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._next: tuple[Batch, ReplayedPolicy] | None = None
        self._failure: Exception | None = None
        self._state: dict[str, Any] = {}  # what the method remembered when the next batch was sampled
        self._n_expected = self._n_updates = 0
        self._lag = 0  # of the next update

    def next_batch(self) -> Batch:
        """Return the batch whose turn it is: one sampled ahead, by this process or before a checkpoint, or a new one."""
        run = self.run
        self._lag = 1
        if self._next is not None:
            batch = self._next[0]
        elif run.sampled_ahead is not None:
            batch = self._restored(run.sampled_ahead)
        else:
            batch = Batch(run, run.n_batches, run.state)
            self._lag = 0
        self._next = run.sampled_ahead = None
        run.state = batch.state
        self._n_updates = 0
        if run.n_batches:
            self._n_expected = -(-run.trainer.version // run.n_batches)
        return batch

    def train(self, batch: Batch, update: Update) -> Metrics:
        """Train here and now, or in another thread while the next batch is sampled here."""
        lag, self._lag = self._lag, 0
        self._drop_next(batch)
        self._n_updates += 1
        if self._n_updates == self._n_expected:
            numbers = self._train_beside_sampling(batch, update, lag)
        else:
            self.run.policy.release_memory()
            numbers = batch.train(update, lag)
        return {**numbers, "lag_updates": lag}

    def finish_batch(self) -> None:
        """Raise what went wrong in sampling the next batch, and UserError where that could not know what the method has
        remembered since."""
        if self._failure is not None:
            raise self._failure
        if self._next is not None:
            self.run.ranks.on_rank0(self._refuse_late_change)
            self.run.sampled_ahead = self._next[1].kept

    def _refuse_late_change(self) -> None:
        if self.run.state != self._state:
            raise UserError(
                f"the method {self.run.recipe.method['name']!r} changes what it remembers (actors.state) after its "
                "last update of a batch, when the next batch has been sampled; set one_step_off_policy=false in a new run"
            )

    def _train_beside_sampling(self, batch: Batch, update: Update, lag: int) -> Metrics:
        """Train in another thread and sample the next batch in this one. What goes wrong in training is raised here, as it
        comes before the next batch; an interrupt ends sampling at once, and comes through when the update has ended.

        Of several ranks none ends sampling because its training has ended badly: the others may wait for its samples."""
        run, ended_badly = self.run, Event()
        self._state = copy.deepcopy(run.state)
        policy = ReplayedPolicy(run.policy)
        if run.ranks.size == 1:
            policy.stop = ended_badly
        following = Batch(run, run.n_batches + 1, copy.deepcopy(run.state), policy)
        work = partial(_train, batch, update, lag, ended_badly)
        with run.policy.frozen_weights(), threads.running([work]) as (training,):
            try:
                following.run_to_first_update()
            except threads.Stopped:
                pass  # the reason is what `training` raises
            except Exception as err:
                self._failure = err  # for `finish_batch`: the update under way comes first
        if run.ranks.size > 1 and self._failure is not None and not isinstance(self._failure, CommonError):
            raise self._failure  # the others do not know of it: they wait, and see that this rank has ended
        policy.end()
        self._next = following, policy
        return training.result()

    def _drop_next(self, batch: Batch) -> None:
        """The batch has one more update than was expected: what was sampled ahead of it counts as its cost."""
        if self._next is not None:
            batch.meter.add(self._next[0].meter)
        self._next = self._failure = None

    def _restored(self, kept: dict[str, Any]) -> Batch:
        """Return the batch that a checkpoint found sampled."""
        policy = ReplayedPolicy(self.run.policy, kept)
        batch = Batch(self.run, self.run.n_batches, self.run.state, policy)
        batch.run_to_first_update()
        policy.end()
        return batch


def _train(batch: Batch, update: Update, lag: int, ended_badly: Event, _stop: Event) -> Metrics:
    try:
        return batch.train(update, lag)
    except BaseException:
        ended_badly.set()
        raise


class ReplayedPolicy(PolicyWrapper):
    """A policy as a method sees it up to its first update: it keeps what it sampled and scored, as plain data, or with
    `kept` gives that again, as the version that it came from. After `end` it is the policy itself.

    Once `stop` is set, sampling raises threads.Stopped at the next group that is finished."""

    def __init__(self, policy: Policy, kept: dict[str, Any] | None = None) -> None:
        super().__init__(policy)
        self.kept: dict[str, Any] = kept or {"version": policy.version, "calls": []}
        self.stop = Event()
        self._left: list[dict[str, Any]] | None = None if kept is None else list(kept["calls"])
        self._ended = False

    @property
    def version(self) -> int:
        return self.policy.version if self._ended else self.kept["version"]

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        asked = [prompt.group for prompt in prompts]
        if self._ended:
            yield from self.policy.groups(prompts, n, sampling)
        elif self._left is not None:
            for i, group in enumerate(self._next_kept("groups", asked)):
                yield i, _restored(prompts[i], group, self.version)
        else:
            found: list[Any] = [None] * len(prompts)
            for i, group in self.policy.groups(prompts, n, sampling):
                if self.stop.is_set():
                    raise threads.Stopped
                found[i] = _plain(group)
                yield i, group
            self.kept["calls"].append({"asked": asked, "groups": found})

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        if self._ended:
            return self.policy.score(samples, prompts)
        asked = [f"{sample.prompt.group} {sample.index}" for sample in samples]
        if self._left is not None:
            return [tuple(log_probs) for log_probs in self._next_kept("scores", asked)]
        scores = self.policy.score(samples, prompts)
        self.kept["calls"].append({"asked": asked, "scores": list(map(list, scores))})
        return scores

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        return replace(self.policy.transcribe(prompt, reply), version=self.version)

    def end(self) -> None:
        """Be the policy itself from now on: the first update is there."""
        if self._left:
            raise UserError(CHANGED)
        self._ended = True

    def _next_kept(self, kind: str, asked: Sequence[str]) -> list[Any]:
        """Return what was kept of the next call. Raises UserError where it was another one."""
        call = self._left.pop(0) if self._left else {}
        if call.get("asked") != asked or kind not in call:
            raise UserError(CHANGED)
        found: list[Any] = call[kind]
        return found


CHANGED = (
    "the checkpoint holds samples of the next batch, and they are for other prompts; put back the data and the version of "
    "the package that this run was started with, or start a new run"
)


def _plain(group: Group) -> dict[str, Any]:
    """Return a group as JSON has it; nothing of it has been graded yet."""
    samples: list[dict[str, Any]] = []
    for sample in group:
        samples.append(
            {
                "index": sample.index,
                "ids": list(sample.ids),
                "mask": list(map(int, sample.mask)),
                "log_probs": list(sample.log_probs),
                "text": sample.text,
                "stop": sample.stop,
            }
        )
    return {
        "prompt_ids": list(group[0].prompt_ids) if group else [],
        "sampling": asdict(group[0].sampling) if group else {},
        "samples": samples,
    }


def _restored(prompt: Prompt, kept: dict[str, Any], version: int) -> Group:
    sampling, prompt_ids = Sampling(**kept["sampling"]), tuple(kept["prompt_ids"])
    samples: list[Sample] = []
    for row in kept["samples"]:
        sample = Sample(
            prompt=prompt,
            index=row["index"],
            prompt_ids=prompt_ids,
            ids=tuple(row["ids"]),
            mask=tuple(map(bool, row["mask"])),
            log_probs=tuple(row["log_probs"]),
            text=row["text"],
            stop=row["stop"],
            sampling=sampling,
            version=version,
        )
        samples.append(sample)
    return tuple(samples)
