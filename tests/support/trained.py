"""Helpers of the trainer's tests: weights to compare, recorded forward passes, and tolerances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from rethink.models.forward import AttentionFn, Weights
from rethink.models.language_model import LanguageModel
from rethink.objectives import Prefer
from rethink.training.losses import Loss, LossOutput
from rethink.training.trainer import Trainer
from rethink.types import Sample
from support.samples import Gradient, copied, gradient_of, reply_of

FLOAT32 = 1e-4
"""Two layers in float32 against float64: weights of 0.3 and sharp softmaxes magnify 6e-8 a few hundred times."""

ROUNDING = 2e-5
"""The same float32 sums in another order."""

SAME = 1e-6
"""Log-probs of the same weights with and without a gradient: norms are computed by other operations."""

Mean = Literal["token", "sequence", "constant"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread, which fixes the order of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_one_thread() -> Iterator[None]:
    """Use one thread: models this small gain nothing from more."""
    with one_thread():
        yield


def moved(model: LanguageModel) -> LanguageModel:
    """Return a copy with all weights 5% larger: a start model that differs from the current one."""
    other = copied(model)
    with torch.no_grad():
        for p in other.module.parameters():
            p.mul_(1.05)
    return other


def expected_gradient(module: Any, loss: Tensor) -> Gradient:
    """Return the gradient of a reference loss of a float64 module."""
    module.zero_grad()
    loss.backward()
    return gradient_of(module)


def bits(trainer: Trainer) -> list[Tensor]:
    """Return the weights as integers, where NaN equals NaN."""
    return [p.detach().clone().view(torch.int32) for p in trainer.parameters]


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Return whether all tensors are equal, bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def at_ratio_one(trainer: Trainer, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """Return the samples with the trainer's own log-probs."""
    found = trainer.log_probs(samples)
    assert all(len(lp) == len(s.ids) for s, lp in zip(samples, found, strict=True))
    return tuple(replace(s, log_probs=tuple(lp.tolist())) for s, lp in zip(samples, found, strict=True))


@dataclass
class Pass:
    """A forward pass: its ids [F] and, once there is one, the gradient [F, H] of its final hidden states."""

    ids: list[int]
    gradient: Tensor | None = None

    def record_gradient(self, gradient: Tensor) -> None:
        self.gradient = gradient


@contextmanager
def recorded_hidden(model: LanguageModel) -> Iterator[list[Pass]]:
    """Record every forward pass of weights that are built in this context."""
    seen: list[Pass] = []
    original = model.weights

    def build(*args: Any, **options: Any) -> Weights:
        weights = original(*args, **options)
        hidden = weights.hidden

        def recorded(ids_T: Tensor, positions_T: Tensor, attend: AttentionFn) -> Tensor:
            out_T_H = hidden(ids_T, positions_T, attend)
            seen.append(Pass(ids_T.tolist()))
            if out_T_H.requires_grad:
                out_T_H.register_hook(seen[-1].record_gradient)
            return out_T_H

        weights.hidden = recorded  # type: ignore[method-assign]
        return weights

    model.weights = build  # type: ignore[method-assign]
    yield seen
    model.weights = original  # type: ignore[method-assign]


def changed(loss: Loss, change: Callable[[Tensor], Tensor]) -> Loss:
    """Return the loss with its value passed through `change`."""

    def compute(*args: Any) -> LossOutput:
        output = loss.compute(*args)
        return output._replace(loss=change(output.loss))

    return loss._replace(compute=compute)


def some_pairs(**changes: Any) -> Prefer:
    """Return three pairs of different lengths; two share their chosen sample."""
    first = reply_of(5, group="a")
    second = reply_of(3, group="b", mask=(True, False, True), temperature=0.7)
    rejected = (reply_of(2, group="a"), reply_of(7, group="a"), reply_of(11, group="b", temperature=0.7))
    return Prefer((first, first, second), rejected, **{"beta": 0.3, "coefficient": 2.0, **changes})


def noisy(samples: tuple[Sample, ...], noise: tuple[float, ...]) -> tuple[Sample, ...]:
    """Return the samples with noise added to their log-probs, in turn."""
    return tuple(
        replace(s, log_probs=tuple(lp + noise[t % len(noise)] for t, lp in enumerate(s.log_probs))) for s in samples
    )
