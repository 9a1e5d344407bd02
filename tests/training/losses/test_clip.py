"""Token losses against dense float64 autograd and against values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rethink.models.forward.token_log_probs import token_log_probs
from rethink.objectives import AdvantageAwareShaping, Clip, PolicyGradient, Prefer
from rethink.training.losses import LossSettings, clip
from rethink.training.losses import advantage_aware_shaping as shaping
from rethink.training.losses.advantage_aware_shaping import shaped_loss
from rethink.training.losses.clip import TokenLosses, clip_loss, kl_to_initial
from rethink.training.losses.prefer import prefer_loss
from rethink.training.micro_batch import MicroBatch, TrainingSample, lay_out
from support.samples import make_sample

T, V, H = 13, 17, 5
CLIP = Clip(0.2, 0.28, 3.0)


class Inputs:
    """Hidden states, head, ids, temperatures, and the factors [T] that make one number of the log-probs."""

    def __init__(self, dtype: torch.dtype = torch.float32, bias: bool = True) -> None:
        random = torch.Generator().manual_seed(3)
        self.hidden = torch.randn(T, H, generator=random).to(dtype).requires_grad_()
        self.weight = torch.randn(V, H, generator=random).to(dtype).requires_grad_()
        self.bias = torch.randn(V, generator=random).to(dtype).requires_grad_() if bias else None
        self.ids = torch.randint(V, (T,), generator=random)
        self.temperature = torch.linspace(0.5, 2.0, T)
        self.factors = torch.randn(T, generator=random)

    @property
    def leaves(self) -> list[Tensor]:
        return [x for x in (self.hidden, self.weight, self.bias) if x is not None]

    def run(self, chunk: int) -> tuple[Tensor, list[Tensor]]:
        """Values and gradients of the function under test."""
        out = token_log_probs(self.hidden, (self.weight, self.bias), self.ids, self.temperature, chunk)
        return out.detach(), list(torch.autograd.grad((out * self.factors).sum(), self.leaves))

    def dense(self) -> tuple[Tensor, list[Tensor]]:
        """The same from one [T, V] table in float64."""
        leaves = [x.detach().double().requires_grad_() for x in self.leaves]
        table = leaves[0] @ leaves[1].T + (leaves[2] if len(leaves) > 2 else 0.0)
        out = (table / self.temperature.double()[:, None]).log_softmax(-1)[torch.arange(T), self.ids]
        return out.detach(), list(torch.autograd.grad((out * self.factors.double()).sum(), leaves))


def log_ratios(*ratios: float) -> tuple[Tensor, Tensor]:
    """Log-probs and old log-probs [T] with the given ratios; only the first has a gradient."""
    old = torch.full((len(ratios),), -1.25)
    return (old + torch.tensor(ratios).log()).requires_grad_(), old


def clipped(log_probs: Tensor, old: Tensor, advantages: Tensor, how: Clip) -> TokenLosses:
    return clip.clipped_surrogate(log_probs - old, advantages, how)


def shaped(
    log_probs: Tensor, old: Tensor, advantages: Tensor, forced: Tensor, how: AdvantageAwareShaping
) -> TokenLosses:
    where = shaping.is_shaped(log_probs, advantages, forced, how)
    return shaping.shaped_surrogate(log_probs, log_probs - old, advantages, where, how)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 7, T])
def test_log_probs_equal_the_dense_float64_ones(chunk: int, bias: bool) -> None:
    """Guards against chunks that drift: a wrong slice, a forgotten temperature, a gradient summed over one chunk."""
    inputs = Inputs(bias=bias)
    values, grads = inputs.run(chunk)
    expected, expected_grads = inputs.dense()
    # A few dozen float32 operations on numbers of order 1 to 10: 2e-6 is some twenty roundings.
    torch.testing.assert_close(values.double(), expected, rtol=2e-6, atol=2e-6)
    assert values.dtype == torch.float32
    assert len(grads) == (3 if bias else 2)
    for got, want in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=2e-6, atol=4e-6)
        assert got.dtype == torch.float32


def test_bfloat16_inputs_give_float32_log_probs() -> None:
    """Guards against a head in bfloat16, whose log-probs would be off by about 1e-2."""
    inputs = Inputs(torch.bfloat16)
    values, grads = inputs.run(7)
    expected, expected_grads = inputs.dense()
    assert values.dtype == torch.float32
    # The inputs are the same bfloat16 numbers; up-cast, only float32 rounding is left.
    torch.testing.assert_close(values.double(), expected, rtol=2e-6, atol=2e-6)
    for got, want in zip(grads, expected_grads, strict=True):
        assert got.dtype == torch.bfloat16
        # Accumulated in float32, rounded once to a significand of 8 bits: half a unit in the last place is 2^-8.
        torch.testing.assert_close(got.double(), want, rtol=2.0**-8, atol=4e-6)


class LargestTensor(TorchDispatchMode):
    """Notes the entries of the largest tensor that any operation returns, backward pass included."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if isinstance(x, Tensor):
                self.n = max(self.n, x.numel())
        return out


def many_tokens(n_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states of n tokens, a head of 97 words and ids."""
    hidden = torch.ones(n_tokens, 3, requires_grad=True)
    return hidden, torch.ones(97, 3, requires_grad=True), torch.arange(n_tokens) % 97


def test_no_tensor_is_larger_than_chunk_times_vocabulary() -> None:
    """Guards against full logits, in the forward as in the backward pass: 101 x 97 entries, not 7 x 97."""
    hidden, weight, ids = many_tokens(101)
    with LargestTensor() as largest:
        token_log_probs(hidden, (weight, None), ids, torch.ones(101), chunk=7).sum().backward()
    assert largest.n == 7 * 97
    assert hidden.grad is not None


def test_nothing_of_the_size_of_the_vocabulary_is_kept_for_the_backward_pass() -> None:
    """Guards against saved logits, which would add up to T x V although each is small."""
    saved: list[int] = []

    def note(x: Tensor) -> Tensor:
        saved.append(x.numel())
        return x

    hidden, weight, ids = many_tokens(101)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        token_log_probs(hidden, (weight, None), ids, torch.ones(101), chunk=7)
    # Hidden states, head, ids and temperatures; nothing else.
    assert sorted(saved) == sorted([101 * 3, 97 * 3, 101, 101])


@pytest.mark.parametrize(
    ("ratio", "weight", "how", "loss", "slope"),
    [
        (1.5, 1.0, CLIP, -1.28, 0.0),  # bounded at 1.28
        (1.25, 1.0, CLIP, -1.25, -1.25),  # within 1.28; d(-A rho)/d log p = -A rho
        (0.5, 1.0, CLIP, -0.5, -0.5),  # max(-0.5, -0.8): too improbable a good token is still pushed up
        (0.5, -1.0, CLIP, 0.8, 0.0),  # max(0.5, 0.8)
        (1.5, -1.0, CLIP, 1.5, 1.5),  # max(1.5, 1.28)
        (5.0, -1.0, CLIP, 3.0, 0.0),  # min(5, 3): the dual clip
        (5.0, -1.0, Clip(0.2, 0.28), 5.0, 5.0),  # no dual clip
        (5.0, 1.0, CLIP, -1.28, 0.0),  # the dual clip is for negative weights only
        (5.0, -0.5, CLIP, 1.5, 0.0),  # -A dual_clip = 0.5 * 3
        (1.0, 2.0, CLIP, -2.0, -2.0),
        (1.0, -2.0, CLIP, 2.0, 2.0),
        (1.1, 0.0, CLIP, 0.0, 0.0),
    ],
)
def test_clipped_surrogate_by_hand(ratio: float, weight: float, how: Clip, loss: float, slope: float) -> None:
    """Guards against a swapped max and min, swapped bounds, and gradients that leak through a clipped token."""
    log_probs, old = log_ratios(ratio)
    out = clipped(log_probs, old, torch.tensor([weight]), how)
    out.loss_T.sum().backward()
    assert out.loss_T.tolist() == pytest.approx([loss], rel=1e-6)
    assert out.ratio_T.tolist() == pytest.approx([ratio], rel=1e-6)
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == (pytest.approx([slope], rel=1e-6) if slope else [0.0])
    assert not out.ratio_T.requires_grad


def test_clipped_tokens_are_counted_on_the_side_where_the_clip_acts() -> None:
    """Guards against counting every ratio outside the band: outside on the harmless side is not clipped."""
    log_probs, old = log_ratios(0.5, 0.5, 1.5, 1.5, 1.25, 0.85, 1.5, 0.5)
    out = clipped(log_probs, old, torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 0.0, 0.0]), Clip(0.2, 0.28))
    assert out.clipped_low_T.tolist() == [False, True, False, False, False, False, False, False]
    assert out.clipped_high_T.tolist() == [False, False, True, False, False, False, False, False]


def test_huge_log_ratios_stay_finite() -> None:
    """Guards against exp overflow: log-ratios are clamped to +-20, beyond which nothing has a gradient."""
    log_probs = torch.tensor([1000.0, -1000.0, 1000.0], requires_grad=True)
    out = clipped(log_probs, torch.zeros(3), torch.tensor([-1.0, 1.0, 1.0]), Clip(0.2, 0.28))
    out.loss_T.sum().backward()
    assert out.loss_T.tolist() == pytest.approx([math.exp(20), -math.exp(-20), -1.28], rel=1e-6)
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [0.0, 0.0, 0.0]


# Shaping of forced tokens


def coefficient(p: float, weight: float, **how: Any) -> float:
    return float(shaping.coefficient(torch.tensor([p]), torch.tensor([weight]), AdvantageAwareShaping(**how)))


@pytest.mark.parametrize(
    ("weight", "gamma"), [(4.0, -0.001), (1.0, -0.00025), (0.0, 0.0), (-1.0, 0.00025), (-4.0, 0.001), (6.0, -0.001)]
)
def test_the_map_from_advantage_to_gamma(weight: float, gamma: float) -> None:
    """Guards against swapped bounds, which made the released map constant: c = p / (p + gamma)."""
    assert coefficient(0.25, weight) == pytest.approx(0.25 / (0.25 + gamma), rel=1e-6)
    assert coefficient(0.25, weight, gamma="released") == pytest.approx(0.25 / 0.249, rel=1e-6)
    # Ten times the strength, ten times the gamma.
    assert coefficient(0.25, weight, strength=0.01) == pytest.approx(0.25 / (0.25 + 10 * gamma), rel=1e-5)


BOOSTED = [(0.9, 1.0011), (0.1, 1.0101), (0.01, 1.1111), (0.002, 2.0), (0.0011, 2.0), (0.001, 2.0), (0.0009, 1.0001)]
SOFTENED = [(0.1, 0.9901), (0.01, 0.9091), (0.0009, 0.4737), (0.9995, 0.9999)]


@pytest.mark.parametrize(
    ("weight", "p", "c"), [*((4.0, p, c) for p, c in BOOSTED), *((-4.0, p, c) for p, c in SOFTENED)]
)
def test_coefficients_by_hand(weight: float, p: float, c: float) -> None:
    """Guards against a pole at p = |gamma|: 0.0011 would be multiplied by 11. With 0.9995 the denominator exceeds 1."""
    assert coefficient(p, weight) == pytest.approx(c, abs=6e-5)
    if p == 0.0011:
        assert coefficient(p, weight, cap=100.0) == pytest.approx(11.0, rel=1e-3)


@pytest.mark.parametrize("weight", [4.0, 1.0, -1.0, -4.0])
@pytest.mark.parametrize("p", [0.9, 0.1, 0.02, 0.0011])
def test_the_slope_of_the_shaped_loss(weight: float, p: float) -> None:
    """Guards against a gradient through the coefficient, and a ratio that is clipped: d loss / d log p = -A c."""
    how = AdvantageAwareShaping(guard=0.0)
    log_probs = torch.tensor([p]).log().requires_grad_()
    # Old log-probs far away, where a clip would act.
    out = shaped(log_probs, log_probs.detach() - weight, torch.tensor([weight]), torch.tensor([True]), how)
    out.loss_T.sum().backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([-weight * coefficient(p, weight)], rel=1e-5)
    assert not out.clipped_high_T.any()
    assert not out.clipped_low_T.any()


def test_the_slope_with_a_constant_gamma() -> None:
    """-A p / (p + g), gradient through the denominator: d/d log p = -A p g / (p + g)^2. p 0.1, g 0.25: 0.025 / 0.1225."""
    log_probs = torch.tensor([0.1]).log().requires_grad_()
    how = AdvantageAwareShaping("constant", strength=0.25)
    out = shaped(log_probs, log_probs.detach(), torch.tensor([2.0]), torch.tensor([True]), how)
    out.loss_T.sum().backward()
    assert out.loss_T.tolist() == pytest.approx([-2 * 0.1 / 0.35], rel=1e-6)
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([-2 * 0.025 / 0.1225], rel=1e-5)


@pytest.mark.parametrize(
    ("weight", "p", "is_shaped"), [(-1.0, 0.005, False), (-1.0, 0.05, True), (1.0, 0.005, True), (0.0, 0.005, True)]
)
def test_rare_tokens_are_not_punished_further(weight: float, p: float, is_shaped: bool) -> None:
    """The guard: with A < 0 and p below 0.01 the clip acts, here at its bound, 1.5 above 1.2: no gradient for A > 0."""
    log_probs = torch.tensor([p]).log().requires_grad_()
    old = log_probs.detach() - math.log(5.0)  # a ratio of 5, past the dual clip
    out = shaped(log_probs, old, torch.tensor([weight]), torch.tensor([True]), AdvantageAwareShaping())
    loss = -weight * coefficient(p, weight) if is_shaped else 3.0
    assert out.loss_T.tolist() == pytest.approx([loss], rel=1e-5)


@pytest.mark.parametrize("gamma", ["aware", "released", "constant", "none"])
def test_chosen_tokens_take_the_clip_bit_for_bit(gamma: str) -> None:
    """Guards against shaping that leaks to what the policy chose itself, in values or gradients."""
    how = AdvantageAwareShaping(gamma, clip=CLIP)  # type: ignore[arg-type]
    ratios, weights = (0.5, 1.25, 1.5, 5.0, 5.0, 1.0), torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0, 0.0])
    found = []
    for forced in (None, torch.zeros(6, dtype=torch.bool)):
        log_probs, old = log_ratios(*ratios)
        out = clipped(log_probs, old, weights, CLIP) if forced is None else shaped(log_probs, old, weights, forced, how)
        (slope,) = torch.autograd.grad(out.loss_T.sum(), log_probs)
        found.append([*out, slope])
    assert all(map(torch.equal, *found))
    log_probs, old = log_ratios(*ratios)
    everywhere = shaped(log_probs, old, weights, torch.ones(6, dtype=torch.bool), how)
    assert torch.equal(everywhere.loss_T, found[0][0]) == (gamma == "none")


@pytest.mark.parametrize("gamma", ["aware", "released", "constant", "none"])
def test_impossible_forced_tokens_stay_finite(gamma: str) -> None:
    """Guards against 0/0 where a probability underflows: exp(-300) is 0 in float32."""
    log_probs = torch.tensor([-300.0, -300.0, 0.0], requires_grad=True)
    weights = torch.tensor([2.0, -2.0, 4.0])
    how = AdvantageAwareShaping(gamma)  # type: ignore[arg-type]
    out = shaped(log_probs, log_probs.detach(), weights, torch.ones(3, dtype=torch.bool), how)
    out.loss_T.sum().backward()
    assert out.loss_T.isfinite().all()
    assert log_probs.grad is not None
    assert log_probs.grad.isfinite().all()


def test_kl_to_initial_by_hand() -> None:
    """Guards against the reversed direction: k3 of d = log p_initial - log p is not symmetric in d.

    d = log 2: 2 - log 2 - 1 = 0.306853; d = -log 2: 1/2 + log 2 - 1 = 0.193147; the slope in log p is 1 - exp(d).
    """
    log_probs = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    initial = torch.tensor([-1.0 + math.log(2), -1.0 - math.log(2), -1.0])
    kl = kl_to_initial(log_probs, initial)
    kl.sum().backward()
    assert kl.tolist() == pytest.approx([0.306853, 0.193147, 0.0], abs=1e-6)
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([-1.0, 0.5, 0.0], abs=1e-6)


def test_kl_to_initial_stays_finite() -> None:
    """Guards against exp overflow where the policy has all but lost a token: exp(20) - 21."""
    kl = kl_to_initial(torch.tensor([-500.0]), torch.tensor([-1.0]))
    assert kl.tolist() == pytest.approx([math.exp(20) - 21], rel=1e-6)


def test_preference_by_hand() -> None:
    """Guards against a wrong sign, a beta outside the sigmoid, and statistics of the wrong side.

    Pairs of two tokens and one. Log-ratios to the start model: no margin: log 2. (3 + 1) - 1 = 3, times 0.5: 1.5:
    log(1 + exp(-1.5)) = 0.201413, slope -0.5 sigmoid(-1.5) = -0.091213. -1000 - 1000, times 0.5: the loss is the margin,
    without overflow. Two of three margins are not above 0. Under the start model each token has -1 nat.
    """
    chosen, rejected = ((5.0, 2.0), (3.0, 1.0), (-400.0, -600.0)), ((7.0,), (1.0,), (1000.0,))
    samples = []
    for pair in zip(chosen, rejected, strict=True):
        samples += [TrainingSample(make_sample((7,) * len(values)), scale=2 / 3) for values in pair]
    micro = lay_out(samples)
    values = [torch.tensor(pair[k]) for pair in zip(chosen, rejected, strict=True) for k in (0, 1)]
    reference = torch.full_like(micro.old_T, -1.0)
    log_probs = (torch.cat([values[i] for i in micro.order]) + reference).requires_grad_()
    part = Prefer(tuple(s.sample for s in samples[0::2]), tuple(s.sample for s in samples[1::2]), beta=0.5)
    loss, statistics = prefer_loss(replace(micro, reference_T=reference), log_probs, part, LossSettings())
    loss.backward()
    assert loss.item() == pytest.approx(2 / 3 * (math.log(2) + 0.201413 + 1000.0), rel=1e-5)
    assert log_probs.grad is not None
    slopes = [s.tolist() for s in micro.by_sample(log_probs.grad * 3 / 2)]
    wanted = [([-x] * 2, [x]) for x in (0.25, 0.091213, 0.5)]
    assert slopes == [pytest.approx(side, rel=1e-5) for pair in wanted for side in pair]
    assert statistics.metrics() == {
        "preference/accuracy": pytest.approx(1 / 3),
        "preference/chosen_log_prob": pytest.approx((5 + 2 - 1002) / 3, rel=1e-6),
        "preference/margin": pytest.approx((0 + 1.5 - 1000) / 3, rel=1e-6),
        "preference/n_pairs": 3,
        "preference/rejected_log_prob": pytest.approx((6 + 0 + 999) / 3, rel=1e-6),
    }


# Ratios of sequences (GSPO)


def two_replies() -> MicroBatch:
    """Replies of two and three tokens with log-probs that the sampler and the trainer's old weights had."""
    two = TrainingSample(make_sample((7, 1), log_probs=(-1.0, -2.0)), 2.0, 0.5, old=(-1.5, -2.25))
    three = TrainingSample(make_sample((7, 8, 1), log_probs=(-0.5, -1.0, -1.5)), -1.0, 0.25, old=(-1.0, -1.0, -1.0))
    return lay_out([two, three])


def test_sequence_ratio_by_hand() -> None:
    """Guards against a mean over the micro-batch instead of the reply, a ratio that is not of the length, and a truncated
    importance ratio per token.

    In the layout the longer reply comes first. It: log rho = (0.6 + 0.3 - 0.3) / 3 = 0.2, importance exp(0) = 1 as
    (-0.5 + 0 + 0.5) / 3 = 0. The other: log rho = (0.3 - 0.1) / 2 = 0.1, importance exp((-0.5 - 0.25) / 2) = exp(-0.375).
    Loss: 0.25 * 3 * exp(0.2) - 0.5 * 2 * 2 * exp(-0.375) exp(0.1). d rho / d log p = rho for each token, as in GSPO-token.
    """
    micro = two_replies()
    log_probs = (micro.old_T + torch.tensor([0.6, 0.3, -0.3, 0.3, -0.1])).requires_grad_()
    part = PolicyGradient((), (), Clip(0.5, 0.5, importance_sampling_level="sequence"))
    loss, statistics = clip_loss(micro, log_probs, part, LossSettings())
    loss.backward()
    first, second = 0.25 * math.exp(0.2), -0.5 * 2.0 * math.exp(-0.375) * math.exp(0.1)
    assert loss.item() == pytest.approx(3 * first + 2 * second, rel=1e-5)
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx([first] * 3 + [second] * 2, rel=1e-5)
    assert statistics.metrics()["ratio"] == pytest.approx((3 * math.exp(0.2) + 2 * math.exp(0.1)) / 5, rel=1e-5)
    # With the clip at 1 + 0.1 the second reply, of ratio 1.105 and A > 0, has no gradient as a whole.
    narrow = replace(part, surrogate=Clip(0.1, 0.1, importance_sampling_level="sequence"))
    loss, statistics = clip_loss(micro, log_probs, narrow, LossSettings())
    (slope,) = torch.autograd.grad(loss, log_probs)
    assert slope.tolist() == pytest.approx([first] * 3 + [0.0] * 2, rel=1e-5)
    assert statistics.metrics()["clip_high_frac"] == pytest.approx(2 / 5)


def test_the_gradient_of_a_sequence_ratio_is_that_of_its_formula() -> None:
    """Guards against GSPO-token's form going astray: with one advantage per reply its gradient is that of
    scale * A * |y| * exp(mean of log p - log p_old) (arXiv 2507.18071, eq. 7 and 17), written out in float64."""
    micro = two_replies()
    moved = micro.old_T + torch.tensor([0.6, 0.3, -0.3, 0.3, -0.1])
    ours, plain = moved.clone().requires_grad_(), moved.double().requires_grad_()
    settings = LossSettings(tis_cap=1.0)
    clip_loss(
        micro, ours, PolicyGradient((), (), Clip(1.0, 1e9, importance_sampling_level="sequence")), settings
    ).loss.backward()
    ratio = (plain - micro.old_T.double()).split([3, 2])
    importance = math.exp(-0.375)
    loss = 0.25 * 3 * ratio[0].mean().exp() - 0.5 * 2.0 * 2 * ratio[1].mean().exp() * importance
    loss.backward()
    assert ours.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(ours.grad.double(), plain.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gamma", ["aware", "none"])
def test_sequence_ratio_beside_forced_tokens(gamma: Literal["aware", "none"]) -> None:
    """Guards against forced tokens in the ratio of chosen ones, and an importance ratio on what no sampler drew.

    Chosen: log rho = (0.4 + 0.2) / 2 = 0.3, importance exp((-0.5 + 0.25) / 2) = exp(-0.125). The forced token takes its
    shape, c = p / (p - 0.001 / 4). With gamma "none" it takes the clip, and log rho is (0.4 + 0.2 + 0.9) / 3 = 0.5,
    importance exp((-0.5 + 0.25 + 0) / 3).
    """
    nan = float("nan")
    spliced = make_sample((7, 8, 1), log_probs=(-1.0, -2.0, nan), forced=(False, False, True))
    micro = lay_out([TrainingSample(spliced, 1.0, 1.0, old=(-1.5, -1.75, -2.0))])
    log_probs = (micro.old_T + torch.tensor([0.4, 0.2, 0.9])).requires_grad_()
    part = PolicyGradient(
        (), (), AdvantageAwareShaping(gamma, clip=Clip(1.0, 1e9, importance_sampling_level="sequence"))
    )
    shaped_loss(micro, log_probs, part, LossSettings()).loss.backward()
    if gamma == "none":
        wanted = [-math.exp(0.5 - 0.25 / 3)] * 3
    else:
        p = math.exp(-2.0 + 0.9)
        wanted = [-math.exp(0.3 - 0.125)] * 2 + [-p / (p - 0.00025)]
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == pytest.approx(wanted, rel=1e-5)


def test_advantages_per_token_by_hand() -> None:
    """Guards against one token's advantage on another's loss: at ratio 1 the slope of a token is -A scale."""
    holes = make_sample((7, 8, 9, 1), mask=(True, False, True, True))
    micro = lay_out(
        [TrainingSample(make_sample((7,)), 0.5, 0.25), TrainingSample(holes, (1.0, 100.0, -2.0, 0.0), 0.125)]
    )
    log_probs = micro.old_T.clone().requires_grad_()
    clip_loss(micro, log_probs, PolicyGradient((), ()), LossSettings()).loss.backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [-0.125, 0.25, 0.0, -0.125]
