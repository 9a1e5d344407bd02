"""Where formulas are compared, and how they compare there.

The points follow from a hash of both formulas, so that no answer can be made to fit them. Values have as many digits as it
takes to tell whether they are equal."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from dataclasses import dataclass, field
from fractions import Fraction

from rethink.grading.formulas.arithmetic import MOST_DIGITS, TOO_LARGE, Arithmetic, Budget, NoValue, Value
from rethink.grading.formulas.tree import Name, Tree, walk
from rethink.grading.formulas.values import Evaluator
from rethink.grading.formulas.verdicts import NotJudged

RANGES = ((0.3, 0.9), (1.2, 2.9), (3.3, 8.7))

_MOST_PATTERNS = 8

Point = dict[str, Fraction]


class Points:
    """Draw values for names."""

    def __init__(self, names: list[str], *texts: str) -> None:
        self.names = names
        digest = hashlib.sha256("\n".join(texts).encode())
        self.salt = digest.hexdigest()
        self._draw = random.Random(digest.digest())

    def positive(self, turn: int) -> Point:
        """Return values that are mostly in one range, which depends on the turn."""
        point = {}
        for name in self.names:
            low, high = RANGES[turn % 3] if self._draw.random() < 0.7 else RANGES[self._draw.randrange(3)]
            point[name] = self.between(low, high)
        return point

    def between(self, low: float, high: float) -> Fraction:
        bottom = self._draw.randrange(10**9, 10**10)
        return Fraction(self._draw.randrange(int(low * bottom), int(high * bottom)), bottom)

    def of_other_signs(self, signed: set[str]) -> list[Point]:
        """Return a point for each pattern of signs, but all positive; of many signed names, for some patterns."""
        names = sorted(signed)[:12]
        patterns = list(itertools.product((1, -1), repeat=len(names)))[1:]
        if len(patterns) > _MOST_PATTERNS:
            patterns = [patterns[-1], *self._draw.sample(patterns, _MOST_PATTERNS - 1)]
        points = []
        for turn, signs in enumerate(patterns):
            point = self.positive(turn)
            for name, sign in zip(names, signs, strict=True):
                point[name] *= sign
            points.append(point)
        return points

    def of_other_sizes(self, digits: int, signed: set[str]) -> list[tuple[Point, bool]]:
        """Return points of both signs that are larger or smaller than others, and whether they are larger than all numbers
        with so many digits.
        """
        points = []
        for size in (2 * digits + 3, -2 * digits - 3, 1, 2, 3, -3):
            for sign in (1, -1):
                point = {}
                for name in self.names:
                    value = Fraction(self._draw.randrange(11, 98), 10) * Fraction(10) ** size
                    point[name] = value * sign if name in signed else value
                points.append((point, size > digits or size >= max(1, digits - 1)))
        return points

    def whole(self, counting: set[str]) -> list[Point]:
        """Return points where some names have whole values, small and large ones."""
        points = []
        highest = [2] * 3 + [6] * 6 + [24] * 6 + [60] * 6 + [1000] * 4 + [10**6] * 2 + [10**12] * 2
        for turn, high in enumerate(highest):
            point = self.positive(turn)
            for name in self.names:
                if name in counting:
                    point[name] = Fraction(self._draw.randrange(high + 1))
            points.append(point)
        return points

    def classes(self, counting: set[str], period: int) -> list[Point]:
        """Return a value for every class of remainders of each counting name."""
        found = []
        names = sorted(counting)
        for remainders in itertools.product(range(period), repeat=len(names)):
            point = {}
            for name, remainder in zip(names, remainders, strict=True):
                point[name] = Fraction(remainder + period)
            found.append(point)
        return found


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
            salt = self.points.salt
            evaluator = Evaluator(arithmetic, dict(numbers), stand_ins, classes, self.log_scale, self.is_complex, salt)
            first, is_first_real = _value(evaluator, self.a)
            second, is_second_real = _value(evaluator, self.b)
            found = At(
                False, (first is not None, second is not None), (is_first_real, is_second_real), evaluator.unsure
            )
            self.largest = max(self.largest, evaluator.largest)
            found.sides, found.is_doubtful = evaluator.folds.sides, evaluator.folds.is_doubtful
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


def _value(evaluator: Evaluator, tree: Tree) -> tuple[Value | None, bool]:
    """Return the value, or None, and whether every part is real."""
    evaluator.arithmetic.real = True
    try:
        value = evaluator.value(tree)
    except NoValue:
        return None, False
    return value, evaluator.arithmetic.real
