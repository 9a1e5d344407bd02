"""Self-distillation: which replies get which hint, both forms of the update by hand, and runs that resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.methods.self_distillation import SelfDistillation
from rethink.methods.self_distillation_hints import Hints
from rethink.models.language_model import LanguageModel
from rethink.objectives import Clip, Distill, Divergence, Objective, PolicyGradient, Update
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.training.loop import train
from rethink.training.run import open_run
from rethink.types import Demonstration, Problem, Prompt, Sample, Sampling, Verdict
from support.method_runs import PROBLEMS, SkippingPolicy, make_problem, only_part, run_batch
from support.runs import OFF_POLICY, Make, assert_same, finished, make, problems, records
from support.samples import apply, make_trainer

__all__ = ["make", "problems"]

TEXTS = Prompts("Q {question}", seed=5)
BRIEF = Hints(ask="{task}{hint}!", sibling=" right: {reply}", feedback=" wrong: {message}", solution=" gold: {reply}")


def judged(reply: str, gold: str) -> Verdict:
    """Replies end with the answer or, if they are not graded, with "?"; others are wrong for a reason, except for "no"."""
    if reply.endswith("?"):
        return Verdict(None, "no answer found")
    right = reply.split()[-1] == gold
    return Verdict(right, "well done" if right else "" if reply == "no" else f"not {reply}")


TWO = make_problem(2, verify=judged)


def run(
    method: SelfDistillation, replies: str = "2 a b", problem: Problem = TWO, **more: Any
) -> tuple[Update, FakePolicy]:
    """The update of one batch with these replies to one problem, separated by commas or spaces."""
    texts = replies.split(",") if "," in replies else replies.split()
    policy = FakePolicy(lambda prompt, index, version: texts[index], log_prob=more.pop("log_prob", None))
    more.setdefault("role", {"reference": policy}.__getitem__)
    (update,) = run_batch(replace(method, n_solve=len(texts)), policy, more.pop("prompts", TEXTS), [problem], **more)
    return update, policy


def distilled(update: Update) -> Distill:
    (part,) = [part for part in update.parts if isinstance(part, Distill)]
    return part


def shown(update: Update) -> dict[int, str]:
    """What the teacher reads, by the reply's index."""
    part = distilled(update)
    return {s.index: t.prompt.messages[-1].content for s, t in zip(part.samples, part.teacher_samples, strict=True)}


@pytest.mark.parametrize(
    ("shows", "replies", "expected"),
    [
        ("sibling", "2 a no", {1: " right: 2", 2: " right: 2"}),
        ("sibling", "is,a 2,or 2,no", {0: " right: a 2", 1: " right: or 2", 2: " right: a 2", 3: " right: a 2"}),
        ("sibling", "a b no", {}),
        ("feedback", "2 a no", {1: " wrong: not a"}),
        ("feedback", "2 2 2?", {}),
        ("sibling_or_feedback", "2 a no", {1: " right: 2", 2: " right: 2"}),
        ("sibling_or_feedback", "b a no", {0: " wrong: not b", 1: " wrong: not a"}),
        ("sibling_and_feedback", "2 a no", {1: " right: 2 wrong: not a", 2: " right: 2"}),
        ("sibling_and_feedback", "b a no", {0: " wrong: not b", 1: " wrong: not a"}),
        ("solution", "2 a", {0: " gold: 2", 1: " gold: 2"}),
        # A reply that was not graded may have a sibling, but no feedback, and is nobody's sibling.
        ("sibling_and_feedback", "2? 2 a", {0: " right: 2", 2: " right: 2 wrong: not a"}),
        ("sibling_and_feedback", "2? no", {}),
    ],
)
def test_hints(shows: Any, replies: str, expected: dict[int, str]) -> None:
    """Guards against a reply that is its own sibling, feedback that praises, and hints of replies that were not graded."""
    update, _ = run(SelfDistillation(hints=replace(BRIEF, shows=shows)), replies)
    assert shown(update) == {index: f"Q 2 + 0{hint}!" for index, hint in expected.items()}
    assert update.metrics == {"hinted_frac": pytest.approx(len(expected) / len(update.groups[0]))}


def test_the_solution_is_a_reply_to_imitate_if_there_is_one() -> None:
    """Guards against a bare answer as the demonstration, and demonstrations of refinements."""
    demonstrations = (Demonstration("draft fixed", "refine", ("draft",)), Demonstration("2 + 0 = 2"))
    problem = replace(TWO, demonstrate=lambda seed: demonstrations)
    update, _ = run(SelfDistillation(hints=replace(BRIEF, shows="solution")), problem=problem)
    assert set(shown(update).values()) == {"Q 2 + 0 gold: 2 + 0 = 2!"}


def test_a_sibling_is_shown_without_its_thinking() -> None:
    """Guards against hints that hold a whole chain of thought, as in SDPO's release."""
    prompts = replace(TEXTS, thinking=("<think>", "</think>"))
    update, _ = run(SelfDistillation(hints=BRIEF), "<think> hm {task} </think> {hint} 2,no", prompts=prompts)
    assert shown(update) == {1: "Q 2 + 0 right: {hint} 2!"}


def test_the_full_form_is_one_part() -> None:
    """Guards against replies that are sampled after the hint, other ids, and settings that do not reach the part."""
    divergence = Divergence("reverse", 20, "teacher")
    update, policy = run(SelfDistillation(hints=BRIEF, divergence=divergence, solve=Objective(n_steps=3)))
    part = distilled(update)
    assert (update.name, update.n_steps, update.on_policy, len(update.parts)) == ("solve", 3, True, 1)
    assert [prompt.phase for prompt in policy.shown] == ["solve"], "nothing is sampled after a hint"
    assert part.samples == update.groups[0][1:]
    assert [s.ids for s in part.teacher_samples] == [s.ids for s in part.samples]
    assert [s.prompt_ids for s in part.teacher_samples] != [s.prompt_ids for s in part.samples]
    assert {s.prompt.phase for s in part.teacher_samples} == {"hint"}
    assert (part.divergence, part.teacher, part.coefficient) == (divergence, "reference", 1.0)
    assert part.needs_reference
    update, _ = run(SelfDistillation(hints=BRIEF, teacher="policy"))
    assert not distilled(update).needs_reference


def test_the_full_form_with_a_share_of_grpo() -> None:
    """Guards against coefficients that are swapped, and a share that counts only hinted replies."""
    update, _ = run(SelfDistillation(hints=BRIEF, lam=0.25, solve=Objective(clip_high=0.4)), "2 a b c")
    part, reinforced = update.parts
    assert isinstance(part, Distill)
    assert isinstance(reinforced, PolicyGradient)
    assert (part.coefficient, reinforced.coefficient) == (0.75, 0.25)
    assert reinforced.advantages == (0.75, -0.25, -0.25, -0.25)
    assert reinforced.surrogate == Clip(0.2, 0.4, 3.0)


def hinted_log_prob(sample: Sample, prompt: Prompt, version: int) -> float:
    """The sampler gives every token -1. With a hint the teacher prefers "a" and dislikes "b c"."""
    assert prompt.phase == "hint"
    return -0.25 if sample.text == "a" else -3.0


def test_advantages_per_token() -> None:
    """Guards against a wrong sign, advantages of the whole reply, and scores of other replies: log t - log s is
    -0.25 + 1 for each of the two tokens of "a" (the end token is one), -3 + 1 for each of the three of "b c"."""
    update, _ = run(SelfDistillation(hints=BRIEF, form="sampled"), "2,a,b c", log_prob=hinted_log_prob)
    part = only_part(update)
    assert [s.text for s in part.samples] == ["a", "b c"]
    assert part.advantages == ((0.75, 0.75), (-2.0, -2.0, -2.0))
    assert (update.name, update.n_steps) == ("solve", 1)
    assert dict(update.metrics) == {"hinted_frac": pytest.approx(2 / 3)}


def test_advantages_with_a_share_of_grpo() -> None:
    """Guards against a share that is lost where there is no hint: 0.25 A_GRPO + 0.75 (log t - log s), where A_GRPO is 2/3
    for "2" and -1/3 for both others."""
    method = SelfDistillation(hints=BRIEF, form="sampled", lam=0.25)
    update, _ = run(method, "2,a,b c", log_prob=hinted_log_prob)
    advantages = {s.text: a for s, a in zip(only_part(update).samples, only_part(update).advantages, strict=True)}
    assert advantages == {
        "2": pytest.approx((1 / 6,) * 2),
        "a": pytest.approx((-1 / 12 + 0.5625,) * 2),
        "b c": pytest.approx((-1 / 12 - 1.5,) * 3),
    }


def test_the_reference_model_scores_if_it_is_the_teacher() -> None:
    """Guards against a teacher that is always the policy."""
    start = FakePolicy(lambda prompt, index, version: "", log_prob=lambda sample, prompt, version: -0.5)
    method = SelfDistillation(hints=BRIEF, form="sampled", teacher="reference")
    update, _ = run(method, "2 a", role={"reference": start}.__getitem__)
    assert only_part(update).advantages == ((0.5, 0.5),)


@pytest.mark.parametrize("form", ["full", "sampled"])
def test_batches_with_nothing_to_distill(form: Any) -> None:
    """Guards against an error in a batch in which no reply has a hint, or every prompt was skipped."""
    method = SelfDistillation(hints=BRIEF, form=form)
    update, _ = run(method, "no no")
    assert update.parts[0].samples == ()
    assert update.metrics == {"hinted_frac": 0.0}
    skipping = SkippingPolicy(lambda prompt, index, version: "2", lambda prompt: prompt.problem.id != "p3")
    role = {"reference": skipping}.__getitem__
    (update,) = run_batch(replace(method, n_solve=2), skipping, TEXTS, PROBLEMS, role)
    assert [len(group) for group in update.groups] == [0, 0, 0, 2, 0, 0, 0]
    (update,) = run_batch(
        method, SkippingPolicy(lambda prompt, index, version: "2", lambda prompt: True), TEXTS, role=role
    )
    assert (update.parts[0].samples, update.metrics) == ((), {})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SelfDistillation(n_solve=1, hints=Hints("sibling")), "n_solve must be at least 2"),
        (lambda: SelfDistillation(n_solve=1, lam=0.5), "n_solve must be at least 2"),
        (lambda: SelfDistillation(form="sampled", divergence=Divergence("forward")), "divergence has no effect"),
        (lambda: SelfDistillation(solve=Objective(kl_coef=0.1)), "solve has no effect, but for n_steps"),
        (
            lambda: SelfDistillation(form="sampled", solve=Objective(surrogate="gmpo")),
            "gives each token its own advantage",
        ),
        (lambda: Hints(ask="{task}"), "ask must contain the placeholder {hint}"),
        (lambda: Hints(feedback="wrong"), "feedback must contain the placeholder {message}"),
        (lambda: Divergence(top_k=1, tail=False), "compares nothing"),
    ],
)
def test_settings_without_effect_are_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_settings_that_are_allowed() -> None:
    """Guards against refusing OPSD and SDFT, which sample one reply per problem."""
    assert SelfDistillation(n_solve=1, hints=Hints("solution")).n_solve == 1
    assert SelfDistillation(form="sampled", solve=Objective(kl_coef=0.1)).solve.n_steps == 4


def test_a_placeholder_that_is_never_filled_is_refused() -> None:
    with pytest.raises(UserError, match=r"the hint text would show \{draft\} as it is"):
        run(SelfDistillation(hints=replace(BRIEF, ask="{task}{hint} {draft}")))


@pytest.mark.slow
def test_both_forms_agree_in_the_mean(qwen: LanguageModel) -> None:
    """The gaps of the sampled tokens average to minus the reverse divergence: over many replies, the same number.

    Guards against hints that one form shows in another place. The standard error is about 2%."""
    policy = LocalPolicy(qwen, Sampling(max_tokens=4))
    hints = Hints("solution", ask="{question} {hint}", solution="{reply} {reply} again")
    problem = make_problem(7, question="7 5 -> 12")
    gaps: list[float] = []
    method = SelfDistillation(n_solve=2000, hints=hints, form="sampled", teacher="policy")
    (update,) = method.updates(_actors(policy), [problem])
    for advantage_T in only_part(update).advantages:
        assert isinstance(advantage_T, tuple)
        gaps += advantage_T
    full = SelfDistillation(n_solve=200, hints=hints, divergence=Divergence("reverse", 0), teacher="policy")
    (update,) = full.updates(_actors(policy), [problem])
    found = apply(make_trainer(qwen), *update.parts)["divergence_nats"]
    assert found > 0.01
    assert -sum(gaps) / len(gaps) == pytest.approx(found, rel=0.15)


def _actors(policy: LocalPolicy) -> Actors:
    return Actors(policy, Prompts("{question}", seed=1), grade)


RUNS: dict[str, tuple[str, ...]] = {
    "full": ("method.teacher=policy", "method.hints.shows=sibling_and_feedback", "method.lam=0.5"),
    "full, moving": (
        "training.reference_every=1",
        "training.reference_mixup=0.1",
        "method.divergence.top_k=5",
        OFF_POLICY,
    ),
    "sampled": ("method.form=sampled", "method.hints.shows=solution", OFF_POLICY),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_ends_with_the_same_bits(name: str, make: Make, problems: Any) -> None:
    """Guards against hints or scores of newer weights after a resume."""
    settings = ("method.name=self_distillation", "method.n_solve=3", *RUNS[name])
    whole = finished(make(*settings, "updates=6", out="whole"))
    finished(make(*settings, "updates=4", "checkpoint_every=2"))
    resumed = open_run(make(*settings, "updates=6", "checkpoint_every=2"), resume=True)
    list(train(resumed))
    assert_same(resumed, whole)
    assert all(record["method/hinted_frac"] > 0 for record in records(whole))
