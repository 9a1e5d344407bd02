"""Signs: what is right, which lines are wrong, splits without common lines, and the teacher's replies."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from rethink.problems import signs
from rethink.settings import Replies
from rethink.types import Demonstration

GOLD = "3 7 5 -> 26 ; 9 2 8 -> 15"
RIGHT = "3 * 7 = 21 + 5 = 26 ; 9 - 2 = 7 + 8 = 15"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (RIGHT, "right"),
        (RIGHT.replace(" ", "  "), "right"),
        (f"3 + 7 = 10 + 5 = 15 ; 9 - 2 = 7 + 8 = 15 ? {RIGHT}", "right"),
        (f"{RIGHT} ? 3 + 7 = 10 + 5 = 15 ; 9 - 2 = 7 + 8 = 15", "wrong 1"),
        (f"3 + 7 = 10 + 5 = 15 again {RIGHT}", "right"),
        ("3 * 7 = 21 + 5 = 26 ; 9 + 2 = 11 - 8 = 3", "wrong 2"),
        ("3 * 7 = 21 + 5 = 25 ; 9 - 2 = 7 + 8 = 15", "wrong 1"),
        ("7 * 3 = 21 + 5 = 26 ; 9 - 2 = 7 + 8 = 15", "wrong 1"),
        ("26 ; 15", "wrong 1 2"),
        ("3 * 7 = 21 + 5 = 26", "wrong 2"),
        (f"{RIGHT} ; 1 + 1 = 2", "wrong 3"),
        ("", "wrong 1 2"),
        ("9 - 2 = 7 + 8 = 15 ; 3 * 7 = 21 + 5 = 26", "wrong 1 2"),
    ],
)
def test_verdicts(reply: str, reason: str) -> None:
    """Guards against wrong arithmetic, other numbers, missing and extra lines, and any attempt but the last."""
    verdict = signs.verify(reply, GOLD)
    assert (verdict.reason, verdict.right) == (reason, reason == "right")


def test_ways() -> None:
    """2 - 3 is negative, and 12 * 12 * 12 is too large. Two ways may make one result."""
    assert signs.ways((2, 3, 1)) == {
        6: ("2 + 3 = 5 + 1 = 6", "2 * 3 = 6 * 1 = 6"),
        4: ("2 + 3 = 5 - 1 = 4",),
        5: ("2 + 3 = 5 * 1 = 5", "2 * 3 = 6 - 1 = 5"),
        7: ("2 * 3 = 6 + 1 = 7",),
    }
    assert set(signs.ways((12, 12, 12))) == {36, 12, 0}


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("2 + 3 = 5 + 1 = 6", "2 * 3 = 6 * 1 = 6", True),
        ("2 + 3 = 5 + 1 = 6", "3 + 2 = 5 + 1 = 6", False),
        ("2 + 3 = 5 + 1 = 6", "2 + 3 = 5 - 1 = 4", False),
        ("2 + 3 = 5 + 1 = 7", "2 * 3 = 6 * 1 = 7", False),
        ("what", "what", True),
        ("2 + 3 = 5 ; x", "2 + 3 = 5 ; y", False),
    ],
)
def test_equal_answers(a: str, b: str, equal: bool) -> None:
    assert signs.equal_answers(a, b) is signs.equal_answers(b, a) is equal


def test_golds() -> None:
    assert signs.parse_gold(GOLD) == GOLD
    assert signs.verify(signs.gold_reply(GOLD), GOLD).right
    for text in ("", "26", "3 7 5 -> 27", "3 7 5 -> x", "3 -> 3", " ".join("1" * 9) + " -> 1"):
        with pytest.raises(ValueError, match="must be lines"):
            signs.parse_gold(text)


def test_splits_share_no_line() -> None:
    """Problems are the same in every process."""
    lines = {}
    for split, (_, n_problems) in signs.SPLITS.items():
        problems = signs.problems(split)
        assert len({problem.id for problem in problems}) == n_problems
        lines[split] = {line for p in problems for line in signs.parse_question(p.gold)}
    for a, b in itertools.combinations(lines.values(), 2):
        assert not a & b
    assert signs.problems("test")[0].id == FIRST


FIRST = "signs:10-6-9=69;7-3-2=23;8-8-10=74"


@pytest.mark.parametrize(
    ("split", "lines", "message"),
    [
        ("dev", 3, "train, validation, test, not 'dev'"),
        ("validation", 1, "too few different problems of 1 lines with 2 numbers up to 2"),
    ],
)
def test_refusals(split: str, lines: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        signs.problems(split, lines, numbers=2, largest=2)


TEACHER = Replies(p_right=0.7, p_careful=0.6, p_hint=0.8, phases=("solve", "refine", "reflect", "retry", "merge"))


def demonstrations(teacher: Replies, n: int = 400) -> list[tuple[str, dict[str, Demonstration]]]:
    """The gold of each problem, and its demonstrations by phase."""
    found = []
    for problem in signs.problems("validation", replies=teacher)[:n]:
        assert problem.demonstrate is not None
        found.append((problem.gold, {shown.phase: shown for shown in problem.demonstrate(3)}))
    return found


def share_right(replies: list[tuple[str, str]]) -> float:
    """The share of right ones among pairs of a gold and a reply."""
    return sum(signs.verify(reply, gold).right is True for gold, reply in replies) / len(replies)


def test_replies_of_the_teacher() -> None:
    """Of 400 solve replies, 0.7^3 = 34.3% are right, give or take 2.4 points; a refinement shows such a draft."""
    found = demonstrations(TEACHER)
    assert share_right([(gold, d["solve"].reply) for gold, d in found]) == pytest.approx(0.343, abs=0.09)
    assert share_right([(gold, d["refine"].shown[0]) for gold, d in found]) == pytest.approx(0.343, abs=0.09)
    # A line stays right (0.7), or a careful teacher (0.6) mends it (0.7): 82.6% of lines, 56.4% of replies.
    assert share_right([(gold, d["refine"].reply) for gold, d in found]) == pytest.approx(0.564, abs=0.09)
    assert {len(d["merge"].shown) for _, d in found} == {3}
    checks = [d["reflect"].reply == signs.verify(d["reflect"].shown[0], gold).reason for gold, d in found]
    assert 0.8 < sum(checks) / len(checks) < 0.95  # some of the other checks are right by chance


def test_a_perfect_teacher() -> None:
    """Guards against a draft that a careful teacher spoils, and against a check of another reply."""
    for gold, d in demonstrations(replace(TEACHER, p_careful=1.0, p_right=1.0, p_hint=1.0), 50):
        assert d["reflect"].reply == "right"
        assert {signs.verify(d[phase].reply, gold).right for phase in ("solve", "refine", "retry", "merge")} == {True}
        assert d["refine"].reply == d["refine"].shown[0]


def test_no_phases_but_those_asked_for() -> None:
    ((_, first),) = demonstrations(replace(TEACHER, phases=("refine",)), 1)
    assert set(first) == {"refine"}
