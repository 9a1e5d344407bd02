"""Two formulas at a point: their values, with as many digits as it takes to tell whether they are equal."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rethink.grading.formulas.arithmetic import (
    MOST_DIGITS,
    TOO_LARGE,
    Arithmetic,
    Budget,
    NotJudged,
    NoValue,
    Value,
)
from rethink.grading.formulas.points import Point, Points
from rethink.grading.formulas.tree import Name, Tree, walk
from rethink.grading.formulas.values import Reader

_FIRST_DIGITS = 200


@dataclass
class At:
    """How two formulas compare at a point. Of a formula without a value there the value is None."""

    equal: bool
    values: tuple[bool, bool] = (True, True)
    real: tuple[bool, bool] = (True, True)
    unsure: bool = False
    is_doubtful: bool = False
    sides: dict[Tree, set[int]] = field(default_factory=dict)


@dataclass
class Pair:
    """Two formulas and how their names are read."""

    a: Tree
    b: Tree
    points: Points
    budget: Budget
    written: float
    log_scale: str = ""
    sides: dict[Tree, set[int]] = field(default_factory=dict)
    largest: int = 0
    is_doubtful: bool = False
    """Whether agreement at points does not show agreement everywhere."""

    def __post_init__(self) -> None:
        self.is_complex = Name("i") in walk(self.a) or Name("i") in walk(self.b)

    def accept(self, found: At) -> None:
        """Record on which sides of absolute values two formulas agree."""
        for part, signs in found.sides.items():
            self.sides.setdefault(part, set()).update(signs)

    def at(
        self,
        numbers: Point,
        stand_ins: frozenset[str] = frozenset(),
        classes: Point | None = None,
        most_digits: int = MOST_DIGITS,
    ) -> At:
        """Compare at a point, with as many digits as it takes."""
        digits = _FIRST_DIGITS
        while True:
            arithmetic = Arithmetic(digits, self.budget)
            reader = Reader(arithmetic, dict(numbers), stand_ins, classes, self.log_scale, self.is_complex)
            first, is_first_real = _value(reader, self.a)
            second, is_second_real = _value(reader, self.b)
            found = At(False, (first is not None, second is not None), (is_first_real, is_second_real), reader.unsure)
            self.largest = max(self.largest, reader.largest)
            found.sides, found.is_doubtful = reader.folds.sides, reader.folds.is_doubtful
            if first is not None and second is not None:
                found.equal = arithmetic.difference(first, second) == 0
                if not arithmetic.steps:
                    return found
                if not found.equal and digits > 40 + 3 * arithmetic.spread() + self.written:
                    return found
            needed = arithmetic.digits_needed(self.written)
            if needed <= digits:
                return found
            if needed > most_digits:
                raise NotJudged(TOO_LARGE)
            digits = 100 * math.ceil(needed / 100 + 0.3)


def _value(reader: Reader, tree: Tree) -> tuple[Value | None, bool]:
    """Return the value, or None, and whether every part is real."""
    reader.arithmetic.real = True
    try:
        value = reader.value(tree)
    except NoValue:
        return None, False
    return value, reader.arithmetic.real
