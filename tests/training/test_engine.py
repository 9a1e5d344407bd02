"""Gradients and log-probs on several cores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from rethink import threads
from rethink.models.language_model import LanguageModel
from rethink.objectives import Clip, Imitate
from rethink.training.engine import Pack
from rethink.training.fsdp.engine import rounds_of
from rethink.training.losses import LOSSES, LossOutput
from rethink.training.losses.clip import clip_loss
from rethink.training.micro_batch import MicroBatch
from support.samples import (
    apply,
    assert_same_gradient,
    exact,
    gradient_of,
    make_trainer,
    reference_policy_gradient,
    shared_part,
)
from support.trained import FLOAT32, bits, expected_gradient, same


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Restore the number of threads, which these tests change."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_gradient_on_several_cores_equals_brute_force(
    any_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against micro-batches that are lost, counted twice, or summed too early, and a single worker for all."""
    torch.set_num_threads(3)
    sizes: list[int] = []
    run = threads.run

    def counted(works: Sequence[Any]) -> list[Any]:
        sizes.append(len(works))
        return run(works)

    monkeypatch.setattr(threads, "run", counted)
    module = exact(any_model)
    part = shared_part(module)
    trainer = make_trainer(any_model, micro_batch_tokens=23)
    loss = reference_policy_gradient(module, part)
    metrics = apply(trainer, part)
    assert sizes[-1] == 3
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-5, abs=1e-5)
    assert_same_gradient(gradient_of(trainer.model.module), expected_gradient(module, loss), FLOAT32)
    torch.set_num_threads(1)
    assert metrics["ratio"] == pytest.approx(apply(make_trainer(any_model), part)["ratio"], rel=1e-5)


def test_ranks_work_on_packs_of_one_part_at_a_time() -> None:
    """Guards against a rank that distills, and gathers the weights twice, while another one does not; and lost packs."""
    first, second = Imitate((), ()), Imitate((), ())  # equal, but two parts
    packs = [Pack(first, ())] * 4 + [Pack(second, ())] * 2
    assert rounds_of(packs, 3) == [[0, 1, 2], [3], [4, 5]]
    assert rounds_of(packs, 1) == [[0], [1], [2], [3], [4], [5]]
    assert rounds_of([], 2) == []


def test_same_number_of_workers_gives_the_same_bits(any_model: LanguageModel) -> None:
    """Guards against sums in the order in which threads finish."""
    torch.set_num_threads(3)
    part = shared_part(any_model.module)
    found = []
    for _ in range(4):
        trainer = make_trainer(any_model, micro_batch_tokens=11)
        found.append((apply(trainer, part, n_steps=2), bits(trainer)))
    assert all(metrics == found[0][0] and same(weights, found[0][1]) for metrics, weights in found[1:])


@pytest.mark.parametrize(("n_workers", "place"), [(1, 0), (3, 1), (3, 8)])
def test_failing_micro_batch_changes_no_weights(
    qwen: LanguageModel, n_workers: int, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against an update from the other micro-batches, and errors that stay in their thread."""
    torch.set_num_threads(n_workers)
    part = shared_part(qwen.module)
    trainer, other = (make_trainer(qwen, micro_batch_tokens=1) for _ in range(2))

    def failing(micro: MicroBatch, *others: Any) -> LossOutput:
        if any(item.sample is part.samples[place] for item in micro.samples):
            raise RuntimeError("this micro-batch fails")
        return clip_loss(micro, *others)

    monkeypatch.setitem(LOSSES, Clip, LOSSES[Clip]._replace(compute=failing))
    with pytest.raises(RuntimeError, match="this micro-batch fails"):
        apply(trainer, part)
    assert same(bits(trainer), bits(other))
    assert all(p.grad is None for p in trainer.parameters)
    assert (trainer.optimizer.state, trainer.version, trainer.n_optimizer_steps) == ({}, 0, 0)
    monkeypatch.undo()
    assert apply(trainer, part) == apply(other, part), "nothing of the failed update is left"
    assert same(bits(trainer), bits(other))


def test_log_probs_on_several_cores(any_model: LanguageModel) -> None:
    """Guards against log-probs of another sample, also among equal ones."""
    part = shared_part(any_model.module)
    samples = [*part.samples, *map(replace, part.samples)]
    torch.set_num_threads(1)
    expected = make_trainer(any_model).log_probs(samples)
    torch.set_num_threads(3)
    found = make_trainer(any_model, micro_batch_tokens=17).log_probs(samples)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)
