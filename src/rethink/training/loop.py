"""The main loop: problem batches -> method -> updates -> trainer, one record per update."""

from __future__ import annotations

from collections.abc import Iterator

from rethink.jsonl import Record
from rethink.training.batch import Synchronous
from rethink.training.metrics import UpdateLog, evaluate_held_out
from rethink.training.one_step_off_policy import OneStepOffPolicy
from rethink.training.run import Run


def train(run: Run) -> Iterator[Record]:
    """Train until the recipe's number of updates is reached; yields each update's record once it is logged.

    Checkpoints and held-out evaluations fall between problem batches. After `run.interrupted` is set, the batch under
    way is finished and saved. Raises UserError for a loss that is not finite and for a full disk.
    """
    recipe, trainer = run.recipe, run.trainer
    schedule = OneStepOffPolicy(run) if recipe.one_step_off_policy else Synchronous(run)
    stopped = run.ranks.any(run.interrupted)
    while trainer.version < recipe.updates and not stopped:
        before = trainer.version
        batch = schedule.next_batch()
        log = UpdateLog(run, batch)
        for update in batch.updates:  # the method goes on here, with the weights of the last update
            log.note_overlong()
            numbers = schedule.train(batch, update)
            run.policy.publish(trainer.version)
            yield log.write(update, numbers)
        schedule.finish_batch()
        run.n_batches += 1

        done = trainer.version >= recipe.updates
        if run.held_out and (done or _passed(before, trainer.version, recipe.evaluation.every)):
            yield evaluate_held_out(run)
        stopped = run.ranks.any(run.interrupted)  # a signal reaches ranks at different times, and may come after this
        run.interrupted = run.interrupted or stopped
        if done or stopped or _passed(before, trainer.version, recipe.checkpoint_every):
            run.save()


def _passed(before: int, after: int, every: int) -> bool:
    """Return whether a multiple of `every` lies in (before, after]."""
    return every > 0 and before // every < after // every
