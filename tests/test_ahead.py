"""Verdicts that are given while others are still being sampled are those that would be given later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from rethink.methods.actors import Actors
from rethink.methods.grpo import GRPO
from rethink.models.language_model import LanguageModel
from rethink.policies.local import LocalPolicy
from rethink.problems.judging import judge
from rethink.prompts import Prompts
from rethink.train.eager_grading import Ahead
from rethink.train.meter import Meter, Metered
from rethink.types import Group, Message, Problem, Prompt, Sampling, Verdict
from samples import make_sample

JUDGED: list[str] = []
"""Every reply that a verifier was asked about, in order."""


def verify(reply: str, gold: str) -> Verdict:
    JUDGED.append(reply)
    return Verdict(len(reply) % 2 == int(gold))


def broken(reply: str, gold: str) -> Verdict:
    JUDGED.append(reply)
    raise RuntimeError("a verifier of one's own")


@pytest.fixture(autouse=True)
def _none_judged_yet() -> None:
    JUDGED.clear()


def problems(n: int = 3, how: Callable[[str, str], Verdict] = verify) -> list[Problem]:
    return [Problem(f"p{i}", f"{i} + {i}", str(i % 2), how) for i in range(n)]


def prompt(problem: Problem, phase: str = "solve") -> Prompt:
    return Prompt(problem, phase, (Message("user", problem.question),), 5)


def sampled(model: LanguageModel, ahead: Ahead, prompts: list[Prompt], n: int = 4) -> list[Group]:
    """Groups of a policy to which `ahead` listens."""
    policy = LocalPolicy(model, Sampling(max_tokens=7))
    policy.on_group = ahead.hear
    return policy.sample(prompts, n)


def texts(groups: list[Group]) -> list[str]:
    return sorted(s.text for group in groups for s in group)


@pytest.mark.parametrize("known", [set(), {"solve"}])
def test_verdicts_ahead_equal_those_given_later(qwen: LanguageModel, known: set[str]) -> None:
    """Guards against verdicts of another group's, lost ones, and replies that are judged twice or not at all."""
    ahead = Ahead(known, Meter())
    known_before = bool(known)
    groups = sampled(qwen, ahead, [prompt(p) for p in problems()])
    assert len(JUDGED) == (12 if known_before else 0)
    judged = ahead.judge(groups)
    assert sorted(JUDGED) == texts(groups)
    assert judged == judge(groups)
    assert {s.right for group in judged for s in group} == {True, False}


def test_order_and_repetition(qwen: LanguageModel) -> None:
    """Guards against verdicts by place: a method may ask for some groups, in its own order, and once more."""
    ahead = Ahead({"solve"}, Meter())
    groups = sampled(qwen, ahead, [prompt(p) for p in problems()])
    expected = judge(groups)
    assert ahead.judge([groups[2], groups[0]]) == [expected[2], expected[0]]
    assert ahead.judge([(), groups[1]]) == [(), expected[1]]
    assert ahead.judge(groups[:1]) == expected[:1]


def test_a_group_is_judged_as_soon_as_it_is_complete() -> None:
    """Guards against judging that waits for the last group: what was heard is judged before anybody asks."""
    ahead = Ahead({"solve"}, Meter())
    group = (replace(make_sample((7, 1)), prompt=prompt(problems()[0]), text="a reply"),)
    ahead.hear(group)
    assert JUDGED == ["a reply"]
    (judged,) = ahead.judge([group])
    assert JUDGED == ["a reply"]
    assert judged == judge([group])[0]


def test_phases_that_were_never_judged_are_not_judged_ahead(qwen: LanguageModel) -> None:
    """Guards against verifiers that run for replies nobody asks about (reflections, say), and against phases that are
    forgotten from one batch to the next."""
    phases: set[str] = set()
    both = [prompt(p, phase) for p in problems() for phase in ("solve", "reflect")]
    for batch in range(3):
        JUDGED.clear()
        ahead = Ahead(phases, Meter())
        groups = sampled(qwen, ahead, both)
        solved, reflected = groups[::2], groups[1::2]
        assert sorted(JUDGED) == (texts(solved) if batch else [])
        ahead.judge(solved)
        assert sorted(JUDGED) == texts(solved)
        assert not any(s.verdict for group in reflected for s in group)
    assert phases == {"solve"}


@pytest.mark.parametrize("known", [set(), {"solve"}])
def test_an_error_in_a_verifier_is_still_not_judged(qwen: LanguageModel, known: set[str]) -> None:
    """Guards against a run, and a sampler's thread, that end with an error in somebody's verifier."""
    ahead = Ahead(known, Meter())
    groups = sampled(qwen, ahead, [prompt(p) for p in problems(2, broken)], 3)
    verdicts = [s.verdict for group in ahead.judge(groups) for s in group]
    assert len(verdicts) == len(JUDGED) == 6
    assert all(v is not None and v.right is None for v in verdicts)


def test_a_method_cannot_tell(qwen: LanguageModel) -> None:
    """Guards against updates that depend on when verdicts were given: samples, weights and verdicts of GRPO are equal."""
    found = []
    for how in ("later", "ahead"):
        policy = LocalPolicy(qwen, Sampling(max_tokens=7))
        meter = Meter()
        ahead = Ahead({"solve"}, meter)
        policy.on_group = ahead.hear if how == "ahead" else None
        actors = Actors(Metered(policy, meter), Prompts("{question}", seed=5), ahead.judge if how == "ahead" else judge)
        (update,) = GRPO().updates(actors, problems())
        found.append((update.parts, update.groups))
    assert found[0] == found[1]
    assert len(JUDGED) == 2 * sum(len(group) for group in found[0][1])
