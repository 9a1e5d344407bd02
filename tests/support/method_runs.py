"""Problems, graded groups, and one problem batch of a method over a fake policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rethink.methods.actors import Actors, Method
from rethink.objectives import PolicyGradient, Update
from rethink.policies.base import Policy
from rethink.policies.fake import FakePolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.types import Group, Message, Problem, Prompt, Sample, Sampling, StopReason, Verdict
from support.samples import factors

Script = Callable[[Prompt, int, int], str]
R, W, NOT_GRADED = True, False, None


def verify(reply: str, gold: str) -> Verdict:
    """Replies end with the answer; those that end with "?" cannot be graded."""
    return Verdict(None if reply.endswith("?") else reply.split()[-1] == gold)


def make_problem(n: int, **changes: Any) -> Problem:
    return Problem(**{"id": f"p{n}", "question": f"{n} + 0", "gold": str(n), "verify": verify, **changes})


PROBLEMS = [make_problem(n) for n in range(7)]


def graded_sample(index: int, right: bool | None, stop: StopReason = "stop", seed: int = 3) -> Sample:
    """A graded reply of three tokens; samples of the same seed form a group."""
    prompt = Prompt(make_problem(2), "solve", (Message("user", "?"),), seed)
    sample = Sample(prompt, index, (2, 3), (5, 7, 1), (True,) * 3, (-0.5,) * 3, "5 7", stop, Sampling(), 0)
    return sample.with_verdict(Verdict(right))


def graded_group(*rights: bool | None, seed: int = 3) -> Group:
    return tuple(graded_sample(index, right, seed=seed) for index, right in enumerate(rights))


def reply_group(n: int, replies: Sequence[str]) -> Group:
    """The graded replies to the problem with the gold answer n, as a group."""
    prompts = Prompts("{question}").ask([make_problem(n)])
    return grade(FakePolicy(lambda prompt, index, version: replies[index]).sample(prompts, len(replies)))[0]


def run_batch(
    method: Method,
    policy: FakePolicy,
    prompts: Prompts,
    problems: Sequence[Problem] = PROBLEMS,
    role: Callable[[str], Policy] | None = None,
    state: dict[str, Any] | None = None,
) -> list[Update]:
    """The updates of one problem batch; after each, the policy has a new version, as in training."""
    roles = {} if role is None else {"role": role}
    actors = Actors(policy, prompts, grade, state={} if state is None else state, **roles)  # type: ignore[arg-type]
    updates = []
    for update in method.updates(actors, problems):
        updates.append(update)
        policy.publish(policy.version + 1)
    return updates


def only_part(update: Update) -> PolicyGradient:
    (part,) = update.parts
    assert isinstance(part, PolicyGradient)
    return part


def advantages_by_text(part: PolicyGradient) -> dict[str, float]:
    return {sample.text: advantage for sample, advantage in zip(part.samples, factors(part), strict=True)}


class SkippingPolicy(FakePolicy):
    """Finds the prompts too long for which `is_too_long` is true: their groups are empty."""

    def __init__(self, script: Script, is_too_long: Callable[[Prompt], bool]) -> None:
        super().__init__(script)
        self.is_too_long = is_too_long

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        for i, group in super().groups(prompts, n, sampling):
            yield i, () if self.is_too_long(prompts[i]) else group
