"""Generative Self-Refinement: the two sets that are prepared, and a loss of two parts with denominators of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.methods.gsr import GSR
from rethink.methods.imitate import Imitation
from rethink.models.language_model import LanguageModel
from rethink.objectives import Imitate, Update
from rethink.policies.base import Policy
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.training.losses import LOSSES, LossOutput
from rethink.training.losses.imitate import imitate_loss
from rethink.training.micro_batch import MicroBatch
from rethink.training.trainer import Trainer
from rethink.types import Demonstration, Group, Problem, Prompt, Sampling, Verdict
from support.samples import apply, copied, gradient_of, make_trainer, reply_of

TEXTS = Prompts("{question}", merge="{question} {candidates} merge", candidate="<{candidate}>", between=" ", seed=5)


def verify(reply: str, gold: str) -> Verdict:
    """Replies end with the answer; "?" cannot be graded."""
    return Verdict(None if reply.endswith("?") else reply.split()[-1] == gold)


PROBLEMS = [Problem(f"p{n}", f"{n} + 0", str(1000 + n), verify) for n in range(7)]


def student(prompt: Prompt, index: int, version: int) -> str:
    """Of p0's candidates none is right, of p1's one, and so on."""
    answer = prompt.problem.gold if index < int(prompt.problem.id[1:]) else f"no{index}"
    return f"candidate {index} says {answer}"


def wise(prompt: Prompt, index: int, version: int) -> str:
    """A teacher that is wrong on p2's bare question and p3's candidates, and cannot be graded on p4's."""
    wrong = {("p2", "solve"): "no", ("p3", "merge"): "no", ("p4", "merge"): "?"}
    return f"{prompt.phase} gives {wrong.get((prompt.problem.id, prompt.phase), prompt.problem.gold)}"


def prepared(
    problems: Sequence[Problem] = PROBLEMS, teach: Callable[[Prompt, int, int], str] = wise, **settings: Any
) -> tuple[list[dict[str, Any]], FakePolicy]:
    policy, teacher = FakePolicy(student), FakePolicy(teach)
    actors = Actors(policy, TEXTS, grade, lambda name: {"teacher": teacher}[name])
    return list(GSR(**settings).prepare(actors, problems)), teacher


# The sets


def test_candidates_of_the_start_weights_each_once() -> None:
    """Guards against candidates that are lost, doubled, numbered by verdict or of the teacher."""
    rows, teacher = prepared()
    merges = {p.problem.id: p for p in teacher.shown if p.phase == "merge"}
    for row in rows:
        assert sorted(row["candidates"]) == sorted(
            student(merges[row["problem"]], index, 0) for index in range(4)
        )  # fmt: skip
        (turn,) = merges[row["problem"]].messages
        assert [turn.content.count(f"<{c}>") for c in row["candidates"]] == [1] * 4
        assert turn.content == f"{row['question']} {' '.join(f'<{c}>' for c in row['candidates'])} merge"


def test_candidates_are_shuffled_by_the_problems_id() -> None:
    """Guards against an order that is the same for all, gives the right ones away, or is new in each run."""
    rows, _ = prepared()
    orders = [[c.split()[1] for c in row["candidates"]] for row in rows]
    assert len({tuple(order) for order in orders}) > 3
    alone = [row for problem in PROBLEMS[::-1] for row in prepared([problem])[0]]
    assert alone[::-1] == rows


def test_the_refine_prompt_has_no_verdict_and_no_gold() -> None:
    """Guards against a hint which candidates are right; p0 has no right one, so that the gold is nowhere in view."""
    _, teacher = prepared()
    shown = [m.content for p in teacher.shown if p.problem.id == "p0" for m in p.messages]
    assert len(shown) == 2
    assert not any("1000" in text or "right" in text or "wrong" in text for text in shown)
    graded_else = [replace(p, verify=lambda reply, gold: Verdict(True)) for p in PROBLEMS]
    again = prepared(graded_else)[1].shown
    assert [p.messages for p in again] == [p.messages for p in teacher.shown]


def test_only_wrong_targets_are_dropped() -> None:
    """Guards against a filter on candidates, which removes what makes the method work, and one that lets a target pass
    that nobody could grade. p2's direct answer, p3's and p4's refinements go; p0, all of whose candidates are wrong, stays.
    """
    rows, _ = prepared()
    assert [(row["problem"], row["n_right"], bool(row["direct"]), bool(row["refined"])) for row in rows] == [
        ("p0", 0, True, True),
        ("p1", 1, True, True),
        ("p2", 2, False, True),
        ("p3", 3, True, False),
        ("p4", 4, True, False),
        ("p5", 4, True, True),
        ("p6", 4, True, True),
    ]
    assert rows[0]["direct"] == "solve gives 1000"
    assert rows[0]["refined"] == "merge gives 1000"
    unfiltered, _ = prepared(gold_filter=False)
    assert all(row["direct"] and row["refined"] for row in unfiltered)
    assert len(unfiltered) == 7


@pytest.mark.parametrize("gold_filter", [True, False])
def test_a_target_that_was_cut_is_left_out_though_right(gold_filter: bool) -> None:
    """A reply cut at its cap, with the answer in it already, was taught with an end behind it that nobody had sampled."""

    def long(prompt: Prompt, index: int, version: int) -> str:
        cut = (prompt.problem.id, prompt.phase) in (("p1", "solve"), ("p5", "merge"))
        return f"{prompt.phase} gives {f'well {prompt.problem.gold} so' if cut else prompt.problem.gold}"

    teacher = FakePolicy(long, Sampling(max_tokens=4))  # three words and the end fit
    (group,) = teacher.sample(TEXTS.ask(PROBLEMS[1:2]), 1)
    assert (group[0].stop, group[0].text, verify(group[0].text, "1001").right) == (
        "length",
        "solve gives well 1001",
        True,
    )
    actors = Actors(FakePolicy(student), TEXTS, lambda groups: grade(groups), lambda _: teacher)
    rows = list(GSR(gold_filter=gold_filter).prepare(actors, PROBLEMS))
    assert [row["problem"] for row in rows if row["direct"] is None] == ["p1"]
    assert [row["problem"] for row in rows if row["refined"] is None] == ["p5"]


def test_a_problem_without_any_target_gives_no_row() -> None:
    """Guards against rows of nothing."""
    rows, _ = prepared(teach=lambda p, i, v: "no" if p.problem.id != "p1" else wise(p, i, v))
    assert [row["problem"] for row in rows] == ["p1"]


def test_the_number_of_candidates() -> None:
    """Guards against a fixed four."""
    assert {len(row["candidates"]) for row in prepared(k=7)[0]} == {7}


class NoCandidates(FakePolicy):
    """Finds p0's prompt too long."""

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        for i, group in super().groups(prompts, n, sampling):
            yield i, () if prompts[i].problem.id == "p0" else group


@pytest.mark.parametrize("direct_is_right", [True, False])
def test_without_candidates_there_is_no_refinement(direct_is_right: bool) -> None:
    """Guards against a refinement of nothing, and a row without any target."""
    teacher = FakePolicy(lambda p, i, v: wise(p, i, v) if direct_is_right or p.phase == "merge" else "no")
    actors = Actors(NoCandidates(student), TEXTS, grade, lambda _: teacher)
    rows = list(GSR().prepare(actors, PROBLEMS[:1]))
    assert [(row["direct"], row["refined"]) for row in rows] == ([("solve gives 1000", None)] * direct_is_right)


# The loss


def pair(number: int, phases: Sequence[str] = ("solve", "merge")) -> Problem:
    """A problem with both demonstrations, of different lengths."""
    both = {
        "solve": Demonstration("3 * 7 = 21 ; 21 + 5 = 26"[: 9 + 2 * number]),
        "merge": Demonstration(f"{number} + 5 = 26", "merge", ("7 - 3 = 4", "5 + 7 = 12")),
    }
    shown = tuple(both[phase] for phase in phases)
    return Problem(f"p{number}", f"{number} 7 5 -> 26", "26", verify, demonstrate=lambda seed: shown)


PAIRS = [pair(number) for number in range(3)]


def updates(method: Any, policy: Policy, problems: Sequence[Problem]) -> list[Update]:
    return list(method.updates(Actors(policy, TEXTS, grade), problems))


def trained(model: LanguageModel, method: Any, problems: Sequence[Problem]) -> Trainer:
    trainer = make_trainer(copied(model), lr=0.01)
    policy = LocalPolicy(trainer.model, Sampling(max_tokens=31))
    for _ in range(2):
        for update in updates(method, policy, problems):
            trainer.apply(update)
            policy.publish(trainer.version)
    return trainer


@pytest.mark.parametrize(("lam", "phase"), [(1.0, "solve"), (0.0, "merge")])
def test_the_ends_of_lambda_train_one_set_alone_bit_for_bit(qwen: LanguageModel, lam: float, phase: str) -> None:
    """Guards against a part of weight 0 that still counts."""
    ours = trained(qwen, GSR(lam=lam), PAIRS)
    alone = trained(qwen, Imitation(), [pair(number, [phase]) for number in range(3)])
    assert ours.n_optimizer_steps == 2
    assert all(map(torch.equal, ours.parameters, alone.parameters))
    between = trained(qwen, GSR(), PAIRS)
    assert not all(map(torch.equal, between.parameters, alone.parameters))


def test_each_set_has_its_own_part() -> None:
    """Guards against lambda on the wrong set, and prompts of the other mode."""
    (update,) = updates(GSR(lam=0.25, n_steps=3), FakePolicy(student), PAIRS)
    direct, refined = update.parts
    assert isinstance(direct, Imitate)
    assert isinstance(refined, Imitate)
    assert (direct.coefficient, refined.coefficient, update.n_steps) == (0.25, 0.75, 3)
    assert {s.prompt.phase for s in direct.samples} == {"solve"}
    assert {s.prompt.phase for s in refined.samples} == {"merge"}
    assert refined.samples[1].prompt.messages == TEXTS.messages(PAIRS[1], "merge", ("7 - 3 = 4", "5 + 7 = 12"))
    assert set(direct.weights) == set(refined.weights) == {1.0}


def constant_loss(micro: MicroBatch, log_probs_T: torch.Tensor, *others: Any) -> LossOutput:
    """As if each token had as many nats as its problem is called."""
    nll = [
        float(micro.samples[i].sample.problem.id) for i in micro.order for _ in range(micro.samples[i].sample.n_trained)
    ]
    return imitate_loss(micro, log_probs_T * 0 - torch.tensor(nll), *others)


@pytest.mark.parametrize("micro_batch_tokens", [1, 13, 1000])
def test_the_parts_have_their_own_denominators(
    qwen: LanguageModel, micro_batch_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Direct targets of 2 and 4 tokens with 1 nat each, a refined one of 12 with 3: 0.5 * 6/6 + 0.5 * 36/12 = 2.0. Over
    one denominator of 18: (0.5 * 6 + 0.5 * 36) / 18 = 1.17."""
    trainer = make_trainer(qwen, micro_batch_tokens=micro_batch_tokens)
    monkeypatch.setitem(LOSSES, Imitate, LOSSES[Imitate]._replace(compute=constant_loss))
    direct = Imitate((reply_of(2, group="1"), reply_of(4, group="1")), (1.0, 1.0), 0.5)
    refined = Imitate((reply_of(12, group="3"),), (1.0,), 0.5)
    assert apply(trainer, direct, refined)["loss"] == pytest.approx(2.0)
    back = replace(direct, samples=direct.samples[::-1])
    assert apply(trainer, refined, back, on_policy=False)["loss"] == pytest.approx(2.0)


def test_prompts_and_candidates_have_no_gradient_and_end_tokens_have(qwen: LanguageModel) -> None:
    """Guards against a loss on candidate tokens: what is trained is each target with its end token, and nothing else."""
    policy = LocalPolicy(qwen, Sampling(max_tokens=31))
    (update,) = updates(GSR(), policy, PAIRS)
    for part in update.parts:
        for s in part.samples:
            assert s.ids == qwen.chat.encode_reply(s.text)
            assert s.ids[-1] == qwen.chat.end_id
            assert s.mask == (True,) * len(s.ids)
            assert s.prompt_ids == qwen.chat.encode(s.prompt.messages)
    trainer = make_trainer(qwen)
    trainer.apply(update)
    whole = gradient_of(trainer.model.module)
    # By brute force: lambda * mean over direct tokens + (1 - lambda) * mean over refined tokens.
    module = copied(qwen).module.double()
    total = torch.zeros((), dtype=torch.float64)
    for part in update.parts:
        n = sum(len(s.ids) for s in part.samples)
        for s in part.samples:
            logits = module(input_ids=torch.tensor([[*s.prompt_ids, *s.ids]])).logits[0].log_softmax(-1)
            for t, token in enumerate(s.ids):
                total = total - 0.5 * logits[len(s.prompt_ids) - 1 + t, token] / n
    total.backward()
    expected = gradient_of(module)
    for name, got in whole.items():
        torch.testing.assert_close(got.double(), expected[name], rtol=1e-3, atol=1e-5)


def test_gsr_needs_its_sets() -> None:
    """Guards against a run that trains on nothing, and one that passes other demonstrations by."""
    with pytest.raises(UserError, match="has no demonstration to imitate"):
        updates(GSR(), FakePolicy(student), PROBLEMS)
    refining = replace(PROBLEMS[0], demonstrate=lambda seed: (Demonstration("1", "refine", ("2",)),))
    with pytest.raises(UserError, match="made by `rethink prepare`"):
        updates(GSR(), FakePolicy(student), [refining])


@pytest.mark.parametrize("lam", [-0.1, 1.1, math.nan])
def test_lambda_is_a_share(lam: float) -> None:
    """Guards against one part that unlearns."""
    with pytest.raises(ValueError, match=r"lam must be between 0 and 1"):
        GSR(lam=lam)
