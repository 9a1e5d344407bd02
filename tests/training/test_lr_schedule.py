"""The learning rate over the updates of a run, against values computed by hand."""

from __future__ import annotations

from math import sqrt

import pytest

from rethink.settings import Training
from rethink.training.lr_schedule import learning_rate

FALLING = {
    "linear": [0.8, 0.6, 0.4, 0.2],
    "cosine": [0.8 * factor for factor in (1, (1 + sqrt(0.5)) / 2, 0.5, (1 - sqrt(0.5)) / 2)],
    "constant": [0.8] * 4,
}


@pytest.mark.parametrize("schedule", FALLING)
def test_no_update_is_without_effect(schedule: str) -> None:
    """Regression: a run that makes more updates than planned, because it finishes a batch, trained the last ones with rate
    0. The first ones have the rates of transformers: the decay ends after the last planned update."""
    settings = Training(lr=0.8, schedule=schedule)  # type: ignore[arg-type]
    expected = FALLING[schedule]
    found = [learning_rate(settings, update, 4) for update in range(7)]
    assert found == pytest.approx([*expected, *[expected[-1]] * 3])
    assert learning_rate(settings, 0, 1) == learning_rate(settings, 1, 1) == 0.8


def test_warmup_begins_above_zero_and_multiplies_the_decay() -> None:
    """Guards against a first update with rate 0, and against a warmup that the decay does not know of."""
    settings = Training(lr=0.8, schedule="linear", warmup_updates=3)
    found = [learning_rate(settings, update, 4) for update in range(5)]
    assert found == pytest.approx([0.8 * 1 / 4, 0.6 * 2 / 4, 0.4 * 3 / 4, 0.2, 0.2])
