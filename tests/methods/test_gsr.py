"""Generative Self-Refinement: the two data sets, and a loss of two parts with separate denominators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.methods.gsr import GSR
from rethink.models.language_model import LanguageModel
from rethink.objectives import Imitate, Update
from rethink.policies.base import Policy
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.types import Demonstration, Problem, Prompt, Sampling, Verdict
from support.method_runs import Script, SkippingPolicy, make_problem, verify
from support.samples import copied, gradient_of, make_trainer, reference_imitate

TEXTS = Prompts("{question}", merge="{question} {candidates} merge", candidate="<{candidate}>", between=" ", seed=5)
PROBLEMS = [make_problem(n, gold=str(1000 + n)) for n in range(7)]


def student(prompt: Prompt, index: int, version: int) -> str:
    """Of p0's candidates none is right, of p1's one, and so on."""
    answer = prompt.problem.gold if index < int(prompt.problem.id[1:]) else f"no{index}"
    return f"candidate {index} says {answer}"


def teacher(prompt: Prompt, index: int, version: int) -> str:
    """Wrong on p2's question and p3's candidates; on p4's candidates it cannot be graded."""
    wrong = {("p2", "solve"): "no", ("p3", "merge"): "no", ("p4", "merge"): "?"}
    return f"{prompt.phase} gives {wrong.get((prompt.problem.id, prompt.phase), prompt.problem.gold)}"


def prepare(
    problems: Sequence[Problem] = PROBLEMS, teach: Script = teacher, policy: Policy | None = None, cap: int = 1024,
    **settings: Any,
) -> tuple[list[dict[str, Any]], FakePolicy]:  # fmt: skip
    """The rows for these problems, and the teacher that was asked."""
    teaching = FakePolicy(teach, Sampling(max_tokens=cap))
    actors = Actors(policy or FakePolicy(student), TEXTS, grade, {"teacher": teaching}.__getitem__)
    return list(GSR(**settings).prepare(actors, problems)), teaching


# The data sets


def test_the_teacher_sees_every_candidate_once() -> None:
    """Guards against candidates that are lost, repeated, or the teacher's own."""
    rows, asked = prepare(k=5)
    merges = {p.problem.id: p for p in asked.shown if p.phase == "merge"}
    for row in rows:
        prompt = merges[row["problem"]]
        assert sorted(row["candidates"]) == [student(prompt, index, 0) for index in range(5)]
        (turn,) = prompt.messages
        assert turn.content == f"{row['question']} {' '.join(f'<{c}>' for c in row['candidates'])} merge"


def test_candidates_are_shuffled_by_problem() -> None:
    """Guards against an order that is the same for all problems, or depends on the other problems."""
    rows, _ = prepare()
    assert len({tuple(c.split()[1] for c in row["candidates"]) for row in rows}) > 3
    alone = [row for problem in PROBLEMS[::-1] for row in prepare([problem])[0]]
    assert alone[::-1] == rows


def test_the_merge_prompt_does_not_depend_on_verdicts() -> None:
    """Guards against a prompt that shows which candidates are right, or the gold answer (p0 has no right candidate)."""
    _, asked = prepare()
    assert not any("1000" in m.content for p in asked.shown if p.problem.id == "p0" for m in p.messages)
    _, other = prepare([replace(p, verify=lambda reply, gold: Verdict(True)) for p in PROBLEMS])
    assert [p.messages for p in other.shown] == [p.messages for p in asked.shown]


def test_only_wrong_targets_are_dropped() -> None:
    """Guards against a filter on candidates (p0 stays, though all of its candidates are wrong), and ungraded targets."""
    rows, _ = prepare()
    assert [(row["problem"], row["n_right"]) for row in rows] == [(f"p{n}", min(n, 4)) for n in range(7)]
    assert [row["problem"] for row in rows if not row["direct"]] == ["p2"]
    assert [row["problem"] for row in rows if not row["refined"]] == ["p3", "p4"]
    assert (rows[0]["direct"], rows[0]["refined"]) == ("solve gives 1000", "merge gives 1000")
    unfiltered, _ = prepare(gold_filter=False)
    assert [bool(row["direct"] and row["refined"]) for row in unfiltered] == [True] * 7
    one_right, _ = prepare(teach=lambda p, i, v: "no" if p.problem.id != "p1" else teacher(p, i, v))
    assert [row["problem"] for row in one_right] == ["p1"]


@pytest.mark.parametrize("gold_filter", [True, False])
def test_targets_that_were_cut_are_dropped(gold_filter: bool) -> None:
    """Regression: a right reply that was cut was trained with an end token that nobody had sampled."""

    def long(prompt: Prompt, index: int, version: int) -> str:
        cut = (prompt.problem.id, prompt.phase) in (("p1", "solve"), ("p5", "merge"))
        return f"{prompt.phase} gives {f'well {prompt.problem.gold} so' if cut else prompt.problem.gold}"

    # At 4 tokens, "solve gives well 1001" is right and cut; three words and the end token fit.
    rows, _ = prepare(teach=long, cap=4, gold_filter=gold_filter)
    assert [row["problem"] for row in rows if row["direct"] is None] == ["p1"]
    assert [row["problem"] for row in rows if row["refined"] is None] == ["p5"]


@pytest.mark.parametrize("direct_is_right", [True, False])
def test_without_candidates_nothing_is_merged(direct_is_right: bool) -> None:
    """Guards against an answer merged from no candidates, and a row without any target."""
    rows, _ = prepare(
        PROBLEMS[:1],
        lambda p, i, v: teacher(p, i, v) if direct_is_right or p.phase == "merge" else "no",
        SkippingPolicy(student, lambda prompt: True),
    )
    assert [(row["direct"], row["refined"]) for row in rows] == ([("solve gives 1000", None)] * direct_is_right)


# The loss


def pair(n: int) -> Problem:
    """A problem with demonstrations of different lengths."""
    direct = Demonstration("3 * 7 = 21 ; 21 + 5 = 26"[: 9 + 2 * n])
    shown = (direct, Demonstration(f"{n} + 5 = 26", "merge", ("7 - 3 = 4", "5 + 7 = 12")))
    return Problem(f"p{n}", f"{n} 7 5 -> 26", "26", verify, demonstrate=lambda seed: shown)


PAIRS = [pair(n) for n in range(3)]


def updates(method: GSR, policy: Policy, problems: Sequence[Problem]) -> list[Update]:
    return list(method.updates(Actors(policy, TEXTS, grade), problems))


def imitations(update: Update) -> list[Imitate]:
    return [part for part in update.parts if isinstance(part, Imitate)]


def test_each_data_set_has_its_own_part() -> None:
    """Guards against lambda on the wrong data set, prompts of the other phase, and a part of weight 0."""
    (update,) = updates(GSR(lam=0.25, n_steps=3), FakePolicy(student), PAIRS)
    direct, merged = imitations(update)
    assert (direct.coefficient, merged.coefficient, update.n_steps) == (0.25, 0.75, 3)
    assert {s.prompt.phase for s in direct.samples} == {"solve"}
    assert {s.prompt.phase for s in merged.samples} == {"merge"}
    assert merged.samples[1].prompt.messages == TEXTS.messages(PAIRS[1], "merge", ("7 - 3 = 4", "5 + 7 = 12"))
    assert set(direct.weights) == set(merged.weights) == {1.0}
    for lam, phase in ((1.0, "solve"), (0.0, "merge")):
        (update,) = updates(GSR(lam=lam), FakePolicy(student), PAIRS)
        (part,) = imitations(update)
        assert (part.coefficient, {s.prompt.phase for s in part.samples}) == (1.0, {phase})
    with pytest.raises(ValueError, match="lam must be between 0 and 1"):
        GSR(lam=1.1)


@pytest.mark.slow
def test_the_gradient_is_that_of_the_targets(qwen: LanguageModel) -> None:
    """Guards against a loss on candidates, targets without their end token, and a denominator that the parts share."""
    (update,) = updates(GSR(), LocalPolicy(qwen, Sampling(max_tokens=31)), PAIRS)
    for part in update.parts:
        for s in part.samples:
            assert s.ids == qwen.chat.encode_reply(s.text)
            assert s.ids[-1] == qwen.chat.end_id
            assert s.prompt_ids == qwen.chat.encode(s.prompt.messages)
    trainer = make_trainer(qwen)
    trainer.apply(update)
    # By brute force, in float64: lambda * mean over direct tokens + (1 - lambda) * mean over merged tokens.
    module = copied(qwen).module.double()
    torch.stack([reference_imitate(module, part) for part in imitations(update)]).sum().backward()
    expected = gradient_of(module)
    for name, found in gradient_of(trainer.model.module).items():
        torch.testing.assert_close(found.double(), expected[name], rtol=1e-3, atol=1e-5)


def test_problems_without_data_are_refused() -> None:
    """Guards against a run that trains on nothing."""
    refining = replace(PROBLEMS[0], demonstrate=lambda seed: (Demonstration("1", "refine", ("2",)),))
    with pytest.raises(UserError, match="made by `rethink prepare`"):
        updates(GSR(), FakePolicy(student), [refining])
