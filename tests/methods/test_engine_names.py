"""The engine knows no method by name: a new one needs its file, its recipe and its page alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import rethink
from rethink.methods import METHODS

PACKAGES = ("evaluation", "models", "objectives", "plan", "policies", "report", "serving", "strategies", "training")
ROOT = Path(rethink.__file__).parent
CLASSES = {method.__name__ for method in METHODS.values()}
OTHER_MEANINGS = {"grpo", "score", "imitate"}
"""Names of methods that also name an objective, the score of a verdict, and a module with checks for all that imitate."""


def names_in(text: str) -> set[str]:
    """Return the methods that code names: their classes, their modules, and strings equal to a registered name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name | ast.Attribute):
            found |= {node.id if isinstance(node, ast.Name) else node.attr} & CLASSES
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} & METHODS.keys()
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rethink.methods."):
            found |= {(node.module or "").removeprefix("rethink.methods.")} & METHODS.keys()
            found |= {alias.name for alias in node.names} & CLASSES
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("rethink.methods.") for alias in node.names} & METHODS.keys()
    return found


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('if name == "think_twice": pass', {"think_twice"}),
        ("from rethink.methods.pag import PAG", {"pag", "PAG"}),
        ("import rethink.methods.gsr", {"gsr"}),
        ("isinstance(method, methods.SCoRe)", {"SCoRe"}),
        ('"""The think_twice page."""\nscore = run.score', set()),
    ],
)
def test_names_are_found(text: str, named: set[str]) -> None:
    """Guards against a test that cannot fail."""
    assert names_in(text) == named


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_of_the_engine_names_a_method(package: str) -> None:
    """Guards against a branch on one method where a seam for all of them is missing."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    named = {str(file.relative_to(ROOT)): names_in(file.read_text()) - OTHER_MEANINGS for file in files}
    assert {file: names for file, names in named.items() if names} == {}
