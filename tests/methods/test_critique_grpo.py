"""Critique-GRPO: whose critique, which refinements join the answers, and their loss under the plain prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from rethink.errors import UserError
from rethink.methods.critique_grpo import CritiqueGRPO, best_of
from rethink.methods.critique_grpo_critic import Critic
from rethink.methods.grpo import GRPO
from rethink.models.language_model import LanguageModel
from rethink.objectives import AdvantageAwareShaping, Clip, Objective, PolicyGradient, Update
from rethink.policies.base import Policy
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.prompts import Prompts
from rethink.training.metrics import describe_groups
from rethink.types import Problem, Prompt, Sampling, Verdict
from support.method_runs import PROBLEMS, Script, SkippingPolicy, graded_sample, make_problem, only_part, run_batch
from support.runs import OFF_POLICY, Make, assert_resumes, make, problems, records
from support.samples import copied, gradient_of, make_trainer, reference_log_probs

__all__ = ["make", "problems"]

TEXTS = Prompts("{question} = ?", critique="check", improve="again", seed=5)


def script(prompt: Prompt, index: int, version: int) -> str:
    """The first answer is right. A refinement is right if its critique names the gold answer, or says that it helps."""
    gold = prompt.problem.gold
    if prompt.phase == "critique":
        return "this helps" if prompt.draft and prompt.draft.index == 2 else "hm"
    if prompt.phase == "improve":
        critique = prompt.messages[-2].content
        return f"better {gold if 'helps' in critique or gold in critique.strip('.').split() else 'no'}"
    return f"answer {index} {gold if index == 0 else 'no'}"


def run(
    script: Script = script, problems: Sequence[Problem] = PROBLEMS, teacher: Policy | None = None, **settings: Any
) -> tuple[Update, FakePolicy]:
    policy = FakePolicy(script)
    role: Callable[[str], Policy] | None = None if teacher is None else {"teacher": teacher}.__getitem__
    (update,) = run_batch(CritiqueGRPO(**settings), policy, TEXTS, problems, role)
    return update, policy


def shown(prompt: Prompt) -> list[str]:
    return [message.content for message in prompt.messages]


def test_answers_critiques_and_refinements_are_one_conversation() -> None:
    """Guards against a refinement that sees another answer or critique, and critiques of the verifier that are sampled."""
    update, policy = run(n_solve=3, critic=Critic(if_right="right : {gold}", if_wrong="wrong , it is {gold}"))
    assert [p.phase for p in policy.shown] == 7 * ["solve"] + 21 * ["improve"]
    assert shown(policy.shown[7]) == ["0 + 0 = ?", "answer 0 0", "check", "right : 0", "again"]
    assert shown(policy.shown[-1]) == ["6 + 0 = ?", "answer 2 no", "check", "wrong , it is 6", "again"]
    assert [len(group) for group in update.groups] == [3, 3] * 7
    for answers, refinements in zip(update.groups[::2], update.groups[1::2], strict=True):
        assert [r.prompt.judged_draft for r in refinements] == list(answers)
    found = describe_groups(update.groups)
    assert (found["fix"], found["damage"]) == (1.0, 0.0), "of 14 wrong answers and 7 right ones"


def test_a_refinement_joins_the_answers_to_the_plain_prompt() -> None:
    """Guards against a baseline without the refinement, one that sees the critique, and a key that an answer has.

    Rewards 1, 0, 0 and 1: A = 0.5, -0.5, -0.5, 0.5."""
    update, _ = run(n_solve=3)
    part = only_part(update)
    assert part.advantages == (0.5, -0.5, -0.5, 0.5) * 7
    assert [s.text for s in part.samples[:4]] == ["answer 0 0", "answer 1 no", "answer 2 no", "better 0"]
    for n in range(7):
        answers, refined = part.samples[4 * n : 4 * n + 3], part.samples[4 * n + 3]
        assert refined.prompt == answers[0].prompt
        assert refined.prompt_ids == answers[0].prompt_ids
        assert refined.index == 3
        assert refined.forced == (True,) * 3
        assert all(math.isnan(log_prob) for log_prob in refined.log_probs)
        assert not any(any(s.forced) for s in answers)
        original = update.groups[2 * n + 1][0]
        assert (refined.ids, refined.verdict, refined.reward) == (original.ids, original.verdict, 1.0)
    assert update.metrics == {"n_kept": 7, "kept_right_frac": 1.0}
    assert (update.name, update.on_policy, update.n_steps) == ("solve", True, 2)


def test_the_loss_of_refinements() -> None:
    """Guards against another gamma, a guard or a direction that belong to another method, and clipped ratios."""
    part = only_part(run(gamma=0.25)[0])
    assert part.surrogate == AdvantageAwareShaping("constant", 0.25, guard=0.0, clip=Clip(1.0, math.inf, None))
    assert (part.loss_aggregation, part.constant_length, part.kl_coef) == ("constant", 1024, 0.0)


@pytest.mark.slow
def test_the_gradient_of_refinements_is_that_of_the_formula(qwen: LanguageModel) -> None:
    """Guards against a ratio, or a probability after the prompt with the critique: by brute force in float64, the
    loss per sample and 13 tokens is -A rho for answers (rho is 1) and -A p / (p + 0.1) for refinements after the plain
    prompt."""
    qwen.chat.stop_ids = frozenset(range(1, 40))
    problems = [make_problem(n, gold="x", verify=lambda reply, gold: Verdict(len(reply) % 2 == 0)) for n in range(3)]
    policy = LocalPolicy(qwen, Sampling(max_tokens=13))
    (update,) = run_batch(CritiqueGRPO(n_solve=5), policy, TEXTS, problems)  # type: ignore[arg-type]
    part = only_part(replace(update, n_steps=1))
    trainer = make_trainer(qwen)
    trainer.apply(replace(update, n_steps=1))
    module = copied(qwen).module.double()
    reference(module, part).backward()
    expected = gradient_of(module)
    assert {any(s.forced) for s in part.samples if s.reward} == {True, False}
    for name, found in gradient_of(trainer.model.module).items():
        torch.testing.assert_close(found.double(), expected[name], rtol=1e-3, atol=1e-5)


def reference(module: Any, part: PolicyGradient) -> torch.Tensor:
    losses: list[torch.Tensor] = []
    for sample, advantage in zip(part.samples, part.advantages, strict=True):
        assert isinstance(advantage, float)
        log_probs = reference_log_probs(module, sample)
        p = log_probs.exp()
        losses.append(-advantage * (p / (p + 0.1) if sample.forced else p / p.detach()))
    return torch.cat(losses).sum() / (13 * len(part.samples))


@pytest.mark.parametrize(
    ("rights", "n", "expected"),
    [
        ((False, True, True), 1, [1]),
        ((False, True, True), 2, [1, 2]),
        ((False, False), 1, [0]),  # a wrong one, if there is no right one
        ((None, False, True, None), 5, [2, 1]),
        ((None,), 1, []),
        ((), 1, []),
    ],
)
def test_which_refinements_are_kept(rights: tuple[bool | None, ...], n: int, expected: list[int]) -> None:
    """Guards against wrong refinements before right ones, and ungraded ones in the group."""
    assert [s.index for s in best_of(tuple(graded_sample(i, right) for i, right in enumerate(rights)), n)] == expected


def test_wrong_refinements_are_kept_too() -> None:
    """Guards against groups that only ever gain right members. Rewards 1, 0, 0 and 0."""
    update, _ = run(n_solve=3, critic=Critic(if_right="no", if_wrong="no"))
    assert only_part(update).advantages == (0.75, -0.25, -0.25, -0.25) * 7
    assert update.metrics == {"n_kept": 7, "kept_right_frac": 0.0}


def test_critiques_of_the_policy_itself() -> None:
    """Guards against critiques that are trained or see the verdict. That of the third answer helps."""
    update, policy = run(n_solve=3, critic=Critic("policy"))
    assert [p.phase for p in policy.shown] == 7 * ["solve"] + 21 * ["critique"] + 21 * ["improve"]
    assert shown(policy.shown[7]) == ["0 + 0 = ?", "answer 0 0", "check"]
    assert shown(policy.shown[30]) == ["0 + 0 = ?", "answer 2 no", "check", "this helps", "again"]
    part = only_part(update)
    assert [s.text for s in part.samples[:4]] == ["answer 0 0", "answer 1 no", "answer 2 no", "better 0"]
    assert {s.prompt.phase for s in part.samples} == {"solve"}
    assert {s.prompt.phase for group in update.groups for s in group} == {"solve", "improve"}


def test_critiques_of_the_teacher() -> None:
    """Guards against a policy that sees the gold answer in the teacher's request."""
    teacher = FakePolicy(lambda prompt, index, version: "it helps" if prompt.draft and prompt.draft.index else " ")
    update, policy = run(n_solve=3, critic=Critic("teacher", request="gold {gold}, your view?"), teacher=teacher)
    assert shown(teacher.shown[-1]) == ["6 + 0 = ?", "answer 2 no", "gold 6, your view?"]
    refining = [p for p in policy.shown if p.phase == "improve"]
    assert shown(refining[0]) == ["0 + 0 = ?", "answer 1 no", "check", "it helps", "again"]
    assert len(refining) == 14, "a blank critique gives no refinement"
    assert only_part(update).advantages == (0.5, -0.5, -0.5, 0.5) * 7


def test_the_reason_of_the_verdict_as_critique() -> None:
    """Guards against a reason of another answer, and an empty turn where there is none."""

    def verify(reply: str, gold: str) -> Verdict:
        return Verdict(reply.split()[-1] == gold, "" if reply.startswith("answer 1") else f"seen {reply}")

    problems = [make_problem(3, verify=verify)]
    _, policy = run(n_solve=3, critic=Critic(if_wrong="{reason}"), problems=problems)
    critiques = [shown(p)[3] for p in policy.shown if p.phase == "improve"]
    assert critiques == ["This solution is right. The answer is 3.", "seen answer 2 no"]


def test_ungraded_and_skipped_replies() -> None:
    """Guards against critiques of answers without a verdict, and refinements that move to another problem."""

    def ungraded(prompt: Prompt, index: int, version: int) -> str:
        return "?" if prompt.phase == "solve" and index == 1 else script(prompt, index, version)

    update, policy = run(ungraded, n_solve=3)
    assert sum(p.phase == "improve" for p in policy.shown) == 14
    assert only_part(update).advantages == pytest.approx((1 / 3, -2 / 3, 1 / 3) * 7)

    def is_too_long(prompt: Prompt) -> bool:
        return (prompt.phase, prompt.problem.id) in {("solve", "p1"), ("improve", "p2")}

    (update,) = run_batch(CritiqueGRPO(n_solve=3), SkippingPolicy(script, is_too_long), TEXTS)
    assert [s.problem.id for s in only_part(update).samples] == 4 * ["p0"] + 3 * ["p2"] + [
        f"p{n}" for n in (3, 4, 5, 6) for _ in range(4)
    ]
    assert update.metrics["n_kept"] == 5
    (empty,) = run_batch(CritiqueGRPO(), SkippingPolicy(script, lambda prompt: True), TEXTS)
    assert only_part(empty).samples == ()
    assert math.isnan(empty.metrics["kept_right_frac"])


def test_without_refinements_it_is_grpo() -> None:
    """Guards against a control that differs in more than the refinements."""
    solve = CritiqueGRPO().solve
    no_room = SkippingPolicy(script, lambda prompt: prompt.phase == "improve")
    (update,) = run_batch(CritiqueGRPO(n_solve=3), no_room, TEXTS)
    (grpo,) = run_batch(GRPO(n_solve=3, solve=solve), FakePolicy(script), TEXTS)
    ours, theirs = only_part(update), only_part(grpo)
    assert (ours.samples, ours.advantages) == (theirs.samples, theirs.advantages)


def test_texts_with_placeholders_that_nothing_fills() -> None:
    """Guards against a critique that shows {question} as it is."""
    with pytest.raises(UserError, match=r"critic.if_wrong would show \{question\} as it is"):
        Critic(if_wrong="No. {question}")


def test_a_surrogate_that_cannot_be_shaped() -> None:
    """Guards against a run that fails at its first update."""
    with pytest.raises(ValueError, match='needs surrogate = "clip", not "cispo"'):
        CritiqueGRPO(solve=Objective(surrogate="cispo"))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [("method.critic.source=policy",), ("method.n_kept=2", OFF_POLICY)])
def test_a_run_trains_and_resumes(make: Make, settings: tuple[str, ...]) -> None:
    """Guards against critiques or refinements of newer weights after a resume."""
    texts = (
        "prompts.critique=why",
        "prompts.improve=again",
        'method.critic.if_right="7"',
        'method.critic.if_wrong="5"',
    )
    log = records(assert_resumes(make, "method.name=critique_grpo", "method.n_solve=3", *texts, *settings))
    assert [record["n_samples"] for record in log] == [12] * 4
    assert all(record["method/n_kept"] > 0 for record in log)
    assert "fix" in log[0]
