"""Sets of real numbers as intervals that do not overlap, and their union, intersection and complement.

An interval lies between two cuts. A cut is a place just before or just behind a number: [1, 2) lies between the cuts before
1 and before 2, and the point 3 between those before and behind 3. End points are trees. Their values order them; those with
variables have no order, but an interval (a, b) says that a is less than b.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key

from rethink.grading.formulas.agree import agree
from rethink.grading.formulas.arithmetic import Arithmetic, Budget, NoValue, Value
from rethink.grading.formulas.structure import free_names, infinite
from rethink.grading.formulas.tree import Constant, Name, Node, Number, Tree, minus, walk
from rethink.grading.formulas.values import Evaluator
from rethink.grading.formulas.verdicts import NotJudged

MAX_PARTS = 32
INFINITY = Constant("infinity")
MINUS_INFINITY = Node("-", (INFINITY,))
IMAGINARY = "an end point that is not real"
UNORDERED = "the order of end points is not known"
_DIGITS = (100, 1000)


@dataclass(frozen=True)
class Cut:
    """The place just behind a number if `behind`, otherwise just before it."""

    value: Tree
    behind: bool


Interval = tuple[Cut, Cut]


@dataclass(frozen=True)
class Reals:
    """A set of numbers: intervals that do not overlap, and of their numbers those in R, Q, Z or C."""

    intervals: tuple[Interval, ...]
    within: str = "R"

    @property
    def is_finite(self) -> bool:
        return all(is_point(interval) for interval in self.intervals)


def is_point(interval: Interval) -> bool:
    low, high = interval
    return low.value == high.value and not low.behind and high.behind


def point(value: Tree) -> Reals:
    return Reals(((Cut(value, False), Cut(value, True)),))


EMPTY = Reals(())
ALL = Reals(((Cut(MINUS_INFINITY, True), Cut(INFINITY, False)),))


def above(value: Tree, closed: bool) -> Reals:
    return Reals(((Cut(value, not closed), Cut(INFINITY, False)),))


def below(value: Tree, closed: bool) -> Reals:
    return Reals(((Cut(MINUS_INFINITY, True), Cut(value, closed)),))


class Line:
    """The order of end points: of numbers by value, of others as far as it was said. `zero_is_natural` is the reading
    of N."""

    def __init__(self, seed: str = "", zero_is_natural: bool = False) -> None:
        self.seed = seed
        self.zero_is_natural = zero_is_natural
        self._said: list[tuple[Tree, Tree]] = []
        self._known: dict[tuple[Tree, Tree], int] = {}

    def say(self, low: Tree, high: Tree) -> None:
        """Record that one end point is less than another, unless their order is known."""
        if not infinite(low) and not infinite(high) and not self.equal(low, high) and not self._is_said(high, low):
            self._said.append((low, high))

    def equal(self, a: Tree, b: Tree) -> bool:
        """Return whether two end points or elements are the same."""
        if isinstance(a, Number) and isinstance(b, Number):
            return a.value == b.value
        return agree(a, b, self.seed)

    def compare(self, a: Tree, b: Tree) -> int:
        """Return -1, 0 or 1 if a is less than, equal to or greater than b. Raise NotJudged if that is not known."""
        if a == b:
            return 0
        if isinstance(a, Number) and isinstance(b, Number):
            return _sign(a.value - b.value)
        if infinite(a) or infinite(b):
            return _sign(Fraction(infinite(a) - infinite(b)))
        if (a, b) not in self._known:
            found = 0 if self.equal(a, b) else self._order(a, b)
            self._known[a, b], self._known[b, a] = found, -found
        return self._known[a, b]

    def compare_cuts(self, a: Cut, b: Cut) -> int:
        return self.compare(a.value, b.value) or int(a.behind) - int(b.behind)

    def _order(self, a: Tree, b: Tree) -> int:
        if self._is_said(a, b):
            return -1
        if self._is_said(b, a):
            return 1
        for digits in _DIGITS:
            sign = _sign(number(minus(a, b), digits))
            if sign:
                return sign
        raise NotJudged(UNORDERED)

    def _is_said(self, low: Tree, high: Tree) -> bool:
        reached, waiting = {low}, [low]
        while waiting:
            here = waiting.pop()
            for smaller, larger in self._said:
                if smaller == here and larger not in reached:
                    reached.add(larger)
                    waiting.append(larger)
        return high in reached


def number(tree: Tree, digits: int = 100) -> Value:
    """Return the value of an end point, to so many digits: a Fraction or a float of mpmath. Raise NotJudged if it has
    variables, or is not real or not finite."""
    return _value(tree, Arithmetic(digits, Budget()))


def rational(tree: Tree) -> Fraction | None:
    """Return the exact value of an end point; None if it was rounded on the way, as that of cos(0.001) - 1."""
    arithmetic = Arithmetic(_DIGITS[0], Budget())
    value = _value(tree, arithmetic)
    return value if isinstance(value, Fraction) and not arithmetic.steps else None


def _value(tree: Tree, arithmetic: Arithmetic) -> Value:
    if free_names(tree):
        raise NotJudged(UNORDERED)
    try:
        value = Evaluator(arithmetic, {}).value(tree)
    except NoValue as err:
        raise NotJudged("an end point without a value") from err
    if isinstance(value, arithmetic.mp.mpc):
        raise NotJudged(IMAGINARY)
    return value


def nearest_whole(tree: Tree) -> int:
    value = number(tree)
    return round(value) if isinstance(value, Fraction) else int(value + (0.5 if value > 0 else -0.5))


def _sign(value: Value) -> int:
    return (value > 0) - (value < 0)


def union(line: Line, sets: Sequence[Reals]) -> Reals:
    """Return the union. Sets of points need no order."""
    within = _common([s.within for s in sets if s.intervals])
    parts = [interval for s in sets for interval in s.intervals]
    if len(parts) > MAX_PARTS:
        raise NotJudged("a set of too many parts")
    if not all(map(is_point, parts)):
        return Reals(_covered(line, sets, 1), within)
    return Reals(tuple(_distinct(line, parts)), within)


def _distinct(line: Line, points: list[Interval]) -> list[Interval]:
    found: list[Interval] = []
    for part in points:
        if not any(line.equal(part[0].value, other[0].value) for other in found):
            found.append(part)
    return found


def _common(within: list[str]) -> str:
    if len(set(within)) > 1:
        raise NotJudged("a union of real and of other numbers")
    return within[0] if within else "R"


def intersection(line: Line, sets: Sequence[Reals]) -> Reals:
    """Return the numbers that are in all sets."""
    if any(s.within == "C" for s in sets):
        raise NotJudged("a set of complex numbers")
    within = min((s.within for s in sets), key="ZQR".index)
    return Reals(_covered(line, sets, len(sets)), within)


def complement(line: Line, s: Reals) -> Reals:
    """Return all other real numbers."""
    if s.within != "R" and not s.is_finite:
        raise NotJudged("a complement of integers, rational or complex numbers")
    cuts: list[Cut] = [ALL.intervals[0][0]]
    for low, high in _covered(line, [s], 1):
        cuts += (low, high)
    cuts.append(ALL.intervals[0][1])
    found: list[Interval] = []
    for low, high in zip(cuts[::2], cuts[1::2], strict=True):
        if line.compare_cuts(low, high) < 0:
            found.append((low, high))
    return Reals(tuple(found))


def _covered(line: Line, sets: Sequence[Reals], times: int) -> tuple[Interval, ...]:
    """Return, in order, what at least so many of the sets contain."""
    changes: list[tuple[Cut, int]] = []
    for low, high in [interval for s in sets for interval in s.intervals]:
        _refuse_imaginary(low.value, high.value)
        changes += ((low, 1), (high, -1))
    if len(changes) > 4 * MAX_PARTS:
        raise NotJudged("a set of too many parts")
    _say_rays(line, sets, times == 1)
    key: Callable[[tuple[Cut, int]], object] = cmp_to_key(lambda a, b: line.compare_cuts(a[0], b[0]))
    if len(changes) > 2:
        changes.sort(key=key)  # type: ignore[arg-type]
    found: list[Interval] = []
    depth = 0
    start: Cut | None = None
    for i, (cut, change) in enumerate(changes):
        depth += change
        if i + 1 < len(changes) and line.compare_cuts(cut, changes[i + 1][0]) == 0:
            continue
        if depth >= times and start is None:
            start = cut
        elif depth < times and start is not None:
            found.append((start, _behind(line, start, cut)))
            start = None
    return tuple(found)


def _refuse_imaginary(*ends: Tree) -> None:
    """Raise NotJudged for an end point that is not real."""
    for end in ends:
        if Name("i") in walk(end):
            raise NotJudged(IMAGINARY)
        if not isinstance(end, Number) and not infinite(end) and not free_names(end):
            number(end)


def _behind(line: Line, low: Cut, high: Cut) -> Cut:
    """Return the upper cut, with the number of the lower one if both are around the same number."""
    is_closed = not low.behind and high.behind and not infinite(low.value) and not infinite(high.value)
    return Cut(low.value, True) if is_closed and line.equal(low.value, high.value) else high


def _say_rays(line: Line, sets: Sequence[Reals], is_union: bool) -> None:
    """Take x < a or x > b, and x > a and x < b, to mean a < b, where a and b have variables."""
    if len(sets) != 2 or any(len(s.intervals) != 1 for s in sets):
        return
    (low, high), (other_low, other_high) = sets[0].intervals[0], sets[1].intervals[0]
    if infinite(low.value) < 0 and infinite(other_high.value) > 0:
        ends = high.value, other_low.value
    elif infinite(other_low.value) < 0 and infinite(high.value) > 0:
        ends = other_high.value, low.value
    else:
        return
    if free_names(ends[0]) or free_names(ends[1]):
        line.say(*(ends if is_union else reversed(ends)))
