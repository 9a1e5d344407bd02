"""Advantages and the over-long penalty, by hand and by brute force."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable

import pytest

from rethink.errors import UserError
from rethink.methods.grpo import GRPO
from rethink.methods.reflect_retry_reward import ReflectRetryReward
from rethink.methods.think_tuning import ThinkTuning
from rethink.methods.think_twice import ThinkTwice
from rethink.objectives import Objective
from rethink.objectives.advantages import advantages, overlong_penalty, pass_at_k
from rethink.seeds import rng

EIGHT = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "rewards", "expected"),
    [
        # Mean 3/8 = 0.375.
        ("center", EIGHT, [0.625] * 3 + [-0.375] * 5),
        # Squares 3 * 0.625^2 + 5 * 0.375^2 = 1.875, over 7 = 0.267857, root 0.517549.
        ("standardize", EIGHT, [1.207614] * 3 + [-0.724568] * 5),
        ("standardize", [1, 1, 1], [0.0] * 3),
        # A right one: 1 - 2/7; a wrong one: 0 - 3/7.
        ("rloo", EIGHT, [5 / 7] * 3 + [-3 / 7] * 5),
        ("rloo", [0.5, 0.1], [0.4, -0.4]),
        # Over the mean of 3/8: 0.625 / 0.375 and -1.
        ("maxrl", EIGHT, [5 / 3] * 3 + [-1.0] * 5),
        ("maxrl", [0, 0, 0], [0.0] * 3),
        ("maxrl", [1, 1], [0.0] * 2),
    ],
)
def test_advantages_of_one_group(name: str, rewards: list[float], expected: list[float]) -> None:
    """Guards against a standard deviation over n, a large epsilon, a baseline that contains the reply, and NaN."""
    # An epsilon of 1e-6 with a deviation of 0.5 shifts an advantage of 1.2 by 2.4e-6.
    assert advantages(name, [rewards])[0] == pytest.approx(expected, abs=3e-6)


def test_advantages_of_a_batch() -> None:
    """Guards against statistics of the group in place of the batch, and of the batch in place of the group."""
    batch = [[1.0, 0.0], [1.0, 1.0], [1.0]]
    # Mean 4/5; squares 4 * 0.04 + 0.64 = 0.8, over 4 = 0.2, root 0.447214: 0.2 / 0.447214 and -0.8 / 0.447214.
    up, down = 0.447214, -1.788854
    assert advantages("reinforce_pp", batch) == [
        pytest.approx([up, down], abs=1e-5),
        pytest.approx([up, up], abs=1e-5),
        pytest.approx([up], abs=1e-5),
    ]
    # Centered 0.5 -0.5 0 0 0: squares 0.5, over 4 = 0.125, root 0.353553: 0.5 / 0.353553.
    assert advantages("reinforce_pp_baseline", batch)[0] == pytest.approx([1.414214, -1.414214], abs=1e-5)
    assert advantages("reinforce_pp_baseline", batch)[1:] == [[0.0, 0.0], [0.0]]
    for name in ("reinforce_pp", "reinforce_pp_baseline"):
        assert advantages(name, []) == []
        assert advantages(name, [[0.7]]) == [[0.0]]
        assert advantages(name, [[0.1, 0.1], [0.1, 0.1, 0.1]]) == [[0.0] * 2, [0.0] * 3]


def enumerated(rewards: list[float], k: int) -> list[float]:
    """Return the pass@k advantages from a list of all subsets."""
    subsets = list(itertools.combinations(range(len(rewards)), k))
    values = [max(rewards[i] for i in subset) for subset in subsets]
    mean, std = statistics.fmean(values), statistics.pstdev(values)
    found = []
    for i in range(len(rewards)):
        own = [value for value, subset in zip(values, subsets, strict=True) if i in subset]
        found.append((statistics.fmean(own) - mean) / (std + 1e-6))
    return found


def test_pass_at_k_equals_the_subsets() -> None:
    """Guards against a wrong binomial coefficient, ties, and rewards between 0 and 1: all subsets, listed."""
    random_ = rng("pass at k")
    for n in range(2, 8):
        for k in range(1, n):
            for values in ((0.0, 1.0), (0.0, 0.25, 0.5, 1.0), (-1.0, 0.3)):
                rewards = [random_.choice(values) for _ in range(n)]
                assert pass_at_k(rewards, k) == pytest.approx(enumerated(rewards, k), abs=1e-9), (rewards, k)


def test_pass_at_k_by_hand() -> None:
    """Guards against the sign and the share: 1 right of 4, k = 2. The paper's formula for rewards of 0 and 1."""
    # 3 of 6 pairs hold the right one: mean and std 1/2. A pair with a given wrong one is right in 1 of 3 cases.
    assert pass_at_k([0, 1, 0, 0], 2) == pytest.approx([-1 / 3, 1, -1 / 3, -1 / 3], abs=3e-6)
    # With k = 3 of 4 and two right, each subset holds a right one: nothing to learn.
    assert pass_at_k([0, 1, 1, 0], 3) == [0.0] * 4
    assert pass_at_k([1, 0], 3) == [0.0] * 2
    # 13 of 16 right and k = 4: there are only 3 wrong ones. Advantages are exactly 0, without a rounding error.
    assert pass_at_k([0.1] * 3 + [0.7] * 13, 4) == [0.0] * 16
    # k = 1 is the reward over the standard deviation with n.
    assert pass_at_k([1, 0, 0, 0], 1) == pytest.approx([0.75 / 0.1875**0.5, *[-0.25 / 0.1875**0.5] * 3], abs=1e-5)


def test_maxrl_refuses_negative_rewards() -> None:
    """Guards against a negative mean, which would turn the sign of every advantage."""
    with pytest.raises(UserError, match="needs rewards of at least 0, but one is -1"):
        advantages("maxrl", [[1.0, -1.0]])


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
    """Guards against a baseline of one reply, and against pass@k of whole groups, which are all equal."""
    phase = "reflect" if method is ReflectRetryReward else "solve"
    with pytest.raises(ValueError, match=f"n_{phase} must be at least 2, not 1"):
        method(**{f"n_{phase}": 1})
    method(**{f"n_{phase}": 1, phase: Objective("reinforce_pp")})
    pass_at_4 = Objective("pass_at_k", pass_k=4)
    with pytest.raises(ValueError, match=f"n_{phase} must be above pass_k = 4, not 4"):
        method(**{f"n_{phase}": 4, phase: pass_at_4})
    method(**{f"n_{phase}": 5, phase: pass_at_4})
