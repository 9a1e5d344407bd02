"""pass@k: the chance that at least one of k answers to a problem is right, estimated from n >= k answers."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pass_at_k(n: int, n_right: int, k: int) -> float:
    """Return 1 - C(n - n_right, k) / C(n, k), the unbiased estimate (arXiv 2107.03374, eq. 1): the share of the k-subsets
    of the n answers with a right one. NaN for k > n.

    Raise ValueError for k < 1 and for n_right outside 0 to n.
    """
    if k < 1 or not 0 <= n_right <= n:
        raise ValueError(f"pass@{k} is not defined for {n_right} right answers of {n}")
    if k > n:
        return math.nan
    # The ratio of the binomials, symmetric in k and n_right, as a product of few factors between 0 and 1.
    few, many = sorted((k, n_right))
    return 1 - math.prod(max(0, n - many - i) / (n - i) for i in range(few))


def expected_pass_at_k(shares: Sequence[float], k: int) -> float:
    """Return the chance that one of k answers is right, drawn without order from n answers that are right with chance
    `shares`.

    This is the mean, over all k of n, of the chance that not all are wrong: 1 - e_k(1 - shares) / C(n, k), with the
    elementary symmetric polynomial e_k. It equals `pass_at_k` if all shares are 0 or 1.
    """
    n_right = sum(share == 1 for share in shares)
    if all(share in (0, 1) for share in shares):
        return pass_at_k(len(shares), n_right, k)
    # Row i of the recursion, divided by C(i, j): the mean over all j of the first i answers that all j are wrong.
    all_wrong = [1.0] + [0.0] * k
    for i, share in enumerate(shares, start=1):
        for j in range(min(i, k), 0, -1):
            all_wrong[j] = (all_wrong[j] * (i - j) + all_wrong[j - 1] * (1 - share) * j) / i
    return 1 - all_wrong[k]


def default_ks(n: int) -> tuple[int, ...]:
    """Return the powers of two up to n, such as (1,) for n = 1. Raise ValueError for n < 1."""
    if n < 1:
        raise ValueError(f"pass@k needs at least one answer per problem, not {n}")
    return tuple(2**i for i in range(n.bit_length()))
