"""Sample ahead of training: while problem batches train, later ones run up to their first update.

    batch b    sample | train                                 `async_level = 0`: synchronous
    batch b+1                 | sample | train

    batch b    sample | train  |                              `async_level = 1`: one-step off-policy
    batch b+1         | sample | train |

With `async_level = K`, batch b + K is sampled with the weights that the last update of batch b starts from. So its first
update has samples that are 1 + (K - 1) * n updates old, if batches have n updates: K with one update per batch. They keep
their version, the trainer gets the lag, and the ratio corrects for it (see `Trainer.apply`). Later updates of a batch, such
as that of refinements, have samples of the newest weights. Batches 0 and 1 are sampled with the newest weights, because
the number of updates per batch is not known before, and batches 2 to K + 1 with those before the last update of batch 1.

Results do not depend on timing. A batch's last update cannot be known beforehand: it is assumed to be number n, the mean
number of updates per batch so far, rounded up. If another update follows, the batches whose sampling began with the last
one are discarded and drawn again with newer weights. If update n never comes, a later batch makes up for it.

Only sampling moves to another thread, which takes one round after the other: the batches that weights of one version
sample. A round begins once the round before has ended, and at the latest before the optimizer changes these weights
(`Trainer.before_step`). The policy then samples from frozen weights, so that training can continue with the next batch. A
method that uses the policy, a role or the grader after its first update waits until the thread is idle, and then samples
from the newest weights. So do checkpoints and evaluations. A batch begins with a copy of the method's state and of the
position in the problems, which must therefore not change after the last update of a batch, and with K > 1 not after the
first one.

Several ranks do the same in lockstep: no decision depends on what a single rank sees, except for a failure, which
ends it and so the others. They exchange samples over a second connection (`open_sampling_group`), independent of how far
training is on each, and publish weights only while nothing is sampled.

A checkpoint contains the samples and scores of the batches that are ahead, also those of a teacher or another role, which
may answer otherwise when it is asked again. A resumed run replays them to the method, and continues as if it had never
stopped. For the same reason the last batch of a run is followed by K more samplings: the run may be extended.
"""

from __future__ import annotations

import copy
from collections import deque
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from functools import partial
from threading import Event, get_ident
from typing import Any

from rethink import threads
from rethink.distributed import CommonError
from rethink.errors import UserError
from rethink.objectives import Update
from rethink.training.batch import Batch, Metrics
from rethink.training.problem_stream import ProblemStream
from rethink.training.replay import ReplayedPolicy
from rethink.training.run import Run

Position = tuple[dict[str, Any], ProblemStream]
"""What a batch begins with: the method's state, and the position in the problems."""


@dataclass
class Ahead:
    """Problem batch `number`, which weights of `version` sample, or which was recorded so.

    `start` is None if it begins where the batch `previous` ends. `sampled` has the batch after its first update."""

    number: int
    version: int
    start: Position | None
    previous: Ahead | None = None
    recording: dict[str, Any] | None = None
    sampled: Future[Batch] = field(default_factory=Future)
    end: Position | None = None


class SamplingAhead:
    """The schedule that trains problem batches while `async_level` later ones are sampled."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._queue = deque[Ahead]()
        self._n_new = 0  # batches at the end of the queue that came with the last update
        self._recordings = run.sampled_ahead
        self._n_expected = self._n_updates = 0
        self._lag = 0  # of the next update
        self._thread = threads.Background()
        self._rounds: list[Future[None]] = []
        self._captured = Event()  # whether the newest round has its weights
        self._captured.set()
        self._stop = Event()
        self._failure: BaseException | None = None
        self._in_batch = False
        self._sampling_thread = 0
        run.before_save = self._catch_up
        run.trainer.before_step = self._wait_for_capture

    def next_batch(self) -> Batch:
        """Return the next batch: sampled already, by this process or in the checkpoint, or a new one."""
        run = self.run
        for recording in self._recordings:
            start = run.state, run.stream
            self._sample(self._append(Ahead(run.n_batches, recording["version"], start, recording=recording)))
        self._recordings = []
        self._lag = self._n_updates = self._n_new = 0
        self._in_batch = True
        if self._queue:
            ahead = self._queue.popleft()
            batch = ahead.sampled.result()
            self._lag = run.trainer.version - ahead.version
        else:
            policy = self._policy()
            policy.finish_replay()
            batch = Batch(run, run.n_batches, run.state, run.stream, policy, policy.beside, policy.wait)
        run.state = batch.state
        if run.n_batches:
            self._n_expected = -(-run.trainer.version // run.n_batches)
        return batch

    def train(self, batch: Batch, update: Update) -> Metrics:
        """Train while the other thread samples; wait for the next batch only if nothing else can be trained meanwhile."""
        lag, self._lag = self._lag, 0
        self._discard_new(batch)
        self._n_updates += 1
        if self._n_updates == self._n_expected:
            self._begin_round(batch)
        elif self._is_idle:
            self.run.policy.release_memory()
        metrics = batch.train(update, lag)
        if not self._queue:
            self._wait_until_idle()
        elif self._n_new == len(self._queue):  # at the start, or after samples were discarded
            wait_for([self._queue[0].sampled])
            self._raise_own_failure()
        return {**metrics, "lag_updates": lag}

    def finish_batch(self, batch: Batch) -> None:
        """Raise the error of sampling later batches, or UserError if the method has changed its state since they began."""
        self.run.stream = batch.stream
        self._in_batch = False
        if self.run.ranks.size == 1:  # several ranks would not see it at the same time
            self._raise_failure()
        if self._queue:
            self._queue[0].sampled.result()
            self.run.ranks.on_rank0(partial(self._refuse_late_change, self._queue[0]))

    def close(self) -> None:
        """End the other thread: at the next finished group, or on several ranks when it has sampled what others need."""
        if self.run.ranks.size == 1:
            self._stop.set()
        self._thread.close()
        self._captured.set()  # also of a round that never began
        self.run.before_save = self.run.trainer.before_step = lambda: None
        self.run.sampled_ahead = self._recorded()

    def _refuse_late_change(self, following: Ahead) -> None:
        assert following.start is not None
        state, stream = following.start
        changes = "" if self.run.state == state else "changes its state (actors.state)"
        if self.run.stream.position != stream.position:
            changes = "draws problems (actors.more_problems)"
        if changes:
            when, advice = "last", "async_level=0"
            if self.run.recipe.async_level > 1:
                when, advice = "first", "a lower async_level"
            raise UserError(
                f"the method {self.run.recipe.method['name']!r} {changes} after the {when} update of a batch, but the next "
                f"batch is sampled already; start a new run with {advice}"
            )

    def _begin_round(self, batch: Batch) -> None:
        """Have the other thread sample batches with the present weights, until `async_level` are ahead."""
        run = self.run
        if run.ranks.size > 1 or self._is_idle:
            self._catch_up()
        start = None if self._queue else (copy.deepcopy(run.state), copy.copy(batch.stream))
        round_: list[Ahead] = []
        for _ in range(run.recipe.async_level - len(self._queue)):
            round_.append(self._append(Ahead(run.n_batches + 1, run.trainer.version, start)))
        self._n_new = len(round_)
        self._captured = captured = Event()
        work = partial(self._sample_round, round_, run.trainer.version, captured)
        self._rounds.append(self._thread.submit(work))

    def _append(self, ahead: Ahead) -> Ahead:
        """Add a batch to the queue and return it. If there are others, it begins where the last one ends."""
        if self._queue:
            ahead.start, ahead.previous = None, self._queue[-1]
            ahead.number = ahead.previous.number + 1
        self._queue.append(ahead)
        return ahead

    def _sample_round(self, round_: list[Ahead], version: int, captured: Event) -> None:
        """Sample batches, one after the other, from the weights of this version."""
        policy = self.run.policy
        self._sampling_thread = get_ident()
        try:
            if self._failure is not None:
                raise self._failure
            if policy.version != version:
                policy.publish(version)
            with policy.frozen_weights():
                captured.set()
                for ahead in round_:
                    self._sample(ahead)
        except BaseException as err:
            self._failure = err
            for ahead in round_:
                if not ahead.sampled.done():
                    ahead.sampled.set_exception(err)
        finally:
            captured.set()

    def _sample(self, ahead: Ahead) -> None:
        """Run a batch up to its first update, or replay its recording."""
        run = self.run
        if ahead.previous is not None:
            ahead.start, ahead.previous = ahead.previous.end, None
        assert ahead.start is not None
        state, stream = ahead.start
        policy = self._policy(ahead.recording)
        batch = Batch(run, ahead.number, copy.deepcopy(state), stream, policy, policy.beside, policy.wait)
        batch.run_to_first_update()
        policy.finish_replay()
        if ahead.recording is None:
            ahead.recording = {**policy.recording, "version": ahead.version, "n_overlong": batch.n_overlong}
        batch.n_overlong = ahead.recording["n_overlong"]
        if run.recipe.async_level > 1:  # the next batch may begin there
            ahead.end = copy.deepcopy(batch.state), copy.copy(batch.stream)
        ahead.sampled.set_result(batch)

    def _policy(self, recording: dict[str, Any] | None = None) -> ReplayedPolicy:
        policy = ReplayedPolicy(self.run.policy, recording)
        policy.replay.before_use = self._catch_up
        if self.run.ranks.size == 1:
            policy.replay.stop = self._stop
        return policy

    def _discard_new(self, batch: Batch) -> None:
        """Discard the batches that came with the last update, because another one follows. Their cost counts for this
        batch."""
        for _ in range(self._n_new):
            batch.meter.add(self._queue.pop().sampled.result().meter)
        self._n_new = 0

    def _catch_up(self) -> None:
        """Wait until nothing is sampled ahead, and let the policy sample from the newest weights."""
        run = self.run
        if get_ident() == self._sampling_thread:
            raise UserError(
                f"the method {run.recipe.method['name']!r} uses a policy or a role of an earlier batch; it must take them "
                "from the `actors` of each batch"
            )
        self._wait_until_idle()
        self._raise_failure()
        if run.policy.version != run.trainer.version:
            run.policy.publish(run.trainer.version)
        run.sampled_ahead = self._recorded()

    def _recorded(self) -> list[dict[str, Any]]:
        """Return the recordings of the batches that follow the finished ones; none within a batch, which starts over."""
        found = list(self._recordings)
        for ahead in self._queue:
            if ahead.recording is None:
                break
            found.append(ahead.recording)
        return [] if self._in_batch else found

    @property
    def _is_idle(self) -> bool:
        return all(done.done() for done in self._rounds)

    def _wait_for_capture(self) -> None:
        self._captured.wait()

    def _wait_until_idle(self) -> None:
        wait_for(self._rounds)
        self._rounds.clear()
        self._raise_own_failure()

    def _raise_own_failure(self) -> None:
        """Raise the error of this rank alone: the others wait, and see that it has ended."""
        if self.run.ranks.size > 1 and not isinstance(self._failure, CommonError):
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
