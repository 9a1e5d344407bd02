"""Log-probs of given replies: those of the trainer, of other prompts, of roles, over ranks and one batch ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from policies.local.test_policy import PROMPTS, full_forward, prompt, with_many_ends
from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.methods.groups import Objective
from rethink.models.language_model import LanguageModel
from rethink.objectives import PolicyGradient, Update
from rethink.policies.base import PolicyWrapper
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy, score
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.training.loop import train
from rethink.training.one_step_off_policy import ReplayedPolicy
from rethink.training.run import open_run
from rethink.types import Problem, Sample, Sampling
from support.runs import OFF_POLICY, Make, assert_same, finished, first_lags, make, problems
from support.samples import make_trainer

__all__ = ["make", "problems"]

NEAR = 1e-5
"""The same float32 sums in another order, or with a norm that is computed by other operations."""


def mixed(model: LanguageModel) -> list[Sample]:
    """Replies at three temperatures, of several lengths and prompts; one is spliced, one was written by somebody else, one
    is empty. Shuffled, so that replies to one prompt do not lie together."""
    policy = LocalPolicy(with_many_ends(model), Sampling(max_tokens=13))
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
    """All in one forward pass, or a few replies in each: 40 tokens are fewer than most prompts have with their replies."""
    monkeypatch.setattr(score, "CPU_NUMBERS", request.param * 20)
    monkeypatch.setattr(score, "max", lambda _, n: n, raising=False)


@pytest.mark.usefixtures("_batches")
def test_scores_are_the_trainers_log_probs(any_model: LanguageModel) -> None:
    """Guards against one temperature for all, forced tokens that are left out, replies at another's prompt, and a second
    forward pass that disagrees with the trainer's."""
    samples = mixed(any_model)
    scores = LocalPolicy(any_model, Sampling()).score(samples)
    expected = make_trainer(any_model).log_probs(samples)
    assert [len(found) for found in scores] == [len(s.ids) for s in samples]
    for found, log_probs_T in zip(scores, expected, strict=True):
        assert found == pytest.approx(log_probs_T.tolist(), abs=NEAR)
    for sample, found in zip(samples, scores, strict=True):
        if not sample.forced and sample.log_probs and sample.log_probs[0] == sample.log_probs[0]:
            assert found == pytest.approx(sample.log_probs, abs=NEAR)


@pytest.mark.usefixtures("_batches")
def test_scores_behind_other_prompts(any_model: LanguageModel) -> None:
    """Guards against the sample's own prompt where another one was given. The reference is one forward pass of the whole
    module over the other prompt and the reply."""
    samples = [s for s in mixed(any_model) if s.ids]
    others = [prompt(f"{k} is a hint", k) for k in range(3)]
    shown = [others[k % 3] for k in range(len(samples))]
    scores = LocalPolicy(any_model, Sampling()).score(samples, shown)
    for sample, other, found in zip(samples, shown, scores, strict=True):
        behind = replace(sample, prompt_ids=any_model.chat.encode(other.messages))
        assert found == pytest.approx(full_forward(any_model, behind).tolist(), abs=NEAR)


def test_scores_are_of_the_present_weights(qwen: LanguageModel) -> None:
    """Guards against scores of weights that were copied once, and of those in training while they are frozen."""
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
        assert found == pytest.approx(full_forward(qwen, sample).tolist(), abs=NEAR)


def test_what_cannot_be_scored_is_refused(qwen: LanguageModel) -> None:
    """Guards against a division by a temperature of 0, text without ids that scores as nothing, and positions that the
    model does not have."""
    policy = LocalPolicy(qwen, Sampling(max_tokens=5))
    ((sample,),) = policy.sample(PROMPTS[:1], 1)
    with pytest.raises(UserError, match="is greedy"):
        policy.score([replace(sample, sampling=Sampling(0.0))])
    with pytest.raises(UserError, match="without token ids"):
        policy.score([replace(sample, ids=(), mask=(), log_probs=(), usage=(3, 5))])
    with pytest.raises(UserError, match="only 128 positions"):
        policy.score([sample], [prompt("7 " * 130, 1)])
    assert policy.score([]) == []


def test_actors_score_under_the_policy_or_a_role() -> None:
    """Guards against the policy's scores where a role's were asked for, and prompts that get lost on the way."""
    policy = FakePolicy(lambda p, i, v: "a b", log_prob=lambda s, p, v: -1.0 - v)
    teacher = FakePolicy(lambda p, i, v: "x", log_prob=lambda s, p, v: -0.5 * p.seed)
    actors = Actors(PolicyWrapper(policy), Prompts(), grade, lambda name: teacher)
    (group,) = actors.policy.sample([prompt("1", 3)], 2)
    policy.publish(4)
    assert actors.score(group) == [(-5.0,) * 3] * 2
    assert actors.score(group, actors.role("teacher")) == [(-1.5,) * 3] * 2
    assert actors.score(group, actors.role("teacher"), [prompt("2", 4), prompt("3", 6)]) == [(-2.0,) * 3, (-3.0,) * 3]


# One batch ahead.


def test_what_was_scored_ahead_is_given_again() -> None:
    """Guards against scores of newer weights after a resume, in another order, or for other samples."""
    policy = FakePolicy(lambda p, i, v: "a b", log_prob=lambda s, p, v: -p.seed - v / 8)
    first = ReplayedPolicy(policy)
    (group,) = first.sample([prompt("1", 3)], 2)
    scores = first.score(group, [prompt("2", 5), prompt("3", 7)])
    assert scores == [(-5.0,) * 3, (-7.0,) * 3]
    first.finish_replay()
    policy.publish(1)
    assert first.score(group) == [(-3.125,) * 3] * 2, "after the first update it is the policy itself"
    again = ReplayedPolicy(policy, first.recording)
    assert again.sample([prompt("1", 3)], 2) == [group]
    with pytest.raises(UserError, match="the checkpoint holds samples of the next batch"):
        again.sample([prompt("1", 3)], 2)
    again = ReplayedPolicy(policy, first.recording)
    again.sample([prompt("1", 3)], 2)
    with pytest.raises(UserError, match="the checkpoint holds samples of the next batch"):
        again.score(group[::-1])
    again = ReplayedPolicy(policy, first.recording)
    again.sample([prompt("1", 3)], 2)
    assert again.score(group) == scores
    again.finish_replay()


@dataclass(frozen=True)
class Weighted:
    """GRPO whose advantages also count how likely a reply is behind a hint, and under the start weights."""

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        groups = actors.rollout(actors.prompts.ask(problems), 3)
        samples = [sample for group in groups for sample in group]
        hints = [replace(s.prompt, messages=(*s.prompt.messages, *s.prompt.messages)) for s in samples]
        hinted = actors.score(samples, prompts=hints)
        initial = actors.score(samples, actors.role("initial"))
        update = Objective(n_steps=2).update("weighted", groups)
        (part,) = update.parts
        assert isinstance(part, PolicyGradient)
        bonus = {s.key: sum(a) - sum(b) for s, a, b in zip(samples, hinted, initial, strict=True)}
        advantages = tuple(bonus[s.key] / 10 for s in part.samples)
        yield replace(update, parts=(replace(part, advantages=advantages),))


def test_a_run_that_scores_resumes_to_the_same_end(make: Make, problems: Path) -> None:
    """Guards against scores that a resumed run computes with newer weights: bit for bit it is the same run."""
    settings = ("method.name=policies.local.test_score:Weighted", OFF_POLICY)
    whole = finished(make(*settings, "updates=6", out="whole"))
    assert first_lags(whole)[4] == 1
    finished(make(*settings, "updates=4", "checkpoint_every=2"))
    run = open_run(make(*settings, "updates=6", "checkpoint_every=2"), resume=True)
    assert run.sampled_ahead is not None
    assert [sorted(call) for call in run.sampled_ahead["calls"]] == [["asked", "groups"], ["asked", "scores"]]
    list(train(run))
    assert_same(run, whole)
