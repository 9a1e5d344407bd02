"""Values that pass between stages: what they refuse, and what verdicts make of samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rethink.types import RewardTerm, Sampling, Verdict
from support.samples import make_sample


@pytest.mark.parametrize(
    "settings", [{"temperature": -0.1}, {"max_tokens": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}]
)
def test_sampling_out_of_range_is_refused(settings: dict[str, Any]) -> None:
    """Guards against samples of a distribution that does not exist."""
    with pytest.raises(ValueError, match=next(iter(settings))):
        Sampling(**settings)


def test_only_the_full_distribution_is_trainable() -> None:
    """Guards against ratios of a distribution that was cut."""
    assert Sampling(temperature=0.7).trainable
    for sampling in (Sampling(temperature=0.0), Sampling(top_p=0.9), Sampling(top_k=5)):
        assert not sampling.trainable


@pytest.mark.parametrize(
    ("verdict", "reward"),
    [(Verdict(True), 1.0), (Verdict(False), 0.0), (Verdict(None), None), (Verdict(False, score=0.25), 0.25)],
)
def test_the_reward_of_a_verdict(verdict: Verdict, reward: float | None) -> None:
    """Guards against an ungraded reply that gets reward 0, and partial scores that are lost."""
    sample = make_sample((5, 1)).with_verdict(verdict)
    assert (sample.verdict, sample.right, sample.reward) == (verdict, verdict.right, reward)
    assert make_sample((5, 1)).with_verdict(verdict, 0.5).reward == 0.5


def test_a_verdict_has_no_truth_value_of_a_number() -> None:
    """Guards against ungraded replies that count as 0 in a mean."""
    with pytest.raises(TypeError):
        sum([Verdict(True), Verdict(None)])  # type: ignore[list-item]


def test_why_there_is_no_reward() -> None:
    """Guards against a missing reward without its reason: the verifier's, or that of the term that failed."""
    graded = make_sample((5, 1)).with_verdict(Verdict(None, "out of time"))
    assert graded.why_no_reward() == "out of time"
    terms = (RewardTerm("verdict", 1.0), RewardTerm("brevity", None, "it raised ValueError"))
    failed = replace(graded, verdict=Verdict(True), terms=terms)
    assert failed.why_no_reward() == "brevity: it raised ValueError"
    assert make_sample((5, 1)).why_no_reward() == ""
    assert graded.with_verdict(Verdict(True)).why_no_reward() == ""


def test_counts_of_an_endpoint() -> None:
    """Guards against token counts of ids that an endpoint did not return."""
    local, remote = make_sample((5, 7, 1)), replace(make_sample(()), usage=(11, None))
    assert (local.n_prompt_tokens, local.n_tokens, local.n_trained) == (3, 3, 3)
    assert (remote.n_prompt_tokens, remote.n_tokens, remote.n_trained) == (11, None, 0)
