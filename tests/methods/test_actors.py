"""Rollouts: groups are graded while others are still being sampled, with the verdicts of a grader at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from rethink.methods.actors import Actors
from rethink.methods.grpo import GRPO
from rethink.policies.fake import FakePolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.training.meter import Meter, MeteredPolicy
from rethink.types import Group, Problem, Prompt, Sampling, Verdict

TEXTS = Prompts("{question}", seed=5)


def reply(prompt: Prompt, index: int, version: int) -> str:
    return f"{prompt.problem.id} reply {index}"


def problems(n: int, verify: Callable[[str, str], Verdict]) -> list[Problem]:
    return [Problem(f"p{i}", f"{i} + {i}", str(i % 2), verify) for i in range(n)]


class Log:
    """Notes in order what was sampled and graded; replies with an even index are right."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def verify(self, reply: str, gold: str) -> Verdict:
        self.events.append(f"graded {reply}")
        return Verdict(int(reply.split()[-1]) % 2 == 0)

    def policy(self) -> FakePolicy:
        events = self.events

        class Logged(FakePolicy):
            def groups(
                self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
            ) -> Iterator[tuple[int, Group]]:
                for i, group in reversed(list(super().groups(prompts, n, sampling))):  # the last prompt ends first
                    events.append(f"sampled {prompts[i].problem.id}")
                    yield i, group

        return Logged(reply)


def test_a_group_is_graded_as_soon_as_it_is_complete() -> None:
    """Guards against grading that waits for the last group, and groups in the order in which they end."""
    log = Log()
    prompts = TEXTS.ask(problems(2, log.verify))
    groups = Actors(log.policy(), TEXTS, grade).rollout(prompts, 2)
    assert log.events == [
        *("sampled p1", "graded p1 reply 0", "graded p1 reply 1"),
        *("sampled p0", "graded p0 reply 0", "graded p0 reply 1"),
    ]
    assert groups == grade(FakePolicy(reply).sample(prompts, 2))
    assert [[s.right for s in group] for group in groups] == [[True, False]] * 2


def test_another_policy_can_answer() -> None:
    """Guards against a rollout of the trained policy where a teacher was asked."""
    log = Log()
    teacher = FakePolicy(lambda prompt, index, version: f"teacher {index}")
    actors = Actors(log.policy(), TEXTS, grade, {"teacher": teacher}.__getitem__)
    (group,) = actors.rollout(TEXTS.ask(problems(1, log.verify)), 2, actors.role("teacher"))
    assert [(s.text, s.right) for s in group] == [("teacher 0", True), ("teacher 1", False)]
    with pytest.raises(ValueError, match="there is no initial model here"):
        Actors(log.policy(), TEXTS, grade).role("initial")


def test_a_meter_separates_sampling_from_grading() -> None:
    """Guards against seconds of grading that count as sampling, tokens counted twice, and a meter that changes updates."""
    log, meter = Log(), Meter()

    def grader(groups: Sequence[Group]) -> list[Group]:
        with meter.stage("grade_s"):
            meter.seconds["grade_s"] += 100
            return grade(groups)

    batch = problems(3, log.verify)
    (expected,) = GRPO(n_solve=3).updates(Actors(FakePolicy(reply), TEXTS, grade), batch)
    actors = Actors(MeteredPolicy(FakePolicy(reply), meter), TEXTS, grader)
    (update,) = GRPO(n_solve=3).updates(actors, batch)
    assert (update.parts, update.groups) == (expected.parts, expected.groups)
    assert meter.counts["n_sampled_tokens"] == sum(len(s.ids) for group in update.groups for s in group)
    assert 300 < meter.seconds["grade_s"] < 400
    assert 0 < meter.seconds["sample_s"] < 100
