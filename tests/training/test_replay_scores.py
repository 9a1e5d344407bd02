"""Scores computed for a batch that is sampled ahead survive a resume."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.objectives import Objective, PolicyGradient, Update
from rethink.policies.fake import FakePolicy
from rethink.training.loop import train
from rethink.training.replay import ReplayedPolicy
from rethink.training.run import open_run
from rethink.types import Group, Problem, Prompt, Sampling
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
    with pytest.raises(UserError, match="the checkpoint holds samples of later batches, but for other prompts"):
        ReplayedPolicy(policy, first.recording).sample([prompt("1", 4)], 2)
    again = ReplayedPolicy(policy, first.recording)
    again.sample([prompt("1", 3)], 2)
    with pytest.raises(UserError, match="the checkpoint holds samples of later batches"):
        again.score(group[::-1])
    again = ReplayedPolicy(policy, first.recording)
    again.sample([prompt("1", 3)], 2)
    assert again.score(group) == scores
    again.finish_replay()


class Backwards(FakePolicy):
    """Finishes the last prompt first."""

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        yield from sorted(super().groups(prompts, n, sampling), key=itemgetter(0), reverse=True)


def stored(replayed: ReplayedPolicy) -> dict[str, Any]:
    """Return the recording as a checkpoint has it."""
    replayed.finish_replay()
    found: dict[str, Any] = json.loads(json.dumps(replayed.recording))
    return found


ASKED = [prompt("1", 3), prompt("2", 4), prompt("3", 5)]


def test_groups_are_replayed_in_the_order_of_their_arrival() -> None:
    """Guards against a checkpoint that cannot be resumed: a teacher who is asked about each group as soon as it is there
    would be asked in another order."""
    policy, teacher = Backwards(lambda p, i, v: f"{p.seed}"), FakePolicy(lambda p, i, v: f"{v} teacher {p.seed}")

    def ask(replayed: ReplayedPolicy) -> list[tuple[int, str, str]]:
        found: list[tuple[int, str, str]] = []
        for i, (reply,) in replayed.groups(ASKED, 1):
            ((said,),) = replayed.beside("teacher", teacher).sample([ASKED[i]], 1)
            found.append((i, reply.text, said.text))
        return found

    first = ReplayedPolicy(policy)
    found = ask(first)
    assert found == [(2, "5", "0 teacher 5"), (1, "4", "0 teacher 4"), (0, "3", "0 teacher 3")]
    teacher.publish(1)
    again = ReplayedPolicy(policy, stored(first))
    assert ask(again) == found
    again.finish_replay()


def test_groups_that_were_not_waited_for_are_not_replayed() -> None:
    """Guards against a checkpoint that cannot be resumed after a method has taken only the first groups, and against groups
    that were never sampled. Those that it takes after its first update are sampled then."""
    policy = Backwards(lambda p, i, v: f"{v} {p.seed}")
    first = ReplayedPolicy(policy)
    for _ in first.groups(ASKED, 1):
        break
    scores = first.score(first.sample(ASKED[:1], 1)[0])
    recording = stored(first)
    policy.publish(1)
    again = ReplayedPolicy(policy, recording)
    for i, (reply,) in again.groups(ASKED, 1):
        assert (i, reply.text) == (2, "0 5")
        break
    assert again.score(again.sample(ASKED[:1], 1)[0]) == scores
    again.finish_replay()
    with pytest.raises(UserError, match="the checkpoint holds samples of later batches, but for other prompts"):
        list(ReplayedPolicy(policy, recording).groups(ASKED, 1))
    late = ReplayedPolicy(policy, {**recording, "calls": recording["calls"][:1]})
    groups = late.groups(ASKED, 1)
    texts = [next(groups)[1][0].text]
    late.finish_replay()
    assert texts + [f"{i} {reply.text}" for i, (reply,) in groups] == ["0 5", "1 1 4", "0 1 3"]


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
    settings = ("method.name=training.test_replay_scores:Weighted", OFF_POLICY)
    whole = finished(make(*settings, "updates=6", out="whole"))
    assert first_lags(whole)[4] == 1
    finished(make(*settings, "updates=4", "checkpoint_every=2"))
    run = open_run(make(*settings, "updates=6", "checkpoint_every=2"), resume=True)
    (ahead,) = run.sampled_ahead
    scored = ["asked", "scores"]
    assert [sorted(call) for call in ahead["calls"]] == [["asked", "groups"], scored, scored]
    assert [call["asked"][0] == "initial" for call in ahead["calls"]] == [False, False, True]
    list(train(run))
    assert_same(run, whole)
