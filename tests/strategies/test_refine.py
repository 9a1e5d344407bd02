"""Rounds of refinement."""

from __future__ import annotations

from rethink.policies.fake import FakePolicy
from rethink.strategies import Setup, refine, solve
from support.evaluations import SmallContextPolicy
from support.strategies import PROMPTS, problem


def test_each_round_refines_the_last_ones_text() -> None:
    """Guards against rounds that refine the first draft again, or extend the conversation."""
    policy = FakePolicy(lambda p, i, v: f"first {i}" if p.draft is None else f"{p.draft.text} +")
    setup = Setup(policy, PROMPTS)
    (attempt,) = refine(setup, solve(setup, [problem()], 3), 2)
    assert [s.text for s in attempt.answers] == [f"first {i} + +" for i in range(3)]
    assert [s.index for s in attempt.answers] == [0, 1, 2]
    assert [[m.content for m in s.prompt.messages] for s in attempt.answers] == [
        ["question p", f"first {i} +", "again"] for i in range(3)
    ]
    assert (len(attempt.samples), attempt.depth) == (9, 3)
    assert len({(p.phase, p.seed) for p in policy.shown}) == 1 + 3 + 3


def test_the_first_round_does_not_depend_on_the_number_of_rounds() -> None:
    """Guards against seeds that differ: two strategies would share nothing."""
    policies = [FakePolicy(lambda p, i, v: f"{p.seed}") for _ in range(2)]
    for n, policy in enumerate(policies):
        setup = Setup(policy, PROMPTS)
        drafts = solve(setup, [problem()], 3)
        refine(setup, drafts, n + 1)
        assert policy.shown[1:4] == PROMPTS.ask_to_refine(drafts[0].answers)
    assert policies[1].shown[:4] == policies[0].shown
    assert len(policies[1].shown) == 7


def test_the_last_round_draws_n_refinements() -> None:
    """Guards against n refinements of refinements, and refinements that take their draft's index."""
    setup = Setup(FakePolicy(lambda p, i, v: p.phase), PROMPTS)
    (attempt,) = refine(setup, solve(setup, [problem()], 2), 2, n=3)
    assert [s.index for s in attempt.answers] == [0, 1, 2, 0, 1, 2]
    assert (len(attempt.samples), attempt.depth) == (2 + 2 + 6, 3)


def test_an_overlong_draft_stays() -> None:
    """Guards against answers that are lost or shift to another draft. Draft 1 can never be refined: 2 rounds, 2 notes."""
    policy = SmallContextPolicy(
        lambda p, i, v: f"{p.phase} {i}", lambda p: p.draft is not None and p.draft.text.startswith("solve 1")
    )
    setup = Setup(policy, PROMPTS)
    first = solve(setup, [problem()], 3)
    (attempt,) = refine(setup, first, 2)
    assert [s.text for s in attempt.answers] == ["refine 0", "solve 1", "refine 0"]
    assert attempt.answers[1] is first[0].answers[1]
    assert (len(attempt.samples), attempt.depth, attempt.notes) == (3 + 2 + 2, 3, {"over-long prompts": 2})
    none = Setup(SmallContextPolicy(lambda *_: "a", lambda _: True), PROMPTS)
    assert refine(none, first)[0].depth == 1  # a call that drew nothing does not count
