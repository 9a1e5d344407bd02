"""Samples that a method continues or keeps survive a resume, also ahead of training, and its numbers are logged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.objectives import Imitate, Objective, Update
from rethink.policies.fake import FakePolicy
from rethink.sample_data import sample_from_data, sample_to_data
from rethink.training.loop import train
from rethink.training.meter import Meter, MeteredPolicy
from rethink.training.replay import ReplayedPolicy
from rethink.training.run import open_run
from rethink.types import Problem, Sampling
from support.local_sampling import prompt
from support.runs import OFF_POLICY, Make, assert_same, finished, make, problems, records

__all__ = ["make", "problems"]


def test_replayed_policy_repeats_what_it_continued() -> None:
    """Guards against continuations of newer weights after a resume, of other samples, and a newer version."""
    policy = FakePolicy(lambda p, i, v: f"{v} a", Sampling(max_tokens=4))
    first = ReplayedPolicy(policy)
    (group,) = first.sample([prompt("1", 3)], 2)
    extended = first.extend(group, [" b", " c d"])
    assert [None if s is None else s.text for s in extended] == ["0 a b 0", None]
    policy.publish(1)
    again = ReplayedPolicy(policy, first.recording)
    again.sample([prompt("1", 3)], 2)
    assert repr(again.extend(group, [" b", " c d"])) == repr(extended)
    assert again.reprompt(group[0], prompt("2", 5)).version == 0
    again.finish_replay()
    (newer, _) = again.extend(group, [" b", " c d"])
    assert newer is not None
    assert newer.text == "0 a b 1"
    assert again.reprompt(group[0], prompt("2", 5)).version == 1
    for texts in ([" b", " c"], [" b"]):
        other = ReplayedPolicy(policy, first.recording)
        other.sample([prompt("1", 3)], 2)
        with pytest.raises(UserError, match="the checkpoint holds samples of later batches, but for other prompts"):
            other.extend(group[: len(texts)], texts)


def test_what_a_teacher_said_is_replayed_too() -> None:
    """A teacher at a server may say something else when it is asked again: its text is in what the policy continues, so the
    run could not be resumed."""
    policy = FakePolicy(lambda p, i, v: f"{v} a", Sampling(max_tokens=9))
    said = iter(["look again", "try harder", "never"])
    teacher = FakePolicy(lambda p, i, v: next(said))

    def ask(replayed: ReplayedPolicy) -> list[str]:
        (group,) = replayed.sample([prompt("1", 3)], 1)
        (feedback,) = replayed.beside("teacher", teacher).sample([prompt("2", 4)], 1)
        (more,) = replayed.extend(group, [f" {feedback[0].text}"])
        assert more is not None
        return [feedback[0].text, more.text]

    first = ReplayedPolicy(policy)
    found = ask(first)
    policy.publish(1)
    again = ReplayedPolicy(policy, first.recording)
    assert ask(again) == found == ["look again", "0 a look again 0 a"]
    assert again.beside("teacher", teacher).version == teacher.version
    again.finish_replay()
    assert ask(again) == ["try harder", "1 a try harder 1 a"]
    other = ReplayedPolicy(policy, first.recording)
    other.sample([prompt("1", 3)], 1)
    with pytest.raises(UserError, match="the checkpoint holds samples of later batches, but for other prompts"):
        other.beside("judge", teacher).sample([prompt("2", 4)], 1)


def test_only_new_tokens_are_counted() -> None:
    """Guards against counting the first reply and the forced text again: of 7 tokens, 2 and the end token are new."""
    meter = Meter()
    policy = MeteredPolicy(FakePolicy(lambda p, i, v: "a 0", Sampling(max_tokens=6)), meter)
    (group,) = policy.sample([prompt("1", 3)], 1)
    assert meter.counts["n_sampled_tokens"] == 3
    policy.extend(group, [" b"])
    assert meter.counts["n_sampled_tokens"] == 3 + 3
    policy.extend(group, [" b c"])  # the last two of six tokens, without an end token
    assert meter.counts["n_sampled_tokens"] == 3 + 3 + 2


OBJECTIVE = Objective(n_steps=2)


@dataclass(frozen=True)
class Continued:
    """GRPO on replies and their continuations, and imitation of the last batch's first reply, which is in the state."""

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        groups = []
        n_extended = 0
        for group in actors.policy.sample(actors.prompts.ask(problems), 3):
            short = [actors.policy.cut(sample, len(sample.text) // 2) for sample in group]
            found = [sample for sample in actors.policy.extend(short, [" 7"] * 3) if sample is not None]
            groups.append((*group, *(replace(s, index=3 + s.index) for s in found)))
            n_extended += len(found)
        graded = actors.grade(groups)
        update = OBJECTIVE.update("solve", graded)
        kept = [sample_from_data(data) for data in actors.state.get("kept", ())]
        again = [actors.policy.reprompt(sample, graded[0][0].prompt) for sample in kept]
        old = Imitate((*kept, *again), (1.0,) * 2 * len(kept))
        actors.state["kept"] = [sample_to_data(graded[0][0])]
        metrics = {"n_extended": n_extended, "n_kept": len(kept)}
        yield replace(update, parts=(*update.parts, old), on_policy=False, metrics=metrics)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [(), (OFF_POLICY,)], ids=["synchronous", "off-policy"])
def test_a_run_that_continues_and_replays_resumes_to_the_same_end(
    make: Make, problems: Path, settings: tuple[str, ...]
) -> None:
    """Guards against continuations drawn again with newer weights, and a buffer that changes on its way through a file."""
    settings = ("method.name=training.test_replay_extend:Continued", *settings)
    whole = finished(make(*settings, "updates=5", out="whole"))
    finished(make(*settings, "updates=3", "checkpoint_every=1"))
    run = open_run(make(*settings, "updates=5", "checkpoint_every=1"), resume=True)
    list(train(run))
    assert_same(run, whole)
    found = [(r["method/n_extended"], r["method/n_kept"]) for r in records(whole)]
    assert [n for _, n in found] == [0, 1, 1, 1, 1]
    assert found[0][0] > 3
