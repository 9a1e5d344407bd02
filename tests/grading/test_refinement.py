"""The answer of a refinement, which may box the earlier answer beside its own."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.grading.extract import MAX_BOXES, last_boxes, readable
from rethink.grading.refinement import read_boxes
from rethink.problems import mathematics
from rethink.problems.grade import grade
from support.cpu_limit import cpu_limit
from support.grading_workers import long_timeout_pool
from support.refinements import FORMS, Refinement, refinements

_long_timeouts = pytest.fixture(scope="module", autouse=True)(long_timeout_pool)

ANSWERS = {
    # reply -> the boxes that hold its answer
    "\\boxed{4}": ["4"], "no box": [], "\\boxed{}": [], "\\boxed{3}, so \\boxed{3}": ["3", "3"],
    "The earlier answer \\boxed{3} is wrong, so the correct answer is \\boxed{4}.": ["4"],
    "Refined answer: \\boxed{4} (previously \\boxed{3})": ["4"], "\\boxed{4} (and not $\\boxed{3}$)": ["4"],
    "The answer is \\(\\boxed{4}\\), not \\(\\boxed{3}\\).": ["4"], "\\boxed{4}; it isn't \\boxed{3}": ["4"],
    "\\boxed{4}\n\nPreviously: \\boxed{3}": ["4"], "\\boxed{3}\n\nInstead: \\boxed{4}": ["4"],
    "I keep not \\boxed{4}, but \\boxed{3}": ["3"], "It was originally \\boxed{3}.": ["3"],
    "\\boxed{4} is a slip. I keep the earlier answer, \\boxed{3}.": ["3"], "not \\boxed{3}\nnot \\boxed{4}": ["4"],
    "(\\boxed{3} is wrong.) \\boxed{4}": ["4"], "(\\boxed{3}; now \\boxed{4})": ["4"], "a) \\boxed{3}: \\boxed{4}": ["4"],
    "\\boxed{4} (the draft's $\\boxed{3}$ has a slip)": ["4"],
    "\\boxed{[0, 1)} (not \\boxed{(0, 1)})": ["[0, 1)"], "\\boxed{(0, 1)} (not \\boxed{[0, 1)}), yes": ["(0, 1)"],
    "\\boxed{3} cannot be, \\boxed{1} and \\boxed{-2} are right": ["1", "-2"],
    "not \\boxed{3}: $x = \\boxed{1}$ and $x = \\boxed{-2}$": ["1", "-2"], "(\\boxed{1}, \\boxed{-2})": ["1", "-2"],
    "\\boxed{\\frac{5}{2}} = \\boxed{2.5}": ["\\frac{5}{2}", "2.5"], "\\boxed{1} \\text{ or } \\boxed{2}": ["1", "2"],
    "\\boxed 3 is wrong: \\boxed 4": ["4"], "<think>\\boxed{3} so \\boxed{5}</think>not \\boxed{3}: \\boxed{4}": ["4"],
    "<think>\\boxed{3} so \\boxed{5}": [],
}  # fmt: skip


@pytest.mark.parametrize(("reply", "boxes"), ANSWERS.items(), ids=lambda value: repr(value)[:40])
def test_the_boxes_with_the_answer(reply: str, boxes: list[str]) -> None:
    """Guards against an earlier answer that passes for a second answer of the refinement, or for its only one."""
    assert last_boxes(readable(read_boxes(reply)[-1])) == boxes


VERDICTS = [
    # verifier, reply, gold answer, right as a refinement, right as a first answer
    ("boxed", "The earlier answer \\boxed{3} is wrong, so the correct answer is \\boxed{4}.", "4", True, False),
    ("boxed", "The earlier answer \\boxed{3} is wrong, so the correct answer is \\boxed{4}.", "3", False, False),
    ("boxed", "Refined answer: \\boxed{4} (previously \\boxed{3})", "4", True, False),
    ("boxed", "Refined answer: \\boxed{4} (previously \\boxed{3})", "3", False, False),
    ("boxed", "\\boxed{4}\n(The previous answer was \\boxed{3}.)", "3", False, True),
    ("boxed", "The least is \\boxed{1}, the greatest \\boxed{5}.", "1, 5", True, True),  # several values
    ("boxed", "$x = \\boxed{1}$ (or $x = \\boxed{-2}$)", "-2, 1", True, True),
    ("boxed", "\\boxed{3} or \\boxed{4}", "4", False, False),  # a list is no value, here as there
    ("boxed", "Not \\boxed{3}, but \\boxed{\\frac{8}{2}} = \\boxed{4}", "4", True, False),
    ("boxed", f"Not \\boxed{{{'7' * 501}}}: \\boxed{{4}}", "4", True, False),
    ("boxed", "".join(f"\\boxed{{{n}}} no; " for n in range(MAX_BOXES + 1)), "8", False, False),
    ("choice", "\\boxed{A} overlooks friction; it is \\boxed{C}", "C", True, False),
    ("choice", "\\boxed{C}, not \\boxed{A}", "C", True, False),
    ("choice", "\\boxed{A} or \\boxed{C}", "C", False, False),
]


@pytest.mark.parametrize(
    ("verifier", "reply", "gold", "refined", "first"), VERDICTS, ids=lambda value: repr(value)[:40]
)
def test_verdicts_on_refinements_and_on_first_answers(
    verifier: str, reply: str, gold: str, refined: bool, first: bool
) -> None:
    """Guards against fix rates that are too low because a refinement names the mistake, and first answers that hedge."""
    for lenient in (False, True):
        assert grade(reply, gold, verifier, lenient=lenient, refinement=True).right is refined
        assert grade(reply, gold, verifier, lenient=lenient).right is first


def extracted(made: Refinement) -> bool:
    """Return whether the answer that votes compare is the gold answer."""
    return mathematics.extract_answer(read_boxes(made.reply)[-1], lenient=False) == made.gold


def test_what_review_prompts_bring_about() -> None:
    """Guards the table of docs/grading.md: only one form of 25 is misread, "whereas I had found ... before"."""
    counts = Counter((made.kind, made.right, extracted(made)) for made in refinements())
    n = {place: 4 * len(forms) for place, forms in FORMS.items()}
    assert counts == {
        ("first", True, True): n["first"], ("first", False, False): n["first"],
        ("above", True, True): n["above"], ("above", False, False): n["above"],
        ("last", True, True): n["last"] - 4, ("last", False, False): n["last"] - 4,
        ("last", True, False): 4, ("last", False, True): 4,
        ("kept", True, True): n["kept"], ("kept", False, False): n["kept"],
    }  # fmt: skip


@given(st.lists(st.sampled_from(["\\boxed{3}", "\\boxed{4}", "(", ")", " not ", "\n", ", ", " and ", "{", "}", "x"])))
def test_one_answer_cannot_be_won_by_two(parts: list[str]) -> None:
    """Guards against a refinement that is right for either of two gold answers, and against exceptions."""
    reply = "".join(parts)
    right = [grade(reply, gold, refinement=True).right for gold in ("3", "4")]
    assert right.count(True) <= 1


@pytest.mark.parametrize(
    "part", ["(", "not the ", "\\boxed{3} ", "\\boxed{3}, \\boxed{4}, ", "x = ", " ", "$", "earlier "]
)
def test_long_replies_are_read_once(part: str) -> None:
    """Guards against quadratic searches in hostile replies."""
    with cpu_limit(4):
        read_boxes(f"\\boxed{{3}} {part * 4_000}\\boxed{{4}}")
