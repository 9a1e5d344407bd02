"""docs/metrics.md names the columns that the code writes, no more and no fewer."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import rethink
from rethink.evaluation import summary
from rethink.evaluation.answers import Answer, AnswerStep
from rethink.evaluation.intervals import Difference
from rethink.run_folder import transcript
from rethink.training.meter import Meter
from rethink.training.metrics import describe_groups
from support.method_runs import graded_sample

PACKAGE = Path(rethink.__file__).parent
PAGE = (PACKAGE.parent.parent / "docs" / "metrics.md").read_text()


def named_under(heading: str) -> set[str]:
    """Return the names in the first column of the table under a heading."""
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


CLASSES = {
    "answers.jsonl and eval/*.jsonl": Answer,
    "A reply": AnswerStep,
    "Estimates": Difference,
    "summary.json": summary.Summary,
    "Numbers of replies": summary.ReplyStats,
    "Costs": summary.Cost,
}


@pytest.mark.parametrize("heading", CLASSES)
def test_the_columns_of_evaluations(heading: str) -> None:
    """Guards against columns of an evaluation's files that the page lacks, or still has."""
    assert named_under(heading) == {field.name for field in fields(CLASSES[heading])}


def test_the_columns_of_samples() -> None:
    """Guards against columns of samples.jsonl that the page lacks, or still has."""
    assert named_under("samples.jsonl") == {"schema", "batch", "images", *transcript(graded_sample(0, True))}


def test_the_columns_of_a_held_out_evaluation() -> None:
    """Guards against numbers of evaluations during training that the page lacks, or still has."""
    assert named_under("metrics.jsonl: an evaluation") == {*summary.evaluation_metrics([]), "strategies", "evaluate_s"}


STATISTIC = re.compile(r"""statistics\.(?:mean|max|total)\(\s*f?"([\w/{}]+)"|statistics\.last\["(\w+)"\]""")


def statistics() -> set[str]:
    """Return the names of all statistics of losses and of the trainer, by their source."""
    found: set[str] = set()
    for file in (PACKAGE / "training").rglob("*.py"):
        found |= {name or last for name, last in STATISTIC.findall(file.read_text())}
    return {name.replace("{name}", "mismatch") for name in found}


def keys_of_record(file: Path, function: str) -> set[str]:
    """Return the constant keys of dictionaries, and of assignments to keys of `record`, in a function."""
    (found,) = [n for n in ast.walk(ast.parse(file.read_text())) if getattr(n, "name", "") == function]
    keys: set[str] = set()
    for node in ast.walk(found):
        written = node.keys if isinstance(node, ast.Dict) else []
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            written = [node.targets[0].slice]
        keys |= {str(key.value) for key in written if isinstance(key, ast.Constant)}
    return keys


def test_the_columns_of_an_update() -> None:
    """Guards against numbers of an update that the page lacks, or still has."""
    graded = graded_sample(0, True)
    written = {*describe_groups([(graded,)]), "fix", "damage", *Meter().read_and_reset(), *statistics()}
    written |= keys_of_record(PACKAGE / "training" / "update_log.py", "write")
    written |= keys_of_record(PACKAGE / "training" / "sampling_ahead.py", "train")
    placeholders = {"reward/NAME", "accuracy/turn_N", "method/NAME", "lag/..."}
    assert named_under("metrics.jsonl: an update") == written | placeholders


def metrics_of_methods() -> set[str]:
    """Return the names in the metrics of methods: of dictionaries that functions `describe_...` return, that are assigned
    to `metrics` or its keys, or that are the argument of that name."""
    found: set[str] = set()

    def add(node: ast.AST) -> None:
        for inner in ast.walk(node):
            for key in inner.keys if isinstance(inner, ast.Dict) else []:
                found.update([key.value] if isinstance(key, ast.Constant) and isinstance(key.value, str) else [])

    for file in (PACKAGE / "methods").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            target = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else ""
            is_argument = isinstance(node, ast.keyword) and node.arg == "metrics"
            describes = isinstance(node, ast.FunctionDef) and node.name.startswith("describe_")
            if describes or is_argument or target == "metrics":
                add(node)
            elif target.startswith("metrics["):
                name = target.removeprefix("metrics[").rstrip("]").lstrip("f").strip("'")
                found.add(re.sub(r"\{.*\}", "N", name))
    return found


def test_the_numbers_of_methods() -> None:
    """Guards against numbers of methods that the page lacks, or still has."""
    assert named_under("Numbers of methods") == metrics_of_methods()


def is_on_the_page(name: str, heading: str) -> bool:
    prefix, _, rest = name.partition("/")
    if prefix == "method":
        return re.sub(r"\d+$", "N", rest) in named_under("Numbers of methods")
    return re.sub(r"turn_\d+$", "turn_N", name) in named_under(heading) or prefix in ("reward", "lag")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["demo-think-twice", "demo-vl-rethinker", "demo-score"])
def test_everything_that_a_run_logs_is_on_the_page(recipe: str, tmp_path: Path) -> None:
    """Guards against columns that the lists above do not find."""
    fewer = ["updates=2", "problems_per_batch=4", "evaluation.problems.limit=3", f"out={tmp_path / 'run'}"]
    common = {"schema", "unix_s", "batch", "update", "phase", "alarms"}
    for record in rethink.train(rethink.open_run(rethink.load_recipe(recipe, fewer))):
        names: dict[str, Any] = record
        if record["phase"] == "evaluation":
            assert names.keys() - common <= named_under("metrics.jsonl: an evaluation")
        else:
            assert [name for name in names if not is_on_the_page(name, "metrics.jsonl: an update")] == []
