"""Shapes: questions about drawn images, which cannot be answered without looking.

    count     How many circles are there?                          3
    color     What color is the triangle?                          red
    position  Where is the red square, seen from the blue circle?  left
    larger    Which is larger, the red circle or the blue circle?  blue
    bars      How tall is the green bar?                           7
    clock     What time does the clock show?                       4:30
    dial      What number does the needle point to?                60

Each image is 96 by 96 pixels. Levels 1 to 3 have more shapes, finer scales and smaller differences. The answer is exact:
it follows from what was drawn.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from rethink.errors import UserError
from rethink.images import read_image
from rethink.problems.answer_format import AnswerFormat, read_question_and_answer
from rethink.problems.shapes_canvas import COLORS, KINDS, Canvas
from rethink.seeds import rng, stable_hash
from rethink.settings import Replies
from rethink.thinking import after_thinking
from rethink.types import Demonstration, Problem, Verdict

SPLITS = {"train": (range(12), 4000), "validation": (range(12, 14), 400), "test": (range(14, 20), 1600)}
"""The twentieths of all images that a split draws from, and its number of problems."""

LEVELS = (1, 2, 3)
SIDES = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
_STATED = re.compile(r"(?:answer\s*(?:is|:)|\\boxed\{)\s*([\w:]+)", re.IGNORECASE)


def problems(
    split: str, tasks: str = "", level: int = 1, replies: Replies | None = None, extraction: str = "strict"
) -> Iterator[Problem]:
    """Yield the problems of a split, "train" (4,000), "validation" (400) or "test" (1,600), and what a teacher replies.

    `tasks` are names joined by "+"; "" is all of them, in turn. A hash of what is drawn decides the split, so no image of
    one split is in another. Raise ValueError for another split, task or level, and UserError without Pillow.
    """
    names = tasks.split("+") if tasks else list(TASKS)
    unknown = [name for name in names if name not in TASKS]
    if unknown or level not in LEVELS:
        raise ValueError(f"shapes has the tasks {', '.join(TASKS)} and the levels 1 to 3, not {[*unknown, level][0]!r}")
    if split not in SPLITS:
        raise ValueError(f"shapes has the splits {', '.join(SPLITS)}, not {split!r}")
    return _problems(split, names, level, replies or Replies(), extraction)


def _problems(split: str, names: list[str], level: int, replies: Replies, extraction: str) -> Iterator[Problem]:
    shares, n_problems = SPLITS[split]
    draw = rng("shapes", split, level, *names)
    seen: set[int] = set()
    for _ in range(100 * n_problems):
        name = names[len(seen) % len(names)]
        canvas, question, gold = TASKS[name](draw, level)
        key = key_of(name, question, canvas)
        if key % 20 not in shares or key in seen:
            continue
        seen.add(key)
        yield _problem(f"shapes:{name}:{key:016x}", canvas, question, gold, replies, extraction)
        if len(seen) == n_problems:
            return
    raise UserError(f"shapes:{'+'.join(names)} has only {len(seen)} different images at level {level}; raise level")


def key_of(task: str, question: str, canvas: Canvas) -> int:
    """Return the hash that decides the split of a problem."""
    return stable_hash("shapes", task, question, *map(repr, canvas.drawn))


def _problem(ident: str, canvas: Canvas, question: str, gold: str, replies: Replies, extraction: str) -> Problem:
    problem = FORMAT.problem(ident, question, gold, "shapes", extraction)
    image = read_image(canvas.png(), ident)
    demonstrate = partial(_demonstrations, ident, question, gold, replies)
    return replace(problem, images=(image,), demonstrate=demonstrate)


def _demonstrations(ident: str, question: str, gold: str, teacher: Replies, seed: int) -> tuple[Demonstration, ...]:
    """Return a reply for each of the teacher's phases: right with its probability, else another likely answer."""
    draw = rng(seed, ident)
    found: list[Demonstration] = []
    for phase in teacher.phases:
        reply = gold if draw.random() < teacher.p_right else draw.choice(wrong_answers(gold))
        if phase == "solve":
            found.append(Demonstration(reply))
        elif phase == "refine":
            draft = gold if draw.random() < teacher.p_right else draw.choice(wrong_answers(gold))
            found.append(Demonstration(gold if draw.random() < teacher.p_careful else draft, phase, (draft,)))
    return tuple(found)


def wrong_answers(gold: str) -> list[str]:
    """Return answers of the same kind that are wrong."""
    for words in (tuple(COLORS), tuple(SIDES)):
        if gold in words:
            return [word for word in words if word != gold]
    hour, colon, minute = gold.partition(":")
    lowest, highest = (1, 12) if colon else (0, 100)
    found: list[str] = []
    for n in (int(hour) - 2, int(hour) - 1, int(hour) + 1, int(hour) + 2):
        if lowest <= n <= highest:
            found.append(f"{n}{colon}{minute}")
    return found


def verify(reply: str, gold: str) -> Verdict:
    """Return right if the whole reply, or what it states last as its answer, is the gold answer."""
    found = extract_answer(reply, lenient=False)
    if found is None:
        return Verdict(False, "no answer", None)
    return Verdict(found == gold, "right" if found == gold else "wrong", found)


def verify_lenient(reply: str, gold: str) -> Verdict:
    """Return the verdict on the last number, time, color or side that a reply names."""
    strict = verify(reply, gold)
    if strict.right or strict.extracted is not None:
        return strict
    found = extract_answer(reply, lenient=True)
    return Verdict(found == gold, "right" if found == gold else "wrong", found, lenient=found is not None)


def extract_answer(reply: str, lenient: bool, question: str = "") -> str | None:
    """Return the answer of a reply in lower case: all of it if it is one word, or what follows "answer:"."""
    text = after_thinking(reply).strip().strip(".!").lower()
    if re.fullmatch(r"[\w:]+", text):
        return text
    stated = _STATED.findall(text)
    if stated:
        return str(stated[-1])
    known = re.findall(r"\d+:\d\d|\d+|" + "|".join((*COLORS, *SIDES)), text) if lenient else []
    return str(known[-1]) if known else None


FORMAT = AnswerFormat(
    "{question}\nAnswer with one word or number.",
    read_question_and_answer,
    verify,
    verify_lenient,
    gold_reply=str,
    extract_answer=extract_answer,
)


def _count(draw: random.Random, level: int) -> tuple[Canvas, str, str]:
    canvas, asked = Canvas(draw), draw.choice(KINDS)
    color = draw.choice(list(COLORS)) if level > 1 else ""
    for _ in range(draw.randint(0, 3 + level)):
        canvas.scatter(asked, color or draw.choice(list(COLORS)), draw.randint(7, 12 - level))
    for _ in range(draw.randint(1, 2 * level)):
        canvas.scatter(draw.choice(KINDS), draw.choice(list(COLORS)), draw.randint(7, 12 - level))
    n = sum(item.kind == asked and color in ("", item.color) for item in canvas.drawn)
    return canvas, f"How many {color}{' ' if color else ''}{asked}s are there?", str(n)


def _color(draw: random.Random, level: int) -> tuple[Canvas, str, str]:
    canvas, kinds = Canvas(draw), draw.sample(KINDS, len(KINDS))
    for kind in kinds[: level + 1]:
        canvas.scatter(kind, draw.choice(list(COLORS)), draw.randint(8, 14 - level))
    asked = draw.choice(canvas.drawn)
    return canvas, f"What color is the {asked.kind}?", asked.color


def _position(draw: random.Random, level: int) -> tuple[Canvas, str, str]:
    canvas, side = Canvas(draw), draw.choice(list(SIDES))
    colors = draw.sample(list(COLORS), 2 + level)
    dx, dy = SIDES[side]
    far, off = 34 - 6 * level, 4 * (level - 1)
    x, y = draw.randint(40, 56), draw.randint(40, 56)
    middle = canvas.put(draw.choice(KINDS), colors[0], 8, x, y)
    wobble = draw.randint(-off, off)
    other = canvas.put(draw.choice(KINDS), colors[1], 8, x + dx * far + dy * wobble, y + dy * far + dx * wobble)
    for color in colors[2 : level + 1]:
        canvas.scatter(draw.choice(KINDS), color, 6)
    return canvas, f"Where is the {other.color} {other.kind}, seen from the {middle.color} {middle.kind}?", side


def _larger(draw: random.Random, level: int) -> tuple[Canvas, str, str]:
    canvas, kind = Canvas(draw), draw.choice(KINDS)
    colors = draw.sample(list(COLORS), 2)
    small = draw.randint(7, 10)
    sizes = [small, small + 9 - 2 * level]
    draw.shuffle(sizes)
    for color, size in zip(colors, sizes, strict=True):
        canvas.scatter(kind, color, size)
    question = f"Which is larger, the {colors[0]} {kind} or the {colors[1]} {kind}?"
    return canvas, question, colors[sizes.index(max(sizes))]


def _bars(draw: random.Random, level: int) -> tuple[Canvas, str, str]:
    canvas, most = Canvas(draw), 4 + 3 * level
    colors = draw.sample(list(COLORS), 1 + level)
    heights = [draw.randint(1, most) for _ in colors]
    canvas.chart(colors, heights, most)
    n = draw.randrange(len(colors))
    return canvas, f"How tall is the {colors[n]} bar?", str(heights[n])


def _clock(draw: random.Random, level: int) -> tuple[Canvas, str, str]:
    canvas = Canvas(draw)
    hour, minute = draw.randint(1, 12), 5 * draw.randrange(0, 12, {1: 6, 2: 3, 3: 1}[level])
    canvas.clock(hour, minute, draw.randint(28, 44))
    return canvas, "What time does the clock show?", f"{hour}:{minute:02d}"


def _dial(draw: random.Random, level: int) -> tuple[Canvas, str, str]:
    canvas, step = Canvas(draw), {1: 20, 2: 10, 3: 5}[level]
    value = draw.randrange(0, 101, step)
    canvas.dial(value, draw.randint(30, 44))
    return canvas, "What number from 0 to 100 does the needle point to?", str(value)


TASKS = {
    "count": _count,
    "color": _color,
    "position": _position,
    "larger": _larger,
    "bars": _bars,
    "clock": _clock,
    "dial": _dial,
}


def draw_example() -> bytes:
    """Return an image as a PNG file, for examples."""
    return _clock(rng("example"), 1)[0].png()
