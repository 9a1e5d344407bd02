"""The gradient of an optimizer step on several cores, and a short run with everything that makes it fast, or without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import rethink.models.load
from rethink import threads
from rethink.jsonl import Record
from rethink.models.forward import FusedWeights, ModuleWeights
from rethink.models.language_model import LanguageModel
from rethink.objectives import Clip, Imitate, PolicyGradient
from rethink.recipe import load_recipe
from rethink.training import trainer as applying
from rethink.training.loop import train
from rethink.training.losses import LOSSES, LossOutput
from rethink.training.losses.clip import clip_loss
from rethink.training.micro_batch import MicroBatch, TrainingSample, lay_out
from rethink.training.run import open_run
from rethink.training.trainer import Trainer
from support.samples import (
    Gradient,
    apply,
    assert_same_gradient,
    copied,
    exact,
    factors,
    gradient_of,
    make_trainer,
    mixed_part,
    no_initial,
    reference_policy_gradient,
    reply_of,
)

FLOAT32 = 1e-4
"""As in trained.py: two layers in float32 against float64."""

ROUNDING = 2e-5
"""The same float32 sums in another order."""


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The number of threads is what these tests change."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def shared_part(module: Any) -> PolicyGradient:
    """The mixed samples and more replies to two prompts of theirs, so that each of three workers has something to do."""
    part = mixed_part(module)
    extra = [reply_of(n, group="c", prompt_ids=(2, 31, 32, 3)) for n in (4, 6, 3)]
    extra += [reply_of(n, group="d", prompt_ids=(2, 40, 41, 42, 43, 44, 3)) for n in (5, 2)]
    return replace(part, samples=(*part.samples, *extra), advantages=(*part.advantages, 1.0, -0.5, 0.75, -1.0, 0.5))


def bits(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in trainer.parameters]


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_the_gradient_on_several_cores_equals_brute_force(any_model: LanguageModel, n_workers: int) -> None:
    """Guards against micro-batches that are lost, counted twice, or summed before they are there."""
    torch.set_num_threads(n_workers)
    module = exact(any_model)
    part = shared_part(module)
    trainer = make_trainer(any_model, micro_batch_tokens=23)
    loss = reference_policy_gradient(module, part)
    numbers = apply(trainer, part)
    assert numbers["loss"] == pytest.approx(float(loss.detach()), rel=1e-5, abs=1e-5)
    module.zero_grad()
    loss.backward()
    assert_same_gradient(gradient_of(trainer.model.module), gradient_of(module), FLOAT32)
    # Each trained token is seen once by the monitor, whichever worker it falls to: ratios are those of one worker.
    torch.set_num_threads(1)
    assert numbers["ratio"] == pytest.approx(apply(make_trainer(any_model), part)["ratio"], rel=1e-5)


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_the_same_number_of_workers_gives_the_same_bits(any_model: LanguageModel, n_workers: int) -> None:
    """Guards against sums in the order in which threads come home: weights and monitors of five runs are equal."""
    torch.set_num_threads(n_workers)
    part = shared_part(any_model.module)
    found = []
    for _ in range(5):
        trainer = make_trainer(any_model, micro_batch_tokens=11)
        found.append((apply(trainer, part, n_steps=2), bits(trainer)))
    assert all(numbers == found[0][0] and same(weights, found[0][1]) for numbers, weights in found[1:])


def test_work_is_spread(qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against tests of one worker under the name of three: 10 rows make pieces for each."""
    torch.set_num_threads(3)
    sizes: list[int] = []
    plain = threads.run

    def spy(works: Sequence[Any]) -> list[Any]:
        sizes.append(len(works))
        return plain(works)

    monkeypatch.setattr(threads, "run", spy)
    apply(make_trainer(qwen), shared_part(qwen.module))
    # The second is the gradient's; the first had no log-probs to compute.
    assert sizes[-1] == 3


@pytest.mark.parametrize("n_workers", [1, 2, 3])
@pytest.mark.parametrize("place", [0, 1, 8])
def test_a_failure_in_one_micro_batch_leaves_the_weights_untouched(
    qwen: LanguageModel, n_workers: int, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against an update that is made of the micro-batches that went well, and errors that stay in their thread."""
    torch.set_num_threads(n_workers)
    part = shared_part(qwen.module)
    trainer = make_trainer(qwen, micro_batch_tokens=1)

    def stumbling(micro: MicroBatch, *others: Any) -> LossOutput:
        if any(one.sample is part.samples[place] for one in micro.samples):
            raise RuntimeError("this micro-batch fails")
        return clip_loss(micro, *others)

    monkeypatch.setitem(LOSSES, Clip, LOSSES[Clip]._replace(compute=stumbling))
    before = bits(trainer)
    with pytest.raises(RuntimeError, match="this micro-batch fails"):
        apply(trainer, part)
    assert same(bits(trainer), before)
    assert all(p.grad is None for p in trainer.parameters)
    assert not trainer.optimizer.state
    assert (trainer.version, trainer.n_optimizer_steps) == (0, 0)
    # Nothing is left behind: the next update is as if the failed one had never been tried.
    monkeypatch.undo()
    other = make_trainer(qwen, micro_batch_tokens=1)
    assert apply(trainer, part) == apply(other, part)
    assert same(bits(trainer), bits(other))


def flat_tokens(trainer: Trainer, part: PolicyGradient | Imitate) -> int:
    """What goes through the model for a part."""
    rows = [TrainingSample(s, w) for s, w in zip(part.samples, factors(part), strict=True)]
    return sum(len(lay_out(rows).ids_F) for rows in trainer._pack(rows))


@pytest.mark.parametrize("kind", ["policy gradient", "imitation"])
def test_shared_prompts_change_nothing(any_model: LanguageModel, kind: str) -> None:
    """Guards against gradients of a prompt that stands once but counts for several replies: alone, each row has its own."""
    torch.set_num_threads(1)
    part: PolicyGradient | Imitate = shared_part(any_model.module)
    if kind == "imitation":
        part = Imitate(part.samples, tuple(map(abs, factors(part))))
    together, alone = make_trainer(any_model), make_trainer(any_model, micro_batch_tokens=1)
    assert flat_tokens(together, part) + 5 * 4 + 2 * 7 == flat_tokens(alone, part)
    losses = [apply(trainer, part)["loss"] for trainer in (together, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5, abs=1e-6)
    gradients: list[Gradient] = [gradient_of(trainer.model.module) for trainer in (together, alone)]
    assert_same_gradient(gradients[0], gradients[1], ROUNDING)


def test_log_probs_on_several_cores(any_model: LanguageModel) -> None:
    """Guards against log-probs of another sample's where several threads find them; equal samples are told apart."""
    part = shared_part(any_model.module)
    samples = [*part.samples, *map(replace, part.samples)]
    torch.set_num_threads(1)
    expected = make_trainer(any_model).log_probs(samples)
    torch.set_num_threads(3)
    found = make_trainer(any_model, micro_batch_tokens=17).log_probs(samples)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)


def test_sizes_of_micro_batches_by_device(qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a size that a recipe asks for and does not get, and a CPU's cache that overflows with wide models."""
    trainer = Trainer(copied(qwen), load_recipe(None).training, 1, no_initial)
    for width, n in ((20, applying.CPU_NUMBERS // 20), (100, applying.CPU_NUMBERS // 100), (10**6, 512)):
        monkeypatch.setattr(LanguageModel, "width", width)
        assert trainer._micro_batch_tokens == n
    assert make_trainer(qwen, micro_batch_tokens=7)._micro_batch_tokens == 7


# A run


def short_run(folder: Path, *settings: str) -> tuple[list[Record], list[Tensor], bool]:
    """40 updates of GRPO on the tiny model, without an evaluation: records, weights, and whether the model was fused."""
    fixed = ["updates=40", "problems_per_batch=2", "n_logged_samples=0", f"out={folder}", "checkpoint_every=1000"]
    recipe = load_recipe("demo-grpo", [*fixed, *settings])
    recipe = replace(recipe, evaluation=replace(recipe.evaluation, problems=None))
    run = open_run(recipe)
    records = list(train(run))
    weights = run.trainer.model.weights()
    assert isinstance(weights, FusedWeights if run.trainer.model.fused else ModuleWeights)
    return records, bits(run.trainer), run.trainer.model.fused


def test_a_run_with_all_that_makes_it_fast_is_the_run_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a fast path that learns something else: fused weights, shared prompts and two workers against the
    modules' own layers, one worker and one row at a time; same seed, 40 updates.

    Measured (AVX2, with 24 samples per update): the same number of tokens and the same reward in all of
    them, losses that differ by 3e-7, weights by 6e-8 (root mean square; 1e-5 at most, a step that Adam made of a rounding
    error). A sampled token may flip on another machine. From there on the runs are two samples of the same training:
    only the mean reward is compared then, and weights that have gone no further apart than they have come.
    """
    torch.set_num_threads(2)
    start = load_run_start(tmp_path)
    fast, moved, is_fused = short_run(tmp_path / "fast")
    torch.set_num_threads(1)
    monkeypatch.setattr(rethink.models.load, "is_llama_like", lambda _: False)
    slow, other, is_still_fused = short_run(tmp_path / "slow", "training.micro_batch_tokens=1")
    assert (is_fused, is_still_fused) == (True, False)
    assert len(fast) == len(slow) == 40
    pairs = list(zip(fast, slow, strict=True))
    names = ("n_sampled_tokens", "reward")
    n_same = next((i for i, (a, b) in enumerate(pairs) if any(a[n] != b[n] for n in names)), len(pairs))
    assert n_same >= 5
    assert [a["loss"] for a in fast[:n_same]] == pytest.approx([b["loss"] for b in slow[:n_same]], abs=1e-5)
    assert abs(sum(a["reward"] - b["reward"] for a, b in pairs)) / len(pairs) <= 0.15
    apart, gone = distance(moved, other), distance(moved, start)
    assert 0 < apart <= (1e-3 if n_same == len(pairs) else 1.0) * gone


def load_run_start(folder: Path) -> list[Tensor]:
    """The weights of the tiny model."""
    recipe = load_recipe("demo-grpo", [f"out={folder}/start"])
    return bits(open_run(recipe).trainer)


def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Euclidean, over all weights."""
    return sum(float((x - y).double().square().sum()) for x, y in zip(a, b, strict=True)) ** 0.5
