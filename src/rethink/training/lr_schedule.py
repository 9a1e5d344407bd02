"""The learning rate over the updates of a run."""

from __future__ import annotations

import math

from rethink.settings import Training


def learning_rate(settings: Training, update: int, n_updates: int) -> float:
    """Return the learning rate of an update, counted from 0, of `n_updates` in all.

    It rises linearly over `settings.warmup_updates`. "linear" and "cosine" (half a wave) fall, as in transformers, so that
    they would be 0 after the last update. Further updates, which finish the last batch, have the rate of the last one.

    >>> learning_rate(Training(lr=1e-3, schedule="linear"), update=50, n_updates=100)
    0.0005
    """
    warmup = min(1.0, (update + 1) / (settings.warmup_updates + 1))
    done = min(update, n_updates - 1) / n_updates
    factors = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return settings.lr * warmup * factors[settings.schedule]
