"""What attempts cost, and attempts at problems whose prompt is over-long."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rethink.strategies import Attempt, Setup, best_of_n, merge, refine, solve, vote
from support.evaluations import SmallContextPolicy
from support.strategies import PROMPTS, candidates, problem


def test_a_prompt_counts_once_however_many_samples_it_has() -> None:
    """By hand: the question has 2 tokens; the five replies 2 words and an end token each. A refine prompt adds the reply's
    2 and "again"; "refine 0 a" and its end token are 4."""
    setup, (attempt,) = candidates(*["x a"] * 5)
    assert (attempt.n_prompt_tokens, attempt.n_tokens, attempt.depth) == (2, 5 * 3, 1)
    (attempt,) = refine(setup, [attempt])
    assert (attempt.n_prompt_tokens, attempt.n_tokens, attempt.depth) == (2 + 5 * (2 + 2 + 1), 5 * 3 + 5 * 4, 2)


@pytest.mark.parametrize(
    ("usage", "counts"), [((3, 5), (3, 10)), ((None, 5), (None, 10)), ((3, None), (3, None)), ((0, 0), (0, 0))]
)
def test_unknown_usage_stays_unknown(usage: tuple[int | None, int | None], counts: tuple[int | None, ...]) -> None:
    """Guards against unknown token counts in a sum as 0, and a count of 0 taken for unknown."""
    _, (attempt,) = candidates("a", "b")
    first, second = attempt.samples
    attempt = replace(attempt, samples=(replace(first, usage=usage), replace(second, usage=usage)))
    assert (attempt.n_prompt_tokens, attempt.n_tokens) == counts
    attempt = replace(attempt, samples=(first, replace(second, usage=(usage[0], None))))
    assert attempt.n_tokens is None


def test_skipped_questions_have_no_answer() -> None:
    """Guards against a crash in later stages, and calls that are counted but were not made."""
    policy = SmallContextPolicy(lambda *_: "a", lambda p: p.problem.id == "p1")
    setup = Setup(policy, PROMPTS, judge=policy)
    found = solve(setup, [problem("p0"), problem("p1")], 3)
    for strategy in (refine, merge, vote, best_of_n):
        found = strategy(setup, found)
    assert len(found[0].answers) == 1
    assert found[1] == Attempt(problem("p1"), notes={"over-long prompts": 1})
    assert type(found[1].notes["over-long prompts"]) is int
    assert (found[1].n_tokens, found[1].n_prompt_tokens, found[1].depth) == (0, 0, 0)
    assert all("p1" not in names for call in policy.asked[1:] for _, names in call)
