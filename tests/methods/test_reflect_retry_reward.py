"""Reflect, Retry, Reward: only reflections are trained, each rewarded by its own retry, against others on one failure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from rethink.methods.actors import Actors
from rethink.methods.reflect_retry_reward import ReflectRetryReward
from rethink.models.language_model import LanguageModel
from rethink.objectives import Clip, Update, split_into_steps
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.training.metrics import describe_groups
from rethink.types import Problem, Prompt, Sampling, Verdict
from support.method_runs import PROBLEMS, Script, SkippingPolicy, advantages_by_text, make_problem, only_part, run_batch
from support.samples import copied, gradient_of, make_trainer, reference_policy_gradient

TEXTS = Prompts("{question}", reflect="why?", retry="again!", seed=5)


def scripted(
    helps: Callable[[str], bool], first_try: Callable[[Prompt, int], str] = lambda prompt, index: f"try {index} no"
) -> Script:
    """First tries as given, reflections that name themselves, and retries that are right if their reflection helps."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        if prompt.phase == "solve":
            return first_try(prompt, index)
        if prompt.phase == "reflect":
            return f"thought {prompt.problem.id} {index}"
        return f"retry {index} {prompt.problem.gold if helps(prompt.messages[-2].content) else 'no'}"

    return script


def run(script: Script, problems: Sequence[Problem] = PROBLEMS, **settings: Any) -> tuple[Update, FakePolicy]:
    policy = FakePolicy(script)
    (update,) = run_batch(ReflectRetryReward(**settings), policy, TEXTS, problems)
    return update, policy


def test_all_tokens_of_reflections_are_trained_and_no_others() -> None:
    """Guards against first tries, retries or requests among the trained tokens."""
    update, policy = run(scripted(lambda r: r.endswith("2")), n_reflect=5)
    part = only_part(update)
    assert (update.name, update.n_steps, update.on_policy) == ("reflect", 1, True)
    assert [s.text for s in part.samples] == [f"thought p{n} {index}" for n in range(7) for index in range(5)]
    assert all(s.n_trained == len(s.ids) == 4 for s in part.samples), "three words and the end token"
    assert [p.phase for p in policy.shown] == 7 * ["solve"] + 7 * ["reflect"] + 35 * ["retry"]
    assert part.surrogate == Clip(0.2, 0.2, None)
    assert (part.kl_coef, part.loss_aggregation) == (0.001, "token")


def test_a_reflection_is_rewarded_for_its_own_retry() -> None:
    """Guards against rewards that move to another reflection. One of eight helps: mean 1/8, deviation 0.353553."""
    helpful = {f"thought p{n} {(3 * n + 1) % 8}" for n in range(7)}
    found = advantages_by_text(only_part(run(scripted(lambda r: r in helpful))[0]))
    assert len(found) == 56
    for text, advantage in found.items():
        assert advantage == pytest.approx(2.4749 if text in helpful else -0.3536, abs=1e-4)


def test_a_retry_continues_the_conversation_of_its_reflection() -> None:
    """Guards against a retry that sees another reflection, or does not see the failure."""
    update, policy = run(scripted(lambda r: False), n_reflect=3)
    retries = [p for p in policy.shown if p.phase == "retry"]
    reflections = [s for group in update.groups for s in group]
    for reflection, prompt in zip(reflections, retries, strict=True):
        assert [(m.role, m.content) for m in prompt.messages] == [
            ("user", reflection.problem.question), ("assistant", "try 0 no"), ("user", "why?"),
            ("assistant", reflection.text), ("user", "again!"),
        ]  # fmt: skip


def test_the_baseline_is_over_reflections_on_one_failure() -> None:
    """Guards against a baseline over two failures of one problem: all reflections on the first help, one on the second."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        if prompt.phase == "retry" and prompt.draft is not None and prompt.draft.index == 0:
            return prompt.problem.gold
        return scripted(lambda r: r.endswith("0"))(prompt, index, version)

    part = only_part(run(script, [make_problem(2)], n_reflect=2, n_tries=3, max_failures=2)[0])
    assert [s.prompt.draft and s.prompt.draft.index for s in part.samples] == [0, 0, 1, 1]
    assert part.advantages == pytest.approx((0.0, 0.0, 0.7071, -0.7071), abs=1e-4)


def test_only_failures_are_reflected_on() -> None:
    """Guards against reflections on right or ungraded tries, and on more than `max_failures` tries."""

    def first_try(prompt: Prompt, index: int) -> str:
        return {"p1": "so 1", "p2": "?"}.get(prompt.problem.id, "no" if index else f"so {prompt.problem.gold}")

    update, policy = run(scripted(lambda r: False, first_try), n_tries=4, max_failures=2, n_reflect=2)
    reflected = [(p.problem.id, p.draft and p.draft.index) for p in policy.shown if p.phase == "reflect"]
    assert reflected == [(f"p{n}", index) for n in (0, 3, 4, 5, 6) for index in (1, 2)]
    assert len(update.groups) == 10


def test_without_failures_the_update_is_empty(qwen: LanguageModel) -> None:
    """Guards against 0/0, and a version that never rises, so that the run never ends."""
    update, policy = run(scripted(lambda r: False, lambda prompt, index: f"so {prompt.problem.gold}"))
    assert (only_part(update).samples, update.groups) == ((), ())
    assert {p.phase for p in policy.shown} == {"solve"}
    trainer = make_trainer(qwen)
    assert (trainer.apply(update)["loss"], trainer.version) == (0.0, 1)


def test_skipped_prompts_leave_the_others_alone() -> None:
    """Guards against retries that move to another reflection if a prompt is too long, as that of p2's first reflection."""
    skipped = {("solve", "p0"), ("reflect", "p1"), ("retry", "thought p2 0")}

    def is_too_long(prompt: Prompt) -> bool:
        name = prompt.messages[-2].content if prompt.phase == "retry" else prompt.problem.id
        return (prompt.phase, name) in skipped

    policy = SkippingPolicy(scripted(lambda r: r.endswith("1")), is_too_long)
    (update,) = run_batch(ReflectRetryReward(n_reflect=3), policy, TEXTS, PROBLEMS[:4])
    expected = {"thought p2 1": 0.7071, "thought p2 2": -0.7071}  # one of two helps
    expected |= {"thought p3 0": -0.5774, "thought p3 1": 1.1547, "thought p3 2": -0.5774}  # one of three
    assert advantages_by_text(only_part(update)) == pytest.approx(expected, abs=1e-4)
    reasons = {s.text: s.verdict.reason for group in update.groups for s in group if s.verdict is not None}
    assert reasons == {
        "thought p2 0": "the prompt of its retry was too long (sampler.max_prompt_tokens, or the model's positions)"
    }


def test_the_reason_of_an_ungraded_reflection_is_that_of_its_retry() -> None:
    """Regression: a run in which no retry could be graded stopped without a word about why."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        return "?" if prompt.phase == "retry" else scripted(lambda r: False)(prompt, index, version)

    def verify(reply: str, gold: str) -> Verdict:
        return Verdict(None, "out of time") if reply == "?" else Verdict(False)

    update, _ = run(script, [replace(make_problem(2), verify=verify)], n_reflect=2)
    found = [s.verdict for s in update.groups[0]]
    assert found == [Verdict(None, "none of its retries was graded: out of time")] * 2


def test_several_retries_are_averaged() -> None:
    """Guards against the best retry as the reward, and ungraded ones that count as 0: the means are 1/2 and 1/3."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        if prompt.phase != "retry":
            return scripted(lambda r: False)(prompt, index, version)
        first = prompt.messages[-2].content.endswith("0")
        return [prompt.problem.gold, prompt.problem.gold if first else "?", "no", "no"][index]

    centered = replace(ReflectRetryReward().reflect, advantage="center")
    part = only_part(run(script, PROBLEMS[2:3], n_reflect=2, n_retries=4, reflect=centered)[0])
    assert part.advantages == pytest.approx((1 / 12, -1 / 12))
    settings = {"n_reflect": 2, "n_retries": 4, "reflect": centered, "reward_retry": True}
    retries = only_part(run(script, PROBLEMS[2:3], **settings)[0]).samples[2:]
    assert "?" not in [s.text for s in retries], "a retry that was not graded would be trained for the others' rewards"
    assert len(retries) == 7


def test_shuffle_shows_reflections_on_another_failure() -> None:
    """Guards against an ablation that changes nothing: retries see the reflection on the next failure."""
    update, policy = run(scripted(lambda r: r == "thought p3 1"), n_reflect=3, shuffle=True)
    retries = [(p.problem.id, p.messages[-2].content) for p in policy.shown if p.phase == "retry"]
    assert retries == [(f"p{n}", f"thought p{(n + 1) % 7} {index}") for n in range(7) for index in range(3)]
    found = advantages_by_text(only_part(update))
    assert {text for text, advantage in found.items() if advantage > 0} == {"thought p2 1"}


def test_reward_retry_trains_retries_with_the_advantage_of_their_reflection() -> None:
    """Guards against an ablation that changes nothing, and a baseline over retries."""
    script = scripted(lambda r: r.endswith(" 1"))
    reflections = only_part(run(script, n_reflect=3, n_retries=2)[0])
    part = only_part(run(script, n_reflect=3, n_retries=2, reward_retry=True)[0])
    assert tuple(s for s in part.samples if s.prompt.phase == "reflect") == reflections.samples
    assert len(part.samples) == 21 + 42
    expected = advantages_by_text(reflections)
    for sample, advantage in zip(part.samples, part.advantages, strict=True):
        assert (
            advantage == expected[sample.prompt.messages[-2].content if sample.prompt.phase == "retry" else sample.text]
        )


@pytest.mark.parametrize("n_steps", [1, 2, 3, 4, 7])
def test_each_optimizer_step_trains_reflections_and_their_retries(n_steps: int) -> None:
    """Regression: all retries came after all reflections, so only the first of four optimizer steps had reflections.

    Seven failures with four reflections each, one retry per reflection."""
    part = only_part(run(scripted(lambda r: r.endswith("2")), n_reflect=4, reward_retry=True)[0])
    for step in split_into_steps(part, n_steps):
        n_reflections = sum(s.prompt.phase == "reflect" for s in step.samples)
        n_retries = len(step.samples) - n_reflections
        assert abs(n_reflections - 28 / n_steps) <= 4  # whole groups
        assert abs(n_retries - 28 / n_steps) <= 4


def test_prepared_failures_replace_first_tries() -> None:
    """Guards against new tries at such problems, and failures that claim to be of the present policy."""
    policy = FakePolicy(scripted(lambda r: r.endswith("0")))
    policy.publish(7)
    problems = [make_problem(1, failure="stale no"), make_problem(2), make_problem(3, failure="also no")]
    (update,) = run_batch(ReflectRetryReward(n_reflect=2), policy, TEXTS, problems)
    assert [p.problem.id for p in policy.shown if p.phase == "solve"] == ["p2"]
    asked = [p for p in policy.shown if p.phase == "reflect"]
    assert [(p.problem.id, p.messages[1].content, p.draft and p.draft.version) for p in asked] == [
        ("p1", "stale no", 0), ("p3", "also no", 0), ("p2", "try 0 no", 7)
    ]  # fmt: skip
    assert [p.draft and p.draft.right for p in asked] == [False] * 3
    assert {s.version for s in only_part(update).samples} == {7}
    assert describe_groups(update.groups)["reward"] == 0.5


def test_prepare_keeps_failures_only() -> None:
    """Guards against right or ungraded tries in the data, and rows that differ between runs."""

    def first_try(prompt: Prompt, index: int) -> str:
        return {"p1": "so 1", "p2": "?"}.get(prompt.problem.id, "no" if index % 2 else f"so {prompt.problem.gold}")

    method, policy = ReflectRetryReward(n_tries=6, max_failures=2), FakePolicy(scripted(lambda r: False, first_try))
    rows = list(method.prepare(Actors(policy, TEXTS, grade), PROBLEMS[:4]))
    assert [(row["id"], row["problem"], row["question"], row["gold"], row["failure"]) for row in rows] == [
        (f"p{n}#{index}", f"p{n}", f"{n} + 0", str(n), "no") for n in (0, 3) for index in (1, 3)
    ]
    assert list(method.prepare(Actors(policy, TEXTS, grade), PROBLEMS[:4])) == rows


@pytest.mark.slow
def test_the_gradient_is_that_of_the_reflections(qwen: LanguageModel) -> None:
    """Guards against a gradient on tries, requests or retries: by brute force over reflections."""
    policy = LocalPolicy(qwen, Sampling(max_tokens=7))
    texts = Prompts("{question}", "again", reflect="again ?", retry="again", seed=3)
    problems = [Problem(f"p{n}", f"{n} 7 5 -> 26", "26", lambda r, g: Verdict(len(r) % 2 == 0)) for n in range(5)]
    (update,) = ReflectRetryReward(n_reflect=4).updates(Actors(policy, texts, grade), problems)
    part = only_part(update)
    assert any(part.advantages)
    for sample in part.samples:
        assert sample.prompt_ids == qwen.chat.encode(sample.prompt.messages)
    trainer = make_trainer(qwen, lambda: copied(qwen))
    assert trainer.apply(update)["kl_to_reference_nats"] == 0.0
    module = copied(qwen).module.double()
    reference_policy_gradient(module, replace(part, kl_coef=0.0)).backward()
    expected = gradient_of(module)
    for name, found in gradient_of(trainer.model.module).items():
        torch.testing.assert_close(found.double(), expected[name], rtol=1e-3, atol=1e-5)
