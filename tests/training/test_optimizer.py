"""The optimizer in 8 bits: near AdamW, small, resumed to the bit; and what is said where its package is missing."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rethink.errors import UserError
from rethink.models.load import load_model
from rethink.objectives import Imitate, Update
from rethink.settings import Training
from rethink.training import checkpoint
from rethink.training.checkpoint import Counters
from rethink.training.optimizer import open_optimizer, set_lr, take_step, write_average
from rethink.training.trainer import Trainer
from support.random_models import save_random_model
from support.samples import no_initial, reply_of


@pytest.fixture
def _torchao() -> Iterator[None]:
    pytest.importorskip("torchao", reason='adamw8bit is an extra: pip install "rethink-rl[adamw8bit]"')
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # what torch says about its compiler
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Matrices of 4,096 numbers and more, which get 8 bits; smaller ones and norms keep float32."""
    return str(save_random_model(tmp_path_factory.mktemp("wide"), "llama", hidden_size=64, intermediate_size=96))


@pytest.fixture(scope="module")
def whole_blocks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As in real models rows are whole blocks of 256 numbers, those of the embedding, too."""
    made = tmp_path_factory.mktemp("wider")
    return str(save_random_model(made, "llama", hidden_size=256, intermediate_size=32, vocab_size=114))


def trainer_of(path: str, optimizer: str = "adamw8bit") -> Trainer:
    settings = Training(**{"lr": 0.01, "schedule": "linear", "optimizer": optimizer})  # type: ignore[arg-type]
    return Trainer(load_model(path), settings, 8, no_initial)


def train(trainer: Trainer, n: int) -> None:
    for _ in range(n):
        part = Imitate((reply_of(5 + trainer.version % 3), reply_of(9, group="b")), (1.0, 1.0))
        trainer.apply(Update("imitate", (part,), on_policy=False))


def tensors(trainer: Trainer) -> list[Tensor]:
    """Weights, and all that the optimizer remembers, 8-bit codes and their scales included."""
    found = [p.detach() for p in trainer.parameters]
    for state in trainer.optimizer.state_dict()["state"].values():
        for value in state.values():
            found += [value.codes, value.scale] if hasattr(value, "codes") else [value]
    return found


@pytest.mark.usefixtures("_torchao")
def test_it_learns_as_adamw_does(folder: str) -> None:
    """Guards against a learning rate that it does not take, a sign, a decay: eight updates end near those of AdamW."""
    start = [p.detach().clone() for p in trainer_of(folder).parameters]
    found = []
    for optimizer in ("adamw", "adamw8bit"):
        trainer = trainer_of(folder, optimizer)
        train(trainer, 8)
        found.append([p.detach() - s for p, s in zip(trainer.parameters, start, strict=True)])
    gone, apart = (
        sum(float(x.double().square().sum()) for x in xs) ** 0.5
        for xs in (found[0], [a - b for a, b in zip(*found, strict=True)])
    )
    assert 0 < apart < 0.1 * gone


@pytest.mark.usefixtures("_torchao")
def test_no_weight_of_the_embedding_is_thrown_far(whole_blocks: str) -> None:
    """Guards against squares that are rounded to 0 where a token was not in the last batch: in 8 bits one weight of the
    embedding moved by 60 learning rates."""
    largest = []
    for optimizer in ("adamw", "adamw8bit"):
        trainer = trainer_of(whole_blocks, optimizer)
        embedding = trainer.model.module.get_input_embeddings().weight
        before = embedding.detach().clone()
        train(trainer, 6)
        largest.append(float((embedding.detach() - before).abs().max()))
    assert 0.01 < largest[1] < 1.2 * largest[0] < 0.06
    assert embedding.numel() == 114 * 256
    assert type(trainer.optimizer.state[embedding]["exp_avg"]) is Tensor


@pytest.mark.usefixtures("_torchao")
@pytest.mark.parametrize("signed", [True, False])
def test_values_that_were_quantized_come_back_to_the_bit(signed: bool) -> None:
    """Guards against a resume that rounds once more. Blocks of all sizes, zeros, and largest numbers that are negative:
    there is no code for -1, and torchao's own quantizing would change two of five blocks."""
    from torchao.optim.subclass_8bit import OptimState8bit

    g = torch.Generator().manual_seed(7)
    values = torch.randn(4000, 256, generator=g) * 10 ** torch.linspace(-16, 1, 4000)[:, None]
    values[::7] = -values[::7].abs()
    values[::11] *= torch.rand(364, 256, generator=g) < 0.01
    first, second, plain = (OptimState8bit.zeros((4000, 256), signed) for _ in range(3))
    first.copy_(values if signed else values.square())
    write_average(second, first.dequantize())
    plain.copy_(first.dequantize())
    assert torch.equal(first.dequantize(), second.dequantize())
    assert torch.equal(first.dequantize(), plain.dequantize()) != signed


@pytest.mark.usefixtures("_torchao")
def test_values_in_other_blocks_are_rounded_to_the_nearest(folder: str) -> None:
    """Guards against codes that are one beside the nearest, where a shard has other blocks: half of the largest gap between
    codes is 0.00703 of a block's largest number, as there are 64 codes from 0.1 to 1."""
    from torchao.optim.subclass_8bit import OptimState8bit

    values = torch.randn(64, 256, generator=torch.Generator().manual_seed(7))
    average = OptimState8bit.zeros((64, 256), True)
    write_average(average, values)
    off = (average.dequantize() - values).abs().amax(1) / values.abs().amax(1)
    assert 0.005 < float(off.max()) < 0.00704


@pytest.mark.usefixtures("_torchao")
def test_it_remembers_in_8_bits(folder: str) -> None:
    """Guards against states that stay in float32: two bytes for each number of a large matrix, and its scales."""
    trainer = trainer_of(folder)
    train(trainer, 1)
    sizes = {}
    for parameter, state in trainer.optimizer.state.items():
        held = [state["exp_avg"], state["exp_avg_sq"]]
        if hasattr(held[0], "codes"):
            sizes[parameter.numel()] = sum(h.codes.nbytes + h.scale.nbytes for h in held)
    assert 64 * 96 in sizes
    assert all(n_bytes == 2 * (n + 4 * n // 256) for n, n_bytes in sizes.items())


@pytest.mark.usefixtures("_torchao")
def test_a_resumed_run_ends_with_the_same_bits(folder: str, tmp_path: Path) -> None:
    """Guards against a checkpoint that rounds, forgets codes or scales, or the learning rate's place in its schedule."""
    whole, first = trainer_of(folder), trainer_of(folder)
    train(whole, 6)
    train(first, 3)
    saved = checkpoint.save(tmp_path, first, Counters(3, 3, first.n_optimizer_steps, 0), 1)
    second = trainer_of(str(saved))
    checkpoint.load(saved, second)
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))
    train(second, 3)
    assert all(torch.equal(a, b) for a, b in zip(tensors(whole), tensors(second), strict=True))
    assert not torch.equal(tensors(whole)[0], tensors(first)[0])


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an ImportError, and a run that falls back to another optimizer without a word."""
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(UserError, match=r"pip install 'rethink-rl\[adamw8bit\]'"):
        open_optimizer([torch.zeros(3, requires_grad=True)], Training(optimizer="adamw8bit"))


def test_the_ordinary_one_is_as_it_was(folder: str) -> None:
    """Guards against steps that are not torch's own, bit for bit."""
    trainer = trainer_of(folder, "adamw")
    other = [p.detach().clone().requires_grad_() for p in trainer.parameters]
    own = torch.optim.AdamW(other, lr=0.01, weight_decay=0.01, fused=True)
    for p, q in zip(trainer.parameters, other, strict=True):
        p.grad = torch.full_like(p, 0.5)
        q.grad = torch.full_like(q, 0.5)
    for lr in (0.01, 0.001):
        set_lr(trainer.optimizer, lr)
        own.param_groups[0]["lr"] = lr
        take_step(trainer.optimizer)
        own.step()
    assert all(torch.equal(p, q) for p, q in zip(trainer.parameters, other, strict=True))
