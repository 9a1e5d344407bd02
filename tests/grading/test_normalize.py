"""One spelling of answers: numbers and units."""

from __future__ import annotations

import pytest

from rethink.grading.normalize import number, unit


@pytest.mark.parametrize(
    "text", ["1_000", "٣", "0x10", "1e9999", "nan", "inf", "--1", "1/", "/2", "1/0", "1" * 4001, ""]
)
def test_these_are_not_numbers(text: str) -> None:
    """Guards against Python's own liberal reading of numbers, and against huge ones."""
    assert number(text) is None


UNITS = {
    "5": "", "5x": "", "5 \\text{ square inches}": "inch2", "5 in^2": "inch2", "5 \\text{ m/s}": "meter/second",
    "5 feet": "foot", "\\$5": "dollar", "5 men": "men", "2 xy": "", "5 \\text{ x}": "", "5 \\text{ N}": "n",
}  # fmt: skip


@pytest.mark.parametrize(("answer", "wanted"), UNITS.items())
def test_units(answer: str, wanted: str) -> None:
    """Guards against units that differ by their spelling alone, and against variables taken for units."""
    assert unit(answer) == wanted
