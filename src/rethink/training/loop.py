"""The main loop: problem batches -> method -> updates -> trainer, one record per update."""

from __future__ import annotations

import time
from collections.abc import Iterator

from rethink.distributed import CommonError
from rethink.jsonl import Record
from rethink.training import checkpoint
from rethink.training.batch import Synchronous
from rethink.training.run import Run
from rethink.training.sampling_ahead import SamplingAhead
from rethink.training.update_log import UpdateLog, evaluate_held_out

SAVING_FRAC = 0.05
"""The largest share of the time that checkpoints between those of `checkpoint_every` may take."""
BATCHES_WITHOUT_UPDATE = 20
"""The number of problem batches in a row without an update after which a run stops."""

UNGRADED_BATCHES = 5
"""The run ends after this many batches in a row in which no reply was graded, or after the first of this process."""


def train(run: Run) -> Iterator[Record]:
    """Train until the recipe's number of updates is reached. Yield the record of each update and evaluation once logged.

    Checkpoints and held-out evaluations happen between problem batches, and each evaluation follows a checkpoint. Once
    `run.interrupted` is set, finish the current batch, save a checkpoint and return. Raise UserError for a loss that is not
    finite, for a full disk, if another process has the run, and if no reply can be graded (see `UNGRADED_BATCHES`).

    With `async_level` above 0, use `run.policy` only at the record of an evaluation: at others, it may be sampling later
    batches, with older weights.

    >>> import rethink
    >>> few = ["out=runs/train", "updates=1", "problems_per_batch=2", "evaluation.problems.limit=3"]
    >>> run = rethink.open_run(rethink.load_recipe("demo-grpo", few))
    >>> [record["phase"] for record in rethink.train(run)]
    ['solve', 'evaluation']
    """
    run.ranks.on_rank0(run.lock.take)
    schedule = SamplingAhead(run) if run.recipe.async_level else Synchronous(run)
    try:
        yield from _train(run, schedule)
    finally:
        try:
            schedule.close()
        finally:
            run.trackers.close()
            run.lock.release()


def _train(run: Run, schedule: SamplingAhead | Synchronous) -> Iterator[Record]:
    recipe, trainer = run.recipe, run.trainer
    clock = SaveClock(recipe.checkpoint_minutes)
    stopped = run.ranks.any(run.interrupted)
    grading = GradingWatch()
    n_without_update = 0
    if run.evaluation_due and not stopped:  # of the start model, or the run was stopped after the checkpoint
        yield _evaluate(run)
        stopped = _is_stopped(run)
    while trainer.version < recipe.updates and not stopped:
        before = trainer.version
        batch = schedule.next_batch()
        log = UpdateLog(run, batch)
        for update in batch.updates:  # the method resumes here, with the weights of the last update
            numbers = schedule.train(batch, update)
            yield log.write(update, numbers)
        schedule.finish_batch(batch)
        checkpoint.require_plain(run.state)
        run.n_batches += 1
        grading.check(run, log)
        n_without_update = n_without_update + 1 if trainer.version == before else 0
        if n_without_update == BATCHES_WITHOUT_UPDATE:
            run.save()
            raise CommonError(
                f"stopped: the method {recipe.method['name']} gave no update for {n_without_update} problem batches in a "
                "row, so the run would never end; it must `yield` an update, even one without samples"
            )

        done = trainer.version >= recipe.updates
        evaluates = done or _passed(before, trainer.version, recipe.evaluation.every)
        run.evaluation_due = bool(run.held_out) and evaluates
        regular = done or _passed(before, trainer.version, recipe.checkpoint_every)
        stopped = _is_stopped(run)
        if regular or stopped or run.evaluation_due or run.ranks.on_rank0(clock.is_due):
            started = time.monotonic()
            run.save(interim=not regular)
            clock.saved(time.monotonic() - started)
        if run.evaluation_due and not stopped:
            yield _evaluate(run)
            stopped = _is_stopped(run)


class SaveClock:
    """Says when a checkpoint is due because of the time since the last one. It changes no numbers."""

    def __init__(self, minutes: float) -> None:
        self._wait_s = self._shortest_s = 60 * minutes
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Return whether a checkpoint is due."""
        return self._shortest_s > 0 and time.monotonic() - self._last >= self._wait_s

    def saved(self, took_s: float) -> None:
        """Start again after a checkpoint. Where saving is slow, the next one waits longer."""
        self._last = time.monotonic()
        self._wait_s = max(self._shortest_s, took_s / SAVING_FRAC)


class GradingWatch:
    """Ends a run in which no reply can be graded."""

    def __init__(self) -> None:
        self._patience, self._n_ungraded = 1, 0

    def check(self, run: Run, log: UpdateLog) -> None:
        """Raise CommonError if no reply of the last batches was graded; save the weights of the batches before them."""
        self._n_ungraded = self._n_ungraded + 1 if log.graded_nothing else 0
        if log.has_rewards:
            self._patience = UNGRADED_BATCHES
        if self._n_ungraded < self._patience:
            return
        batches = f"{self._n_ungraded} problem batches in a row"
        if self._patience == 1:
            batches = "the first problem batch"
        else:
            run.save()
        raise CommonError(
            f"stopped: no reply of {batches} could be graded (first reason: {log.why_ungraded}). Correct the verifier or "
            "the reward"
        )


def _is_stopped(run: Run) -> bool:
    """Return whether a signal has reached any rank. It reaches ranks at different times, some of them after this line."""
    run.interrupted = run.ranks.any(run.interrupted)
    return run.interrupted


def _evaluate(run: Run) -> Record:
    record = evaluate_held_out(run)
    run.evaluation_due = False
    return record


def _passed(before: int, after: int, every: int) -> bool:
    """Return whether (before, after] contains a multiple of `every`."""
    return every > 0 and before // every < after // every
