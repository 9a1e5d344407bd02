"""Experiential RL: first tries, reflections and second tries are reinforced; right second tries are imitated."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.methods.erl import ERL
from rethink.objectives import Clip, Imitate, Objective, PolicyGradient, Update
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.training.metrics import describe_groups
from rethink.types import Problem, Prompt
from support.method_runs import PROBLEMS, Script, SkippingPolicy, make_problem, run_batch
from support.samples import factors

TEXTS = Prompts("{question}", retry="again", remember="{task} learned {reflections}", seed=5)
REQUEST = "you heard {feedback} and know {memory}"
P2 = [make_problem(2)]
CENTER = Objective(n_steps=1)


def scripted(first: str, second: str) -> Script:
    """First tries, and second tries after each of them, by index: r(ight), w(rong) or ? (not graded)."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        draft = prompt.judged_draft
        if prompt.phase == "reflect":
            assert draft is not None
            return f"thought {prompt.problem.id} {draft.index}"
        kind = first[index] if draft is None else second[draft.index]
        ending = {"r": prompt.problem.gold, "w": "no", "?": "?"}[kind]
        return f"first {index} {ending}" if draft is None else f"second {draft.index} {ending}"

    return script


def run(
    first: str, second: str, problems: list[Problem] = P2, state: dict[str, Any] | None = None, **settings: Any
) -> tuple[Update, FakePolicy]:
    policy = FakePolicy(scripted(first, second))
    method = ERL(**{"n_solve": len(first), "request": REQUEST, "solve": CENTER, **settings})
    (update,) = run_batch(method, policy, TEXTS, problems, state=state)
    return update, policy


def parts_of(update: Update) -> tuple[PolicyGradient, Imitate]:
    gradient, imitation = update.parts
    assert isinstance(gradient, PolicyGradient)
    assert isinstance(imitation, Imitate)
    return gradient, imitation


def test_all_three_roles_are_reinforced_each_against_its_own_kind() -> None:
    """Guards against a baseline over two roles, and a reflection that is rewarded for another second try.

    r1 = 1 0 0 0 of mean 1/4; reflections have r2 = 1 0 0 of mean 1/3, like the second tries."""
    gradient, _ = parts_of(run("rwww", "-rww")[0])
    assert [s.text for s in gradient.samples] == [
        "first 0 2", "first 1 no", "first 2 no", "first 3 no", "thought p2 1", "thought p2 2", "thought p2 3",
        "second 1 2", "second 2 no", "second 3 no",
    ]  # fmt: skip
    thirds = [2 / 3, -1 / 3, -1 / 3]
    assert factors(gradient) == pytest.approx([0.75, -0.25, -0.25, -0.25, *thirds, *thirds])
    assert all(s.n_trained == len(s.ids) for s in gradient.samples)


def test_right_second_tries_are_imitated_after_the_plain_prompt() -> None:
    """Guards against imitated failures, an imitation that sees the reflection, and a mean over right tries alone."""
    gradient, imitation = parts_of(run("rwww", "-rw?")[0])
    assert [s.text for s in imitation.samples] == ["second 1 2", "second 2 no"]
    assert imitation.weights == (1.0, 0.0)
    assert imitation.coefficient == 1.0
    assert imitation.samples[0].prompt == gradient.samples[0].prompt
    sampled = next(s for s in gradient.samples if s.text == "second 1 2")
    assert imitation.samples[0].ids == sampled.ids
    assert all(math.isnan(p) for p in imitation.samples[0].log_probs)


def test_what_reflections_and_second_tries_see() -> None:
    """Guards against a reflection without feedback, and a second try that sees the first one by default."""
    for sees, second in (
        ("reflection", ["2 + 0 learned - thought p2 0"]),
        ("conversation", ["2 + 0", "first 0 no", "you heard wrong and know none", "thought p2 0", "again"]),
    ):
        _, policy = run("wr", "r-", second_try_sees=sees)
        shown = {p.phase: [m.content for m in p.messages] for p in policy.shown}
        assert [p.phase for p in policy.shown] == ["solve", "reflect", "retry"]
        assert shown["reflect"] == ["2 + 0", "first 0 no", "you heard wrong and know none"]
        assert shown["retry"] == second


def test_the_memory_is_the_last_reflection_that_helped() -> None:
    """Guards against a memory of failures, one that changes within a batch, and one that is lost with the next batch."""
    state: dict[str, Any] = {}
    run("www", "wrw", PROBLEMS[:2], state)
    assert state == {"memory": "thought p1 1"}
    _, policy = run("ww", "ww", P2, state)
    assert [p.messages[-1].content for p in policy.shown if p.phase == "reflect"] == 2 * [
        "you heard wrong and know thought p1 1"
    ]
    assert state == {"memory": "thought p1 1"}, "failures leave it alone"


def test_only_failures_are_reflected_on() -> None:
    """Guards against reflections on right or ungraded tries, and against a log in which roles are mixed up."""
    update, policy = run("rw?w", "-w-r", PROBLEMS[:2])
    asked = [(p.phase, p.problem.id, p.judged_draft and p.judged_draft.index) for p in policy.shown]
    failures = [(p, index) for p in ("p0", "p1") for index in (1, 3)]
    assert asked == [
        ("solve", "p0", None), ("solve", "p1", None),
        *(("reflect", *failure) for failure in failures), *(("retry", *failure) for failure in failures),
    ]  # fmt: skip
    assert (update.name, update.n_steps, update.on_policy) == ("solve", 1, True)
    assert [len(group) for group in update.groups] == [4, 2, 2, 4, 2, 2]
    assert update.metrics == pytest.approx({"first_accuracy": 1 / 3, "second_accuracy": 0.5})
    described = describe_groups(update.groups)
    assert (described["fix"], described["n_not_graded"]) == (0.5, 2)


def test_a_reflection_whose_second_try_was_not_graded_has_no_reward() -> None:
    """Guards against ungraded second tries that count as failures: r2 = 1 ? 0, mean 1/2."""
    gradient, _ = parts_of(run("www", "r?w")[0])
    assert [s.text for s in gradient.samples[3:]] == ["thought p2 0", "thought p2 2", "second 0 2", "second 2 no"]
    assert factors(gradient) == pytest.approx([0, 0, 0, 0.5, -0.5, 0.5, -0.5])


def test_skipped_prompts_leave_the_others_alone() -> None:
    """Guards against a reflection that moves to another failure if a prompt is too long.

    The reflection on try 0 and the second try after try 1 are skipped; r2 = - - 1 0."""

    def is_too_long(prompt: Prompt) -> bool:
        index = prompt.judged_draft.index if prompt.judged_draft is not None else None
        return prompt.problem.id == "p1" or (prompt.phase, index) in {("reflect", 0), ("retry", 1)}

    policy = SkippingPolicy(scripted("wwww", "rrrw"), is_too_long)
    (update,) = run_batch(ERL(4, REQUEST, solve=CENTER), policy, TEXTS, PROBLEMS[1:3])
    gradient, imitation = parts_of(update)
    assert [s.text for s in gradient.samples[4:]] == ["thought p2 2", "thought p2 3", "second 2 2", "second 3 no"]
    assert factors(gradient) == pytest.approx([0, 0, 0, 0, 0.5, -0.5, 0.5, -0.5])
    assert [s.text for s in imitation.samples] == ["second 2 2", "second 3 no"]


def test_without_failures_only_first_tries_are_trained() -> None:
    """Guards against a mean of nothing."""
    update, policy = run("rr", "--")
    assert {p.phase for p in policy.shown} == {"solve"}
    assert (factors(parts_of(update)[0]), parts_of(update)[1].samples) == ((0.0, 0.0), ())
    assert math.isnan(update.metrics["second_accuracy"])


def test_without_imitation_there_is_one_part() -> None:
    """Guards against a forward pass for a part of weight 0."""
    assert len(run("rw", "-r", imitation_coef=0.0)[0].parts) == 1


def test_the_defaults_are_those_of_the_release() -> None:
    """Guards against a silent change of a setting that docs/methods/erl.md names."""
    assert (ERL().n_solve, ERL().imitation_coef, ERL().second_try_sees) == (4, 1.0, "reflection")
    gradient, _ = parts_of(run("rwww", "-rww", solve=ERL().solve)[0])
    assert (gradient.kl_coef, gradient.surrogate) == (0.001, Clip(0.2, 0.28, 3.0))
    assert factors(gradient)[:4] == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-4), "standardized: 3/4 / (1/2)"


def test_pass_at_k_is_refused() -> None:
    """Guards against a run that fails in the first update in which few tries are wrong."""
    with pytest.raises(ValueError, match=r'"pass_at_k" needs groups .* there may be fewer second tries'):
        ERL(solve=Objective("pass_at_k", pass_k=2))


def test_a_text_that_shows_a_placeholder_is_refused() -> None:
    """Guards against a prompt with {draft} in it."""
    with pytest.raises(UserError, match=r"method.request would show \{draft\} as it is"):
        ERL(request="{draft} {feedback} {memory}")
