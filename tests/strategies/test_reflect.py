"""Reflections, retries in the same conversation, and their control."""

from __future__ import annotations

from rethink.policies.fake import FakePolicy
from rethink.strategies import Setup, blind_retry, reflect, solve
from rethink.types import Prompt
from support.evaluations import problem
from support.strategies import RETRY_PROMPTS, turns, verdicts


def test_each_retry_follows_its_own_reflection() -> None:
    """Guards against reflections that shift to another answer, and retries that start a new conversation."""
    policy = FakePolicy(lambda p, i, v: f"wrong {i}" if p.draft is None else f"{p.phase} on {p.draft.text}")
    setup = Setup(policy, RETRY_PROMPTS)
    for a in reflect(setup, solve(setup, [problem("p0"), problem("p1")], 3)):
        assert [s.text for s in a.answers] == [f"retry on wrong {i}" for i in range(3)]
        assert [turns(s.prompt) for s in a.answers] == [
            [f"question {a.problem.id}", f"wrong {i}", "what went wrong", f"reflect on wrong {i}", "once more"]
            for i in range(3)
        ]
    assert len({(p.phase, p.seed) for p in policy.shown}) == 2 + 6 + 6


def test_later_rounds_reflect_on_the_latest_answer() -> None:
    """Guards against rounds that all reflect on the first answer."""
    policy = FakePolicy(lambda p, i, v: f"wrong {p.phase} {len(policy.shown)}")
    setup = Setup(policy, RETRY_PROMPTS)
    (attempt,) = reflect(setup, solve(setup, [problem("p")]), 3)
    answers = [s.text for s in attempt.samples if s.prompt.phase != "reflect"]
    assert [turns(s.prompt)[1] for s in attempt.samples if s.prompt.phase == "reflect"] == answers[:3]
    assert attempt.answers[0].text == answers[3]


def test_a_blind_retry_has_the_turns_of_a_reflection_and_costs_none() -> None:
    """By hand: 7 wrong answers, a retry each, and no reflection is sampled or paid for."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        n = int(prompt.problem.id[1:])
        return "right" if n < 3 or (prompt.phase == "retry" and n < 5) else "wrong"

    policy = FakePolicy(script)
    setup = Setup(policy, RETRY_PROMPTS)
    first = solve(setup, [problem(f"p{n}") for n in range(10)])
    found, reflected = blind_retry(setup, first), reflect(setup, first)
    assert verdicts(found) == [[True]] * 5 + [[False]] * 5
    assert [(len(a.samples), a.depth) for a in found] == [(1, 1)] * 3 + [(2, 2)] * 7
    for blind, seen in zip(found[3:], reflected[3:], strict=True):
        ours, theirs = turns(blind.answers[0].prompt), turns(seen.answers[0].prompt)
        assert ours[-2] == setup.prompts.blind
        assert (ours[:-2], ours[-1]) == (theirs[:-2], theirs[-1])
    assert sum(p.phase == "reflect" for p in policy.shown) == 7  # those of `reflect` alone
