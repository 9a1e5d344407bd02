"""Updates and their parts: what they refuse, and how they are split into optimizer steps."""

from __future__ import annotations

import string
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.objectives import AdvantageAwareShaping, Imitate, PolicyGradient, Prefer, Update, split_into_steps
from rethink.types import Sample, Sampling
from support.method_runs import R, W, graded_group, graded_sample
from support.samples import factors, make_sample


def split_weights(groups: str, n_steps: int) -> list[tuple[float, ...]]:
    """Return the weights by step of samples of these groups; each sample has its index as its weight."""
    samples = tuple(make_sample((7, 1), group=g) for g in groups)
    part = Imitate(samples, tuple(float(i) for i in range(len(samples))))
    return [factors(share) for share in split_into_steps(part, n_steps) if isinstance(share, Imitate)]


@given(st.integers(0, 29), st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_steps_keep_order_and_differ_by_at_most_one_group(n_groups: int, n_steps: int) -> None:
    """Guards against groups that are dropped, repeated or moved by rounding, and a crash without samples."""
    found = split_weights(string.ascii_letters[:n_groups], n_steps)
    assert len(found) == n_steps
    assert [g for share in found for g in share] == list(range(n_groups))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def interleaved() -> tuple[Sample, ...]:
    """Return seven samples of three groups, in the order a b a c b a c."""
    return tuple(make_sample((20 + i, 1), group=g) for i, g in enumerate("abacbac"))


@pytest.mark.parametrize("part", [PolicyGradient, Imitate])
def test_factors_move_with_their_samples(part: type[PolicyGradient] | type[Imitate]) -> None:
    """Guards against weights or old log-probs that stay in place while samples move; 3 groups in 2 steps are 1 + 2."""
    whole = part(interleaved(), tuple(map(float, range(7))), coefficient=5.0)
    one, two = split_into_steps(whole, 2)
    assert isinstance(one, part)
    assert isinstance(two, part)
    assert factors(one) == (0.0, 2.0, 5.0)
    assert factors(two) == (1.0, 4.0, 3.0, 6.0)
    for piece in (one, two):
        assert piece.coefficient == 5.0
        assert piece.samples == tuple(whole.samples[int(w)] for w in factors(piece))
    old = tuple((-float(i), -0.5) for i in range(7))
    steps = split_into_steps(PolicyGradient(interleaved(), (1.0,) * 7, old_log_probs=old), 2)
    assert [p.old_log_probs for p in steps if isinstance(p, PolicyGradient)] == [
        tuple(old[i] for i in (0, 2, 5)),
        tuple(old[i] for i in (1, 4, 3, 6)),
    ]


def test_split_keeps_pairs_together() -> None:
    """Guards against pairs torn apart: rejected samples move with the chosen ones."""
    chosen = interleaved()
    rejected = tuple(make_sample((50 + i, 1), group="other") for i in range(7))
    one, two = split_into_steps(Prefer(chosen, rejected, beta=0.5), 2)
    assert isinstance(one, Prefer)
    assert isinstance(two, Prefer)
    for step in (one, two):
        assert step.rejected == tuple(rejected[chosen.index(s)] for s in step.chosen)
    assert [s.ids[0] for s in (*one.chosen, *two.chosen)] == [20, 22, 25, 21, 24, 23, 26]
    assert one.beta == two.beta == 0.5
    assert split_into_steps(Prefer((), ()), 2) == [Prefer((), ())] * 2


def test_policy_gradients_need_the_full_distribution_and_token_ids() -> None:
    """Guards against ratios of a distribution that was cut, and of replies of an endpoint; imitation has no ratios."""
    sample = replace(graded_sample(1, R), sampling=Sampling(top_p=0.9))
    with pytest.raises(ValueError, match="needs samples of the full distribution"):
        Update("solve", (PolicyGradient((graded_sample(0, W), sample), (-0.5, 0.5)),))
    Update("imitate", (Imitate((sample,), (1.0,)),))
    sample = replace(graded_sample(1, R), usage=(3, 5))
    with pytest.raises(ValueError, match="samples of an endpoint have no token ids"):
        Update("solve", (PolicyGradient((sample,), (0.5,)),))


def test_imitation_needs_finite_weights_and_token_ids() -> None:
    """Guards against weights that overflow, as exp(reward / tau) can, and replies of an endpoint, which would not train."""
    sample = graded_sample(0, R)
    for weight in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"sample 0 of .* has a weight that is not finite"):
            Update("imitate", (Imitate((sample,), (weight,)),))
    with pytest.raises(ValueError, match=r"no token ids to train on; make some with actors\.policy\.transcribe"):
        Update("imitate", (Imitate((replace(sample, usage=(3, 5)),), (1.0,)),))


def test_counts_must_match() -> None:
    """Guards against advantages, weights or pairs that are cut to the shorter list."""
    group = graded_group(R, W)
    with pytest.raises(ValueError, match="update 'solve': 2 samples but 3 advantages"):
        Update("solve", (PolicyGradient(group, (1.0, 0.0, 0.0)),))
    with pytest.raises(ValueError, match="2 samples but 3 weights"):
        Update("solve", (Imitate(group, (1.0, 0.0, 0.0)),))
    with pytest.raises(ValueError, match="2 chosen but 1 rejected"):
        Update("solve", (Prefer(group, group[:1]),))
    per_token = (0.5,) * 3
    Update("solve", (PolicyGradient(group, (-0.5, per_token)),))
    with pytest.raises(ValueError, match=r"sample 1 of .* has 3 tokens but 4 advantages"):
        Update("solve", (PolicyGradient(group, (-0.5, (*per_token, 0.5))),))


def test_settings_out_of_range_are_refused() -> None:
    """Guards against an update that changes only the version, and a shaped loss that divides by 0."""
    with pytest.raises(ValueError, match="n_steps must be at least 1, not 0"):
        Update("solve", (), n_steps=0)
    with pytest.raises(ValueError, match="strength and cap above 0"):
        AdvantageAwareShaping(strength=0.0)


def test_metrics_are_numbers() -> None:
    """Guards against a log that cannot be read again; NaN is allowed, for what is undefined."""
    assert Update("a", (), metrics={"n": 3, "share": float("nan")}).metrics["n"] == 3
    with pytest.raises(ValueError, match=r"update 'a': metrics\['n'\] must be a number, not 'three'"):
        Update("a", (), metrics={"n": "three"})  # type: ignore[dict-item]


@pytest.mark.parametrize("advantage", [float("nan"), float("inf"), (0.5, float("nan"))])
def test_advantages_that_are_not_finite_are_refused(advantage: float | tuple[float, ...]) -> None:
    """Regression: the run stopped with a loss of nan and the advice to lower the learning rate."""
    part = PolicyGradient((make_sample((7, 1), group="g"),), (advantage,))
    with pytest.raises(ValueError, match=r"update 'solve': sample 0 of g.* has an advantage that is not finite"):
        Update("solve", (part,))
