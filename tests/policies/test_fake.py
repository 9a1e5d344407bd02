"""The policy without a model behaves like one with a model."""

from __future__ import annotations

import pytest

from rethink.policies.fake import FakePolicy, seeded_script
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.types import Sampling
from support.local_sampling import PROMPTS
from support.method_runs import PROBLEMS, make_problem

TEXTS = Prompts("{question}", seed=13)


@pytest.mark.parametrize(("cap", "n_tokens", "stop"), [(3, 3, "length"), (5, 5, "length"), (6, 6, "stop")])
def test_replies_are_cut_at_max_tokens(cap: int, n_tokens: int, stop: str) -> None:
    """Guards against a fake that never cuts: five words and the end token are six tokens."""
    policy = FakePolicy(lambda prompt, index, version: "2 3 5 7 11", Sampling(max_tokens=cap))
    ((sample,),) = policy.sample(TEXTS.ask(PROBLEMS[:1]), 1)
    assert (len(sample.ids), sample.stop, len(sample.text.split())) == (n_tokens, stop, min(n_tokens, 5))


def test_seeded_replies_are_right_with_the_given_probability() -> None:
    """Guards against another probability, and replies that change between calls."""
    prompts = TEXTS.ask([make_problem(n) for n in range(211)])
    script = seeded_script(0.3, lambda problem: problem.gold)
    first, second = FakePolicy(script).sample(prompts, 11), FakePolicy(script).sample(prompts, 11)
    assert first == second
    # Of 2,321 replies 696 +- 22 are right; 4 standard deviations.
    assert abs(sum(bool(sample.right) for group in grade(first) for sample in group) - 696) < 89


@pytest.mark.parametrize(
    ("reply", "cap", "pieces"),
    [
        ("2 + 3", 23, ["2", " +", " 3"]),
        ("  2\n+ ", 23, ["  2", "\n+", " "]),
        ("2 + 3", 2, ["2", " +"]),
        (" ", 23, [" "]),
        ("", 23, []),
    ],
)
def test_stream_passes_on_words(reply: str, cap: int, pieces: list[str]) -> None:
    """Guards against lost whitespace, and words past max_tokens."""
    policy = FakePolicy(lambda prompt, index, version: reply)
    seen: list[str] = []
    sample = policy.stream(PROMPTS[0], Sampling(max_tokens=cap), seen.append)
    assert seen == pieces
    assert sample == policy.sample(PROMPTS[:1], 1, Sampling(max_tokens=cap))[0][0]
    assert policy.shown == [PROMPTS[0]] * 2
