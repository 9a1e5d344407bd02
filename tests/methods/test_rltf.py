"""RLTF-SD: GRPO over first and second tries, and the imitation of second tries under the plain prompt."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.methods.rltf import RLTF
from rethink.objectives import Clip, Imitate, Objective, PolicyGradient, Update
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.training.metrics import describe_groups
from rethink.types import Problem, Prompt, Sample
from support.method_runs import PROBLEMS, Script, SkippingPolicy, make_problem, run_batch
from support.samples import factors

TEXTS = Prompts("{question}", critique="check", seed=5)
P2 = [make_problem(2)]


def scripted(first: str, second: str) -> Script:
    """First tries, and second tries after each of them, by index: r(ight), w(rong) or ? (not graded)."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        if prompt.phase == "critique":
            return f"comment on {prompt.messages[-2].content}"
        draft = prompt.judged_draft
        kind = first[index] if draft is None else second[draft.index]
        ending = {"r": prompt.problem.gold, "w": "no", "?": "?"}[kind]
        return f"first {index} {ending}" if draft is None else f"second {draft.index} {ending}"

    return script


def run(first: str, second: str, problems: list[Problem] = P2, **settings: Any) -> tuple[Update, FakePolicy]:
    policy = FakePolicy(scripted(first, second))
    (update,) = run_batch(RLTF(len(first), revise="again", **settings), policy, TEXTS, problems)
    return update, policy


def parts_of(update: Update) -> tuple[PolicyGradient, Imitate]:
    gradient, imitation = update.parts
    assert isinstance(gradient, PolicyGradient)
    assert isinstance(imitation, Imitate)
    return gradient, imitation


def test_the_returns_and_weights_are_those_of_the_equations() -> None:
    """Guards against a discount on the wrong try, mixed baselines, and weights relative to second tries.

    r0 = 1 0 0 0 and r1 = - 1 0 0, discount 0.1: returns 1, 0.1, 0, 0 of mean 0.275; second tries have mean 1/3; weights are
    r1 - mean r0 = r1 - 1/4."""
    gradient, imitation = parts_of(run("rwww", "-rww")[0])
    assert [s.text for s in gradient.samples] == [
        "first 0 2", "first 1 no", "first 2 no", "first 3 no", "second 1 2", "second 2 no", "second 3 no",
    ]  # fmt: skip
    assert factors(gradient) == pytest.approx([0.725, -0.175, -0.275, -0.275, 2 / 3, -1 / 3, -1 / 3])
    assert [s.text for s in imitation.samples] == ["second 1 2", "second 2 no", "second 3 no"]
    assert imitation.weights == pytest.approx((0.75, -0.25, -0.25))
    assert imitation.coefficient == 0.1
    # The paper's ablation: relative to second tries.
    assert parts_of(run("rwww", "-rww", baseline="second")[0])[1].weights == pytest.approx((2 / 3, -1 / 3, -1 / 3))


def test_with_feedback_that_always_helps_only_the_first_baseline_keeps_a_gradient() -> None:
    """Guards against the baseline that the paper rejects: r0 = 1 0 0, r1 = - 1 1; weights 1 - 1/3, or 1 - 1."""
    assert parts_of(run("rww", "-rr")[0])[1].weights == pytest.approx((2 / 3, 2 / 3))
    assert parts_of(run("rww", "-rr", baseline="second")[0])[1].weights == (0.0, 0.0)


def test_second_tries_are_imitated_after_the_plain_prompt() -> None:
    """Guards against an imitation that sees the feedback, and against other ids than those that were sampled."""
    update, _ = run("wwr", "rw-")
    gradient, imitation = parts_of(update)
    sampled, imitated = gradient.samples[3], imitation.samples[0]
    assert [m.content for m in sampled.prompt.messages] == ["2 + 0", "first 0 no", "check", "wrong", "again"]
    assert [m.content for m in imitated.prompt.messages] == ["2 + 0"]
    assert imitated.prompt == gradient.samples[0].prompt
    assert imitated.ids == sampled.ids
    assert imitated.prompt_ids == gradient.samples[0].prompt_ids
    assert all(math.isnan(p) for p in imitated.log_probs), "they would be those after the prompt with feedback"


def test_only_wrong_tries_get_feedback_and_a_second_try() -> None:
    """Guards against second tries after right or ungraded tries, and against a wrong order of sampling."""
    update, policy = run("rw?w", "-w-r", PROBLEMS[:2])
    asked = [(p.phase, p.problem.id, p.judged_draft and p.judged_draft.index) for p in policy.shown]
    solve = [("solve", "p0", None), ("solve", "p1", None)]
    assert asked == solve + [("retry", p, index) for p in ("p0", "p1") for index in (1, 3)]
    assert (update.name, update.n_steps, update.on_policy) == ("solve", 1, True)
    assert [len(group) for group in update.groups] == [4, 2, 4, 2]
    assert update.metrics == pytest.approx({"first_accuracy": 1 / 3, "second_accuracy": 0.5, "imitated_frac": 1.0})
    described = describe_groups(update.groups)
    assert (described["fix"], described["n_not_graded"]) == (0.5, 2)
    assert math.isnan(described["damage"]), "no right try has a second one"


def test_tries_that_were_not_graded_are_left_out() -> None:
    """Guards against an ungraded second try that counts as wrong, in its own right or in the return of the first.

    r0 = 1 0 0, r1 = - 1 ?: the third first try has no return. Returns 1 and 0.1, mean 0.55."""
    gradient, imitation = parts_of(run("rww", "-r?")[0])
    assert [s.text for s in gradient.samples] == ["first 0 2", "first 1 no"], "one second try has no baseline"
    assert factors(gradient) == pytest.approx([0.45, -0.45])
    assert [s.text for s in imitation.samples] == ["second 1 2"]
    assert imitation.weights == pytest.approx((2 / 3,))


def test_unlikely_tokens_are_not_imitated() -> None:
    """Guards against a limit on the log-probs after the prompt with feedback, and on trained tokens of the other part."""

    def log_prob(sample: Sample, prompt: Prompt, version: int) -> float:
        assert prompt.phase == "solve"
        return -5.5 if "second 0" in sample.text else -4.5

    policy = FakePolicy(scripted("ww", "rr"), log_prob=log_prob)
    (update,) = run_batch(RLTF(2), policy, TEXTS, P2)
    gradient, imitation = parts_of(update)
    assert [s.n_trained for s in imitation.samples] == [0, 4]
    assert all(s.n_trained == 4 for s in gradient.samples)
    assert update.metrics["imitated_frac"] == 0.5
    (update,) = run_batch(RLTF(2, min_log_prob=-math.inf), policy, TEXTS, P2)
    assert [s.n_trained for s in parts_of(update)[1].samples] == [4, 4]


def test_who_writes_the_feedback() -> None:
    """Guards against feedback of another model than the recipe names, and a critique that is graded or trained."""
    _, policy = run("wr", "r-", feedback="policy")
    assert [m.content for m in policy.shown[-1].messages] == [
        "2 + 0", "first 0 no", "check", "comment on first 0 no", "again",
    ]  # fmt: skip
    assert [p.phase for p in policy.shown] == ["solve", "critique", "retry"]

    teacher = FakePolicy(lambda prompt, index, version: f"teacher on {prompt.messages[-2].content}")
    policy = FakePolicy(scripted("wr", "r-"))
    run_batch(RLTF(2, "teacher"), policy, TEXTS, P2, lambda name: {"teacher": teacher}[name])
    assert policy.shown[-1].messages[-2].content == "teacher on first 0 no"
    assert [p.phase for p in policy.shown] == ["solve", "retry"]


def test_feedback_of_a_failed_server_is_no_feedback() -> None:
    """Guards against a second try after an empty text that no one wrote."""

    class Failing(FakePolicy):
        def groups(self, prompts: Any, n: int, sampling: Any = None) -> Any:
            for i, group in super().groups(prompts, n, sampling):
                yield i, tuple(replace(sample, stop="failed") for sample in group)

    policy = FakePolicy(scripted("wr", "r-"))
    failing = Failing(lambda prompt, index, version: "")
    (update,) = run_batch(RLTF(2, "teacher"), policy, TEXTS, P2, lambda name: failing)
    assert [len(group) for group in update.groups] == [2, 0]
    assert factors(parts_of(update)[0]) == (-0.5, 0.5)


def test_skipped_prompts_leave_the_others_alone() -> None:
    """Guards against a second try that moves to another first one if a prompt is too long.

    r0 = 0 0 1, r1 = (skipped) 1 -: the first try keeps r0. Returns 0, 0.1, 1, mean 11/30."""

    def is_too_long(prompt: Prompt) -> bool:
        draft = prompt.judged_draft
        return prompt.problem.id == "p1" or (draft is not None and draft.index == 0)

    policy = SkippingPolicy(scripted("wwr", "wr-"), is_too_long)
    (update,) = run_batch(RLTF(3), policy, TEXTS, PROBLEMS[1:3])
    gradient, imitation = parts_of(update)
    assert factors(gradient) == pytest.approx([-11 / 30, -8 / 30, 19 / 30])
    assert [s.text for s in imitation.samples] == ["second 1 2"]
    assert imitation.weights == pytest.approx((2 / 3,))


def test_without_wrong_tries_nothing_is_imitated() -> None:
    """Guards against a mean of nothing."""
    update, _ = run("rr", "--")
    assert (factors(parts_of(update)[0]), parts_of(update)[1].samples) == ((0.0, 0.0), ())
    assert math.isnan(update.metrics["second_accuracy"])
    assert math.isnan(update.metrics["imitated_frac"])


def test_without_imitation_there_is_one_part() -> None:
    """Guards against a forward pass for a part of weight 0."""
    update, _ = run("rw", "-r", imitation_coef=0.0)
    assert len(update.parts) == 1
    assert "imitated_frac" not in update.metrics


def test_the_defaults_are_those_of_the_release() -> None:
    """Guards against a silent change of a setting that docs/methods/rltf.md names."""
    method = RLTF()
    assert (method.n_solve, method.discount, method.imitation_coef, method.min_log_prob) == (8, 0.1, 0.1, -5.0)
    assert method.solve == Objective("center", n_steps=1)
    gradient, _ = parts_of(run("rw", "-r")[0])
    assert (gradient.kl_coef, gradient.surrogate) == (0.0, Clip(0.2, 0.28, 3.0))


def test_pass_at_k_is_refused() -> None:
    """Guards against a run that fails in the first update in which few tries are wrong."""
    with pytest.raises(ValueError, match=r'"pass_at_k" needs groups .* there may be fewer second tries'):
        RLTF(solve=Objective("pass_at_k", pass_k=2))


def test_a_text_that_shows_a_placeholder_is_refused() -> None:
    """Guards against a prompt with {feedback} in it."""
    with pytest.raises(UserError, match=r"method.revise would show \{feedback\} as it is"):
        RLTF(revise="Use {feedback}")
