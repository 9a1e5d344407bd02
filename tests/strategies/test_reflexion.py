"""The memory of Reflexion."""

from __future__ import annotations

from rethink.policies.fake import FakePolicy
from rethink.strategies import Setup, reflexion, solve
from rethink.types import Message, Prompt
from support.evaluations import problem
from support.strategies import RETRY_PROMPTS


def test_a_new_try_sees_the_last_three_reflections_and_no_earlier_try() -> None:
    """Guards against a memory that grows, or that two answers to one problem share. Five rounds: the prompts hold
    reflections 1; 1, 2; 1, 2, 3; 2, 3, 4; 3, 4, 5."""
    counts: dict[tuple[str, int], int] = {}

    def script(prompt: Prompt, index: int, version: int) -> str:
        if prompt.draft is None:
            return f"wrong {index}"
        key = (prompt.phase, prompt.draft.index)
        counts[key] = counts[key] + 1 if key in counts else 1
        return f"{'wrong' if prompt.phase == 'retry' else ' thought'} {prompt.draft.index} at {counts[key]}\n"

    policy = FakePolicy(script)
    setup = Setup(policy, RETRY_PROMPTS)
    reflexion(setup, solve(setup, [problem("p")], 2), 5)
    retries = [p for p in policy.shown if p.phase == "retry"]
    remembered = [[1], [1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    for index in (0, 1):
        assert [p.messages for p in retries[index::2]] == [
            (Message("user", "question p learned " + "\n".join(f"- thought {index} at {n}" for n in some)),)
            for some in remembered
        ]
