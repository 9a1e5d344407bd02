"""Majority votes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rethink.errors import UserError
from rethink.policies.fake import FakePolicy
from rethink.problems import mathematics
from rethink.strategies import Setup, refine, solve, vote
from rethink.strategies.vote import group_by_answer
from rethink.types import Problem
from support.evaluations import equal
from support.strategies import PROMPTS, candidates, problem, saying, score, verify


@pytest.mark.parametrize(
    ("replies", "gold", "right"),
    [
        ("aabc", "a", 1.0),
        ("aabb", "a", 0.5),
        ("ab??", "c", 0.0),
        ("a????", "a", 1.0),  # a reply without an answer has no vote, however many there are
        ("abc", "c", 1 / 3),
        ("????", "a", 0.0),
    ],
)
def test_the_expected_verdict_of_a_vote(replies: str, gold: str, right: float) -> None:
    """Ties count as the share of tied answers that are right."""
    setup, (attempt,) = candidates(*replies, about=problem(gold=gold))
    (voted,) = vote(setup, [attempt])
    assert score(voted) == pytest.approx(right)
    assert len(voted.answers) == 1
    assert voted.answers[0] in voted.finals
    assert (voted.samples, voted.depth, voted.n_tokens) == (attempt.samples, 1, 2 * len(replies))
    if replies == "????":  # without any answer, all candidates are tied
        assert voted.finals == attempt.answers


def test_answers_are_compared_as_the_grader_does() -> None:
    """Guards against votes over texts: 1/2 and 0.5 are one answer, and beat two of 3."""
    setup, found = candidates("3", "1/2", "3", "0.5", "it is 2/4", about=problem(gold="0.50"))
    (voted,) = vote(setup, found)
    assert [s.text for s in voted.finals] == ["1/2"]
    assert score(voted) == 1.0


def test_refinements_vote_for_their_own_answers() -> None:
    """Guards against a refinement that votes for the earlier answer, too, and so for a list that nobody else has."""
    about = mathematics.FORMAT.problem("p", "2 + 2?", "4", "", "strict")
    replies = ["\\boxed{3}", "\\boxed{4}, not \\boxed{3}", "Not \\boxed{5} but \\boxed{4}", "\\boxed{3}"]
    policy = FakePolicy(lambda prompt, index, version: replies[prompt.draft.index if prompt.draft else index])
    setup = Setup(policy, PROMPTS)
    first = solve(setup, [about], len(replies))
    (voted,) = vote(setup, first)
    assert [s.text for s in voted.finals] == ["\\boxed{3}"]
    groups = group_by_answer(about, refine(setup, first)[0].answers)
    assert [[s.index for s in members] for members in groups] == [[0, 3], [1, 2]]


def test_ties_are_broken_by_ids_alone() -> None:
    """Guards against the first candidate that always wins, and a choice that depends on the batch."""
    problems = [problem(f"p{n}") for n in range(40)]
    setup = Setup(saying("a", "b", "b", "a"), PROMPTS)
    voted = vote(setup, solve(setup, problems, 4))
    assert {score(a) for a in voted} == {0.5}
    assert 8 <= sum(a.answers[0].text == "a" for a in voted) <= 32
    alone = [vote(setup, solve(setup, [p], 4))[0] for p in problems[::-1]]
    assert alone[::-1] == voted
    repeats = vote(
        Setup(saying(*"ab" * 20), PROMPTS), [replace(voted[0], repeat=r, answers=voted[0].finals) for r in range(40)]
    )
    assert 8 <= sum(a.answers[0].text == "a" for a in repeats) <= 32


def test_problems_without_comparable_answers_are_refused() -> None:
    """Guards against a vote over texts for custom verifiers."""
    setup, found = candidates("a", "b", about=Problem("own", "q", "a", verify))
    with pytest.raises(UserError, match=r"a vote compares answers .* the verifier of own does not extract"):
        vote(setup, found)


def test_equal_texts_are_not_compared_as_values() -> None:
    """Guards against algebra in a worker for equal texts: of 1, 1, 1, 2, 2 only one pair differs."""
    pairs: list[tuple[str, str]] = []

    def counting(a: str, b: str) -> bool:
        pairs.append((a, b))
        return equal(a, b)

    setup, found = candidates(*"11122", about=replace(problem(gold="1"), equal_answers=counting))
    assert score(vote(setup, found)[0]) == 1.0
    assert pairs == [("2", "1")]
