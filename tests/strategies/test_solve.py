"""First answers."""

from __future__ import annotations

import pytest

from rethink.policies.fake import FakePolicy
from rethink.strategies import Setup, refine, solve
from rethink.types import Sampling
from support.strategies import PROMPTS, problem


def test_first_answers_in_order() -> None:
    """Guards against answers that go to another problem, lose their index, or cost nothing."""
    policy = FakePolicy(lambda p, index, v: f"{p.problem.id} {index}")
    problems = [problem(f"p{n}") for n in range(3)]
    found = solve(Setup(policy, PROMPTS), problems, 5)
    assert [a.problem for a in found] == problems
    assert [[s.text for s in a.answers] for a in found] == [[f"p{n} {i}" for i in range(5)] for n in range(3)]
    assert all((a.samples, a.finals, a.depth, a.tied, a.notes) == (a.answers, a.answers, 1, (), {}) for a in found)
    assert [p.seed for p in policy.shown] == [p.seed for p in PROMPTS.ask(problems)]
    assert solve(Setup(policy, PROMPTS), [], 5) == []


def test_more_answers_keep_the_first_ones_of_each_repeat() -> None:
    """By hand: with 3 repeats, answer i of repeat r is sample 3 i + r."""
    setup = Setup(FakePolicy(lambda p, index, v: str(index)), PROMPTS)
    for n in (1, 2):
        found = solve(setup, [problem()], n, repeats=3)
        assert [[s.text for s in a.answers] for a in found] == [["0", "3"][:n], ["1", "4"][:n], ["2", "5"][:n]]
        assert [a.repeat for a in found] == [0, 1, 2]


@pytest.mark.parametrize("first", [None, Sampling(max_tokens=5)])
@pytest.mark.parametrize("later", [None, Sampling(max_tokens=7)])
def test_refinements_have_their_own_sampling(first: Sampling | None, later: Sampling | None) -> None:
    """Regression: first answers were drawn with the sampling of refinements. The policy's own limit is 11 tokens."""
    setup = Setup(FakePolicy(lambda *_: "a " * 13, Sampling(max_tokens=11)), PROMPTS, first, later)
    (attempt,) = refine(setup, solve(setup, [problem()]))
    assert [s.n_tokens for s in attempt.samples] == [5 if first else 11, 7 if later else 5 if first else 11]
