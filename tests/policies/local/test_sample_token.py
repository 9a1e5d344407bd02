"""Sampling one token: frequencies, top-k and top-p, log-probs, and the random numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from rethink.policies.local import sample_token as module
from rethink.policies.local.sample_token import sample_token, uniforms
from rethink.types import Sampling

# A vocabulary of 7, not in order of probability, with one token that can never be drawn.
LOGITS_V = torch.tensor([0.3, -1.1, 1.7, -math.inf, 0.9, -0.4, 2.3])
# For restrictions: five tokens, and what they are likely to be.
PROBS_V = (0.1, 0.5, 0.05, 0.2, 0.15)


def probabilities(logits_V: Tensor, temperature: float) -> NDArray[np.float64]:
    weights_V = np.exp(logits_V.double().numpy() / temperature)
    return np.asarray(weights_V / weights_V.sum())


def counts(logits_V: Tensor, sampling: Sampling, uniform_N: Tensor) -> NDArray[np.int64]:
    """Return how often each token is drawn with these random numbers."""
    ids_N, _ = sample_token(logits_V.expand(len(uniform_N), -1), sampling, uniform_N)
    return np.bincount(ids_N.numpy(), minlength=len(logits_V))


def grid(n: int) -> Tensor:
    """Evenly spaced numbers in (0, 1): frequencies equal probabilities to within 1/n."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def restricted_to(kept: dict[int, float]) -> list[float]:
    return [kept.get(token, 0.0) for token in range(len(PROBS_V))]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("axis", ["members of a group", "tokens of a reply"])
def test_frequencies_equal_probabilities(temperature: float, axis: str) -> None:
    """Guards against a temperature that is not applied (or twice), and an off-by-one in the inversion."""
    n = 20_011
    uniform_N = (
        uniforms([(5, g) for g in range(n)], 1)[:, 0] if axis.startswith("members") else uniforms([(5, 3)], n)[0]
    )
    observed_V = counts(LOGITS_V, Sampling(temperature=temperature), uniform_N)
    possible_V = torch.isfinite(LOGITS_V).numpy()
    assert observed_V[~possible_V].sum() == 0
    right_V = n * probabilities(LOGITS_V, temperature)[possible_V]
    assert stats.chisquare(observed_V[possible_V], right_V).pvalue > 0.001
    # The test can tell: the same counts refute a temperature that is a fifth higher.
    other_V = n * probabilities(LOGITS_V, 1.2 * temperature)[possible_V]
    assert stats.chisquare(observed_V[possible_V], other_V).pvalue < 1e-6


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), dict(enumerate(PROBS_V))),
        # The two likeliest, 0.5 and 0.2, out of 0.7.
        (Sampling(top_k=2), {1: 5 / 7, 3: 2 / 7}),
        (Sampling(top_k=1), {1: 1.0}),
        # 0.5 + 0.2 < 0.8 <= 0.5 + 0.2 + 0.15 = 0.85: the token that crosses the line stays.
        (Sampling(top_p=0.8), {1: 50 / 85, 3: 20 / 85, 4: 15 / 85}),
        (Sampling(top_p=0.01), {1: 1.0}),
        # Of top-k's 50/85, 20/85, 15/85 the first two make 0.82: top-p sees the distribution that top-k left.
        (Sampling(top_k=3, top_p=0.8), {1: 5 / 7, 3: 2 / 7}),
    ],
)
def test_top_k_and_top_p_by_hand(sampling: Sampling, expected: dict[int, float]) -> None:
    """Guards against dropping the crossing token, top-k after top-p, and unrestricted log-probs."""
    logits_V = torch.tensor(PROBS_V).log()
    uniform_N = grid(2003)
    frequencies_V = counts(logits_V, sampling, uniform_N) / 2003
    np.testing.assert_allclose(frequencies_V, restricted_to(expected), atol=1 / 2003)
    ids_N, log_probs_N = sample_token(logits_V.expand(2003, -1), sampling, uniform_N)
    # Float32 rounding of a logarithm: 1e-6.
    assert log_probs_N.tolist() == pytest.approx([math.log(expected[i]) for i in ids_N.tolist()], abs=1e-6)
    assert (ids_N.dtype, log_probs_N.dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(0.7, 0, 0.9), (1.0, 13, 1.0), (1.3, 31, 0.7)])
def test_top_k_and_top_p_equal_transformers(temperature: float, top_k: int, top_p: float) -> None:
    """Guards against any difference from the warpers of transformers."""
    logits_N_V = 2 * torch.randn((11, 97), generator=torch.Generator().manual_seed(3))
    expected_N_V = TemperatureLogitsWarper(temperature)(None, logits_N_V)
    if top_k:
        expected_N_V = TopKLogitsWarper(top_k)(None, expected_N_V)
    if top_p < 1:
        expected_N_V = TopPLogitsWarper(top_p)(None, expected_N_V)
    expected_N_V = expected_N_V.log_softmax(-1)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    for uniform in (0.01, 0.3, 0.6, 0.99):
        ids_N, log_probs_N = sample_token(logits_N_V, sampling, torch.full((11,), uniform, dtype=torch.float64))
        torch.testing.assert_close(log_probs_N, expected_N_V.gather(-1, ids_N[:, None])[:, 0])


@pytest.mark.parametrize("n_tokens", [7, 50_021])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_impossible_tokens_are_never_drawn(n_tokens: int, temperature: float) -> None:
    """Guards against indices out of range through rounding; with 53 bits, the largest number was rounded to 1."""
    logits_V = torch.randn(n_tokens, generator=torch.Generator().manual_seed(2))
    logits_V[:2] = logits_V[-3:] = -math.inf
    low, high = uniforms_of_bits(0), uniforms_of_bits(2**64 - 1)
    assert 0 < low.item() < 1e-15
    assert 1 - 1e-15 < high.item() < 1
    extremes_N = torch.cat([low[0], high[0], torch.tensor([2.0**-60, 1 - 2.0**-53])])
    ids_N, log_probs_N = sample_token(logits_V.expand(4, -1), Sampling(temperature=temperature), extremes_N)
    assert ids_N[[0, 2]].tolist() == [2, 2]
    assert ids_N[[1, 3]].tolist() == [n_tokens - 4, n_tokens - 4]
    assert torch.isfinite(log_probs_N).all()


@pytest.mark.parametrize("place", [0.001, 0.999])
def test_large_vocabulary(place: float) -> None:
    """Guards against a float32 cumulative sum: of n equally likely tokens, [i/n, (i+1)/n) means token i."""
    n = 50_021
    tokens_N = torch.arange(0, n, 1999)
    ids_N, log_probs_N = sample_token(torch.zeros((len(tokens_N), n)), Sampling(), (tokens_N.double() + place) / n)
    assert ids_N.tolist() == tokens_N.tolist()
    assert log_probs_N.tolist() == pytest.approx([-math.log(n)] * len(tokens_N), abs=1e-5)


def uniforms_of_bits(bits: int) -> Tensor:
    """Return what `uniforms` makes of these 64 random bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_mix", lambda z: np.full_like(z, bits))
        return uniforms([(1, 1)], 1)


def test_random_numbers_equal_splitmix64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against another generator: every recorded run would change. Published output for seed 1234567."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    monkeypatch.setattr(module, "stable_hash", lambda *parts: 1234567)
    drawn = uniforms([(1, 1)], 4)
    # 52 of 64 bits are used.
    assert drawn[0].tolist() == pytest.approx([x / 2**64 for x in published], rel=0, abs=2.0**-52)
    assert drawn.dtype == torch.float64


def test_random_numbers_depend_only_on_seed_index_and_token() -> None:
    """Guards against numbers that change with the batch, max_tokens or the group size."""
    many = uniforms([(7, 0), (7, 1), (11, 0)], 13)
    assert torch.equal(many[1:2, :5], uniforms([(7, 1)], 5))
    assert torch.equal(many[[2, 0]], uniforms([(11, 0), (7, 0)], 13))
    assert len(set(many.flatten().tolist())) == 3 * 13


@pytest.mark.parametrize("rows", ["neighbouring members", "neighbouring seeds"])
def test_random_numbers_are_uniform_and_uncorrelated(rows: str) -> None:
    """Guards against counters that overlap between rows: neighbors would draw the same tokens, shifted."""
    n = 1009
    seeds = [(3, g) if rows == "neighbouring members" else (g, 3) for g in range(11)]
    uniform_N_T = uniforms(seeds, n).numpy()
    assert stats.kstest(uniform_N_T.flatten(), "uniform").pvalue > 0.001
    # Each row, and each row shifted by one token, against all others: 231 pairs, each below 4.5 standard errors.
    correlations = np.corrcoef(np.vstack([uniform_N_T[:, 1:], uniform_N_T[:, :-1]]))
    assert np.abs(correlations[np.triu_indices(22, k=1)]).max() < 4.5 / math.sqrt(n)
    # Column against column, over members.
    columns = uniforms([(3, g) for g in range(n)], 7).numpy()
    assert np.abs(np.corrcoef(columns.T)[np.triu_indices(7, k=1)]).max() < 4.5 / math.sqrt(n)
