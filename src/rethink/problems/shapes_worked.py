"""Worked solutions of shapes: short thoughts that say where things are, from which the answer follows.

An image is 8 by 8 cells; a thought names the row and column of the cell in which the middle of a shape is:

    How many circles are there?                                1 4 red circle, 5 2 blue circle                 2
    What color is the star?                                    2 3 red star                                    red
    Where is the red star, seen from the blue circle?          3 2 red star, 3 4 blue circle                   left
    Which is larger, the red circle or the blue circle?        2 3 red circle 8, 4 5 blue circle 15            blue

The tiny vision model learns from them (`python -m rethink.training.make_tiny_shapes`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from rethink.problems.shapes import SIDES, wrong_answers
from rethink.problems.shapes_canvas import COLORS, KINDS, Canvas, Item

TASKS = ("count", "color", "position", "larger")
"""The tasks that have worked solutions."""

CELL = 12
"""Pixels."""

Fact = tuple[str, str]
"""A sub-question and its answer."""


@dataclass(frozen=True)
class Worked:
    """A question, its answer, the thought that leads to it, and the same in parts: sub-questions and their answers."""

    question: str
    answer: str
    thought: str
    facts: tuple[Fact, ...]


def worked(task: str, canvas: Canvas) -> list[Worked]:
    """Return what a task can ask about an image at level 1, with thoughts."""
    return _WORKED[task](canvas.drawn)


def cell_of(item: Item) -> tuple[int, int]:
    """Return the row and the column of a shape's middle, from 1 to 8."""
    return item.y // CELL + 1, item.x // CELL + 1


def mistaken(right: Worked, draw: random.Random) -> tuple[str, str]:
    """Return a thought with one number or color drawn again, or cut at another word, and a wrong answer."""
    words = right.thought.split()
    place = draw.randrange(len(words))
    if words[place].isdigit():
        words[place] = str(draw.randint(1, 8))
    elif words[place] in COLORS:
        words[place] = draw.choice(list(COLORS))
    else:
        del words[place:]
    return " ".join(words), draw.choice(wrong_answers(right.answer))


def _phrase(item: Item) -> str:
    row, column = cell_of(item)
    return f"{row} {column} {item.color} {item.kind}"


def _count(drawn: list[Item]) -> list[Worked]:
    found: list[Worked] = []
    for kind in KINDS:
        items = sorted((item for item in drawn if item.kind == kind), key=cell_of)
        thought = ", ".join(map(_phrase, items)) or "none"
        fact = (f"Which {kind}s are there?", thought)
        found.append(Worked(f"How many {kind}s are there?", str(len(items)), thought, (fact,)))
    return found


def _color(drawn: list[Item]) -> list[Worked]:
    found: list[Worked] = []
    for item in drawn:
        fact = (f"Where is the {item.kind}?", _phrase(item))
        found.append(Worked(f"What color is the {item.kind}?", item.color, fact[1], (fact,)))
    return found


def _position(drawn: list[Item]) -> list[Worked]:
    found: list[Worked] = []
    for a, b in (drawn[:2], drawn[1::-1]):
        facts = tuple((f"Where is the {item.color} {item.kind}?", _phrase(item)) for item in (a, b))
        question = f"Where is the {a.color} {a.kind}, seen from the {b.color} {b.kind}?"
        found.append(Worked(question, _side(a, b), f"{facts[0][1]}, {facts[1][1]}", facts))
    return found


def _side(a: Item, b: Item) -> str:
    """Return the side of b on which a is."""
    return max(SIDES, key=lambda side: SIDES[side][0] * (a.x - b.x) + SIDES[side][1] * (a.y - b.y))


def _larger(drawn: list[Item]) -> list[Worked]:
    found: list[Worked] = []
    for a, b in (drawn[:2], drawn[1::-1]):
        facts = tuple((f"How large is the {c.color} {c.kind}?", f"{_phrase(c)} {c.size}") for c in (a, b))
        question = f"Which is larger, the {a.color} {a.kind} or the {b.color} {b.kind}?"
        answer = max(a, b, key=lambda item: item.size).color
        found.append(Worked(question, answer, f"{facts[0][1]}, {facts[1][1]}", facts))
    return found


_WORKED = {"count": _count, "color": _color, "position": _position, "larger": _larger}
