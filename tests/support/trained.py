"""Helpers of the trainer's tests: weights to compare, recorded forward passes, and tolerances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

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

Mean = Literal["token", "sequence", "constant"]


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
