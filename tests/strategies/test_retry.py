"""Rounds of reflection and retry, as reflect and reflexion share them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from rethink.policies.fake import FakePolicy
from rethink.strategies import Attempt, Setup, fresh_retry, reflect, reflexion, self_refine, solve
from rethink.types import Problem, Prompt, Verdict
from support.evaluations import SmallContextPolicy, problem
from support.strategies import RETRY_PROMPTS, verdicts

Strategy = Callable[[Setup, Sequence[Attempt], int], list[Attempt]]
BOTH = pytest.mark.parametrize("strategy", [reflect, reflexion])


@BOTH
def test_only_wrong_answers_are_tried_again(strategy: Strategy) -> None:
    """First answers: 3 of 10 right; 2 of 7 are repaired. Nothing is asked about right answers."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        n = int(prompt.problem.id[1:])
        if prompt.phase == "reflect":
            return "a thought"
        return "right" if n < (3 if prompt.phase == "solve" else 5) else "wrong"

    policy = FakePolicy(script)
    setup = Setup(policy, RETRY_PROMPTS)
    first = solve(setup, [problem(f"p{n}") for n in range(10)])
    found = strategy(setup, first, 1)
    assert verdicts(first) == [[True]] * 3 + [[False]] * 7
    assert verdicts(found) == [[True]] * 5 + [[False]] * 5
    assert found[:3] == first[:3]
    assert [(p.phase, p.problem.id) for p in policy.shown[10:]] == [
        (phase, f"p{n}") for phase in ("reflect", "retry") for n in range(3, 10)
    ]
    assert [(a.depth, len(a.samples)) for a in found] == [(1, 1)] * 3 + [(3, 3)] * 7


@BOTH
def test_answers_that_were_not_graded_stay(strategy: Strategy) -> None:
    """Guards against a verifier's failure taken for a wrong answer: an undecided verdict or a crash says nothing."""

    def verify(reply: str, gold: str) -> Verdict:
        return {"right": Verdict(True), "wrong": Verdict(False), "undecided": Verdict(None)}[reply]

    words = ["undecided", "wrong", "crash", "right"]
    setup = Setup(FakePolicy(lambda p, i, v: words[i] if p.phase == "solve" else f"{p.phase} {i}"), RETRY_PROMPTS)
    first = solve(setup, [Problem("p", "q", "g", verify)], 4)
    (attempt,) = strategy(setup, first, 1)
    assert [s.text for s in attempt.answers] == ["undecided", "retry 0", "crash", "right"]
    assert [s.index for s in attempt.answers] == [0, 1, 2, 3]
    # The verifier also crashes on "retry 0", so that answer stays too.
    assert strategy(setup, first, 3) == strategy(setup, first, 1)


@BOTH
def test_retries_end_with_the_first_right_answer_or_the_last_round(strategy: Strategy) -> None:
    """Guards against further rounds of right answers, and prompts with the gold answer. Problem n takes n retries."""
    tries: dict[str, int] = {}

    def script(prompt: Prompt, index: int, version: int) -> str:
        name = prompt.problem.id
        if prompt.phase == "reflect":
            return "a thought"
        tries[name] = tries[name] + 1 if name in tries else 0
        return "right" if tries[name] == int(name[1:]) else "wrong"

    policy = FakePolicy(script)
    setup = Setup(policy, RETRY_PROMPTS)
    found = strategy(setup, solve(setup, [problem(f"p{n}") for n in range(5)]), 3)
    assert verdicts(found) == [[True]] * 4 + [[False]]
    assert tries == {"p0": 0, "p1": 1, "p2": 2, "p3": 3, "p4": 3}
    text = " ".join(m.content for p in policy.shown for m in p.messages)
    assert "gold" not in text
    assert "by its first word" not in text  # the verifier's reason
    assert [a.depth for a in found] == [1, 3, 5, 7, 7]
    assert len({(p.problem.id, p.phase, p.seed) for p in policy.shown}) == len(policy.shown) == 5 + 2 * (1 + 2 + 3 + 3)


@BOTH
def test_skipped_prompts_leave_their_answers(strategy: Strategy) -> None:
    """Guards against retries that shift to another answer: in each round 4 reflections and 3 new answers to 5."""

    def overlong(prompt: Prompt) -> bool:
        return prompt.draft is not None and (prompt.phase, prompt.draft.index) in {("reflect", 1), ("retry", 2)}

    policy = SmallContextPolicy(lambda p, i, v: f"wrong {p.phase} {-1 if p.draft is None else p.draft.index}", overlong)
    setup = Setup(policy, RETRY_PROMPTS)
    first = solve(setup, [problem("p"), problem("q")], 5)
    for rounds in (1, 2):
        for a, before in zip(strategy(setup, first, rounds), first, strict=True):
            expected = ("retry 0", "solve -1", "solve -1", "retry 3", "retry 4")
            assert [s.text for s in a.answers] == [f"wrong {text}" for text in expected]
            assert a.answers[1:3] == before.answers[1:3]
            assert (len(a.samples), a.depth) == (5 + rounds * 7, 1 + rounds * 2)
            assert a.notes == {"over-long prompts": rounds * 2}


@pytest.mark.parametrize("strategy", [reflect, reflexion, fresh_retry])
def test_no_call_is_made_if_all_is_right(strategy: Strategy) -> None:
    """Guards against empty calls, which an endpoint may not survive, and rounds that are counted for nothing."""
    policy = SmallContextPolicy(lambda *_: "right")
    setup = Setup(policy, RETRY_PROMPTS)
    first = solve(setup, [problem("p")], 3)
    assert strategy(setup, first, 5) == first
    assert strategy(setup, [], 5) == []
    assert strategy(setup, [Attempt(problem("p"))], 5) == [Attempt(problem("p"))]
    assert len(policy.asked) == 1


@pytest.mark.parametrize("strategy", [reflect, reflexion, fresh_retry, self_refine])
def test_retries_do_not_depend_on_the_batch(strategy: Strategy) -> None:
    """Guards against seeds and memories that come from positions: together, alone and in another order."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        return f"{'right' if (prompt.seed + index) % 5 == 0 else 'wrong'} {prompt.seed} {index}"

    def run(problems: Sequence[Problem]) -> list[tuple[object, ...]]:
        setup = Setup(FakePolicy(script), RETRY_PROMPTS)
        found = strategy(setup, solve(setup, problems, 3), 3)
        samples = [[(s.prompt.messages, s.prompt.seed, s.text) for s in a.samples] for a in found]
        answers = [[s.text for s in a.answers] for a in found]
        return list(zip(answers, samples, [a.depth for a in found], strict=True))

    problems = [problem(f"p{n}") for n in range(7)]
    assert [run([p])[0] for p in problems] == run(problems) == run(problems[::-1])[::-1]
