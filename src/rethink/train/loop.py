"""The driver: problem batches -> method -> updates -> trainer, one record per update."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from rethink.build import prompts
from rethink.distributed import CommonError
from rethink.evaluate.look import evaluate
from rethink.evaluate.summary import summarize
from rethink.jsonl import Record, append
from rethink.objectives import Update
from rethink.run_folder import first_samples, transcript
from rethink.train.batch import Batch
from rethink.train.monitor import alarms, describe_groups
from rethink.train.one_step_ahead import Lookahead
from rethink.train.run import Run
from rethink.train.update_hash import digest


def train(run: Run) -> Iterator[Record]:
    """Train until the recipe's number of updates is reached; yields each update's record once it is logged.

    Checkpoints and held-out evaluations fall between problem batches. After `run.interrupted` is set, the batch under
    way is finished and saved. Raises UserError for a loss that is not finite and for a full disk.
    """
    recipe, lookahead = run.recipe, Lookahead(run)
    stopped = run.ranks.any(run.interrupted)
    while run.trainer.version < recipe.updates and not stopped:
        before = run.trainer.version
        yield from _batch(run, lookahead)
        run.n_batches += 1
        done = run.trainer.version >= recipe.updates
        if run.held_out and (done or _passed(before, run.trainer.version, recipe.evaluation.every)):
            yield _evaluate(run)
        stopped = run.ranks.any(run.interrupted)  # a signal reaches ranks at different times, and may come after this
        if stopped:
            run.interrupted = True
        if done or stopped or _passed(before, run.trainer.version, recipe.checkpoint_every):
            run.save()


def _batch(run: Run, lookahead: Lookahead) -> Iterator[Record]:
    """All updates of one problem batch. The generator gets new weights with each resumption."""
    batch, ranks = lookahead.take(), run.ranks
    gathered = ranks.n_bytes_gathered
    while (update := batch.next()) is not None:
        n_overlong = run.policy.n_overlong
        numbers = lookahead.apply(batch, partial(_apply, run, update, batch))
        run.policy.publish(run.trainer.version)
        extra: Record = {"n_overlong": n_overlong, **({"lag_updates": batch.lag} if run.recipe.sample_ahead else {})}
        if ranks.size > 1:
            extra |= {"n_ranks": ranks.size, "n_bytes_gathered": ranks.n_bytes_gathered - gathered}
            gathered = ranks.n_bytes_gathered
        record = _record(run, update, numbers, {**extra, **batch.meter.take()})
        logged = first_samples(update.groups, run.recipe.n_logged_samples)
        _log(run, run.folder.samples, [{"batch": run.n_batches, **transcript(s)} for s in logged])
        _log(run, run.folder.metrics, [record])
        yield record
    lookahead.settle()


def _log(run: Run, file: Path, records: Sequence[Record]) -> None:
    """What one rank writes for all; what it cannot write ends the run everywhere."""
    run.ranks.first(lambda: append(file, records))


def _apply(run: Run, update: Update, batch: Batch) -> dict[str, float]:
    if run.ranks.size > 1:
        what = f"the {update.name!r} update of problem batch {run.n_batches} (its hash)"
        run.ranks.agree(what, digest(update), "A method must follow from its samples and seeds alone")
    try:
        with batch.meter.stage("update_s"):
            numbers = run.trainer.apply(update, lag=batch.lag)
            run.trainer.optimizer.zero_grad()  # gradients would take as much as the weights while samples are drawn
            if not run.trainer.engine.all_finite():
                raise FloatingPointError("a weight is no longer a finite number")
        return numbers
    except FloatingPointError as err:
        named = ", ".join(p.id for p in batch.problems[:3])
        raise CommonError(
            f"stopped: {err} in the {update.name!r} update of problem batch {run.n_batches} ({named}, ...). The last "
            f"checkpoint in {run.folder.checkpoints} is untouched; resume from it with a lower training.lr"
        ) from err


def _record(run: Run, update: Update, numbers: dict[str, float], metered: dict[str, float]) -> Record:
    return {
        "batch": run.n_batches,
        "pass_seed": f"{run.pass_seed(run.n_batches):016x}",
        "update": run.trainer.version,
        "optimizer_steps": run.trainer.n_optimizer_steps,
        "phase": update.name,
        **(describe_groups(update.groups) if update.groups else {}),
        **numbers,
        "n_trained_tokens": sum(s.n_trained for part in update.parts for s in part.samples),
        **metered,
        "alarms": alarms(numbers),
    }


def _evaluate(run: Run) -> Record:
    """Held-out accuracy before and after refinement under the present weights."""
    start = time.perf_counter()
    settings = run.recipe.evaluation
    policy = run.policy.with_sampling(settings.sampling)
    file = run.folder.path / "eval" / f"{run.trainer.version:06d}.jsonl" if run.ranks.is_first else None
    answers = evaluate(policy, prompts(run.recipe, run.recipe.seed), run.held_out, settings, file)
    # Belongs to the batch before: on resume, what was logged for batches that are not finished is dropped.
    record = {
        "batch": run.n_batches - 1,
        "update": run.trainer.version,
        "phase": "evaluation",
        **summarize(answers, settings.k).headline(),
        "evaluate_s": time.perf_counter() - start,
    }
    _log(run, run.folder.metrics, [record])
    return record


def _passed(before: int, after: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]."""
    return every > 0 and before // every < after // every
