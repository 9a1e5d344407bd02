"""Self-Refine: the model's own feedback."""

from __future__ import annotations

import pytest

from rethink.policies.fake import FakePolicy
from rethink.strategies import Setup, self_refine, solve
from rethink.types import Prompt
from support.evaluations import SmallContextPolicy, problem
from support.strategies import RETRY_PROMPTS, turns


def script(prompt: Prompt, index: int, version: int) -> str:
    """Answers "number.round"; the feedback on answer n is satisfied after n rounds."""
    if prompt.draft is None:
        return f"answer {index}.0"
    number, n = prompt.draft.text.split()[1].split(".")
    if prompt.phase == "critique":
        return f"feedback {number}.{n} {'It is fine' if number == n else 'worse'}"
    return f"answer {number}.{int(n) + 1}"


def test_the_conversation_grows_until_feedback_is_satisfied() -> None:
    """By hand: in 3 rounds, answer n is improved min(n, 3) times and has min(n + 1, 3) critiques."""
    policy = FakePolicy(script)
    setup = Setup(policy, RETRY_PROMPTS)
    first = solve(setup, [problem("p"), problem("q")], 5)
    for before, a in zip(first, self_refine(setup, first, 3), strict=True):
        assert [s.text for s in a.answers] == [f"answer {n}.{min(n, 3)}" for n in range(5)]
        assert a.answers[0] == before.answers[0]
        assert turns(a.answers[2].prompt) == [
            f"question {a.problem.id}",
            *("answer 2.0", "feedback", "feedback 2.0 worse", "use it"),
            *("answer 2.1", "feedback", "feedback 2.1 worse", "use it"),
        ]
        assert [m.role for m in a.answers[2].prompt.messages] == ["user", "assistant"] * 4 + ["user"]
        assert (len(a.samples), a.depth, a.notes) == (5 + 9 + 12, 1 + 3 * 2, {})
    assert len({(p.problem.id, p.phase, p.seed) for p in policy.shown}) == 2 * (1 + 9 + 12)


def test_satisfied_feedback_ends_the_rounds() -> None:
    """Guards against finished answers that get feedback in every round: one call, not two, is in sequence."""
    policy = FakePolicy(lambda p, i, v: "FINE" if p.phase == "critique" else "answer")
    setup = Setup(policy, RETRY_PROMPTS)
    first = solve(setup, [problem("p")], 3)
    (attempt,) = self_refine(setup, first, 7)
    assert attempt.answers == first[0].answers
    assert [p.phase for p in policy.shown] == ["solve"] + ["critique"] * 3
    assert attempt.depth == 2


@pytest.mark.parametrize(
    ("feedback", "answer"),
    [
        ("<think>Is it fine? No.</think>step 2 is wrong", "improve 0"),
        ("<think>Is it wrong? No.</think>It is fine.", "solve 0"),
        ("<think>Until here it is fine", "improve 0"),
    ],
)
def test_the_thinking_of_feedback_does_not_count(feedback: str, answer: str) -> None:
    """Regression: feedback whose thinking asked whether all is fine, and then found a mistake, ended the rounds."""
    setup = Setup(FakePolicy(lambda p, i, v: feedback if p.phase == "critique" else f"{p.phase} {i}"), RETRY_PROMPTS)
    (attempt,) = self_refine(setup, solve(setup, [problem("p")]))
    assert [s.text for s in attempt.answers] == [answer]
    if "step 2" in feedback:
        assert turns(attempt.answers[0].prompt)[-2:] == ["step 2 is wrong", "use it"]


@pytest.mark.parametrize("phase", ["critique", "improve"])
def test_skipped_prompts_leave_their_answers(phase: str) -> None:
    """Regression: an answer whose improve prompt was over-long got the same feedback again in every round."""
    policy = SmallContextPolicy(
        lambda p, i, v: f"answer {i}" if p.draft is None else f"{p.phase} of {p.draft.text}",
        lambda p: p.phase == phase and p.draft is not None and p.draft.index == 1,
    )
    setup = Setup(policy, RETRY_PROMPTS)
    first = solve(setup, [problem("p")], 3)
    (attempt,) = self_refine(setup, first, 3)
    assert attempt.answers[1] is first[0].answers[1]
    assert [s.text.count("improve") for s in attempt.answers] == [3, 0, 3]
    n_samples = 3 + 2 * 6 + (phase == "improve")
    assert (len(attempt.samples), attempt.depth, attempt.notes) == (n_samples, 7, {"over-long prompts": 1})
