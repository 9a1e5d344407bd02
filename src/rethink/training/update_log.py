"""The log of a run: one record per update and evaluation in `metrics.jsonl`, and some samples in `samples.jsonl`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rethink.build import build_prompts
from rethink.evaluation.answers import unmeasured
from rethink.evaluation.evaluate import evaluate
from rethink.evaluation.outcomes import mostly_unrefined
from rethink.evaluation.summary import evaluation_metrics
from rethink.jsonl import SCHEMA, Record, append
from rethink.objectives import Update
from rethink.run_folder import first_samples, store_images, transcript
from rethink.training.alarms import find_alarms, why_ungraded
from rethink.training.batch import Batch, Metrics
from rethink.training.core_wait import core_wait_s
from rethink.training.metrics import describe_groups
from rethink.training.run import Run
from rethink.types import Group


class UpdateLog:
    """Logs the updates of a batch. `has_rewards` says whether any reply had a reward so far, `why_ungraded` gives the first
    reason why one had none.
    """

    def __init__(self, run: Run, batch: Batch) -> None:
        self.run = run
        self.batch = batch
        self._n_bytes = run.ranks.n_bytes_gathered
        self._waited = core_wait_s()
        self.why_ungraded = ""
        self.has_rewards = False

    def write(self, update: Update, numbers: Metrics) -> Record:
        """Log an update that was just trained, with a few of its samples, and return its record."""
        run = self.run
        record: Record = {
            "schema": SCHEMA,
            "unix_s": time.time(),
            "batch": run.n_batches,
            "pass_seed": f"{self.batch.stream.pass_seed:016x}",
            "update": run.trainer.version,
            "optimizer_steps": run.trainer.n_optimizer_steps,
            "phase": update.name,
        }
        if update.groups:
            record |= describe_groups(update.groups, update.rewards)
        record |= numbers
        for name, value in update.metrics.items():
            record[f"method/{name}"] = value
        record["n_trained_tokens"] = sum(s.n_trained for part in update.parts for s in part.samples)
        record["n_overlong"] = self.batch.n_overlong
        if run.ranks.size > 1:
            before, self._n_bytes = self._n_bytes, run.ranks.n_bytes_gathered
            record |= {"n_ranks": run.ranks.size, "n_bytes_gathered": self._n_bytes - before}
        record |= self.batch.meter.read_and_reset()
        before_s, self._waited = self._waited, core_wait_s()
        record["core_wait_s"] = max(0.0, self._waited - before_s)  # the count of a thread ends with it
        record["alarms"] = find_alarms(update, numbers)
        self._note_rewards(update.groups)
        shown = first_samples(update.groups, run.recipe.n_logged_samples)
        run.ranks.on_rank0(lambda: store_images(run.folder.images, shown))
        lines: list[Record] = [{"schema": SCHEMA, "batch": run.n_batches, **transcript(sample)} for sample in shown]
        write_records(run, run.folder.samples, lines)
        write_records(run, run.folder.metrics, [record])
        run.trackers.log(record)
        return record

    def _note_rewards(self, groups: Sequence[Group]) -> None:
        for group in groups:
            self.has_rewards = self.has_rewards or any(sample.reward is not None for sample in group)
        for reason in why_ungraded(groups):
            self.why_ungraded = self.why_ungraded or reason or "no reason given"

    @property
    def graded_nothing(self) -> bool:
        """Whether replies were graded, and none got a reward."""
        return bool(self.why_ungraded) and not self.has_rewards


def evaluate_held_out(run: Run) -> Record:
    """Measure held-out accuracy before and after refinement with the current weights; log and return the record."""
    start = time.perf_counter()
    settings = run.recipe.evaluation
    policy = run.policy.with_sampling(settings.sampling)
    file = run.folder.path / "eval" / f"{run.trainer.version:06d}.jsonl" if run.ranks.is_rank0 else None
    answers = evaluate(policy, run.held_out, settings, prompts=build_prompts(run.recipe, run.recipe.seed), file=file)
    found = {
        **evaluation_metrics(answers, settings.k),
        "evaluate_s": time.perf_counter() - start,
        "alarms": unmeasured(answers) or mostly_unrefined(answers),
    }
    record = log_evaluation(run, found)
    run.trackers.log(record, answers)
    return record


def log_evaluation(run: Run, found: Record) -> Record:
    """Log what a held-out evaluation of the current weights has found, and return the record."""
    # It belongs to the previous batch, because a resumed run drops the records of unfinished batches.
    record = {
        "schema": SCHEMA,
        "unix_s": time.time(),
        "batch": run.n_batches - 1,
        "update": run.trainer.version,
        "phase": "evaluation",
        **found,
    }
    write_records(run, run.folder.metrics, [record])
    return record


def write_records(run: Run, file: Path, records: Sequence[Record]) -> None:
    """Append records to a file, on rank 0. An error there stops all ranks."""
    run.ranks.on_rank0(lambda: append(file, records))
