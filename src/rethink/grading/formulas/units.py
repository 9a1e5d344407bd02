"""Provisional: a few units, until the whole table is here."""

from __future__ import annotations

from fractions import Fraction

from rethink.grading.formulas.tree import Unit


def read_unit(text: str, written: bool) -> Unit | None:
    """Return the unit that a text spells, or None."""
    if text == "°":
        return Unit((("rad", 1),), Fraction(1, 180), pi=True)
    if text == "%":
        return Unit((("%", 1),), Fraction(1, 100))
    return Unit(((text, 1),)) if written or text in ("cm", "m", "$", "€") else None


def scale(word: str) -> Fraction | None:
    """Return the value of a word such as million, or None."""
    return {"million": Fraction(10**6), "thousand": Fraction(1000)}.get(word)


def siunitx(text: str) -> Unit | None:
    """Return the unit that siunitx commands spell, or None."""
    return Unit(((text, 1),))


def is_followed_by_smaller(unit: Unit, smaller: Unit) -> bool:
    """Return whether a value in one unit may be followed by one in the other, as hours by minutes."""
    return True
