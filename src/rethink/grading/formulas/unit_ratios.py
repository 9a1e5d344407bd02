"""How values in two units compare."""

from __future__ import annotations

from fractions import Fraction

from rethink.grading.formulas.tree import Unit
from rethink.grading.formulas.units import bases, known

_ALIKE = [("degree", "°C"), ("degree", "°F"), ("pound", "£"), ("¥", "JPY"), ("¥", "CNY")]
"""Pairs of units where the one is often written for the other: 25 degrees for 25 °C."""


def ratios(left: Unit | None, right: Unit | None) -> list[tuple[Fraction, int]]:
    """Return each ratio and power of pi for which left value * ratio * pi**power = right value makes two values equal.

    None stands for a value without a unit, which equals the same value in any unit; percents, degrees and other units
    without a dimension may also be carried out. Without any ratio, the units cannot be of equal values.

    >>> from rethink.grading.formulas.units import read_unit
    >>> ratios(read_unit("cm", True), read_unit("m", True))
    [(Fraction(1, 100), 0)]
    >>> ratios(read_unit("%", True), None)
    [(Fraction(1, 1), 0), (Fraction(1, 100), 0)]
    """
    if left is None or right is None:
        bare = left or right
        same = (Fraction(1), 0)
        if bare is None or not _is_number(bare) or (bare.factor, bare.pi) == same:
            return [same]
        sign = -1 if left is None else 1
        return [same, (bare.factor**sign, bare.pi * sign)]
    if not _labels_agree(left, right):
        return []
    a, b = _dimension(left), _dimension(right)
    if a == b or _without_angle(a) == b or a == _without_angle(b):
        return [(left.factor / right.factor, left.pi - right.pi)]
    if _in_radians(a) == _in_radians(b):
        turns = a.get("turn", 0) - b.get("turn", 0)
        return [(left.factor / right.factor * Fraction(2) ** turns, left.pi - right.pi + turns)]
    if _is_general(a, b) or _is_general(b, a) or _is_alike(left, right):
        return [(Fraction(1), 0)]
    return []


def _dimension(unit: Unit) -> dict[str, int]:
    return {name: n for name, n in unit.powers if n}


def _is_number(unit: Unit) -> bool:
    return not _without_angle(_dimension(unit), ("rad", "%"))


def _without_angle(powers: dict[str, int], angles: tuple[str, ...] = ("rad", "turn")) -> dict[str, int]:
    return {name: n for name, n in powers.items() if name not in angles}


def _in_radians(powers: dict[str, int]) -> dict[str, int]:
    found = _without_angle(powers)
    angle = powers.get("rad", 0) + powers.get("turn", 0)
    return {**found, "rad": angle} if angle else found


def _labels_agree(left: Unit, right: Unit) -> bool:
    a = {name for name, n in left.powers if n == 0}
    b = {name for name, n in right.powers if n == 0}
    return a <= b or b <= a


def _is_general(general: dict[str, int], other: dict[str, int]) -> bool:
    """Return whether one is "units" or "square units", and the other a length, an area or a counted noun."""
    power = general.get("unit", 0)
    if len(general) != 1 or not power or len(other) != 1:
        return False
    name, n = next(iter(other.items()))
    return n == power and (name == "m" or name not in bases())


def _is_alike(left: Unit, right: Unit) -> bool:
    for one, other in _ALIKE:
        pair = (known(one), known(other))
        if (left, right) in (pair, pair[::-1]):
            return True
    return False
