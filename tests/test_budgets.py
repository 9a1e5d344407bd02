"""The budgets of size: small files, short functions, no drawer for odds and ends."""

from __future__ import annotations

import ast
import math
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

import rethink

PACKAGE = Path(rethink.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
DRAWERS = {"utils", "util", "helpers", "helper", "misc", "common"}


def n_lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def body_lengths(source: str) -> Iterator[tuple[str, int]]:
    """Name and lines of each function's body, without signature and docstring; nested functions count as well."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield node.name, (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def all_lengths() -> dict[str, int]:
    return {
        f"{file.relative_to(PACKAGE)}:{name}:{n}": length
        for file in FILES
        for n, (name, length) in enumerate(body_lengths(file.read_text(encoding="utf-8")))
    }


def test_lengths_are_counted_as_by_hand() -> None:
    """Guards the counter itself: a body begins after signature and docstring and ends with its last line."""
    lines = ["def f(", "    a: int,", ") -> int:", '    """Doc."""', "    b = a", "", "    def g() -> int:"]
    source = "\n".join([*lines, "        return b", "", "    return g()", ""])
    assert dict(body_lengths(source)) == {"f": 6, "g": 1}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_a_file_stays_within_its_budget(file: Path) -> None:
    """Guards against files that grow until nobody reads them: 400 lines, 120 for a method."""
    limit = 120 if file.parent.name == "methods" else 400
    assert n_lines(file) <= limit


def test_functions_stay_short() -> None:
    """Guards against functions that do everything: median at most 10 lines, 95th percentile 35, none above 60."""
    lengths = sorted(all_lengths().values())
    assert statistics.median(lengths) <= 10
    assert lengths[math.ceil(0.95 * len(lengths)) - 1] <= 35
    assert {name: length for name, length in all_lengths().items() if length > 60} == {}


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    """Guards against utils.py under any of its names, be it a file or a folder."""
    named = [*FILES, *(p for p in PACKAGE.rglob("*") if p.is_dir())]
    assert [p for p in named if p.stem.strip("_") in DRAWERS] == []
