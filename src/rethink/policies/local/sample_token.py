"""Sample a token and its log-prob from logits, with random numbers that depend on the row, not on the batch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rethink.seeds import stable_hash
from rethink.types import Sampling

NAN_LOGITS = (
    "the model's logits are NaN or infinite: its weights contain NaN, or overflow in this precision (sampler.dtype, "
    "model.dtype)"
)


def uniforms(seeds_N: list[tuple[int, int]], n_tokens: int) -> Tensor:
    """Return uniform numbers in (0, 1) [N, T] that depend only on each row's (prompt seed, sample index)."""
    keys = np.array([stable_hash(seed, index, "tokens") for seed, index in seeds_N], dtype=np.uint64)[:, None]
    counter = np.arange(1, n_tokens + 1, dtype=np.uint64)[None] * np.uint64(0x9E3779B97F4A7C15)
    bits = _mix(keys + counter) >> np.uint64(12)
    return torch.from_numpy((bits.astype(np.float64) + 0.5) * 2.0**-52)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply the finalizer of SplitMix64 (Steele, Lea and Flood, 2014), modulo 2^64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def sample_token(logits_N_V: Tensor, sampling: Sampling, uniform_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return token ids [N] and their log-probs [N] under the distribution that they are drawn from (0 if greedy). A
    log-prob is NaN if there is no such distribution, because logits are NaN or infinite.

    The cumulative distribution is inverted at `uniform_N`, so a token needs one random number.
    """
    if sampling.temperature == 0:
        largest_N, ids_N = logits_N_V.max(-1)
        return ids_N, torch.zeros_like(largest_N, dtype=torch.float32).masked_fill_(~largest_N.isfinite(), torch.nan)
    log_probs_N_V = _restrict(logits_N_V / sampling.temperature, sampling).log_softmax(-1)
    cumulative_N_V = log_probs_N_V.exp().cumsum(-1, dtype=torch.float64)
    # Scale by the last entry, not by 1: rounding of the sum must not point past the last token.
    threshold_N_1 = uniform_N[:, None] * cumulative_N_V[:, -1:]
    ids_N_1 = torch.searchsorted(cumulative_N_V, threshold_N_1).clamp_(max=logits_N_V.shape[-1] - 1)
    return ids_N_1[:, 0], log_probs_N_V.gather(-1, ids_N_1)[:, 0]


def _restrict(logits_N_V: Tensor, sampling: Sampling) -> Tensor:
    """Apply top-k, then top-p (the smallest set of tokens with at least that mass), like vLLM and transformers."""
    if 0 < sampling.top_k < logits_N_V.shape[-1]:
        kth = logits_N_V.topk(sampling.top_k).values[:, -1:]
        logits_N_V = logits_N_V.masked_fill(logits_N_V < kth, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits_N_V.sort(-1, descending=True)
        probs = ordered.softmax(-1)
        dropped = probs.cumsum(-1) - probs >= sampling.top_p
        logits_N_V = logits_N_V.masked_fill(dropped.scatter(-1, order, dropped), -torch.inf)
    return logits_N_V
