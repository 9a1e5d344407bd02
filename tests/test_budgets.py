"""The budgets: small files, short functions, code that one can step through with a debugger."""

from __future__ import annotations

import ast
import math
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import rethink

PACKAGE = Path(rethink.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
DRAWERS = {"utils", "util", "helpers", "helper", "misc", "common"}
FILE, METHOD, FUNCTION = 400, 120, 60
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def n_lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


@cache
def nodes(source: str) -> list[ast.AST]:
    """Return the nodes of a file's syntax tree; three tests go over those of all files."""
    return list(ast.walk(ast.parse(source)))


def functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function, those inside others as well."""
    for node in nodes(source):
        if isinstance(node, FUNCTIONS):
            yield node


def body_length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function's body, without signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def own_comprehensions(function: ast.AST) -> list[ast.expr]:
    """Return the comprehensions of a function, without those of functions and classes inside it."""
    found: list[ast.expr] = []
    todo = list(ast.iter_child_nodes(function))
    while todo:
        node = todo.pop()
        if isinstance(node, FUNCTIONS | ast.ClassDef):
            continue
        if isinstance(node, COMPREHENSIONS):
            found.append(node)
        todo.extend(ast.iter_child_nodes(node))
    return found


def is_nested_over_lines(comprehension: ast.expr) -> bool:
    """Return whether a comprehension that spans lines holds another one."""
    if comprehension.lineno == comprehension.end_lineno:
        return False
    inner = [node for node in ast.walk(comprehension) if isinstance(node, COMPREHENSIONS)]
    return len(inner) > 1


def calls_id(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "id"


def is_id_key(node: ast.AST) -> bool:
    """Return whether a node uses `id(x)` as a subscript, as a key, or in a membership test."""
    if isinstance(node, ast.Subscript):
        return calls_id(node.slice)
    if isinstance(node, ast.Dict):
        return any(calls_id(key) for key in node.keys)
    if isinstance(node, ast.DictComp):
        return calls_id(node.key)
    if isinstance(node, ast.Set):
        return any(calls_id(element) for element in node.elts)
    if isinstance(node, ast.SetComp):
        return calls_id(node.elt)
    return isinstance(node, ast.Compare) and calls_id(node.left)


def faults(source: str) -> list[str]:
    """Return what makes a file hard to step through, each with its line."""
    found = []
    for function in functions(source):
        where = f"line {function.lineno}, {function.name}"
        comprehensions = own_comprehensions(function)
        if body_length(function) > FUNCTION:
            found.append(f"{where}: over {FUNCTION} lines")
        if len(comprehensions) > 2:
            found.append(f"{where}: more than two comprehensions")
        if any(is_nested_over_lines(one) for one in comprehensions):
            found.append(f"{where}: a comprehension inside one that spans lines")
    for node in nodes(source):
        if is_id_key(node):
            found.append(f"line {node.lineno}: id() as a key")  # type: ignore[attr-defined]
        if isinstance(node, ast.Starred) and isinstance(node.value, ast.Tuple | ast.List):
            found.append(f"line {node.lineno}: a literal that is unpacked only to break a line")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_a_file_stays_within_its_budget(file: Path) -> None:
    """Guards against files that grow until nobody reads them, and code that a debugger cannot stop in."""
    limit = METHOD if file.parent.name == "methods" else FILE
    assert n_lines(file) <= limit
    assert faults(file.read_text(encoding="utf-8")) == []


def test_functions_stay_short() -> None:
    """Guards against functions that do everything: median at most 10 lines, 95th percentile 35."""
    lengths = sorted(body_length(f) for file in FILES for f in functions(file.read_text(encoding="utf-8")))
    assert statistics.median(lengths) <= 10
    assert lengths[math.ceil(0.95 * len(lengths)) - 1] <= 35


def test_comprehensions_stay_rare() -> None:
    """Guards against code that is written to be short, not to be read: at most 3 comprehensions per 100 lines."""
    n_comprehensions = 0
    for file in FILES:
        for node in nodes(file.read_text(encoding="utf-8")):
            n_comprehensions += isinstance(node, COMPREHENSIONS)
    assert 100 * n_comprehensions / sum(map(n_lines, FILES)) <= 3


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    """Guards against utils.py under any of its names, be it a file or a folder."""
    named = [*FILES, *(p for p in PACKAGE.rglob("*") if p.is_dir())]
    assert [p for p in named if p.stem.strip("_") in DRAWERS] == []


def test_a_body_is_counted_as_by_hand() -> None:
    """Guards the counter itself: a body begins after signature and docstring and ends with its last line."""
    lines = ["def f(", "    a: int,", ") -> int:", '    """Doc."""', "    b = a", "", "    def g() -> int:"]
    source = "\n".join([*lines, "        return b", "", "    return g()", ""])
    assert {f.name: body_length(f) for f in functions(source)} == {"f": 6, "g": 1}


@pytest.mark.parametrize(
    ("line", "n"),
    [
        ("return [a for a in x], {a for a in x}", 0),
        ("return [a for a in x], {a for a in x}, list(a for a in x)", 1),
        ("return [[b for b in a] for a in x]", 0),
        ("return [\n        [b for b in a]\n        for a in x]", 1),
        ("return {id(a): a for a in x}", 1),
        ("return known[id(x)]", 1),
        ("return id(x) in known", 1),
        ("return (*(1, 2), *x)", 1),
        ("def g():\n        return [a for a in x]\n    return [a for a in x], [a for a in x]", 0),
    ],
)
def test_each_fault_is_seen(line: str, n: int) -> None:
    """Guards the counters themselves, which would pass anything if they saw nothing."""
    assert len(faults(f"def f(x, known):\n    {line}\n")) == n
