"""Self-verification: which answers are checked, the rewards of checks, and their baseline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from rethink.methods.self_verification import SelfVerification, pick_one
from rethink.objectives import Objective, Update, split_into_steps
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.types import Problem, Prompt
from support.method_runs import PROBLEMS, SkippingPolicy, advantages_by_text, make_problem, only_part, run_batch
from support.runs import Make, assert_resumes, records

TEXTS = Prompts("{question}", critique="check", satisfied="fine", seed=13)
ANSWERS = "wrw?"
CHECKS = ("fine", "bad", "bad", "unclear")


def script(prompt: Prompt, index: int, version: int) -> str:
    """Answers of a group are wrong, right, wrong and not graded; the checks of each answer are fine, bad, bad, unclear."""
    if prompt.draft is None:
        ending = {"r": prompt.problem.gold, "w": "no", "?": "?"}[ANSWERS[index]]
        return f"solve {prompt.problem.id} {index} {ending}"
    return f"check {prompt.problem.id} {index} {CHECKS[index]}"


def run(problems: Sequence[Problem], **settings: Any) -> tuple[Update, FakePolicy]:
    policy = FakePolicy(script)
    method = SelfVerification(**{"n_solve": 4, "n_check": 4, "wrong": "bad", "share": 1.0, **settings})
    (update,) = run_batch(method, policy, TEXTS, problems)
    return update, policy


def checked_right(update: Update) -> bool:
    (draft,) = {s.prompt.draft for group in update.groups for s in group if s.prompt.draft is not None}
    return bool(draft.right)


def find_problem(right: bool) -> Problem:
    """A problem whose right, or one of whose wrong answers is drawn for a check."""
    for n in range(20):
        problem = make_problem(n)
        if checked_right(run([problem])[0]) is right:
            return problem
    raise AssertionError


@pytest.mark.parametrize(
    ("right", "rewards"),
    [
        # The paper's rewards are 1, -0.5 and -1 for a check that agrees, is mistaken, or has no rating; ours (r + 1) / 2.
        (True, (1.0, 0.25, 0.25, 0.0)),
        (False, (0.25, 1.0, 1.0, 0.0)),
    ],
)
def test_checks_are_rewarded_for_agreement_and_compared_with_each_other(right: bool, rewards: Sequence[float]) -> None:
    """Guards against a reward for one verdict, and a baseline over answers and checks."""
    problem = find_problem(right)
    update, _ = run([problem])
    found = list(advantages_by_text(only_part(update)).values())
    assert found[:3] == pytest.approx([-1 / 3, 2 / 3, -1 / 3]), "of three graded answers, one is right"
    mean = sum(rewards) / 4
    assert found[3:] == pytest.approx([reward - mean for reward in rewards])
    assert [s.reward for s in update.groups[1]] == list(rewards)
    assert {s.verdict for s in update.groups[1]} == {None}
    assert all(all(sample.mask) for sample in only_part(update).samples)
    assert (update.name, update.n_steps, update.on_policy) == ("self_verification", 4, True)


def test_without_partial_rewards() -> None:
    """Guards against a setting without effect: the reward is then the agreement alone."""
    update, _ = run([find_problem(False)], mistaken_reward=0.0)
    assert [s.reward for s in update.groups[1]] == [0.0, 1.0, 1.0, 0.0]


SHARES = {0.0: 0, 0.1: 1, 0.125: 1, 0.2: 2, 0.5: 4, 1.0: 7}
"""The number of seven problems of which an answer is checked, rounded up."""


@pytest.mark.parametrize(("share", "n"), SHARES.items())
def test_the_share_of_problems_that_are_checked(share: float, n: int) -> None:
    """Guards against a share that is rounded to none, and several checked answers per problem."""
    update, policy = run(PROBLEMS, share=share)
    asked = [prompt for prompt in policy.shown if prompt.phase == "critique"]
    assert [prompt.problem.id for prompt in asked] == [f"p{i}" for i in range(n)]
    assert len(update.groups) == 7 + n
    if n == 0:
        assert math.isnan(update.metrics["checks_agree"])
    for prompt in asked:
        assert prompt.draft is not None
        assert prompt.draft.right is not None, "an answer that was not graded is not checked"
        assert [m.content for m in prompt.messages] == [prompt.problem.question, prompt.draft.text, "check"]


def test_the_checked_answer_is_drawn_uniformly() -> None:
    """Guards against a preference for the first answers, and a choice that a resumed run changes."""
    drawn: Counter[int] = Counter()
    for seed in range(300):
        group = FakePolicy(script).sample(Prompts("{question}", seed=seed).ask(PROBLEMS[:1]), 4)[0]
        asks = [TEXTS.follow_up(answer, "critique", "check") for answer in group[:3]]
        (ask,) = pick_one(asks)
        assert pick_one(asks) == [ask]
        drawn[asks.index(ask)] += 1
    assert all(abs(drawn[i] - 100) < 33 for i in range(3))  # 4 standard deviations of 8.2
    assert pick_one([]) == []


def test_metrics_are_those_of_the_checks() -> None:
    """Guards against shares over answers. Two checks of four agree about a wrong answer, one about a right one."""
    update, _ = run([find_problem(False)])
    assert update.metrics["checks_agree"] == update.metrics["wrong_called_wrong"] == 0.5
    assert update.metrics["checks_unclear"] == 0.25
    assert math.isnan(update.metrics["right_called_right"])


def test_optimizer_steps_train_answers_and_their_checks() -> None:
    """Guards against steps that train answers only, because all checks come after them."""
    part = only_part(run([make_problem(n) for n in range(8)])[0])
    for step in split_into_steps(part, 4):
        phases = [s.prompt.phase for s in step.samples]
        assert (phases.count("solve"), phases.count("critique")) == (6, 8)
        assert len({s.problem.id for s in step.samples}) == 2


def test_prompts_that_are_too_long_leave_the_others_alone() -> None:
    """Guards against checks that move to another answer, and 0/0 without any."""
    skipped = {("solve", "p0"), ("critique", "p1")}
    method = SelfVerification(n_solve=4, n_check=4, wrong="bad", share=1.0)
    policy = SkippingPolicy(script, lambda prompt: (prompt.phase, prompt.problem.id) in skipped)
    (update,) = run_batch(method, policy, TEXTS, PROBLEMS[:3])
    kinds = Counter((s.prompt.phase, s.problem.id) for s in only_part(update).samples)
    assert kinds == {("solve", "p1"): 3, ("solve", "p2"): 3, ("critique", "p2"): 4}
    (empty,) = run_batch(method, SkippingPolicy(script, lambda prompt: True), TEXTS)
    assert only_part(empty).samples == ()
    assert math.isnan(empty.metrics["checks_agree"])


def test_groups_without_a_baseline_are_refused() -> None:
    """Guards against checks that are never trained."""
    with pytest.raises(ValueError, match="n_check must be at least 2, not 1"):
        SelfVerification(n_check=1)
    with pytest.raises(ValueError, match="n_solve must be at least 2, not 1"):
        SelfVerification(n_solve=1)
    assert SelfVerification(n_check=1, solve=Objective("reinforce_pp")).n_check == 1


@pytest.mark.slow
def test_a_run_trains_answers_and_checks_and_resumes(make: Make) -> None:
    """Guards against requests that a chat template cannot show, and a choice of answers that a resumed run changes."""
    texts = ("prompts.critique=check", "prompts.satisfied=fine")
    settings = ("method.name=self_verification", "method.n_solve=5", "method.n_check=3", "method.share=0.5")
    log = records(assert_resumes(make, *settings, *texts))
    assert [record["n_samples"] for record in log] == [13] * 4
    assert all(record["grad_norm"] > 0 for record in log)
