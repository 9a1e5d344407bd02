"""benchmarks/swapped_images.py still runs, and prints the table in the README of tiny-shapes."""

from __future__ import annotations

import re

import pytest

import swapped_images
from rethink.models.bundled import resolve

pytestmark = pytest.mark.slow


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_a_part_of_the_problems_agrees_with_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a table of other columns, other rows or another model. The 400 problems of the table are too many for
    a test, but its accuracies lie in the intervals of a few of them."""
    swapped_images.main("tiny-shapes", 24)
    printed = [re.split(r" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    with open(f"{resolve('tiny-shapes')}/README.md", encoding="utf-8") as file:
        lines = [line.replace('"', "") for line in file if line.startswith("|")]
    first = next(place for place, line in enumerate(lines) if line.startswith("| | all |"))
    header, _, *rows = [cells_of(line) for line in lines[first : first + 5]]
    assert printed[0] == header[1:]
    assert [row[0] for row in printed[1:]] == [row[0] for row in rows]
    for few, all_problems in zip(printed[1:], rows, strict=True):
        low, high = map(float, few[1].partition("[")[2].rstrip("]").split(", "))
        assert low <= float(all_problems[1].partition(" ")[0]) <= high, few[0]
