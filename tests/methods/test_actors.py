"""Groups are graded while others are still being sampled, and a method cannot tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rethink.methods.actors import Actors
from rethink.methods.grpo import GRPO
from rethink.models.language_model import LanguageModel
from rethink.policies.base import PolicyWrapper
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.training.meter import Meter, MeteredPolicy
from rethink.types import Group, Message, Problem, Prompt, Sampling, Verdict
from support import local_sampling
from support.local_sampling import record_forward_passes, with_many_stop_ids

JUDGED: list[str] = []
"""Every reply that a verifier was asked about, in order."""

HOW = Sampling(max_tokens=7)


def verify(reply: str, gold: str) -> Verdict:
    JUDGED.append(reply)
    return Verdict(len(reply) % 2 == int(gold))


def broken(reply: str, gold: str) -> Verdict:
    JUDGED.append(reply)
    raise RuntimeError("a user's verifier")


@pytest.fixture(autouse=True)
def _none_graded_yet() -> None:
    JUDGED.clear()


def problems(n: int = 3, how: Callable[[str, str], Verdict] = verify) -> list[Problem]:
    return [Problem(f"p{i}", f"{i} + {i}", str(i % 2), how) for i in range(n)]


def prompt(problem: Problem) -> Prompt:
    return Prompt(problem, "solve", (Message("user", problem.question),), 5)


def texts(groups: list[Group]) -> list[str]:
    return sorted(s.text for group in groups for s in group)


def test_a_rollout_is_what_grading_afterwards_gives(qwen: LanguageModel) -> None:
    """Guards against verdicts of another group's, lost ones, and replies that are graded twice or not at all."""
    asks = [prompt(p) for p in problems()]
    expected = grade(LocalPolicy(qwen, HOW).sample(asks, 4))
    JUDGED.clear()
    graded = Actors(LocalPolicy(qwen, HOW), Prompts(), grade).rollout(asks, 4)
    assert graded == expected
    assert sorted(JUDGED) == texts(graded)
    assert {s.right for group in graded for s in group} == {True, False}


def test_a_group_is_graded_as_soon_as_it_is_complete(qwen: LanguageModel) -> None:
    """Guards against grading that waits for the last group. The room is for one prompt at a time: when the verifier sees
    the first of five groups, most forward passes are still to come."""
    model = with_many_stop_ids(qwen)
    when: list[int] = []

    def noting(reply: str, gold: str) -> Verdict:
        when.append(len(seen))
        return Verdict(True)

    policy = LocalPolicy(model, HOW, cache_bytes=60 * 2 * 2 * 2 * 6 * 4)
    with record_forward_passes(model) as seen:
        Actors(policy, Prompts(), grade).rollout([prompt(p) for p in problems(5, noting)], 2)
    assert len(set(when)) == 5
    assert when[0] < len(seen) / 2


def test_what_is_only_sampled_is_not_graded(qwen: LanguageModel) -> None:
    """Guards against verifiers that run for replies nobody asks about (reflections, say)."""
    actors = Actors(LocalPolicy(qwen, HOW), Prompts(), grade)
    groups = actors.policy.sample([prompt(p) for p in problems()], 2)
    assert JUDGED == []
    graded = actors.grade([groups[2], (), groups[0]])
    assert graded == [*grade(groups[2:]), (), *grade(groups[:1])]


def test_a_role_can_answer(qwen: LanguageModel) -> None:
    """Guards against a rollout of the policy where a role was asked."""
    teacher = FakePolicy(lambda p, i, v: f"it is {p.problem.id}")
    actors = Actors(LocalPolicy(qwen, HOW), Prompts(), grade, lambda name: teacher)
    groups = actors.rollout([prompt(p) for p in problems()], 2, actors.role("teacher"))
    assert texts(groups) == sorted(JUDGED) == ["it is p0"] * 2 + ["it is p1"] * 2 + ["it is p2"] * 2


def test_an_error_in_a_verifier_is_still_not_graded(qwen: LanguageModel) -> None:
    """Guards against a run, and a sampler's thread, that end with an error in somebody's verifier."""
    actors = Actors(LocalPolicy(qwen, HOW), Prompts(), grade)
    groups = actors.rollout([prompt(p) for p in problems(2, broken)], 3)
    verdicts = [s.verdict for group in groups for s in group]
    assert len(verdicts) == len(JUDGED) == 6
    assert all(v is not None and v.right is None for v in verdicts)


def test_a_meter_counts_sampling_and_grading_apart(qwen: LanguageModel) -> None:
    """Guards against seconds of grading that count as sampling, tokens that are counted twice, and a policy that a meter
    changes: GRPO's update is the same with it."""
    meter = Meter()

    def grader(groups: list[Group]) -> list[Group]:
        with meter.stage("grade_s"):
            meter.seconds["grade_s"] += 100
            return grade(groups)

    texts = Prompts("{question}", seed=5)
    (plain,) = GRPO(n_solve=3).updates(Actors(LocalPolicy(qwen, HOW), texts, grade), problems())
    actors = Actors(MeteredPolicy(LocalPolicy(qwen, HOW), meter), texts, grader)  # type: ignore[arg-type]
    (update,) = GRPO(n_solve=3).updates(actors, problems())
    assert (update.parts, update.groups) == (plain.parts, plain.groups)
    assert meter.counts["n_sampled_tokens"] == sum(len(s.ids) for group in update.groups for s in group)
    assert 300 < meter.seconds["grade_s"] < 400
    assert 0 < meter.seconds["sample_s"] < 100


def test_score_uses_the_policy_or_a_role() -> None:
    """Guards against scores of the policy instead of the role's, and prompts that are not passed on."""
    policy = FakePolicy(lambda p, i, v: "a b", log_prob=lambda s, p, v: -1.0 - v)
    teacher = FakePolicy(lambda p, i, v: "x", log_prob=lambda s, p, v: -0.5 * p.seed)
    actors = Actors(PolicyWrapper(policy), Prompts(), grade, lambda name: teacher)
    (group,) = actors.policy.sample([local_sampling.prompt("1", 3)], 2)
    policy.publish(4)
    assert actors.score(group) == [(-5.0,) * 3] * 2
    assert actors.score(group, actors.role("teacher")) == [(-1.5,) * 3] * 2
    assert actors.score(
        group, actors.role("teacher"), [local_sampling.prompt("2", 4), local_sampling.prompt("3", 6)]
    ) == [(-2.0,) * 3, (-3.0,) * 3]
