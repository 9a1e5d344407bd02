"""The reference model of KL terms: where it moves to, what compares with it, and that it survives a resume."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rethink.errors import UserError
from rethink.models import lora
from rethink.models.language_model import LanguageModel
from rethink.objectives import PolicyGradient
from rethink.settings import Lora, Training
from rethink.training import checkpoint
from rethink.training.check import check_settings
from rethink.training.checkpoint import Counters
from rethink.training.loop import train
from rethink.training.run import open_run
from rethink.training.trainer import Trainer
from support.runs import OFF_POLICY, Make, assert_same, finished, make, problems, records
from support.samples import apply, copied, make_trainer, mixed_part

__all__ = ["make", "problems"]


def weights(model: LanguageModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.module.named_parameters()}


def part_of(model: LanguageModel) -> PolicyGradient:
    return mixed_part(model.module, kl_coef=0.1)


def test_the_reference_moves_after_every_second_update(qwen: LanguageModel) -> None:
    """Guards against an average of the wrong weights, moves at the wrong time, and a KL term to the start model."""
    part, start = part_of(qwen), weights(qwen)
    trainer = make_trainer(qwen, lambda: copied(qwen), reference_every=2, reference_mixup=0.25, lr=0.01)
    apply(trainer, part, on_policy=False)
    assert trainer.reference.weights is None
    apply(trainer, part, on_policy=False)
    second = weights(trainer.model)
    expected = {name: 0.25 * second[name] + 0.75 * start[name] for name in start}
    moved = weights(trainer.reference.model)
    for name in start:
        torch.testing.assert_close(moved[name], expected[name])
    # The next update compares with a model of these weights.
    other = copied(qwen)
    other.module.load_state_dict(expected, strict=False)
    fixed = make_trainer(trainer.model, lambda: other, lr=0.01)
    wanted = apply(fixed, part, on_policy=False)["kl_to_reference_nats"]
    assert apply(trainer, part, on_policy=False)["kl_to_reference_nats"] == pytest.approx(wanted, rel=1e-4)
    apply(trainer, part, on_policy=False)
    fourth, twice = weights(trainer.model), weights(trainer.reference.model)
    for name in start:
        torch.testing.assert_close(twice[name], 0.25 * fourth[name] + 0.75 * moved[name])


def test_only_the_copy_that_moves_is_kept(qwen: LanguageModel) -> None:
    """Regression: the start model that was copied stayed in memory until the first move, beside the copy."""
    loaded: list[weakref.ref[object]] = []

    def load() -> LanguageModel:
        model = copied(qwen)
        loaded.append(weakref.ref(model.module))
        return model

    trainer = make_trainer(qwen, load, reference_every=2)
    apply(trainer, part_of(qwen), on_policy=False)
    gc.collect()
    assert [model() for model in loaded] == [None]


def test_a_reference_that_is_replaced_equals_the_policy(qwen: LanguageModel) -> None:
    """Guards against a reference that lags: replaced after every update, its KL is 0 at the next first step."""
    trainer = make_trainer(qwen, lambda: copied(qwen), reference_every=1, lr=0.01)
    apply(trainer, part_of(qwen), on_policy=False)
    assert apply(trainer, part_of(qwen), on_policy=False)["kl_to_reference_nats"] == 0


def test_adapters_are_merged_into_the_reference(qwen: LanguageModel) -> None:
    """Guards against a reference without the adapter, and against a base that moves along."""
    base = weights(qwen)
    model = lora.prepare_for_training(copied(qwen), Lora(rank=2), 3, resumed=False)
    assert model.base is not None
    settings = Training(lr=0.05, reference_every=1)
    trainer = Trainer(model, settings, 5, lambda: model.base or model)
    for _ in range(2):
        apply(trainer, part_of(qwen), on_policy=False)
    found = weights(trainer.reference.model)
    assert found.keys() == base.keys()
    assert all(torch.equal(p, base[name]) for name, p in model.base.module.named_parameters())
    assert any(not torch.equal(found[name], base[name]) for name in base)
    samples = part_of(qwen).samples
    merged = copied(trainer.reference.model)
    merged.module.requires_grad_(True)
    theirs = make_trainer(merged).log_probs(samples)
    for ours, wanted in zip(trainer.log_probs(samples), theirs, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_holds_the_reference(qwen: LanguageModel, tmp_path: Path) -> None:
    """Guards against a resumed run that compares with the start model, and a file where nothing has moved."""
    trainer = make_trainer(qwen, lambda: copied(qwen), reference_every=2, reference_mixup=0.5)
    apply(trainer, part_of(qwen), on_policy=False)
    first = checkpoint.save(tmp_path, trainer, Counters(1, 1, 1, 0), 9)
    apply(trainer, part_of(qwen), on_policy=False)
    second = checkpoint.save(tmp_path, trainer, Counters(2, 2, 2, 0), 9)
    assert not (first / "reference.safetensors").exists()
    assert checkpoint.find_damage(second) is None
    again = make_trainer(trainer.model, lambda: copied(qwen), reference_every=2, reference_mixup=0.5)
    checkpoint.load(second, again)
    ours, theirs = weights(trainer.reference.model), weights(again.reference.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for a in (trainer, again):
        apply(a, part_of(qwen), on_policy=False)
    ours, theirs = weights(trainer.model), weights(again.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


MOVING = ("method.name=grpo", "method.n_solve=3", "method.solve.kl_coef=0.1", "training.reference_every=2")


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [OFF_POLICY, "async_level=0"])
def test_a_run_resumes_with_its_reference(schedule: str, make: Make) -> None:
    """Guards against a reference that is not restored: resumed at update 5 with one that moved at 2 and 4."""
    settings = (*MOVING, "training.reference_mixup=0.3", schedule)
    whole = finished(make(*settings, "updates=8", out="whole"))
    assert any(record["kl_to_reference_nats"] > 0 for record in records(whole)[2:])
    finished(make(*settings, "updates=5"))
    run = open_run(make(*settings, "updates=8"), resume=True)
    list(train(run))
    assert_same(run, whole)


@pytest.mark.slow
def test_the_role_follows_the_policy(make: Make) -> None:
    """Guards against a teacher that stays at the start model, and one that moves while the next batch is sampled."""
    run = open_run(make(*MOVING, "updates=4"))
    before = run.role("reference")
    assert before is not run.role("initial")
    list(train(run))
    (sample,) = run.policy.sample(run.actors(0).prompts.ask(run.problems[:1]), 1)[0]
    reference, initial, policy = (p.score([sample])[0] for p in (before, run.role("initial"), run.policy))
    assert reference == pytest.approx(policy, abs=1e-4)
    assert initial != pytest.approx(policy, abs=1e-4)
    run = open_run(make(*MOVING, OFF_POLICY, "updates=4", out="off"))
    with pytest.raises(UserError, match="asks the reference model, which moves"):
        run.role("reference")
    still = open_run(make("method.name=grpo", "updates=4", out="still"))
    assert still.role("reference") is still.role("initial")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.reference_every=2"], "nothing compares with the start model; set method.solve.kl_coef"),
        (["training.reference_mixup=0.5"], "training.reference_mixup has no effect: set training.reference_every"),
        (["method.solve.kl_estimator=k2"], "method.solve.kl_estimator has no effect: set method.solve.kl_coef above 0"),
    ],
)
def test_settings_without_effect_are_refused(settings: list[str], message: str, make: Make) -> None:
    """Guards against a reference that costs memory and is never looked at."""
    with pytest.raises(UserError, match=message):
        check_settings(make("method.name=grpo", *settings))
    check_settings(make("method.name=grpo", "method.solve.kl_coef=0.1", "training.reference_every=2"))
