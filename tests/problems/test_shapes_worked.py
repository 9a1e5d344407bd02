"""Worked solutions of shapes: their thoughts say what the image shows, and lead to the answer."""

from __future__ import annotations

from io import BytesIO

import PIL.Image
import pytest

from rethink.problems import shapes
from rethink.problems.shapes_canvas import COLORS, Canvas
from rethink.problems.shapes_worked import CELL, TASKS, Worked, mistaken, worked
from rethink.seeds import rng


def samples(task: str) -> list[tuple[Canvas, str, str, Worked]]:
    """Return 50 images with what shapes asks about them, the answer, and the worked solution of that question."""
    draw = rng("test", task)
    found: list[tuple[Canvas, str, str, Worked]] = []
    while len(found) < 50:
        canvas, question, gold = shapes.TASKS[task](draw, 1)
        (one,) = (w for w in worked(task, canvas) if w.question == question)
        found.append((canvas, question, gold, one))
    return found


@pytest.mark.parametrize("task", TASKS)
def test_solutions_are_right(task: str) -> None:
    """Guards against a model that learns wrong answers: the verifier reads them as a reply, and shapes knows the answer."""
    for _, _, gold, one in samples(task):
        assert shapes.verify(f"<think> {one.thought} </think> {one.answer}", gold).right
        assert shapes.verify(f"<think> </think> {one.answer}", gold).right


@pytest.mark.parametrize("task", TASKS)
def test_thoughts_say_where_things_are(task: str) -> None:
    """Guards against a thought that the image contradicts: in the cell that it names there are pixels of the color."""
    for canvas, _, _, one in samples(task):
        image = PIL.Image.open(BytesIO(canvas.png()))
        for phrase in one.thought.split(", ") if one.thought != "none" else ():
            row, column, color = phrase.split()[:3]
            left, top = CELL * (int(column) - 1), CELL * (int(row) - 1)
            cell = image.crop((left, top, left + CELL, top + CELL))
            assert COLORS[color] in {*cell.get_flattened_data()}


def test_answers_follow_from_thoughts() -> None:
    """Guards against thoughts that do not help: the answer is read from the thought alone."""
    for _, _, gold, one in samples("count"):
        assert len([p for p in one.thought.split(", ") if p != "none"]) == int(gold)
    for _, _, gold, one in samples("color"):
        assert one.thought.split()[2] == gold
    for _, _, gold, one in samples("position"):
        (y, x), (y0, x0) = (map(int, phrase.split()[:2]) for phrase in one.thought.split(", "))
        across, down = x - x0, y - y0
        assert {"left": -across, "right": across, "above": -down, "below": down}[gold] >= max(abs(across), abs(down))
    for _, _, gold, one in samples("larger"):
        sizes = {phrase.split()[2]: int(phrase.split()[4]) for phrase in one.thought.split(", ")}
        assert max(sizes, key=sizes.__getitem__) == gold


@pytest.mark.parametrize("task", TASKS)
def test_mistakes_are_mistakes(task: str) -> None:
    """Guards against a right first try where "wait" is to follow a wrong one."""
    for _, _, gold, one in samples(task):
        assert not shapes.verify(mistaken(one, rng("test"))[1], gold).right
