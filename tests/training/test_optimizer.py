"""The optimizer in 8 bits: close to AdamW, small, and resumed bit for bit."""

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
from rethink.training.optimizer import open_optimizer, write_average
from rethink.training.trainer import Trainer
from support.random_models import save_random_model
from support.samples import no_initial, reply_of
from support.trained import same


@pytest.fixture
def _torchao() -> Iterator[None]:
    pytest.importorskip("torchao", reason="the extra adamw8bit is not installed")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # from torch, about its compiler
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Matrices of 4,096 numbers and more, which get 8 bits; smaller ones and norms keep float32."""
    return str(save_random_model(tmp_path_factory.mktemp("wide"), "llama", hidden_size=64, intermediate_size=96))


def trainer_of(path: str, optimizer: str = "adamw8bit") -> Trainer:
    settings = Training(**{"lr": 0.01, "schedule": "linear", "optimizer": optimizer})  # type: ignore[arg-type]
    return Trainer(load_model(path), settings, 8, no_initial)


def train(trainer: Trainer, n: int) -> None:
    for _ in range(n):
        part = Imitate((reply_of(5 + trainer.version % 3), reply_of(9, group="b")), (1.0, 1.0))
        trainer.apply(Update("imitate", (part,), on_policy=False))


def tensors(trainer: Trainer) -> list[Tensor]:
    """Weights and optimizer state, with 8-bit codes and their scales."""
    found = [p.detach() for p in trainer.parameters]
    for state in trainer.optimizer.state_dict()["state"].values():
        for value in state.values():
            found += [value.codes, value.scale] if hasattr(value, "codes") else [value]
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("_torchao")
def test_embedding_weights_move_like_those_of_adamw(tmp_path: Path) -> None:
    """Guards against squares rounded to 0 for tokens that the last batch lacks: one weight moved by 60 learning rates."""
    # As in real models, rows of the embedding are whole blocks of 256 numbers.
    path = str(save_random_model(tmp_path, "llama", hidden_size=256, intermediate_size=32, vocab_size=114))
    largest = []
    for optimizer in ("adamw", "adamw8bit"):
        trainer = trainer_of(path, optimizer)
        embedding = trainer.model.module.get_input_embeddings().weight
        before = embedding.detach().clone()
        train(trainer, 6)
        largest.append(float((embedding.detach() - before).abs().max()))
    assert 0.01 < largest[1] < 1.2 * largest[0] < 0.06
    assert type(trainer.optimizer.state[embedding]["exp_avg"]) is Tensor


@pytest.mark.usefixtures("_torchao")
@pytest.mark.parametrize("signed", [True, False])
def test_quantized_values_are_restored_bit_for_bit(signed: bool) -> None:
    """Guards against a resume that rounds again."""
    from torchao.optim.subclass_8bit import OptimState8bit

    g = torch.Generator().manual_seed(7)
    values = torch.randn(4000, 256, generator=g) * 10 ** torch.linspace(-16, 1, 4000)[:, None]
    values[::7] = -values[::7].abs()
    values[::11] *= torch.rand(364, 256, generator=g) < 0.01
    first, second, theirs = (OptimState8bit.zeros((4000, 256), signed) for _ in range(3))
    first.copy_(values if signed else values.square())
    write_average(second, first.dequantize())
    theirs.copy_(first.dequantize())
    assert torch.equal(first.dequantize(), second.dequantize())
    assert torch.equal(first.dequantize(), theirs.dequantize()) != signed


@pytest.mark.slow
@pytest.mark.usefixtures("_torchao")
def test_resumed_run_ends_with_the_same_bits(folder: str, tmp_path: Path) -> None:
    """Guards against a checkpoint that rounds, or loses codes, scales or the position in the schedule."""
    whole, first = trainer_of(folder), trainer_of(folder)
    train(whole, 6)
    train(first, 3)
    saved = checkpoint.save(tmp_path, first, Counters(3, 3, first.n_optimizer_steps, 0), 1)
    second = trainer_of(str(saved))
    checkpoint.load(saved, second)
    assert same(tensors(first), tensors(second))
    train(second, 3)
    assert same(tensors(whole), tensors(second))
    assert not torch.equal(tensors(whole)[0], tensors(first)[0])


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an ImportError, and a silent fallback to another optimizer."""
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(UserError, match=r"pip install .*\[adamw8bit\]"):
        open_optimizer([torch.zeros(3, requires_grad=True)], Training(optimizer="adamw8bit"))
