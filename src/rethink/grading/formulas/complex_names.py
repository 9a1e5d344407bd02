"""Names that may stand for complex numbers: z and the real part of z agree for real values only."""

from __future__ import annotations

from dataclasses import replace

from rethink.grading.formulas.points import Pair
from rethink.grading.formulas.readings import substituted
from rethink.grading.formulas.structure import free_names
from rethink.grading.formulas.tree import Name, Node, Number, Tree, walk
from rethink.grading.formulas.verdicts import NotJudged

REAL_ONLY = "equal for real values only"
_PARTS = frozenset(("Re", "Im", "arg", "conjugate"))
_USUAL = frozenset("zw")
_POINTS = 2


def refuse_if_real_only(pair: Pair) -> None:
    """Raise NotJudged if two formulas that agree for real values do not for complex ones."""
    names = _complex_names(pair)
    for turn in range(_POINTS if names else 0):
        point = pair.points.positive(turn)
        values: dict[str, Tree] = {}
        for name in sorted(names):
            imaginary = Number(pair.points.between(0.3, 0.9))
            values[name] = Node("+", (Number(point[name]), Node("*", (imaginary, Name("i")))))
        found = replace(pair, a=substituted(pair.a, values), b=substituted(pair.b, values), sides={}).at(point)
        if any(found.values) and not found.equal and not found.unsure:
            raise NotJudged(REAL_ONLY)


def _complex_names(pair: Pair) -> set[str]:
    """Return the names in real parts, arguments and the like; in absolute values z and w, unless x or y are around."""
    found: set[str] = set()
    for part in (*walk(pair.a), *walk(pair.b)):
        if not isinstance(part, Node):
            continue
        if part.operator in _PARTS:
            found |= free_names(part)
        elif part.operator in ("abs", "norm") and not {"x", "y"} & set(pair.points.names):
            found |= {name for name in free_names(part) if name.partition("_")[0] in _USUAL}
    return found & set(pair.points.names)
