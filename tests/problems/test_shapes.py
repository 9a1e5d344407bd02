"""Shapes: what is asked follows from what is drawn, and the drawing shows it."""

from __future__ import annotations

from itertools import islice

import pytest

from rethink.errors import UserError
from rethink.images import ids_of
from rethink.problems import shapes
from rethink.problems.shapes_canvas import COLORS, Canvas
from rethink.problems.source import load_problems, refuse_overlap
from rethink.seeds import rng
from rethink.settings import ProblemSource, Replies


def canvases(task: str, level: int) -> list[tuple[Canvas, str, str]]:
    draw = rng("test", task, level)
    return [shapes.TASKS[task](draw, level) for _ in range(25)]


def share(canvas: Canvas, color: str) -> int:
    """Return the pixels of a color, counted in the image itself."""
    from io import BytesIO

    import PIL.Image

    pixels = PIL.Image.open(BytesIO(canvas.png())).convert("RGB").get_flattened_data()
    return sum(pixel == COLORS[color] for pixel in pixels)


def middle(canvas: Canvas, color: str) -> tuple[float, float]:
    """Return the mean place of a color's pixels."""
    from io import BytesIO

    import PIL.Image

    pil_image = PIL.Image.open(BytesIO(canvas.png())).convert("RGB")
    found = [(x, y) for x in range(96) for y in range(96) if pil_image.getpixel((x, y)) == COLORS[color]]
    return sum(x for x, _ in found) / len(found), sum(y for _, y in found) / len(found)


@pytest.mark.parametrize("level", shapes.LEVELS)
def test_the_larger_one_has_more_pixels(level: int) -> None:
    """Guards against an answer that the image does not show."""
    for canvas, question, gold in canvases("larger", level):
        colors = [word for word in question.replace(",", "").split() if word in COLORS]
        assert gold == max(colors, key=lambda color: share(canvas, color))


@pytest.mark.parametrize("level", shapes.LEVELS)
def test_sides_are_those_of_the_image(level: int) -> None:
    """Guards against left and right, or above and below, the wrong way round."""
    for canvas, question, gold in canvases("position", level):
        other, base = [word for word in question.replace(",", "").split() if word in COLORS]
        x, y = (a - b for a, b in zip(middle(canvas, other), middle(canvas, base), strict=True))
        found = ("right" if x > 0 else "left") if abs(x) > abs(y) else ("below" if y > 0 else "above")
        assert found == gold


@pytest.mark.parametrize("level", shapes.LEVELS)
def test_the_tallest_bar_is_the_highest(level: int) -> None:
    """Guards against bars with another height than the answer: heights are proportional to the number."""
    for canvas, question, gold in canvases("bars", level):
        bars = [item for item in canvas.drawn if item.kind == "bar"]
        (asked,) = [bar for bar in bars if bar.color in question]
        n_rows = share(canvas, asked.color) / (asked.size + 1)
        assert abs(n_rows - 80 * int(gold) / asked.values[1]) <= 1.5


@pytest.mark.parametrize("task", shapes.TASKS)
def test_problems_of_a_task(task: str) -> None:
    """Guards against answers that the verifier refuses, and tasks with a single answer."""
    found = list(islice(shapes.problems("train", task, 2), 40))
    assert len({p.id for p in found}) == 40
    assert len({p.gold for p in found}) > 2
    for problem in found:
        assert problem.grade(problem.gold).right
        assert problem.grade(f"I see. Answer: {problem.gold}.").right
        wrong = shapes.wrong_answers(problem.gold)
        assert wrong
        assert not any(problem.grade(text).right for text in wrong)
        assert len(problem.images) == 1


def test_the_splits_share_no_image_and_stay_the_same() -> None:
    """Guards against held-out images that are trained on, and seeds that depend on the process."""
    train = load_problems(ProblemSource("shapes", limit=70))
    test = load_problems(ProblemSource("shapes", limit=70), purpose="test")
    refuse_overlap(train, test)
    assert not {ids_of(p.images[0], 1)[0] for p in train} & {ids_of(p.images[0], 1)[0] for p in test}
    again = load_problems(ProblemSource("shapes", limit=70))
    assert again == train
    assert [p.images for p in again] == [p.images for p in train]
    assert {p.id.split(":")[1] for p in train} == set(shapes.TASKS)


def test_replies_of_a_teacher() -> None:
    """Guards against a teacher who is always right, or never."""
    (problem,) = islice(shapes.problems("train", "count", 1, Replies(phases=("solve", "refine"), p_right=0.5)), 1)
    assert problem.demonstrate is not None
    replies = [problem.demonstrate(seed) for seed in range(60)]
    rights = [problem.grade(reply[0].reply).right for reply in replies]
    assert 15 < sum(map(bool, rights)) < 45
    assert all(reply[1].shown and reply[1].phase == "refine" for reply in replies)


VERDICTS = {
    "3": (True, True),
    "3.": (True, True),
    "Answer: 3": (True, True),
    "<think>maybe 4</think>3": (True, True),
    r"So \boxed{3}": (True, True),
    "There are 3 of them, I think": (False, True),
    "4": (False, False),
    "": (False, False),
}


@pytest.mark.parametrize("reply", VERDICTS)
def test_verdicts(reply: str) -> None:
    """Guards against answers in the form that is asked for that count as wrong, and others that count as right."""
    assert (shapes.verify(reply, "3").right, shapes.verify_lenient(reply, "3").right) == VERDICTS[reply]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (ProblemSource("shapes:sing"), "has the tasks count, .* not 'sing'"),
        (ProblemSource("shapes", level=4), "the levels 1 to 3, not 4"),
        (ProblemSource("shapes", split="dev"), "has the splits train, validation, test, not 'dev'"),
        (ProblemSource("shapes", verifier="boxed"), "has its own verifier"),
    ],
)
def test_settings_that_make_no_problems(source: ProblemSource, message: str) -> None:
    """Guards against a misspelt task that gives other problems."""
    with pytest.raises(UserError, match=message):
        load_problems(source)


def test_lenient_extraction_is_that_of_the_source() -> None:
    """Guards against `--lenient` that grades strictly, in an evaluation that says that it was lenient."""
    for extraction, expected in (("strict", False), ("lenient", True)):
        problem = load_problems(ProblemSource("shapes:count", extraction=extraction, limit=1))[0]  # type: ignore[arg-type]
        assert problem.grade(f"I see {problem.gold} of them").right is expected
