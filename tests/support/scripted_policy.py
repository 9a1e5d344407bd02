"""A fake policy for tests of ranks: unpicklable problems, scripted replies, and prompts that count as over-long."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from rethink.policies.fake import FakePolicy
from rethink.types import Group, Message, Problem, Prompt, Sampling, Verdict


def even_length(reply: str, _gold: str) -> Verdict:
    return Verdict(len(reply) % 2 == 0)


def make_prompts(n: int, phase: str = "solve") -> list[Prompt]:
    """Return n prompts whose verifiers cannot be pickled, so they have to stay on each rank."""
    lock = threading.Lock()
    problems = [
        Problem(
            f"p{i}",
            f"{i + 2} 7 5 -> 26",
            "26",
            lambda reply, gold: (lock.locked(), even_length(reply, gold))[1],
            demonstrate=lambda seed: (),
        )
        for i in range(n)
    ]
    return [Prompt(p, phase, (Message("user", p.question),), 3 + i) for i, p in enumerate(problems)]


def script(prompt: Prompt, index: int, version: int) -> str:
    return f"{prompt.problem.id} {prompt.phase} {'x' * index} {version}"


class ScriptedPolicy(FakePolicy):
    """A fake policy that skips prompts of the phase "long" and whose ids do not depend on earlier replies."""

    n_overlong = 0

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        for i, group in super().groups(prompts, n, sampling):
            if prompts[i].phase == "long":
                self.n_overlong += 1
                group = ()
            yield i, group

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(1 + sum(map(ord, word)) for word in text.split())

    def with_sampling(self, sampling: Sampling) -> ScriptedPolicy:
        return ScriptedPolicy(self.script, sampling)
