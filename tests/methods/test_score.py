"""SCoRe: the returns of two tries in two stages, and the KL term that holds the first try."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from rethink.methods.score import SCoRe
from rethink.objectives import Objective, PolicyGradient, Update, split_into_steps
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.training.losses.policy_gradient import kl_estimate
from rethink.types import Problem, Prompt
from support.method_runs import PROBLEMS, Script, SkippingPolicy, advantages_by_text, make_problem, run_batch
from support.runs import Make, assert_resumes, records

TEXTS = Prompts("{question}", "again", seed=13)


def scripted(*tries: str) -> Script:
    """Tries such as "wr": wrong, then right. "?" is not graded. Each reply names its phase and its place in the group."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        place = index if prompt.draft is None else prompt.draft.index
        kind = tries[place][0 if prompt.draft is None else 1]
        ending = {"r": prompt.problem.gold, "w": "no", "?": "?"}[kind]
        return f"{prompt.phase} {place} {ending}"

    return script


def run(
    *tries: str, problems: Sequence[Problem] = PROBLEMS[2:3], state: dict[str, Any] | None = None, **settings: Any
) -> tuple[Update, list[PolicyGradient]]:
    method = SCoRe(n_solve=len(tries), **settings)
    (update,) = run_batch(method, FakePolicy(scripted(*tries)), TEXTS, problems, state=state)
    parts = [part for part in update.parts if isinstance(part, PolicyGradient)]
    assert len(parts) == len(update.parts) == 2
    return update, parts


RETURNS = {
    # Four tries at one problem: wrong-right, wrong-wrong, right-right, right-wrong, with alpha 3.
    # Second tries, r2 + 3 (r2 - r1): 1 + 3, 0, 1, 0 - 3; their mean is 0.5.
    # First tries, r1 + discount * that: 4, 0, 2, -2 (mean 1) or, with discount 0, 0, 0, 1, 1 (mean 0.5).
    "both rewards": ({"discount": 1.0}, (3.0, -1.0, 1.0, -3.0), (3.5, -0.5, 0.5, -3.5)),
    "each try for itself": ({}, (-0.5, -0.5, 0.5, 0.5), (3.5, -0.5, 0.5, -3.5)),
    # Half: 0 + 2, 0, 1 + 0.5, 1 - 1.5; their mean is 0.75.
    "half of it": ({"discount": 0.5}, (1.25, -0.75, 0.75, -1.25), (3.5, -0.5, 0.5, -3.5)),
    # No bonus: r1 + r2 is 1, 0, 2, 1 (mean 1); r2 is 1, 0, 1, 0.
    "no bonus": ({"alpha": 0.0, "discount": 1.0}, (0.0, -1.0, 1.0, 0.0), (0.5, -0.5, 0.5, -0.5)),
    # The first stage: second tries for r2 alone; first tries for nothing, or for r2, too.
    "first stage": ({"n_first_stage": 1}, (0.0, 0.0, 0.0, 0.0), (0.5, -0.5, 0.5, -0.5)),
    "first stage, for r2": ({"n_first_stage": 1, "discount": 1.0}, (0.5, -0.5, 0.5, -0.5), (0.5, -0.5, 0.5, -0.5)),
}  # fmt: skip


@pytest.mark.parametrize(("settings", "first", "second"), RETURNS.values(), ids=RETURNS.keys())
def test_returns(settings: dict[str, Any], first: Sequence[float], second: Sequence[float]) -> None:
    """Guards against a bonus with a wrong sign or in the wrong stage, and against r1 in the return of the second try."""
    _, parts = run("wr", "ww", "rr", "rw", **{"n_first_stage": 0, "alpha": 3.0, **settings})
    assert [s.prompt.phase for s in parts[0].samples] == ["solve"] * 4
    assert [s.prompt.phase for s in parts[1].samples] == ["refine"] * 4
    assert parts[0].advantages == pytest.approx(first)
    assert parts[1].advantages == pytest.approx(second)


def test_each_second_try_follows_its_first() -> None:
    """Guards against second tries that are paired with another first try, and trained text that is not the policy's."""
    update, parts = run("wr", "rr", "ww", problems=PROBLEMS, n_first_stage=0)
    for first, second in zip(parts[0].samples, parts[1].samples, strict=True):
        assert second.prompt.draft is not None
        assert second.prompt.draft.key == first.key
        assert [m.content for m in second.prompt.messages] == [first.problem.question, first.text, "again"]
        assert all(first.mask)
        assert all(second.mask)
    assert (update.name, update.n_steps, update.on_policy) == ("score", 1, True)
    assert {s.version for group in update.groups for s in group} == {0}


def test_the_first_stage_holds_first_tries_only() -> None:
    """Guards against the strong KL term on second tries, in the second stage, or lost with groups of equal returns."""
    settings: dict[str, Any] = {
        "first_stage_kl_coef": 0.7,
        "solve": Objective(kl_coef=0.02, zero_std_groups="drop"),
        "refine": Objective(kl_coef=0.03, clip_low=0.1),
    }
    _, n_first_stage = run("wr", "rr", "ww", n_first_stage=1, **settings)
    assert [part.kl_coef for part in n_first_stage] == [0.7, 0.03]
    assert len(n_first_stage[0].samples) == 3
    assert n_first_stage[1].surrogate.low == 0.1  # type: ignore[attr-defined]
    _, second_stage = run("wr", "rr", "ww", n_first_stage=0, **settings)
    assert [part.kl_coef for part in second_stage] == [0.02, 0.03]


@pytest.mark.parametrize("n_first_stage", [0, 1])
def test_the_kl_terms_have_the_direction_of_the_paper(n_first_stage: int) -> None:
    """Guards against the gradient of KL(start || policy), which k3 has: the equations have KL(policy || start).

    A policy over three words, p = softmax(logits). On average over its words, the gradient of the term is p (d - KL),
    with d = log p - log p_start, entry by entry."""
    _, parts = run("wr", "ww", n_first_stage=n_first_stage)
    logits = torch.tensor([0.3, -1.0, 2.0], requires_grad=True)
    start = torch.tensor([1.0, 0.5, -0.5]).log_softmax(0)
    log_p = logits.log_softmax(0)
    p, d = log_p.exp().detach(), (log_p - start).detach()
    for part in parts:
        mean = (p * kl_estimate(log_p, start, part.kl_estimator)).sum()
        (found,) = torch.autograd.grad(mean, logits, retain_graph=True)
        assert found == pytest.approx((p * (d - (p * d).sum())).numpy(), abs=1e-6)


def test_stages_follow_each_other_across_a_resumed_run() -> None:
    """Guards against a stage that starts again with each batch, or with a resumed run: state is plain data."""
    state: dict[str, Any] = {}
    stages = []
    for _ in range(4):
        update, _ = run("wr", "ww", n_first_stage=2, state=state)
        stages.append(update.metrics["stage"])
        state = dict(state)  # as a checkpoint saves and loads it
    assert stages == [1, 1, 2, 2]
    assert state == {"n_batches": 4}


def test_tries_without_a_pair_are_left_out() -> None:
    """Guards against ungraded tries that count as 0. Of five pairs two are complete: 0 then 4, and 1 then 1."""
    update, parts = run("?r", "r?", "wr", "??", "rr", n_first_stage=0, alpha=3.0)
    assert advantages_by_text(parts[0]) == {"solve 2 no": -0.5, "solve 4 2": 0.5}
    assert advantages_by_text(parts[1]) == {"refine 2 2": 1.5, "refine 4 2": -1.5}
    asked = [s.prompt.draft.index for group in update.groups[1:] for s in group if s.prompt.draft is not None]
    assert asked == [1, 2, 4], "a first try that was not graded is not refined"
    assert update.metrics["gain"] == pytest.approx(0.5)  # 1 and 0


def test_prompts_that_are_too_long_leave_the_others_alone() -> None:
    """Guards against second tries that move to another first try, and a crash without any."""

    def is_too_long(prompt: Prompt) -> bool:
        return prompt.problem.id == "p1" or (prompt.draft is not None and prompt.draft.index == 1)

    policy = SkippingPolicy(scripted("wr", "rr", "ww"), is_too_long)
    method = SCoRe(n_solve=3, n_first_stage=0, alpha=3.0, discount=1.0)
    (update,) = run_batch(method, policy, TEXTS, PROBLEMS[:3])
    for part in update.parts:
        assert isinstance(part, PolicyGradient)
        assert [(s.problem.id, s.text.split()[1]) for s in part.samples] == [
            ("p0", "0"), ("p0", "2"), ("p2", "0"), ("p2", "2")
        ]  # fmt: skip
        assert part.advantages == (2.0, -2.0, 2.0, -2.0)  # 4 and 0
    (empty,) = run_batch(method, SkippingPolicy(scripted("wr", "rr", "ww"), lambda prompt: True), TEXTS)
    assert [part.samples for part in empty.parts] == [(), ()]
    assert math.isnan(empty.metrics["gain"])


def test_the_log_has_all_tries_with_their_own_rewards() -> None:
    """Guards against groups of one, or returns in place of rewards, in the logged numbers."""
    update, _ = run("wr", "rw", "rr", "w?", n_first_stage=0)
    assert [[s.reward for s in group] for group in update.groups] == [[0, 1, 1, 0], [1, 0, 1, None]]
    assert [[s.prompt.phase for s in group] for group in update.groups] == [["solve"] * 4, ["refine"] * 4]
    assert update.metrics == {"stage": 2, "gain": 0.0}


def test_optimizer_steps_train_both_tries_at_the_same_problems() -> None:
    """Guards against steps in which first and second tries belong to different problems."""
    step = Objective(n_steps=4)
    update, parts = run("wr", "rr", "ww", problems=[make_problem(n) for n in range(8)], solve=step, refine=step)
    for first, second in zip(*(split_into_steps(part, update.n_steps) for part in parts), strict=True):
        assert [s.problem.id for s in first.samples] == [s.problem.id for s in second.samples]
        assert len({s.problem.id for s in first.samples}) == 2


def test_settings_that_contradict_each_other_are_refused() -> None:
    """Guards against a number of optimizer steps, or returns, that are silently ignored."""
    with pytest.raises(ValueError, match=r"solve.n_steps = 4 and refine.n_steps = 1 must be equal"):
        SCoRe(solve=Objective(n_steps=4))
    with pytest.raises(ValueError, match=r'truncated = "wrong" would replace the return of two tries'):
        SCoRe(refine=Objective(truncated="wrong", n_steps=1))
    with pytest.raises(ValueError, match="n_solve must be at least 2, not 1"):
        SCoRe(n_solve=1)
    with pytest.raises(ValueError, match=r'refine.advantage = "maxrl" needs rewards of at least 0, but alpha'):
        SCoRe(refine=Objective("maxrl", n_steps=1))
    assert SCoRe(alpha=0.0, refine=Objective("maxrl", n_steps=1)).alpha == 0


@pytest.mark.slow
def test_a_run_trains_both_stages_and_resumes(make: Make) -> None:
    """Guards against a stage that a resumed run repeats, and a KL term without the start weights."""
    run = assert_resumes(make, "method.name=score", "method.n_solve=5", "method.n_first_stage=2")
    log = records(run)
    assert [record["method/stage"] for record in log] == [1, 1, 2, 2]
    assert [record["n_samples"] for record in log] == [20, 20, 20, 20]
    assert log[-1]["kl_to_reference_nats"] > 0
    assert {"fix", "damage"} <= log[0].keys()
