"""What absolute values, roots of squares and the like fold: on which sides it was seen, and where more may be hidden."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from rethink.grading.formulas.arithmetic import Arithmetic, Value
from rethink.grading.formulas.structure import free_names, is_monomial, square_factors
from rethink.grading.formulas.tree import Node, Tree, walk

PERIODIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))


class Folds:
    """The signs that were met inside absolute values and roots of squares, in `sides`.

    `is_doubtful` says that a part may change its form where nobody looked: the root of an expanded square, the arc of a
    sine, the logarithm of a complex number."""

    def __init__(self, arithmetic: Arithmetic, is_complex: bool) -> None:
        self.arithmetic = arithmetic
        self.is_complex = is_complex
        self.is_doubtful = False
        self.sides: dict[Tree, set[int]] = {}

    def add(self, tree: Tree, sign: int) -> None:
        self.sides.setdefault(tree, set()).add(sign)

    def note(self, tree: Tree, value: Value, value_of: Callable[[Tree], Value]) -> None:
        """Record what a root, logarithm or arc of a tree may fold."""
        if not free_names(tree):
            return
        complex_number = self.arithmetic.mp.mpc
        if isinstance(value, complex_number):
            self.is_doubtful = self.is_doubtful or self.is_complex
            return
        squares, others = square_factors(tree)
        for square in squares:
            inside = value_of(square)
            if isinstance(inside, complex_number):
                self.is_doubtful = True
            else:
                self.add(square, 1 if inside > 0 else -1)
        for other in others:
            if not is_monomial(other) and (_has_waves(other) or self._is_square(value_of(other))):
                self.is_doubtful = True

    def _is_square(self, value: Value) -> bool:
        return isinstance(value, Fraction) and value > 0 and isinstance(self.arithmetic.root(value, 2), Fraction)


def _has_waves(tree: Tree) -> bool:
    return any(isinstance(part, Node) and part.operator in PERIODIC and free_names(part) for part in walk(tree))
