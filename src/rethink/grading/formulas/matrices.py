"""Matrices and vectors: entry by entry, after factors and sums are carried out."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from rethink.grading.formulas.tree import Measured, Name, Node, Number, Tree, walk, with_parts
from rethink.grading.formulas.verdicts import Equal, every

_UNITS = {"\\vec{i}": 0, "\\vec{j}": 1, "\\vec{k}": 2, "\\hat{i}": 0, "\\hat{j}": 1, "\\hat{k}": 2}
_UNITS.update({"\\hat{x}": 0, "\\hat{y}": 1, "\\hat{z}": 2})
Rows = tuple[tuple[Tree, ...], ...]


def rows(tree: Tree) -> Rows | None:
    """Return the entries of a matrix, of a multiple of one or of a sum of some; None for anything else."""
    if not isinstance(tree, Node):
        return None
    if tree.operator == "matrix":
        return tuple(row.operands for row in tree.operands if isinstance(row, Node))
    if tree.operator == "[]":
        return _bracketed(tree)
    if is_transposed(tree):
        inner = rows(tree.operands[0])
        return None if inner is None or len(set(_shape(inner))) != 1 else tuple(zip(*inner, strict=True))
    if tree.operator == "-":
        inner = rows(tree.operands[0])
        return None if inner is None else _each(inner, lambda x: Node("-", (x,)))
    if tree.operator == "/":
        inner = rows(tree.operands[0])
        return None if inner is None else _each(inner, lambda x: Node("/", (x, tree.operands[1])))
    if tree.operator == "*":
        return _multiple(tree)
    if tree.operator == "+":
        return _sum(tree)
    return None


def _bracketed(tree: Node) -> Rows | None:
    """Return the entries of [[1, 2], [3, 4]]; None for other brackets."""
    found: list[tuple[Tree, ...]] = []
    for row in tree.operands:
        if not isinstance(row, Node) or row.operator != "[]":
            return None
        found.append(row.operands)
    return tuple(found)


def _each(entries: Rows, change: Callable[[Tree], Tree]) -> Rows:
    return tuple(tuple(change(x) for x in row) for row in entries)


def _multiple(tree: Node) -> Rows | None:
    """Return the entries of a product of numbers and one matrix."""
    found: Rows | None = None
    factors: list[Tree] = []
    for part in tree.operands:
        entries = rows(part)
        if entries is None:
            factors.append(part)
        elif found is not None:
            return None
        else:
            found = entries
    return None if found is None else _each(found, lambda x: Node("*", (*factors, x)))


def _sum(tree: Node) -> Rows | None:
    total: list[list[list[Tree]]] = []
    for part in tree.operands:
        entries = rows(part)
        if entries is None or (total and list(map(len, total)) != list(map(len, entries))):
            return None
        if not total:
            total = _empty(entries)
        for row, cells in zip(entries, total, strict=True):
            for entry, cell in zip(row, cells, strict=True):
                cell.append(entry)
    found: list[tuple[Tree, ...]] = []
    for cells in total:
        found.append(tuple(Node("+", tuple(cell)) for cell in cells))
    return tuple(found)


def _empty(like: Rows) -> list[list[list[Tree]]]:
    return [[[] for _ in row] for row in like]


def _shape(entries: Rows) -> tuple[int, ...]:
    return tuple(len(row) for row in entries)


def equal_rows(a: Rows, b: Rows, equal: Equal) -> bool:
    """Return whether two matrices have the same shape and entries."""
    if _shape(a) != _shape(b):
        return False
    return every(zip(_flat(a), _flat(b), strict=True), equal)


def is_transposed(tree: Tree) -> bool:
    return isinstance(tree, Node) and tree.operator == "^" and tree.operands[1] in (Name("T"), Name("\\top"))


def in_columns(tree: Tree, other: Tree) -> Tree:
    """Return 2i + 3j, with hats or in bold, with columns for the unit vectors, if the other answer is a vector too."""
    if isinstance(tree, Measured) and not isinstance(other, Measured):  # (2i + 3j) N
        tree = tree.value
    size = 3 if _has_units(other) else _length(other)
    if size not in (2, 3) or not _has_units(tree):
        return tree
    return _with_columns(tree, size)


def _has_units(tree: Tree) -> bool:
    return any(isinstance(part, Name) and part.name in _UNITS for part in walk(tree))


def _length(tree: Tree) -> int:
    """Return how many entries a tuple or a row or column has; 0 for anything else."""
    if isinstance(tree, Node) and tree.operator in ("()", "<>", "[]"):
        return len(tree.operands)
    entries = rows(tree)
    as_tuple = None if entries is None else vector(entries)
    return len(as_tuple.operands) if isinstance(as_tuple, Node) else 0


def _with_columns(tree: Tree, size: int) -> Tree:
    if isinstance(tree, Name) and tree.name in _UNITS:
        return Node("matrix", tuple(Node("row", (entry,)) for entry in _unit(_UNITS[tree.name], size)))
    return with_parts(tree, lambda part: _with_columns(part, size))


def _unit(n: int, size: int) -> tuple[Tree, ...]:
    """Return a row with 1 in one place and 0 elsewhere."""
    return tuple(Number(Fraction(int(place == n))) for place in range(size))


def identity(tree: Tree, like: Rows) -> Tree:
    """Return the tree with the identity matrix for I, if the other answer is a square matrix."""
    size = len(like)
    if _shape(like) != (size,) * size:
        return tree
    if tree in (Name("I"), Name("\\vec{I}"), Name(f"I_{{{size}}}")):
        return Node("matrix", tuple(Node("row", _unit(n, size)) for n in range(size)))
    if isinstance(tree, Node) and tree.operator in ("-", "*", "/"):
        return Node(tree.operator, tuple(identity(part, like) for part in tree.operands))
    return tree


def vector(entries: Rows) -> Tree | None:
    """Return a row or column as a tuple; None for other matrices."""
    if len(entries) == 1 or all(len(row) == 1 for row in entries):
        return Node("()", tuple(_flat(entries)))
    return None


def _flat(entries: Rows) -> list[Tree]:
    return [x for row in entries for x in row]
