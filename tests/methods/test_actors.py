"""Rollouts: groups are graded while others are still being sampled, with the verdicts of a grader at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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


def even(reply: str, _gold: str) -> Verdict:
    return Verdict(int(reply.split()[-1]) % 2 == 0)


def test_a_group_is_graded_as_soon_as_it_is_complete() -> None:
    """Guards against grading that waits for the last group, and groups in the order in which they end."""
    events: list[str] = []

    def verify(reply: str, gold: str) -> Verdict:
        events.append(f"graded {reply}")
        return even(reply, gold)

    class Backwards(FakePolicy):
        def groups(
            self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
        ) -> Iterator[tuple[int, Group]]:
            for i, group in reversed(list(super().groups(prompts, n, sampling))):
                events.append(f"sampled {prompts[i].problem.id}")
                yield i, group

    prompts = TEXTS.ask(problems(2, verify))
    groups = Actors(Backwards(reply), TEXTS, grade).rollout(prompts, 2)
    assert events == [
        *("sampled p1", "graded p1 reply 0", "graded p1 reply 1"),
        *("sampled p0", "graded p0 reply 0", "graded p0 reply 1"),
    ]
    assert groups == grade(FakePolicy(reply).sample(prompts, 2))
    assert [[s.right for s in group] for group in groups] == [[True, False]] * 2


def test_a_meter_separates_sampling_from_grading() -> None:
    """Guards against seconds of grading that count as sampling, tokens counted twice, and a meter that changes updates."""
    meter = Meter()

    def grader(groups: Sequence[Group]) -> list[Group]:
        with meter.stage("grade_s"):
            meter.seconds["grade_s"] += 100
            return grade(groups)

    batch = problems(3, even)
    (expected,) = GRPO(n_solve=3).updates(Actors(FakePolicy(reply), TEXTS, grade), batch)
    actors = Actors(MeteredPolicy(FakePolicy(reply), meter), TEXTS, grader)
    (update,) = GRPO(n_solve=3).updates(actors, batch)
    assert (update.parts, update.groups) == (expected.parts, expected.groups)
    assert meter.counts["n_sampled_tokens"] == sum(len(s.ids) for group in update.groups for s in group)
    assert 300 < meter.seconds["grade_s"] < 400
    assert 0 < meter.seconds["sample_s"] < 100
