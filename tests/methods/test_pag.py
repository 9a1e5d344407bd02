"""PAG: what is checked and revised, the rewards of the three kinds of replies, and their baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from rethink.methods.pag import PAG
from rethink.objectives import Objective, Update, split_into_steps
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.training.metrics import describe_groups
from rethink.types import Problem, Prompt, Sample
from support.method_runs import PROBLEMS, Script, SkippingPolicy, advantages_by_text, make_problem, only_part, run_batch
from support.runs import Make, assert_resumes, records
from support.samples import factors

TEXTS = Prompts("{question}", critique="check", satisfied="fine", improve="again", seed=13)
WORDS = {"f": "fine", "b": "bad", "u": "unclear"}


def place_of(prompt: Prompt, index: int) -> int:
    """The place of the first answer of a conversation in its group."""
    draft = prompt.draft
    while draft is not None:
        index, draft = draft.index, draft.prompt.draft
    return index


def scripted(*chains: str) -> Script:
    """Conversations such as "wbr": a wrong answer, a check that calls it bad, a right revision. Answers and revisions are
    right, wrong or not graded (r, w, ?), checks say fine, bad, or are unclear (f, b, u)."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        place = place_of(prompt, index)
        kind = chains[place][len(prompt.messages) // 2]
        word = WORDS.get(kind) or {"r": prompt.problem.gold, "w": "no", "?": "?"}[kind]
        return f"{prompt.phase} {prompt.problem.id} {place} {word}"

    return script


def run(*chains: str, problems: Sequence[Problem] = PROBLEMS[2:3], **settings: Any) -> tuple[Update, FakePolicy]:
    policy = FakePolicy(scripted(*chains))
    (update,) = run_batch(PAG(n_solve=len(chains), wrong="bad", **settings), policy, TEXTS, problems)
    return update, policy


def test_each_kind_of_reply_has_its_own_reward_and_baseline() -> None:
    """Guards against a baseline over several kinds of replies, and rewards of one turn that reach another.

    Answers right, right, wrong, wrong; their mean is 1/2. Two of four checks agree. With alpha 2, the revision of the right
    answer that was called bad is worth 1 + 2 (1 - 1), that of the wrong one 1 + 2 (1 - 0): 1 and 3, and their mean is 2."""
    update, _ = run("rf", "rbr", "wbr", "wf", alpha=2.0)
    part = only_part(update)
    assert advantages_by_text(part) == {
        "solve p2 0 2": 0.5, "solve p2 1 2": 0.5, "solve p2 2 no": -0.5, "solve p2 3 no": -0.5,
        "critique p2 0 fine": 0.5, "critique p2 1 bad": -0.5, "critique p2 2 bad": 0.5, "critique p2 3 fine": -0.5,
        "improve p2 1 2": -1.0, "improve p2 2 2": 1.0,
    }  # fmt: skip
    assert all(all(sample.mask) for sample in part.samples)
    assert (update.name, update.n_steps, update.on_policy) == ("pag", 4, True)
    assert {sample.version for sample in part.samples} == {0}


REVISIONS = {
    # (r1, r2) = (0, 1), (0, 0), (1, 1), (1, 0): rewards r2 + alpha (r2 - r1)
    0.0: (1.0, 0.0, 1.0, 0.0),
    1.0: (2.0, 0.0, 1.0, -1.0),
    10.0: (11.0, 0.0, 1.0, -10.0),
}


@pytest.mark.parametrize(("alpha", "rewards"), REVISIONS.items())
def test_the_bonus_of_a_revision(alpha: float, rewards: Sequence[float]) -> None:
    """Guards against a bonus with the wrong sign, and damage that costs nothing."""
    update, _ = run("wbr", "wbw", "rbr", "rbw", alpha=alpha)
    found = [a for s, a in zip(only_part(update).samples, factors(only_part(update)), strict=True) if is_revision(s)]
    mean = sum(rewards) / 4
    assert found == pytest.approx([reward - mean for reward in rewards])


def test_only_what_is_called_wrong_is_revised() -> None:
    """Guards against revisions of satisfied or unclear checks, and a conversation that lacks the check."""
    chains = ("rf", "rbw", "wf", "wbr", "wu", "ru")
    update, policy = run(*chains)
    asked = [prompt for prompt in policy.shown if prompt.phase == "improve"]
    assert [place_of(prompt, 0) for prompt in asked] == [1, 3]
    assert [m.content for m in asked[0].messages] == ["2 + 0", "solve p2 1 2", "check", "critique p2 1 bad", "again"]
    assert [m.role for m in asked[0].messages] == ["user", "assistant"] * 2 + ["user"]
    assert update.metrics == {
        "checks_agree": pytest.approx(2 / 6),
        "right_called_right": pytest.approx(1 / 3),
        "wrong_called_wrong": pytest.approx(1 / 3),
        "checks_unclear": pytest.approx(2 / 6),
    }


def test_revise_all_is_the_control_without_selection() -> None:
    """Guards against an ablation that changes nothing."""
    chains = ("rfr", "rbw", "wfr", "wbr", "wuw")
    _, policy = run(*chains, revise_all=True)
    assert [place_of(p, 0) for p in policy.shown if p.phase == "improve"] == [0, 1, 2, 3, 4]


def test_fix_and_damage_are_relative_to_the_answer_before_the_check() -> None:
    """Guards against a log without fix and damage, because a check, which has no verdict, stands between."""
    update, _ = run("rbw", "rbr", "wbr", "wbr", "wbw", "rf")
    numbers = describe_groups(update.groups)
    assert numbers["fix"] == pytest.approx(2 / 3)
    assert numbers["damage"] == 0.5
    assert numbers["accuracy"] == pytest.approx(6 / 11)  # three of six answers, three of five revisions
    assert numbers["n_not_graded"] == 0
    # Rewards without the bonus: three right answers, four checks that agree, three right revisions.
    assert numbers["reward"] == pytest.approx((3 + 4 + 3) / 17)


def test_replies_that_are_not_graded_are_left_out() -> None:
    """Guards against checks of answers whose verifier failed, and revisions that count as 0."""
    update, policy = run("?", "rb?", "wbr", "wbw", "wf", alpha=1.0)
    assert [place_of(p, 0) for p in policy.shown if p.phase == "critique"] == [1, 2, 3, 4]
    found = advantages_by_text(only_part(update))
    assert "solve p2 0 ?" not in found
    assert "improve p2 1 ?" not in found
    assert found["improve p2 2 2"] == 1.0  # 2 and 0
    assert found["improve p2 3 no"] == -1.0


def test_a_single_revision_has_no_baseline() -> None:
    """Guards against an advantage that is no comparison."""
    found = advantages_by_text(only_part(run("rf", "wbr", "rf")[0]))
    assert "improve p2 1 2" not in found
    assert len(found) == 6


def test_reinforce_pp_normalizes_each_role_over_the_batch() -> None:
    """Guards against policy and verifier in one baseline. It needs no group: a single revision is trained, too.

    The policy's rewards are 1, 0 and, for the revision with alpha 1, 2; mean 1, deviation 1. Both checks agree."""
    update, _ = run("rf", "wbr", solve=Objective("reinforce_pp"))
    found = advantages_by_text(only_part(update))
    expected = {"solve p2 0 2": 0.0, "solve p2 1 no": -1.0, "improve p2 1 2": 1.0}
    expected |= {"critique p2 0 fine": 0.0, "critique p2 1 bad": 0.0}
    assert found == pytest.approx(expected, abs=1e-5)


def test_rounds() -> None:
    """Guards against a second round that starts from the first answers, or from rewards with a bonus."""
    update, policy = run("wbwbr", "wbrf", "wbwf", "wbrbw", n_rounds=2, alpha=1.0)
    assert [len(p.messages) for p in policy.shown] == [1] + [3] * 4 + [5] * 4 + [7] * 4 + [9] * 2
    found = [a for s, a in zip(only_part(update).samples, factors(only_part(update)), strict=True) if is_revision(s)]
    # Round 1: 0, 2, 0, 2 (mean 1). Round 2: wrong to right is worth 2, and right to wrong -1 (mean 0.5).
    assert found == pytest.approx([-1.0, 1.0, -1.0, 1.0, 1.5, -1.5])


def test_optimizer_steps_train_all_roles() -> None:
    """Guards against steps that train answers only, because all checks come after them."""
    part = only_part(run("rf", "wbr", "wbw", "rf", problems=[make_problem(n) for n in range(8)])[0])
    for step in split_into_steps(part, 4):
        phases = [s.prompt.phase for s in step.samples]
        assert {phase: phases.count(phase) for phase in phases} == {"solve": 8, "critique": 8, "improve": 4}
        assert len({s.problem.id for s in step.samples}) == 2


def test_prompts_that_are_too_long_leave_the_others_alone() -> None:
    """Guards against replies that move to another conversation, and 0/0 without any."""
    skipped = {("solve", "p0", 0), ("critique", "p1", 1), ("improve", "p2", 1)}

    def is_too_long(prompt: Prompt) -> bool:
        return (prompt.phase, prompt.problem.id, place_of(prompt, 0)) in skipped

    policy = SkippingPolicy(scripted("wbr", "wbr", "wbw"), is_too_long)
    (update,) = run_batch(PAG(n_solve=3, wrong="bad"), policy, TEXTS, PROBLEMS[:3])
    texts = [s.text for s in only_part(update).samples]
    assert not [text for text in texts if " p0 " in text]
    assert [text for text in texts if text.startswith("improve")] == [
        "improve p1 0 1", "improve p1 2 no", "improve p2 0 2", "improve p2 2 no"
    ]  # fmt: skip
    (empty,) = run_batch(PAG(n_solve=3), SkippingPolicy(scripted("r", "r", "r"), lambda prompt: True), TEXTS)
    assert only_part(empty).samples == ()
    assert all(math.isnan(value) for value in empty.metrics.values())


def test_settings_that_contradict_each_other_are_refused() -> None:
    """Guards against a bonus that a cut revision loses silently."""
    with pytest.raises(ValueError, match=r'solve.truncated = "wrong" would replace the bonus of revisions'):
        PAG(solve=Objective(truncated="wrong"))
    assert PAG(alpha=0.0, solve=Objective(truncated="wrong")).alpha == 0
    with pytest.raises(ValueError, match="n_solve must be at least 2, not 1"):
        PAG(n_solve=1)
    with pytest.raises(ValueError, match=r'solve.advantage = "maxrl" needs rewards of at least 0, but alpha'):
        PAG(solve=Objective("maxrl"))
    assert PAG(alpha=0.0, solve=Objective("maxrl")).alpha == 0
    with pytest.raises(ValueError, match=r'"pass_at_k" needs groups .* there may be fewer revisions'):
        PAG(solve=Objective("pass_at_k", pass_k=2))


def is_revision(sample: Sample) -> bool:
    return sample.prompt.phase == "improve"


@pytest.mark.slow
def test_a_run_trains_all_roles_and_resumes(make: Make) -> None:
    """Guards against requests that a chat template cannot show, and a log without fix and damage."""
    texts = ("prompts.critique=check", "prompts.improve=again", "prompts.satisfied=fine")
    run = assert_resumes(make, "method.name=pag", "method.n_solve=5", "method.n_rounds=2", *texts)
    log = records(run)
    assert [record["n_samples"] for record in log] == [50] * 4, "a random model is never satisfied"
    assert log[0]["method/right_called_right"] == 0
    assert log[0]["method/wrong_called_wrong"] == 1
    assert {"fix", "damage"} <= log[0].keys()
    assert all(record["grad_norm"] > 0 for record in log)
