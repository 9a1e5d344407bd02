"""SuperCorrect: imitation of solutions in steps, then DPO on pairs of corrections that begin with the same steps."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.methods.supercorrect import SuperCorrect
from rethink.models.language_model import LanguageModel
from rethink.objectives import Imitate, Prefer, Update
from rethink.policies.base import Policy
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.types import Demonstration, Problem, Sampling
from support.method_runs import PROBLEMS, make_problem
from support.runs import Make, assert_resumes, records
from support.samples import copied, gradient_of, make_trainer

TEXTS = Prompts("{question}", "find your mistake", seed=5)
PAIRS = SuperCorrect("corrections", beta=0.3)


def paired(n: int, chosen: str, rejected: str, draft: str = "3 + 4 = 8") -> Problem:
    found = [Demonstration(reply, "refine", (draft,)) for reply in (chosen, rejected)]
    return make_problem(n, preference=(found[0], found[1]))


def update_of(method: SuperCorrect, problems: list[Problem], policy: Policy | None = None) -> Update:
    actors = Actors(policy or FakePolicy(lambda p, i, v: ""), TEXTS, grade)
    (update,) = method.updates(actors, problems)
    return update


def prefer(update: Update) -> Prefer:
    (part,) = update.parts
    assert isinstance(part, Prefer)
    return part


def test_pairs_share_their_prompt_and_first_tokens() -> None:
    """Guards against chosen and rejected replies that swap places, prompts without the draft, and trained right steps."""
    problems = [paired(2, "a b so c d e", "a b or c"), paired(3, "x y", "z")]
    update = update_of(replace(PAIRS, n_steps=2), problems)
    part = prefer(update)
    assert (update.name, update.n_steps, part.beta) == ("corrections", 2, 0.3)
    assert [sample.text for sample in part.chosen] == ["a b so c d e", "x y"]
    assert [sample.text for sample in part.rejected] == ["a b or c", "z"]
    for chosen, rejected in zip(part.chosen, part.rejected, strict=True):
        assert chosen.prompt_ids == rejected.prompt_ids
        assert chosen.prompt.group == rejected.prompt.group
        assert [m.content for m in chosen.prompt.messages][1:] == ["3 + 4 = 8", "find your mistake"]
    # The tokens "a b" are shared; the end token is trained.
    assert [sample.mask for sample in part.samples] == [
        (False, False, True, True, True, True, True), (True,) * 3, (False, False, True, True, True), (True,) * 2
    ]  # fmt: skip


def test_equal_replies_train_nothing() -> None:
    """Guards against a pair that counts in the mean although it says nothing."""
    part = prefer(update_of(PAIRS, [paired(2, "a b", "a b"), paired(3, "a b", "a b c")]))
    assert [sample.n_trained for sample in part.samples] == [0, 1, 0, 2]


def test_solutions_are_imitated() -> None:
    """Guards against a loss on pairs in the first stage, and weights that are not 1."""
    solved = [make_problem(n, demonstrate=lambda seed: (Demonstration("so it is"),)) for n in (2, 3)]
    update = update_of(SuperCorrect(), solved)
    (part,) = update.parts
    assert isinstance(part, Imitate)
    assert update.name == "templates"
    assert [(s.problem.id, s.text, s.mask) for s in part.samples] == [
        (f"p{n}", "so it is", (True,) * 4) for n in (2, 3)
    ]
    assert part.weights == (1.0, 1.0)


def test_problems_without_data_are_refused() -> None:
    """Guards against a run that trains on the data of the other stage, or on nothing."""
    with pytest.raises(UserError, match="p3 has no demonstration to imitate"):
        update_of(SuperCorrect(), PROBLEMS[3:4])
    with pytest.raises(UserError, match=r"p3 has no pair of corrections; name the columns .*problems\.rejected"):
        update_of(PAIRS, [paired(2, "a", "b"), PROBLEMS[3]])


@pytest.mark.parametrize(
    ("chosen", "rejected", "beta", "loss"), [(0.0, 0.0, 0.1, 0.693147), (2.0, -1.0, 0.1, 0.554355), (60, 0, 1.0, 0.0)]
)
def test_the_loss_by_hand(chosen: float, rejected: float, beta: float, loss: float) -> None:
    """Guards against a formula of these docs that gives other numbers than the specification: log(1 + exp(-margin))."""
    assert math.log1p(math.exp(-beta * (chosen - rejected))) == pytest.approx(loss, abs=1e-6)


@pytest.mark.slow
def test_shared_tokens_cancel_out(qwen: LanguageModel) -> None:
    """Guards against a mask that changes the loss: with the right steps trained, the gradient is the same."""
    problems = [paired(2, "3 + 5 = 8 ; 8 + 1 = 9", "3 + 5 = 8 ; 8 - 1 = 7 ; 3", draft="3 + 5 = 7")]
    problems.append(paired(3, "3 * 7 = 21", "5 + 7", draft="3 + 5 = 7"))
    part = prefer(update_of(PAIRS, problems, LocalPolicy(qwen, Sampling(max_tokens=31))))
    assert not all(map(all, [sample.mask for sample in part.samples]))
    whole = [replace(sample, mask=(True,) * len(sample.ids)) for sample in part.samples]
    found = []
    for chosen, rejected in ((part.chosen, part.rejected), (tuple(whole[:2]), tuple(whole[2:]))):
        trainer = make_trainer(qwen, lambda: copied(qwen))
        trainer.apply(Update("corrections", (Prefer(chosen, rejected, part.beta),)))
        found.append(gradient_of(trainer.model.module))
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-3, atol=1e-6)
        assert gradient.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("draft", ["", "draft"])
def test_a_run_on_pairs_resumes(make: Make, tmp_path: Path, draft: str) -> None:
    """Guards against columns that do not reach the loss, and start weights that a resumed run loses."""
    rows = [
        {
            "key": f"p{n}",
            "question": f"{n} 7 5 -> 26",
            "answer": "26",
            "draft": f"{n}",
            "yes": f"{n} + 7",
            "no": f"{n} - 5",
        }
        for n in range(7)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = [f"problems.source={tmp_path / 'rows.jsonl'}", "problems.chosen=yes", "problems.rejected=no"]
    given = ["method.name=supercorrect", "method.stage=corrections", *columns, f"problems.draft={draft}"]
    logged = records(assert_resumes(make, *given))
    assert [record["phase"] for record in logged] == ["corrections"] * 4
    assert [record["preference/n_pairs"] for record in logged] == [2] * 4
    assert logged[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert logged[3]["preference/margin"] > 0
