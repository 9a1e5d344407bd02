"""One-step off-policy: scores computed for the next batch survive a resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.objectives import Objective, PolicyGradient, Update
from rethink.policies.fake import FakePolicy
from rethink.training.loop import train
from rethink.training.one_step_off_policy import ReplayedPolicy
from rethink.training.run import open_run
from rethink.types import Problem
from support.local_sampling import prompt
from support.runs import OFF_POLICY, Make, assert_same, finished, first_lags, make, problems

__all__ = ["make", "problems"]


def test_replayed_policy_repeats_its_scores() -> None:
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
    with pytest.raises(UserError, match="the checkpoint holds samples of the next batch, but for other prompts"):
        ReplayedPolicy(policy, first.recording).sample([prompt("1", 4)], 2)
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
    """GRPO whose advantages depend on scores after a hint, and under the start weights."""

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


@pytest.mark.slow
def test_a_run_that_scores_resumes_to_the_same_end(make: Make, problems: Path) -> None:
    """Guards against scores that a resumed run computes with newer weights: bit for bit the same run."""
    settings = ("method.name=training.test_one_step_off_policy_scores:Weighted", OFF_POLICY)
    whole = finished(make(*settings, "updates=6", out="whole"))
    assert first_lags(whole)[4] == 1
    finished(make(*settings, "updates=4", "checkpoint_every=2"))
    run = open_run(make(*settings, "updates=6", "checkpoint_every=2"), resume=True)
    assert run.sampled_ahead is not None
    scored = ["asked", "scores"]
    assert [sorted(call) for call in run.sampled_ahead["calls"]] == [["asked", "groups"], scored, scored]
    assert [call["asked"][0] == "initial" for call in run.sampled_ahead["calls"]] == [False, False, True]
    list(train(run))
    assert_same(run, whole)
