"""The main loop: problem batches -> method -> updates -> trainer, one record per update."""

from __future__ import annotations

from collections.abc import Iterator

from rethink.jsonl import Record
from rethink.training.batch import Synchronous
from rethink.training.one_step_off_policy import OneStepOffPolicy
from rethink.training.run import Run
from rethink.training.update_log import UpdateLog, evaluate_held_out


def train(run: Run) -> Iterator[Record]:
    """Train until the recipe's number of updates is reached. Yield the record of each update and evaluation once logged.

    Checkpoints and held-out evaluations happen between problem batches. Once `run.interrupted` is set, finish the current
    batch, save a checkpoint and return. Raise UserError for a loss that is not finite and for a full disk.

    >>> import rethink
    >>> few = ["out=runs/train", "updates=1", "problems_per_batch=2", "evaluation.problems.limit=3"]
    >>> run = rethink.open_run(rethink.load_recipe("demo-grpo", few))
    >>> [record["phase"] for record in rethink.train(run)]
    ['solve', 'evaluation']
    """
    recipe, trainer = run.recipe, run.trainer
    schedule = OneStepOffPolicy(run) if recipe.one_step_off_policy else Synchronous(run)
    stopped = run.ranks.any(run.interrupted)
    while trainer.version < recipe.updates and not stopped:
        before = trainer.version
        batch = schedule.next_batch()
        log = UpdateLog(run, batch)
        for update in batch.updates:  # the method resumes here, with the weights of the last update
            log.note_overlong()
            numbers = schedule.train(batch, update)
            run.policy.publish(trainer.version)
            yield log.write(update, numbers)
        schedule.finish_batch()
        run.n_batches += 1

        done = trainer.version >= recipe.updates
        if run.held_out and (done or _passed(before, trainer.version, recipe.evaluation.every)):
            yield evaluate_held_out(run)
        stopped = run.ranks.any(
            run.interrupted
        )  # a signal reaches ranks at different times, some of them after this line
        run.interrupted = run.interrupted or stopped
        if done or stopped or _passed(before, trainer.version, recipe.checkpoint_every):
            run.save()


def _passed(before: int, after: int, every: int) -> bool:
    """Return whether (before, after] contains a multiple of `every`."""
    return every > 0 and before // every < after // every
