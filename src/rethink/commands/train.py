"""`rethink train`: run a recipe with a progress bar."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rethink.commands.console import print_note, print_result, progress, toml_string, warn
from rethink.commands.log_lines import LogLines
from rethink.distributed import shutdown
from rethink.errors import UserError
from rethink.evaluation.bounds import NOTE
from rethink.evaluation.fresh import rate_columns, why_no_fresh
from rethink.evaluation.intervals import Estimate
from rethink.grading.sandbox.lockdown import lesser_guard
from rethink.jsonl import Record, read_lines
from rethink.models.bundled import is_run
from rethink.printable import align_columns
from rethink.recipe import Recipe, load_recipe
from rethink.report.outcome import alarm_kind, describe_alarms, describe_training, has_trained_nothing
from rethink.report.page import REPORT_FILE, LivePage
from rethink.run_folder import START, RunFolder
from rethink.signals import Stop, stop_gracefully
from rethink.training.trackers import check_trackers

if TYPE_CHECKING:
    from rethink.training.run import Run


def train(recipe: str, settings: Sequence[str], resume: bool) -> None:
    """Run a recipe with a progress bar. Ctrl-C and SIGTERM end it after the current problem batch.

    Under torchrun the processes share the work and only rank 0 prints. When torchrun restarts them after a failure, the
    run resumes from its newest checkpoint. Exit with code 1 if the whole run has trained nothing.
    """
    resolved = load_checked(recipe, settings)
    from rethink.training.no_effect import doubtful_settings
    from rethink.training.run import open_run

    run = open_run(resolved, resume=resume, warn=warn)
    if run.ranks.is_rank0 and (lesser := lesser_guard()):
        warn(lesser)
    for message in doubtful_settings(resolved) if run.ranks.is_rank0 else ():
        warn(message)
    if run.ranks.is_rank0 and run.trainer.version >= run.recipe.updates and not run.evaluation_due:
        print_note(f"the run has made {run.trainer.version} updates already, and updates = {run.recipe.updates}")
    command = shlex.join(["rethink", "train", recipe, *settings, "--resume"])
    try:
        with stopping(run) as stop:
            last = run_with_progress(run, label=str(resolved.method["name"]))
    except KeyboardInterrupt:
        if run.ranks.is_rank0:
            again = "begin again" if run.saved is None else "resume"
            print_note(f"stopped at once, {_describe_loss(run)}; to {again}:\n  {command}")
        raise
    except UserError:
        if run.ranks.is_rank0 and run.saved is not None:
            print_note(f"stopped by an error, {_describe_loss(run)}; once its cause is gone, resume with:\n  {command}")
        raise
    shutdown()
    is_complete = run.trainer.version >= run.recipe.updates and not run.evaluation_due
    if not run.ranks.is_rank0:
        raise SystemExit(stop.exit_code if run.interrupted and not is_complete else 0)
    if run.interrupted and not is_complete:
        batches = f"{run.n_batches} problem batch{'es' * (run.n_batches != 1)}"
        when = "before the first problem batch" if run.saved is None else f"after {batches} and saved"
        print_note(f"stopped {when}; to resume:\n  {command}")
        raise SystemExit(stop.exit_code)
    records = [record for _, record in read_lines(run.folder.metrics)]
    start = _of_start_model(records)
    if last is not None:
        print_result(rate_table({"held-out": last} if start is None else {"start model": start, "trained": last}))
    updates = [record for record in records if record["phase"] != "evaluation"]
    lines = [
        describe_training(updates),
        *describe_alarms(updates),
        *([] if start is None else [f"compare: {shlex.join(_comparison(run.folder))}"]),
        f"model: {run.newest_checkpoint()}",
        f"report: {run.folder.path / REPORT_FILE}",
    ]
    print_note("\n".join(lines))
    if has_trained_nothing(updates):
        warn("the run has trained nothing: its weights are those of the start model")
        raise SystemExit(1)


def _of_start_model(records: Sequence[Record]) -> Record | None:
    """Return the record of the start model's evaluation, if there was one."""
    for record in records:
        if record["phase"] == "evaluation" and record["update"] == 0:
            return record
    return None


def _comparison(run: RunFolder) -> list[str]:
    """Return the command that subtracts the evaluation of the start model from that of the trained one."""
    return ["rethink", "compare", str(run.path / START), str(run.path)]


def stopping(run: Run) -> AbstractContextManager[Stop]:
    """Return a context in which Ctrl-C, SIGTERM or SIGHUP ends the run after its current batch; a second one, at once."""

    def stop() -> None:
        run.interrupted = True
        if run.ranks.is_rank0:
            with suppress(OSError):  # the terminal may be gone
                warn(
                    "finishing the current problem batch, then saving; press Ctrl-C again to stop at once, "
                    + _describe_loss(run)
                )

    return stop_gracefully(stop)


def _describe_loss(run: Run) -> str:
    """Return what is lost if the run stops now."""
    if run.saved is None:
        return "which loses everything: there is no checkpoint yet"
    n = run.trainer.version - run.saved
    return f"which loses {n} update{'s' * (n != 1)}" if n else "which loses no update"


def load_checked(recipe: str, settings: Sequence[str]) -> Recipe:
    """Return the recipe. Raise UserError for what can be found out before torch is imported, which takes seconds: wrong
    settings, and trackers that are not installed."""
    resolved = load_recipe(*expand_run_folder(recipe, settings))
    check_trackers(resolved.trackers)
    return resolved


def expand_run_folder(recipe: str, settings: Sequence[str]) -> tuple[str, list[str]]:
    """Return the recipe and settings to load. For a run folder, or the config.toml in it: that file, with the folder as
    `out`, because the folder may be a copy.
    """
    folder = Path(recipe)
    if folder.name == "config.toml" and is_run(folder.parent):
        folder = folder.parent
    if not (folder / "config.toml").is_file():
        return recipe, [*settings]
    return str(folder / "config.toml"), [f"out={toml_string(str(folder))}", *settings]


def run_with_progress(run: Run, label: str) -> Record | None:
    """Run to the end with a progress bar and the live reward. Return the record of the last evaluation, if any.

    Evaluations before the end, the first alarm of each kind and, once, that the machine is busy are printed. Without a
    terminal there is a line a minute.
    report.html is written after each evaluation and at the end, also if the run stops early.
    """
    from rethink.training.core_wait import busy_machine
    from rethink.training.loop import train as loop

    evaluation = None
    page = LivePage(run.folder, lambda: run.ranks.is_rank0, warn)
    with page, progress(run.ranks.is_rank0) as bar:
        task = bar.add_task(label, total=run.recipe.updates, completed=run.trainer.version, note="")
        recent: list[float] = []
        warned: set[str] = set()
        for record in loop(run):
            for alarm in (*record["alarms"], *busy_machine(record)) if run.ranks.is_rank0 else ():
                if alarm_kind(alarm) not in warned:  # all of them are in the metrics, and counted at the end
                    warn(f"update {record['update']}: {alarm}")
                warned.add(alarm_kind(alarm))
            if record["phase"] == "evaluation":
                evaluation = record
                page.write()
                if run.ranks.is_rank0 and record["update"] < run.recipe.updates:
                    print_note(evaluation_line(record))
                continue
            note = progress_note(record, recent)
            if isinstance(bar, LogLines):
                note = f"batch {record['batch'] + 1}, {note}"
            bar.update(task, completed=record["update"], note=note)
    return evaluation


def evaluation_line(record: Record) -> str:
    """Return the rates of an evaluation in the middle of a run, in percent with 95% intervals."""
    rates: list[str] = []
    for key, name in rate_columns([record]).items():
        if record[key]["value"] == record[key]["value"]:  # not NaN: another strategy refines nothing
            rates.append(f"{name} {_rate_cell(key, record)}")
    note = f"; {NOTE}" if record["n_not_graded"] else ""
    when = f"after update {record['update']}" if record["update"] else "at the start"
    return f"held-out {when}: {', '.join(rates)}{note}"


def rate_table(rows: dict[str, Record], extra: Sequence[str] = ()) -> str:
    """Return a table of accuracies, fix and damage rates in percent with 95% intervals; a row per model. The rates of fresh
    answers, if there are any, have none, so that the table stays narrow.
    """
    columns = rate_columns(list(rows.values()))
    lines = [["", *columns.values(), *extra]]
    n_not_graded = 0
    for name, row in rows.items():
        n_not_graded += row["n_not_graded"]
        lines.append([name, *(_rate_cell(key, row) for key in columns), *(str(row[key]) for key in extra)])
    notes = [why_no_fresh(list(rows.values())), NOTE if n_not_graded else ""]
    return "\n".join([align_columns(lines), *filter(None, notes)])


def _rate_cell(key: str, record: Record) -> str:
    rate = Estimate(**record[key])
    return rate.value_percent() if key.endswith("_fresh") else rate.percent()


def progress_note(record: Record, recent: list[float]) -> str:
    """Return the reward of this update and the mean of the last twenty; for imitation, also its loss."""
    found: list[str] = []
    if record.get("reward") is not None and record["reward"] == record["reward"]:  # something was sampled and graded
        recent.append(record["reward"])
        del recent[:-20]
        found.append(f"{record['phase']} reward {record['reward']:.2f}, mean {sum(recent) / len(recent):.2f}")
    if "nll_nats" in record:
        found.append(f"nll {record['nll_nats']:.3f}")
    return ", ".join(found) or str(record["phase"])
