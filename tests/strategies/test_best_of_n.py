"""A judge's choice among candidates."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rethink.errors import UserError
from rethink.policies.fake import FakePolicy
from rethink.strategies import Attempt, Setup, best_of_n, solve
from rethink.strategies.best_of_n import read_rating
from rethink.types import Message, Prompt
from support.evaluations import SmallContextPolicy
from support.strategies import PROMPTS, candidates, problem, saying


def rated(*ratings: str) -> tuple[Attempt, FakePolicy]:
    """The attempt with candidates "r0 a", "r1 a", ... and these ratings, and the judge."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        assert prompt.draft is not None
        return ratings[prompt.draft.index]

    judge = FakePolicy(script)
    setup = Setup(saying(*(f"r{n} a" for n in range(len(ratings)))), PROMPTS, judge=judge)
    (attempt,) = best_of_n(setup, solve(setup, [problem()], len(ratings)))
    return attempt, judge


@pytest.mark.parametrize(
    ("ratings", "tied"),
    [
        (["\\boxed{7}", "so \\boxed{7.0} it is", "\\boxed{ 6.5 }"], [0, 1]),
        (["no idea", "\\boxed{0}", "11"], [1]),  # an unreadable rating is below 0
        (["?", "\\boxed{11}", "\\boxed{good}"], [0, 1, 2]),
    ],
)
def test_the_highest_rating_wins(ratings: list[str], tied: list[int]) -> None:
    """Guards against ratings that are compared as texts, and ties that the first candidate wins."""
    attempt, _ = rated(*ratings)
    assert [s.index for s in attempt.finals] == tied
    assert attempt.answers[0] in attempt.finals
    assert len(attempt.answers) == 1


@pytest.mark.parametrize(
    ("ratings", "n"), [(["\\boxed{7}", "\\boxed{6}"], 0), (["\\boxed{7}", "?"], 1), (["Score: 8/10", "", "good"], 3)]
)
def test_ratings_that_cannot_be_read_are_counted(ratings: list[str], n: int) -> None:
    """Regression: a judge that never writes a box gave random choices, and nothing said so."""
    attempt, _ = rated(*ratings)
    assert attempt.notes == ({"ratings that cannot be read": n} if n else {})


def test_each_candidate_is_rated_alone_at_a_cost() -> None:
    """By hand: three prompts "question p rate <r0 a>" of 5 words; ratings of 3 words and an end token."""
    attempt, judge = rated("it is \\boxed{1}", "it is \\boxed{2}", "it is \\boxed{3}")
    assert [p.messages for p in judge.shown] == [(Message("user", f"question p rate <r{n} a>"),) for n in range(3)]
    assert len({p.seed for p in judge.shown}) == 3
    assert [s.prompt.phase for s in attempt.samples] == ["solve"] * 3 + ["rate"] * 3
    assert (attempt.n_prompt_tokens, attempt.n_tokens, attempt.depth) == (2 + 3 * 5, 3 * 3 + 3 * 4, 2)


def test_the_judge_sees_no_thinking_and_cuts_are_counted() -> None:
    """Guards against a judge that silently sees half of a solution."""
    judge = FakePolicy(lambda *_: "\\boxed{5}")
    replies = (f"<think>{'t' * 300}</think>short a", "b" * 107)
    setup = Setup(saying(*replies), replace(PROMPTS, candidate_chars=100), judge=judge)
    (attempt,) = best_of_n(setup, solve(setup, [problem()], 2))
    assert judge.shown[0].messages[0].content == "question p rate <short a>"
    assert f"{'b' * 50}\n[... 7 characters left out ...]\n{'b' * 50}>" in judge.shown[1].messages[0].content
    assert attempt.notes == {"candidates cut": 1}


def test_overlong_candidates_are_rated_lowest() -> None:
    """Guards against a skipped rating that shifts all others by one."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        assert prompt.draft is not None
        return f"\\boxed{{{3 - prompt.draft.index}}}"

    judge = SmallContextPolicy(script, lambda p: p.draft is not None and p.draft.index == 0)
    setup = Setup(saying("r0", "r1", "r2"), PROMPTS, judge=judge)
    found = best_of_n(setup, solve(setup, [problem("p0"), problem("p1")], 3))
    assert [a.answers[0].text for a in found] == ["r1", "r1"]
    assert [(len(a.samples), a.depth, a.notes) for a in found] == [(5, 2, {"over-long prompts": 1})] * 2
    none = replace(setup, judge=SmallContextPolicy(script, lambda _: True))
    (attempt,) = best_of_n(none, solve(none, [problem()], 3))
    assert (len(attempt.finals), attempt.depth) == (3, 1)


def test_a_judge_is_needed() -> None:
    """Guards against a policy that judges itself without being asked to."""
    with pytest.raises(UserError, match=r'"best" needs a judge: name a model with judge\.path'):
        best_of_n(*candidates("a", "b"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("\\boxed{10/10}", 10.0),
        *((text, -1.0) for text in ("\\boxed{10.5}", "\\boxed{-3}", "\\boxed{7", "7")),
        (f"\\boxed{{{'9' * 400}}}", -1.0),
    ],
)
def test_ratings_are_read(text: str, value: float) -> None:
    """Guards against crashes on what judges write, and ratings beyond the scale that win."""
    assert read_rating(text) == value
