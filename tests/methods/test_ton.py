"""TON: thoughts that are dropped in the cold start, and GRPO with a reward for the form of replies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.methods.ton import TON
from rethink.objectives import Imitate, Objective, Update
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.seeds import rng
from rethink.types import Demonstration, Problem, Prompt, RewardTerm, Sample
from support.method_runs import PROBLEMS, Script, SkippingPolicy, make_problem, only_part, run_batch
from support.runs import Make, assert_resumes, records
from support.samples import factors

TEXTS = Prompts("{question}", seed=5)
WITHOUT_KL = Objective("standardize", n_steps=1)
COLD = TON(n_cold=2, solve=WITHOUT_KL)
REPLY = "<think>{}</think><answer> {} </answer>"


def verified(n: int, **changes: Any) -> Problem:
    """A problem whose verifier reads what is between the marks of the answer."""
    problem = make_problem(n, **changes)

    def verify(reply: str, gold: str) -> Any:
        return problem.verify(reply.removesuffix("</answer>").strip() or "no", gold)

    return replace(problem, verify=verify)


def explained(n: int) -> Problem:
    shown = (Demonstration(REPLY.format("because", n)), Demonstration("again", "refine", ("5",)))
    return verified(n, demonstrate=lambda seed: shown)


def run(
    method: TON, script: Script | None = None, problems: list[Problem] = PROBLEMS, state: Any = None
) -> list[Update]:
    return run_batch(method, FakePolicy(script or (lambda p, i, v: "no")), TEXTS, problems, state=state)


# The cold start


def imitated(method: TON, problems: list[Problem]) -> tuple[tuple[Sample, ...], Update]:
    (update,) = run(method, problems=problems)
    (part,) = update.parts
    assert isinstance(part, Imitate)
    assert part.weights == (1.0,) * len(part.samples)
    return part.samples, update


@pytest.mark.parametrize(("dropout", "thought"), [(0.0, "because"), (1.0, "\n\n")])
def test_all_or_no_thoughts_are_dropped(dropout: float, thought: str) -> None:
    """Guards against the probability of keeping a thought in the place of that of dropping it."""
    samples, update = imitated(replace(COLD, dropout=dropout), [explained(n) for n in range(7)])
    assert [sample.text for sample in samples] == [REPLY.format(thought, n) for n in range(7)]
    assert {sample.prompt.phase for sample in samples} == {"solve"}
    assert [sample.prompt.messages[0].content for sample in samples] == [f"{n} + 0" for n in range(7)]
    assert all(all(sample.mask) for sample in samples)  # the marks, the empty thought and the end token are trained
    assert (update.name, update.metrics) == ("cold_start", {"skipped_frac": dropout})


def test_half_of_the_thoughts_are_dropped() -> None:
    """Guards against another share than p, and a draw that depends on the batch or the pass."""
    problems = [explained(n) for n in range(2000)]
    samples, update = imitated(COLD, problems)
    dropped = [sample.problem.id for sample in samples if "because" not in sample.text]
    # Of 2,000 thoughts, 1,000 +- 22.4 are dropped; 4 standard deviations.
    assert abs(len(dropped) - 1000) < 90
    assert update.metrics["skipped_frac"] == len(dropped) / 2000
    (again,) = run_batch(COLD, FakePolicy(lambda p, i, v: ""), replace(TEXTS, seed=6), problems[::-1])
    (part,) = again.parts
    assert [s.problem.id for s in part.samples if "because" not in s.text] == dropped[::-1]


def test_the_cold_start_ends() -> None:
    """Guards against a cold start that never ends, and one that begins again after a resume."""
    state: dict[str, Any] = {}
    problems = [explained(n) for n in range(3)]
    names = []
    for _ in range(4):
        names += [update.name for update in run(COLD, problems=problems, state=state)]
        state = dict(state)  # as a checkpoint would
    assert names == ["cold_start", "cold_start", "solve", "solve"]
    assert [update.name for update in run(TON(), problems=problems)] == ["solve"]


@pytest.mark.parametrize("reply", ["2", "<think>because</think> 2", ""])
def test_problems_without_a_thought_are_refused(reply: str) -> None:
    """Guards against a cold start that imitates nothing, or replies of another form."""
    bare = make_problem(2, demonstrate=lambda seed: (Demonstration(reply),) if reply else ())
    for problem in (bare, make_problem(2)):
        with pytest.raises(
            UserError, match=r"p2 has no reply of the form <think>\.\.\.</think><answer>\.\.\.</answer>"
        ):
            run(COLD, problems=[explained(1), problem])


def test_a_kl_term_to_the_weights_before_the_cold_start_is_refused() -> None:
    """Guards against a reference that does not know the form of the replies."""
    with pytest.raises(ValueError, match=r"set solve\.kl_coef to 0"):
        TON(n_cold=1)
    assert TON().solve.kl_coef == 0.04


# GRPO


REWARDS = {
    REPLY.format("because", 1): (True, 1.0, 2.0, 1.0),
    REPLY.format("\n\n", 1): (True, 1.0, 2.0, 1.0),
    REPLY.format("because", 5): (False, 1.0, 1.0, 0.0),
    "1": (True, 0.0, 1.0, 0.0),
    "because " + REPLY.format("", 1): (True, 0.0, 1.0, 0.0),
    "5": (False, 0.0, 0.0, 0.0),
}


@pytest.mark.parametrize(("reply", "expected"), REWARDS.items())
def test_rewards(reply: str, expected: tuple[bool, float, float, float]) -> None:
    """Guards against a form that counts twice or not at all, and a verdict that it changes."""
    right, form, added, gated = expected
    for kind, reward in (("add", added), ("gate", gated)):
        (update,) = run(TON(n_solve=2, format_reward=kind), lambda p, i, v: reply, [verified(1)])  # type: ignore[arg-type]
        for sample in update.groups[0]:
            assert (sample.right, sample.reward) == (right, reward)
            assert sample.terms == (RewardTerm("form", form),)


def test_replies_that_are_not_graded_have_no_reward() -> None:
    """Guards against a reward for the form of a reply whose answer nobody could grade."""
    replies = [REPLY.format("because", "?"), REPLY.format("because", 1), "5"]
    (update,) = run(TON(n_solve=3), lambda p, i, v: replies[i], [verified(1)])
    assert [sample.reward for sample in update.groups[0]] == [None, 2.0, 0.0]
    assert [sample.text for sample in only_part(update).samples] == replies[1:]


def test_the_loss() -> None:
    """Guards against another advantage, a token mean, and a length that enters the reward.

    Rewards 2, 1, 1, 0 have the mean 1 and, with n - 1, the standard deviation sqrt(2/3): 1 / 0.81650 = 1.22474."""
    replies = [REPLY.format("\n\n", 1), REPLY.format("because", 5), REPLY.format("be cause", 5), "5"]
    (update,) = run(TON(n_solve=4), lambda p, i, v: replies[i], [verified(1)])
    part = only_part(update)
    assert factors(part) == pytest.approx([1.22474, 0, 0, -1.22474], abs=1e-4)
    assert (part.loss_aggregation, part.kl_coef, update.n_steps) == ("sequence", 0.04, 1)
    assert update.name == "solve"
    assert update.metrics["skipped_frac"] == 0.25
    assert update.metrics["accuracy_skipped"] == 1
    assert update.metrics["accuracy_thought"] == 0


def test_skipped_prompts_give_an_empty_update() -> None:
    """Guards against a share of nothing."""
    (update,) = run_batch(TON(), SkippingPolicy(lambda p, i, v: "no", lambda prompt: True), TEXTS)
    assert only_part(update).samples == ()
    assert all(value != value for value in update.metrics.values())


def choice(p_think: float, right: dict[bool, float]) -> Script:
    """A policy of two modes, which thinks with probability p_think; a mode is right with the given probability."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        generator = rng(prompt.seed, index, version)
        thinks = generator.random() < p_think
        is_right = generator.random() < right[thinks]
        return REPLY.format("because" if thinks else "", prompt.problem.gold if is_right else "no")

    return script


@pytest.mark.parametrize(("thinking", "skipping", "sign"), [(1.0, 0.2, 1), (0.2, 1.0, -1)])
def test_the_mode_that_is_right_is_reinforced(thinking: float, skipping: float, sign: int) -> None:
    """Guards against a preference for short or long replies: the advantages favor the mode that answers better."""
    problems = [verified(n) for n in range(101)]
    (update,) = run(TON(), choice(0.5, {True: thinking, False: skipping}), problems)
    part = only_part(update)
    total = 0.0
    for sample, advantage in zip(part.samples, factors(part), strict=True):
        total += advantage if "because" in sample.text else -advantage
    # 808 advantages of size 1, which agree with the mode in about 90% of cases.
    assert sign * total > 400


@pytest.mark.slow
def test_a_run_resumes_after_its_cold_start(make: Make, tmp_path: Path) -> None:
    """Guards against a resumed run that begins with another cold start, and replies that do not reach the loss."""
    rows = [
        {"key": f"p{n}", "question": f"{n} 7 5 -> 26", "answer": "26", "reply": f"again {n} -> ? 7"} for n in range(7)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    form = ['method.form.thought=["again ", " -> ? "]', 'method.form.answer=["", ""]', 'method.form.empty=" "']
    given = ["method.name=ton", "method.n_solve=3", "method.n_cold=2", "method.solve.kl_coef=0", *form]
    run = assert_resumes(make, *given, f"problems.source={tmp_path / 'rows.jsonl'}", "problems.reply=reply")
    logged = records(run)
    assert [record["phase"] for record in logged] == ["cold_start", "cold_start", "solve", "solve"]
    assert all("method/skipped_frac" in record for record in logged)
    assert {"method/tokens_saved", "reward/form"} <= logged[2].keys()
    assert run.state == {"n_batches": 4}
