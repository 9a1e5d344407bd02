"""Formulas that turn rewards into advantages, group by group or over the whole batch. docs/losses.md has a table."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence

from rethink.errors import UserError

EPS = 1e-6
"""Added to standard deviations."""


def center(rewards_G: Sequence[float]) -> list[float]:
    """Return r - mean; exactly 0 for equal rewards, whose mean may differ from them by rounding."""
    if min(rewards_G) == max(rewards_G):
        return [0.0] * len(rewards_G)
    mean = statistics.fmean(rewards_G)
    return [r - mean for r in rewards_G]


def standardize(rewards_G: Sequence[float]) -> list[float]:
    """Return (r - mean) / (std + 1e-6), where std divides by n - 1."""
    std = statistics.stdev(rewards_G)
    return [a / (std + EPS) for a in center(rewards_G)]


def rloo(rewards_G: Sequence[float]) -> list[float]:
    """Return r minus the mean of the others (RLOO, arXiv 2402.14740): n / (n - 1) times the centered reward.

    >>> rloo([1, 0, 0])
    [1.0, -0.5, -0.5]
    """
    n = len(rewards_G)
    return [a * n / (n - 1) for a in center(rewards_G)]


def maxrl(rewards_G: Sequence[float]) -> list[float]:
    """Return (r - mean) / mean, and 0 if the mean is 0 (MaxRL, arXiv 2602.02710): for rewards of 0 and 1, its mean is an
    estimate of the gradient of log p(right), up to the order n.

    >>> maxrl([1, 0, 0, 0])
    [3.0, -1.0, -1.0, -1.0]
    """
    if min(rewards_G) < 0:
        raise UserError(
            f'advantage = "maxrl" divides by the mean and needs rewards of at least 0, but one is {min(rewards_G):g}: '
            "choose another advantage, or other rewards"
        )
    mean = statistics.fmean(rewards_G)
    return [a / mean for a in center(rewards_G)] if mean else [0.0] * len(rewards_G)


def pass_at_k(rewards_G: Sequence[float], k: int) -> list[float]:
    """Return, for each reply, how much better than all subsets of k replies those are that contain it, in standard
    deviations (pass@k training, arXiv 2508.10751, analytical form).

    The reward of a subset is its largest reward: 1 if one of its replies is right. The paper has rewards of 0 and 1; this
    is the same definition for any rewards. A group of fewer than k has no subsets, and all its advantages are 0.

    >>> [round(a, 3) for a in pass_at_k([1, 0, 0, 0], k=2)]  # of 6 subsets, 3 hold the right reply: mean and std 1/2
    [1.0, -0.333, -0.333, -0.333]
    """
    n = len(rewards_G)
    if not subsets_differ(rewards_G, k):
        return [0.0] * n
    order = sorted(range(n), key=lambda i: rewards_G[i])
    sorted_G = [rewards_G[i] for i in order]
    mean = square = 0.0
    for i, reward in enumerate(sorted_G):
        # The share of the subsets in which i is the largest: the others come before it.
        share = math.comb(i, k - 1) / math.comb(n, k)
        mean += share * reward
        square += share * reward**2
    std = math.sqrt(max(0.0, square - mean**2))
    advantages = [0.0] * n
    for i, place in enumerate(order):
        advantages[place] = (_mean_with(sorted_G, i, k) - mean) / (std + EPS)
    return advantages


def subsets_differ(rewards_G: Sequence[float], k: int) -> bool:
    """Return whether some subsets of k replies have a larger largest reward than others. The smallest one is the k-th
    smallest of all rewards.

    >>> subsets_differ([1, 1, 0, 0], k=2), subsets_differ([1, 1, 1, 0], k=2)
    (True, False)
    """
    return len(rewards_G) >= k and sorted(rewards_G)[k - 1] < max(rewards_G)


def _mean_with(sorted_G: Sequence[float], i: int, k: int) -> float:
    """Return the mean, over the subsets of k that contain the i-th smallest reward, of their largest reward."""
    total = sorted_G[i] * math.comb(i, k - 1)
    if k > 1:
        for j in range(i + 1, len(sorted_G)):  # the largest is j, and k - 2 others come before it
            total += sorted_G[j] * math.comb(j - 1, k - 2)
    return total / math.comb(len(sorted_G) - 1, k - 1)


def reinforce_pp(rewards_P_G: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return (r - mean) / (std + 1e-6), with mean and std (n - 1) over all replies of the batch (REINFORCE++, arXiv
    2501.03262). Without a baseline of the group, groups of equal rewards have a gradient, too.

    >>> [[round(a, 3) for a in group] for group in reinforce_pp([[1.0], [0.0], [0.0]])]
    [[1.155], [-0.577], [-0.577]]
    """
    rewards = list(itertools.chain.from_iterable(rewards_P_G))
    centered = iter(center(rewards) if rewards else ())
    groups: list[list[float]] = []
    for rewards_G in rewards_P_G:
        groups.append(list(itertools.islice(centered, len(rewards_G))))
    return _divided_by_std(groups)


def reinforce_pp_baseline(rewards_P_G: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return a / (std + 1e-6), where a = r - mean of the group, and std (n - 1) is that of all a of the batch (REINFORCE++
    with baseline, arXiv 2501.03262). The mean of all a, which the paper subtracts, is 0."""
    return _divided_by_std([center(rewards_G) for rewards_G in rewards_P_G])


def _divided_by_std(values_P_G: Sequence[Sequence[float]]) -> list[list[float]]:
    values = list(itertools.chain.from_iterable(values_P_G))
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    found: list[list[float]] = []
    for values_G in values_P_G:
        found.append([v / (std + EPS) for v in values_G])
    return found


OF_GROUP: dict[str, Callable[[Sequence[float]], list[float]]] = {
    "center": center,
    "standardize": standardize,
    "rloo": rloo,
    "maxrl": maxrl,
}
OF_BATCH: dict[str, Callable[[Sequence[Sequence[float]]], list[list[float]]]] = {
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": reinforce_pp_baseline,
}


def advantages(name: str, rewards_P_G: Sequence[Sequence[float]], k: int = 0) -> list[list[float]]:
    """Return the advantages of each group by the formula of this name; `k` is that of "pass_at_k".

    >>> advantages("rloo", [[1, 0], [1, 1, 0]])
    [[1.0, -1.0], [0.5, 0.5, -1.0]]
    """
    if name in OF_BATCH:
        return OF_BATCH[name](rewards_P_G)
    if name == "pass_at_k":
        return [pass_at_k(rewards_G, k) for rewards_G in rewards_P_G]
    return [OF_GROUP[name](rewards_G) for rewards_G in rewards_P_G]


def smallest_group(name: str) -> int:
    """Return the number of rewards that a group needs for this advantage."""
    return 1 if name == "reinforce_pp" else 2


def overlong_penalty(n_tokens: int, cap: int, buffer: int) -> float:
    """Return the penalty to subtract from a long reply's reward (DAPO's soft overlong punishment, arXiv 2503.14476).

    The penalty is 0 up to `buffer` tokens below the cap, and then rises linearly to 1 at the cap. A buffer of 0 means
    no penalty.

    >>> [overlong_penalty(n, cap=100, buffer=20) for n in (50, 80, 90, 100)]
    [0.0, 0.0, 0.5, 1.0]
    """
    return max(0.0, 1 - (cap - n_tokens) / buffer) if buffer else 0.0


def check_group_size(name: str, n: int, smallest: int = 2) -> None:
    """Raise ValueError if groups of n samples are too small for a baseline."""
    if n < smallest:
        raise ValueError(f"{name} must be at least {smallest}, not {n}: a baseline compares the members of a group")
