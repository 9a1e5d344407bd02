"""Log-probs of given replies, against the trainer's and a forward pass of the whole module."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rethink.errors import UserError
from rethink.models.language_model import LanguageModel
from rethink.policies.local import LocalPolicy, score
from rethink.types import Sample, Sampling
from support.local_sampling import PROMPTS, prompt, reference_log_probs, with_many_stop_ids
from support.samples import make_trainer

NEAR = 1e-5
"""The same float32 sums in another order, or with a norm that is computed by other operations."""


def mixed(model: LanguageModel) -> list[Sample]:
    """Replies at three temperatures, shuffled; one is spliced, one transcribed, one empty."""
    policy = LocalPolicy(with_many_stop_ids(model), Sampling(max_tokens=13))
    found: list[Sample] = []
    for temperature in (1.0, 0.7, 1.3):
        for group in policy.sample(PROMPTS, 3, Sampling(temperature, max_tokens=13)):
            found += group
    short = min(found, key=lambda s: len(s.ids))
    spliced = policy.splice(short, " 7 5")
    assert spliced is not None
    assert any(spliced.forced)
    empty = replace(found[4], ids=(), mask=(), log_probs=(), text="")
    return [*found[::2], spliced, empty, policy.transcribe(PROMPTS[3], "7 5"), *found[1::2]]


@pytest.fixture(params=[10**6, 40], ids=["one batch", "many batches"])
def _batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows in one forward pass, or a few rows in each."""
    monkeypatch.setattr(score, "CPU_NUMBERS", request.param * 20)
    monkeypatch.setattr(score, "max", lambda _, n: n, raising=False)


@pytest.mark.usefixtures("_batches")
def test_scores_equal_the_trainers_log_probs(any_model: LanguageModel) -> None:
    """Guards against one temperature for all, missing forced tokens, and prompts of other rows."""
    samples = mixed(any_model)
    scores = LocalPolicy(any_model, Sampling()).score(samples)
    expected = make_trainer(any_model).log_probs(samples)
    assert [len(found) for found in scores] == [len(s.ids) for s in samples]
    for found, log_probs_T in zip(scores, expected, strict=True):
        assert found == pytest.approx(log_probs_T.tolist(), abs=NEAR)
    for sample, found in zip(samples, scores, strict=True):
        if not sample.forced and sample.log_probs and sample.log_probs[0] == sample.log_probs[0]:
            assert found == pytest.approx(sample.log_probs, abs=NEAR)


def test_scores_after_other_prompts(any_model: LanguageModel) -> None:
    """Guards against the sample's own prompt instead of the given one."""
    samples = [s for s in mixed(any_model) if s.ids]
    others = [prompt(f"{k} is a hint", k) for k in range(3)]
    shown = [others[k % 3] for k in range(len(samples))]
    scores = LocalPolicy(any_model, Sampling()).score(samples, shown)
    for sample, other, found in zip(samples, shown, scores, strict=True):
        moved = replace(sample, prompt_ids=any_model.chat.encode(other.messages))
        assert found == pytest.approx(reference_log_probs(any_model, moved).tolist(), abs=NEAR)


def test_scores_use_the_current_or_frozen_weights(qwen: LanguageModel) -> None:
    """Guards against scores of outdated weights, and of weights in training while frozen."""
    policy = LocalPolicy(qwen, Sampling(max_tokens=5))
    samples = [s for group in policy.sample(PROMPTS, 2) for s in group]
    before = policy.score(samples)
    with policy.frozen_weights():
        with torch.no_grad():
            for parameter in qwen.module.parameters():
                parameter.mul_(1.1)
        assert policy.score(samples) == before
    policy.publish(1)
    after = policy.score(samples)
    assert after != before
    for sample, found in zip(samples, after, strict=True):
        assert found == pytest.approx(reference_log_probs(qwen, sample).tolist(), abs=NEAR)


def test_samples_that_cannot_be_scored_are_refused(qwen: LanguageModel) -> None:
    """Guards against division by temperature 0, text without ids, and too many positions."""
    policy = LocalPolicy(qwen, Sampling(max_tokens=5))
    ((sample,),) = policy.sample(PROMPTS[:1], 1)
    with pytest.raises(UserError, match="is greedy"):
        policy.score([replace(sample, sampling=Sampling(0.0))])
    with pytest.raises(UserError, match="without token ids"):
        policy.score([replace(sample, ids=(), mask=(), log_probs=(), usage=(3, 5))])
    with pytest.raises(UserError, match="only 128 positions"):
        policy.score([sample], [prompt("7 " * 130, 1)])
    assert policy.score([]) == []
