"""Advantages and the over-long penalty, by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rethink.methods.grpo import GRPO
from rethink.methods.reflect_retry_reward import ReflectRetryReward
from rethink.methods.think_tuning import ThinkTuning
from rethink.methods.think_twice import ThinkTwice
from rethink.objectives.advantages import ADVANTAGES, overlong_penalty


@pytest.mark.parametrize(
    ("advantage", "rewards", "expected"),
    [
        # Mean 3/8 = 0.375.
        ("center", [1, 1, 1, 0, 0, 0, 0, 0], [0.625] * 3 + [-0.375] * 5),
        # Squares 3 * 0.625^2 + 5 * 0.375^2 = 1.875, over 7 = 0.267857, root 0.517549.
        ("standardize", [1, 1, 1, 0, 0, 0, 0, 0], [1.207614] * 3 + [-0.724568] * 5),
        ("standardize", [1, 1, 1], [0.0] * 3),
    ],
)
def test_advantages(advantage: str, rewards: list[float], expected: list[float]) -> None:
    """Guards against a standard deviation over n, a large epsilon, and NaN for equal rewards."""
    # An epsilon of 1e-6 with a deviation of 0.5 shifts an advantage of 1.2 by 2.4e-6.
    assert ADVANTAGES[advantage](rewards) == pytest.approx(expected, abs=3e-6)


@pytest.mark.parametrize(
    ("n_tokens", "cap", "buffer", "penalty"),
    [
        # With a buffer of 4 below a cap of 10, the penalty starts after 6 tokens.
        *((6, 10, 4, 0.0), (7, 10, 4, 0.25), (10, 10, 4, 1.0), (0, 10, 4, 0.0)),
        *((10, 10, 0, 0.0), (2625, 3000, 750, 0.5)),
    ],
)
def test_overlong_penalty(n_tokens: int, cap: int, buffer: int, penalty: float) -> None:
    """Guards against a penalty that starts at the cap, and one that rewards short replies."""
    assert overlong_penalty(n_tokens, cap, buffer) == penalty


@pytest.mark.parametrize("method", [GRPO, ThinkTwice, ThinkTuning, ReflectRetryReward])
def test_a_group_needs_two_members(method: Callable[..., object]) -> None:
    """Guards against a baseline of one reply."""
    name = "n_reflect" if method is ReflectRetryReward else "n_solve"
    with pytest.raises(ValueError, match=f"{name} must be at least 2, not 1"):
        method(**{name: 1})
