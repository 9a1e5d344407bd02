"""What the commands do, and what they print."""

from __future__ import annotations

import json
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rethink import recipes
from rethink.config import load_recipe, to_toml
from rethink.errors import UserError
from rethink.evaluate.intervals import Estimate
from rethink.evaluate.refinement import Summary
from rethink.folder import Record, make_folder, replace, to_json
from rethink.problems.source import ProblemSource, load_problems
from rethink.report.page import write_report

if TYPE_CHECKING:
    from rethink.train.run import Run

console = Console(stderr=True, highlight=False, emoji=False)
output = Console(highlight=False, soft_wrap=True, emoji=False)


def dry_run(recipe: str, settings: Sequence[str]) -> None:
    """Print the resolved recipe and what a run of it would do. Loads no model, and no data from the hub."""
    resolved = load_recipe(recipes.find(recipe), settings)
    held_out = resolved.evaluation.problems
    output.print(to_toml(resolved), markup=False)
    output.print(
        f"# would train {resolved.model.path} by {resolved.method['name']} for {resolved.updates} updates\n"
        f"# on batches of {resolved.n_problems} of {_extent(resolved.problems)},\n"
        f"# evaluate on {_extent(held_out) if held_out else 'nothing'},\n"
        f"# and write to {resolved.out}",
        markup=False,
    )


def _extent(source: ProblemSource) -> str:
    if source.source.startswith("hub:"):
        return f"the problems of {source.source} (split {source.split}), not loaded now"
    return f"{len(load_problems(source))} problems of {source.source} (split {source.split})"


def train(recipe: str, settings: Sequence[str], resume: bool) -> None:
    """Run a recipe with a progress bar; Ctrl-C ends it after the problem batch under way."""
    from rethink.train.run import prepare

    resolved = load_recipe(recipes.find(recipe), settings)
    run = prepare(resolved, resume=resume, warn=warn)
    last = follow(run, label=str(resolved.method["name"]))
    if run.interrupted:
        again = shlex.join(["rethink", "train", recipe, *settings, "--resume"])
        say(f"stopped after {run.n_batches} problem batches and saved; go on with:\n  {again}")
        raise SystemExit(130)
    if last is not None:
        output.print(table({"held-out": last}), markup=False)
    page = write_report(run.folder)
    say(f"model: {run.newest_checkpoint()}\nreport: {page}")


def follow(run: Run, label: str) -> Record | None:
    """Run to the end with a progress bar and the live reward; returns the last evaluation's record, if there is one."""
    from rethink.train.loop import train as loop

    evaluation = None
    with _interruptible(run), _progress() as bar:
        task = bar.add_task(label, total=run.recipe.updates, completed=run.trainer.version, note="")
        recent: list[float] = []
        for record in loop(run):
            if record["phase"] == "evaluation":
                evaluation = record
                continue
            for alarm in record["alarms"]:
                warn(f"update {record['update']}: {alarm}")
            bar.update(task, completed=record["update"], note=_note(record, recent))
    return evaluation


def evaluate(model: str, on: str, out: Path | None, recipe: str, settings: Sequence[str]) -> None:
    """Before and after one refinement, on problems of the user's choice."""
    from rethink.evaluate.refinement import evaluate_policy
    from rethink.train.run import local_policy, open_model, prompts

    split = [] if recipe else ['evaluation.problems.split="test"']
    source = [f"model.path={quoted(model)}", f"evaluation.problems.source={quoted(on)}"]
    settings = [*split, *source, *settings]
    resolved = load_recipe(recipes.find(recipe) if recipe else None, settings)
    assert resolved.evaluation.problems is not None
    problems = load_problems(resolved.evaluation.problems)
    policy = local_policy(resolved, open_model(resolved.model, resolved.seed), resolved.evaluation.sampling)
    folder = out or new_folder("eval")
    if (folder / "config.toml").exists():
        raise UserError(f"{folder} holds an evaluation or a run already; choose another folder with --out DIR")
    make_folder(folder)
    replace(folder / "config.toml", to_toml(resolved))
    start = time.perf_counter()
    with _progress() as bar:
        task = bar.add_task("evaluate", total=len(problems), note="")
        summary = evaluate_policy(
            policy,
            prompts(resolved, resolved.seed),
            problems,
            resolved.evaluation.n,
            folder / "answers.jsonl",
            lambda done: bar.update(task, completed=done),
        )
    record = {**summary.as_dict(), "seconds": time.perf_counter() - start, "seed": resolved.seed}
    replace(folder / "summary.json", to_json(record, indent=1) + "\n")
    output.print(table({model: record}), markup=False)
    output.print(details(summary), markup=False)
    say(f"answers: {folder / 'answers.jsonl'}")


def table(rows: dict[str, Record], extra: Sequence[str] = ()) -> str:
    """Solve and refined accuracy, fix and damage rate in percent with 95% intervals; a row per model."""
    lines = [("", "solve", "refined", "fix rate", "damage rate", *extra)]
    for name, row in rows.items():
        rates = [Estimate(**row[key]).percent() for key in ("solve", "refined", "fix", "damage")]
        lines.append((name, *rates, *(str(row[key]) for key in extra)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def details(summary: Summary) -> str:
    """The rest of an evaluation, in words."""
    return (
        f"{summary.n_problems} problems; cut at the cap: {100 * summary.solve_truncated_frac:.1f}% of drafts, "
        f"{100 * summary.refine_truncated_frac:.1f}% of refinements; mean length {summary.solve_length_tokens:.1f} and "
        f"{summary.refine_length_tokens:.1f} tokens; {summary.n_not_judged} answers not judged, "
        f"{summary.n_not_refined} drafts not refined (over-long)"
    )


def new_folder(name: str) -> Path:
    """runs/NAME, or the first of runs/NAME-2, -3, ... that is free."""
    path, n = Path("runs") / name, 1
    while path.exists():
        n += 1
        path = Path("runs") / f"{name}-{n}"
    return path


def quoted(text: str) -> str:
    """As a TOML string."""
    return json.dumps(text, ensure_ascii=False)


def warn(text: str) -> None:
    say(f"warning: {text}")


def say(text: str) -> None:
    """On stderr, and not wrapped: commands and paths are there to be copied."""
    console.print(text, markup=False, soft_wrap=True)


def _note(record: Record, recent: list[float]) -> str:
    """The reward of this update and the mean over the last twenty; for imitation, its loss."""
    if "nll_nats" in record:
        return f"nll {record['nll_nats']:.3f}"
    recent.append(record["reward"])
    del recent[:-20]
    return f"{record['phase']} reward {record['reward']:.2f}, mean {sum(recent) / len(recent):.2f}"


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


@contextmanager
def _interruptible(run: Run) -> Iterator[None]:
    """The first Ctrl-C asks the run to end after its batch; the second ends it at once."""

    def ask(signum: int, frame: object) -> None:
        if run.interrupted:
            raise KeyboardInterrupt
        run.interrupted = True
        warn("finishing the problem batch under way, then saving; press Ctrl-C again to end at once")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
