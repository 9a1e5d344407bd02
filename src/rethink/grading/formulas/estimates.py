"""The rough value of a formula, where only its sign or size matters."""

from __future__ import annotations

from fractions import Fraction

from rethink.grading.formulas.arithmetic import Arithmetic, Budget, NoValue
from rethink.grading.formulas.structure import free_names
from rethink.grading.formulas.tree import Measured, Tree
from rethink.grading.formulas.values import Evaluator, stand_in
from rethink.grading.formulas.verdicts import NotJudged

_DIGITS = 50


def estimate(tree: Tree) -> float | None:
    """Return the value of a formula with some numbers for its names; None if it has none, or no real one.

    >>> from rethink.grading.formulas.parse import parse
    >>> estimate(parse("3/2"))
    1.5
    """
    tree = tree.value if isinstance(tree, Measured) else tree
    numbers: dict[str, Fraction] = {name: stand_in(name) for name in free_names(tree)}
    try:
        return float(Evaluator(Arithmetic(_DIGITS, Budget()), dict(numbers)).value(tree))
    except (NoValue, NotJudged, TypeError, ValueError, OverflowError):
        return None
