"""Gradients and log-probs on several cores, and a short run on the fast path and on the slow one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import rethink.models.load
from rethink import recipes, threads
from rethink.jsonl import Record
from rethink.models.forward import FusedWeights, ModuleWeights
from rethink.models.language_model import LanguageModel
from rethink.objectives import Clip
from rethink.recipe import load_recipe
from rethink.training.loop import train
from rethink.training.losses import LOSSES, LossOutput
from rethink.training.losses.ppo_clip import clip_loss
from rethink.training.micro_batch import MicroBatch
from rethink.training.run import open_run
from support.samples import (
    apply,
    assert_same_gradient,
    exact,
    gradient_of,
    make_trainer,
    reference_policy_gradient,
    shared_part,
)
from support.trained import FLOAT32, ROUNDING, bits, expected_gradient, recorded_hidden, same


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


def test_shared_prompts_change_nothing(any_model: LanguageModel) -> None:
    """Guards against wrong gradients of a prompt that is computed once for several replies."""
    torch.set_num_threads(1)
    part = shared_part(any_model.module)
    together, alone = make_trainer(any_model), make_trainer(any_model, micro_batch_tokens=1)
    with recorded_hidden(together.model) as shared, recorded_hidden(alone.model) as separate:
        losses = [apply(trainer, part)["loss"] for trainer in (together, alone)]
    n_shared, n_separate = (sum(len(one.ids) for one in seen) for seen in (shared, separate))
    assert n_shared + 5 * 4 + 2 * 7 == n_separate, "prompts of 4 and 7 tokens have 6 and 3 replies"
    assert losses[0] == pytest.approx(losses[1], rel=1e-5, abs=1e-6)
    assert_same_gradient(gradient_of(together.model.module), gradient_of(alone.model.module), ROUNDING)


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


def short_run(folder: Path, *settings: str) -> tuple[list[Record], list[Tensor], list[Tensor], bool]:
    """Run 40 updates of GRPO on the tiny model; return records, weights before and after, and whether it was fused."""
    fixed = ["updates=40", "problems_per_batch=2", "n_logged_samples=0", f"out={folder}", "checkpoint_every=1000"]
    recipe = load_recipe(recipes.find("demo-grpo"), [*fixed, *settings])
    run = open_run(replace(recipe, evaluation=replace(recipe.evaluation, problems=None)))
    start = [p.detach().clone() for p in run.trainer.parameters]
    records = list(train(run))
    weights = run.trainer.model.weights()
    assert isinstance(weights, FusedWeights if run.trainer.model.fused else ModuleWeights)
    return records, start, [p.detach() for p in run.trainer.parameters], run.trainer.model.fused


def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Return the Euclidean distance over all weights."""
    return sum(float((x - y).double().square().sum()) for x, y in zip(a, b, strict=True)) ** 0.5


@pytest.mark.slow
def test_fast_and_slow_path_train_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a fast path that learns something else: fused weights, shared prompts and two workers against the
    modules' own layers, one worker and one row at a time; same seed, 40 updates.

    Measured (AVX2, with 24 samples per update): the same number of tokens and the same reward in all of them, losses that
    differ by 3e-7, weights by 6e-8 (root mean square; 1e-5 at most, a step that Adam makes of a rounding error). On another
    machine a sampled token may differ. From there on only the mean reward is compared, and weights must be closer to each
    other than to the start.
    """
    torch.set_num_threads(2)
    fast, start, moved, is_fused = short_run(tmp_path / "fast")
    torch.set_num_threads(1)
    monkeypatch.setattr(rethink.models.load, "is_llama_like", lambda _: False)
    slow, _, other, is_still_fused = short_run(tmp_path / "slow", "training.micro_batch_tokens=1")
    assert (is_fused, is_still_fused) == (True, False)
    assert len(fast) == len(slow) == 40
    pairs = list(zip(fast, slow, strict=True))
    names = ("n_sampled_tokens", "reward")
    n_same = next((i for i, (a, b) in enumerate(pairs) if any(a[n] != b[n] for n in names)), len(pairs))
    assert n_same >= 5
    assert [a["loss"] for a in fast[:n_same]] == pytest.approx([b["loss"] for b in slow[:n_same]], abs=1e-5)
    assert abs(sum(a["reward"] - b["reward"] for a, b in pairs)) / len(pairs) <= 0.15
    gap, way = distance(moved, other), distance(moved, start)
    assert 0 < gap <= (1e-3 if n_same == len(pairs) else 1.0) * way
