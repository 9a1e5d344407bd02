"""pass@k: the chance that at least one of k answers to a problem is right, estimated from n >= k answers."""

from __future__ import annotations

import math


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


def default_ks(n: int) -> tuple[int, ...]:
    """Return the powers of two up to n, such as (1,) for n = 1. Raise ValueError for n < 1."""
    if n < 1:
        raise ValueError(f"pass@k needs at least one answer per problem, not {n}")
    return tuple(2**i for i in range(n.bit_length()))
