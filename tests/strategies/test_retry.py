"""Second tries over a fake policy: after a reflection on what a verifier calls wrong, or after the model's own feedback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from rethink.policies.base import Policy
from rethink.policies.fake import FakePolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.strategies import Attempt, Setup, blind_retry, reflect, reflexion, self_refine, solve
from rethink.types import Message, Problem, Prompt, Verdict
from support.evaluations import Narrow, problem

TEXTS = Prompts(
    reflect="what went wrong",
    retry="once more",
    critique="feedback",
    improve="use it",
    satisfied="Fine",
    remember="{task} learned {reflections}",
    seed=13,
)


def tried(policy: Policy, problems: Sequence[Problem], n: int = 1) -> tuple[Setup, list[Attempt]]:
    setup = Setup(policy, TEXTS)
    return setup, solve(setup, problems, n)


def rights(attempts: Sequence[Attempt]) -> list[list[bool | None]]:
    return [[s.right for s in group] for group in grade([a.answers for a in attempts])]


def turns(prompt: Prompt) -> list[str]:
    return [m.content for m in prompt.messages]


Strategy = Callable[[Setup, Sequence[Attempt], int], list[Attempt]]
BOTH = pytest.mark.parametrize("strategy", [reflect, reflexion])

# With verdicts


@BOTH
def test_reflecting_gives_failures_alone_a_second_try(strategy: Strategy) -> None:
    """First tries: 3 of 10 right; 2 of 7 are repaired: 5 of 10 at the second. Right answers stand as they are, and nothing
    is asked about them."""

    def scripted(prompt: Prompt, index: int, version: int) -> str:
        n = int(prompt.problem.id[1:])
        if prompt.phase == "reflect":
            return "a thought"
        return "right" if n < (3 if prompt.phase == "solve" else 5) else "wrong"

    policy = FakePolicy(scripted)
    setup, first = tried(policy, [problem(f"p{n}") for n in range(10)])
    found = strategy(setup, first, 1)
    assert rights(first) == [[True]] * 3 + [[False]] * 7
    assert rights(found) == [[True]] * 5 + [[False]] * 5
    assert found[:3] == first[:3]
    assert [(p.phase, p.problem.id) for p in policy.shown[10:]] == [
        (phase, f"p{n}") for phase in ("reflect", "retry") for n in range(3, 10)
    ]
    assert [a.depth for a in found] == [1] * 3 + [3] * 7
    assert [len(a.samples) for a in found] == [1] * 3 + [3] * 7


@BOTH
def test_answers_that_were_not_graded_stand(strategy: Strategy) -> None:
    """Guards against a verifier's failure that is taken for a wrong answer: neither an undecided verdict nor a crash says
    anything. Of four answers only the wrong one is tried again."""

    def fails(reply: str, gold: str) -> Verdict:
        return {"right": Verdict(True), "wrong": Verdict(False), "undecided": Verdict(None)}[reply]

    words = ["undecided", "wrong", "crash", "right"]
    policy = FakePolicy(lambda p, i, v: words[i] if p.phase == "solve" else f"{p.phase} {i}")
    setup, first = tried(policy, [Problem("p", "q", "g", fails)], 4)
    (attempt,) = strategy(setup, first, 1)
    assert [s.text for s in attempt.answers] == ["undecided", "retry 0", "crash", "right"]
    assert [s.index for s in attempt.answers] == [0, 1, 2, 3]
    # Once tried again, the verifier crashes on "retry 0": it stands too.
    assert strategy(setup, first, 3) == strategy(setup, first, 1)


def test_each_retry_follows_its_own_reflection() -> None:
    """Guards against reflections that slide to another answer, and retries that begin afresh."""
    policy = FakePolicy(lambda p, i, v: f"wrong {i}" if p.draft is None else f"{p.phase} on {p.draft.text}")
    setup, first = tried(policy, [problem("p0"), problem("p1")], 3)
    found = reflect(setup, first)
    for a in found:
        assert [s.text for s in a.answers] == [f"retry on wrong {i}" for i in range(3)]
        assert [turns(s.prompt) for s in a.answers] == [
            [f"question {a.problem.id}", f"wrong {i}", "what went wrong", f"reflect on wrong {i}", "once more"]
            for i in range(3)
        ]
    assert len({(p.phase, p.seed) for p in policy.shown}) == 2 + 6 + 6


@BOTH
def test_retries_end_with_the_first_right_answer_or_the_rounds(strategy: Strategy) -> None:
    """Problem n is right at its n-th retry: of 5 problems with 3 rounds the first four, and nothing is asked again of what
    is right. A round is 2 calls; p1 takes one round, p2 two, p3 and p4 three."""
    tries: dict[str, int] = {}

    def scripted(prompt: Prompt, index: int, version: int) -> str:
        name = prompt.problem.id
        if prompt.phase == "reflect":
            return "a thought"
        tries[name] = tries[name] + 1 if name in tries else 0
        return "right" if tries[name] == int(name[1:]) else "wrong"

    policy = FakePolicy(scripted)
    setup, first = tried(policy, [problem(f"p{n}") for n in range(5)])
    found = strategy(setup, first, 3)
    assert rights(found) == [[True]] * 4 + [[False]]
    assert tries == {"p0": 0, "p1": 1, "p2": 2, "p3": 3, "p4": 3}
    assert [a.depth for a in found] == [1, 3, 5, 7, 7]
    assert len({(p.problem.id, p.phase, p.seed) for p in policy.shown}) == len(policy.shown) == 5 + 2 * (1 + 2 + 3 + 3)


def test_later_rounds_reflect_on_the_latest_try() -> None:
    """Guards against rounds that reflect on the first answer for ever."""
    policy = FakePolicy(lambda p, i, v: f"wrong {p.phase} {len(policy.shown)}")
    setup, first = tried(policy, [problem("p")])
    (attempt,) = reflect(setup, first, 3)
    answers = [s.text for s in attempt.samples if s.prompt.phase != "reflect"]
    seen = [turns(s.prompt)[1] for s in attempt.samples if s.prompt.phase == "reflect"]
    assert seen == answers[:3]
    assert attempt.answers[0].text == answers[3]


def test_a_new_try_sees_the_latest_three_reflections_and_no_try() -> None:
    """Five rounds: the prompts of the new tries hold reflections 1; 1, 2; 1, 2, 3; 2, 3, 4; 3, 4, 5 and none of the tries;
    those on two answers are kept apart."""
    counts: dict[tuple[str, int], int] = {}

    def scripted(prompt: Prompt, index: int, version: int) -> str:
        if prompt.draft is None:
            return f"wrong {index}"
        key = (prompt.phase, prompt.draft.index)
        counts[key] = counts[key] + 1 if key in counts else 1
        return f"{'wrong' if prompt.phase == 'retry' else ' thought'} {prompt.draft.index} at {counts[key]}\n"

    policy = FakePolicy(scripted)
    setup, first = tried(policy, [problem("p")], 2)
    reflexion(setup, first, 5)
    retries = [p for p in policy.shown if p.phase == "retry"]
    seen = [[1], [1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    for index in (0, 1):
        assert [p.messages for p in retries[index::2]] == [
            (Message("user", "question p learned " + "\n".join(f"- thought {index} at {n}" for n in some)),)
            for some in seen
        ]


@BOTH
def test_the_verdict_alone_is_told(strategy: Strategy) -> None:
    """Guards against the gold answer or the verifier's reason in a prompt."""
    policy = FakePolicy(lambda *_: "wrong")
    strategy(*tried(policy, [problem("p")]), 3)
    assert len(policy.shown) == 7
    assert not any(
        hint in m.content for p in policy.shown for m in p.messages for hint in ("gold", "by its first word")
    )


def overlong(prompt: Prompt) -> bool:
    """Answer 1 cannot be reflected on; after the reflection on answer 2 there is no room for another try."""
    return prompt.draft is not None and (prompt.phase, prompt.draft.index) in {("reflect", 1), ("retry", 2)}


@BOTH
def test_reflecting_survives_skipped_prompts(strategy: Strategy) -> None:
    """Guards against retries that slide to another answer where one could not be reflected on. By hand: 5 answers; a
    reflection on 4 of them and 3 new tries in each round, 2 of 5 prompts for reflections and retries skipped."""
    policy = Narrow(lambda p, i, v: f"wrong {p.phase} {-1 if p.draft is None else p.draft.index}", overlong)
    setup, first = tried(policy, [problem("p"), problem("q")], 5)
    for rounds in (1, 2):
        for a, before in zip(strategy(setup, first, rounds), first, strict=True):
            assert [s.text for s in a.answers] == [
                f"wrong {at}" for at in ("retry 0", "solve -1", "solve -1", "retry 3", "retry 4")
            ]
            assert a.answers[1:3] == before.answers[1:3]
            assert (len(a.samples), a.depth, a.notes) == (
                5 + rounds * 7,
                1 + rounds * 2,
                {"over-long prompts": rounds * 2},
            )


@BOTH
def test_nothing_is_asked_where_all_is_right(strategy: Strategy) -> None:
    """Guards against empty calls, which an endpoint or a pool may not survive, and against rounds that cost nothing being
    counted."""
    policy = Narrow(lambda *_: "right")
    setup, first = tried(policy, [problem("p")], 3)
    assert strategy(setup, first, 5) == first
    assert strategy(setup, [], 5) == []
    assert strategy(setup, [Attempt(problem("p"))], 5) == [Attempt(problem("p"))]
    assert len(policy.asked) == 1


# With the model's own feedback


def chatty(prompt: Prompt, index: int, version: int) -> str:
    """Answers count their round; feedback is content with answer 0 at once and with answer n after n rounds."""
    if prompt.draft is None:
        return f"answer {index}.0"
    number, n = prompt.draft.text.split()[1].split(".")
    if prompt.phase == "critique":
        return f"feedback {number}.{n} {'It is fine' if number == n else 'worse'}"
    return f"answer {number}.{int(n) + 1}"


def test_the_conversation_grows_until_feedback_is_content() -> None:
    """By hand: 5 answers and 3 rounds. Answer n is improved min(n, 3) times and has min(n + 1, 3) critiques."""
    policy = FakePolicy(chatty)
    setup, first = tried(policy, [problem("p"), problem("q")], 5)
    found = self_refine(setup, first, 3)
    for a in found:
        assert [s.text for s in a.answers] == [f"answer {n}.{min(n, 3)}" for n in range(5)]
        assert a.answers[0] == first[found.index(a)].answers[0]
        assert turns(a.answers[2].prompt) == [
            f"question {a.problem.id}",
            *("answer 2.0", "feedback", "feedback 2.0 worse", "use it"),
            *("answer 2.1", "feedback", "feedback 2.1 worse", "use it"),
        ]
        assert [m.role for m in a.answers[2].prompt.messages] == ["user", "assistant"] * 4 + ["user"]
        # 0 + 1 + 2 + 3 + 3 new answers after 1 + 2 + 3 + 3 + 3 critiques; three rounds of two calls.
        assert (len(a.samples), a.depth, a.notes) == (5 + 9 + 12, 1 + 3 * 2, {})
    assert len({(p.problem.id, p.phase, p.seed) for p in policy.shown}) == 2 * (1 + 9 + 12)


def test_content_feedback_is_counted_once() -> None:
    """Guards against answers that were found good and are asked about in every round; one call, not two, was waited for."""
    policy = FakePolicy(lambda p, i, v: "FINE" if p.phase == "critique" else "answer")
    setup, first = tried(policy, [problem("p")], 3)
    (attempt,) = self_refine(setup, first, 7)
    assert attempt.answers == first[0].answers
    assert [p.phase for p in policy.shown] == ["solve"] + ["critique"] * 3
    assert attempt.depth == 2


def test_contentment_within_thinking_is_none() -> None:
    """Regression: feedback that asked itself in its thinking whether all is fine, and found a mistake, ended the asking."""

    def critical(feedback: str) -> FakePolicy:
        return FakePolicy(lambda p, i, v: feedback if p.phase == "critique" else f"{p.phase} {i}")

    (attempt,) = self_refine(*tried(critical("<think>Is it fine? No.</think>step 2 is wrong"), [problem("p")]))
    assert [s.text for s in attempt.answers] == ["improve 0"]
    assert turns(attempt.answers[0].prompt)[-2:] == ["step 2 is wrong", "use it"]
    (attempt,) = self_refine(*tried(critical("<think>Is it wrong? No.</think>It is fine."), [problem("p")]))
    assert [s.text for s in attempt.answers] == ["solve 0"]


@pytest.mark.parametrize("phase", ["critique", "improve"])
def test_own_feedback_survives_skipped_prompts(phase: str) -> None:
    """Once an answer whose improvement found no room got the same feedback again in every round. Answer 1 is over-long
    to criticise, or to improve, from the start; the conversations of the others go on."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        return f"answer {index}" if prompt.draft is None else f"{prompt.phase} of {prompt.draft.text}"

    policy = Narrow(script, lambda p: p.phase == phase and p.draft is not None and p.draft.index == 1)
    setup, first = tried(policy, [problem("p")], 3)
    (attempt,) = self_refine(setup, first, 3)
    assert attempt.answers[1] is first[0].answers[1]
    assert [s.text.count("improve") for s in attempt.answers] == [3, 0, 3]
    n_used = 3 + 2 * 6 + (phase == "improve")
    assert (len(attempt.samples), attempt.depth, attempt.notes) == (n_used, 7, {"over-long prompts": 1})


def test_own_feedback_needs_no_verdict() -> None:
    """Guards against an oracle in disguise: the verifier raises here, and so does nothing else."""

    def never(*_: str) -> Verdict:
        raise AssertionError("a verdict was asked for")

    policy = FakePolicy(lambda p, i, v: p.phase)
    (attempt,) = self_refine(*tried(policy, [replace(problem("p"), verify=never)]), 2)
    assert [s.text for s in attempt.answers] == ["improve"]


@pytest.mark.parametrize("strategy", [reflect, reflexion, self_refine])
def test_retries_do_not_depend_on_the_batch(strategy: Strategy) -> None:
    """Guards against seeds and memories that come from positions: together, alone and in another order."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        return f"{'right' if (prompt.seed + index) % 5 == 0 else 'wrong'} {prompt.seed} {index}"

    problems = [problem(f"p{n}") for n in range(7)]
    together = strategy(*tried(FakePolicy(script), problems, 3), 3)
    alone = [strategy(*tried(FakePolicy(script), [p], 3), 3)[0] for p in problems[::-1]]

    def told(a: Attempt) -> tuple[object, ...]:
        return (
            [s.text for s in a.answers],
            [(s.prompt.messages, s.prompt.seed, s.text) for s in a.samples],
            a.depth,
            a.notes,
        )

    assert [told(a) for a in alone[::-1]] == [told(a) for a in together]


def test_a_blind_retry_has_the_turns_of_a_reflection_and_costs_none() -> None:
    """The control of `reflect`: the same conversation with one fixed text. By hand: 7 wrong answers, a retry each, and no
    reflection is sampled or paid for."""

    def scripted(prompt: Prompt, index: int, version: int) -> str:
        n = int(prompt.problem.id[1:])
        return "right" if n < 3 or (prompt.phase == "retry" and n < 5) else "wrong"

    policy = FakePolicy(scripted)
    setup, first = tried(policy, [problem(f"p{n}") for n in range(10)])
    found, reflected = blind_retry(setup, first), reflect(setup, first)
    assert [bool(a.problem.grade(a.answers[0].text).right) for a in found] == [True] * 5 + [False] * 5
    assert [(len(a.samples), a.depth) for a in found] == [(1, 1)] * 3 + [(2, 2)] * 7
    for blind, seen in zip(found[3:], reflected[3:], strict=True):
        ours, theirs = turns(blind.answers[0].prompt), turns(seen.answers[0].prompt)
        assert ours[-2] == setup.prompts.blind
        assert (ours[:-2], ours[-1]) == (theirs[:-2], theirs[-1])
    assert sum(p.phase == "reflect" for p in policy.shown) == 7  # those of `reflect` alone
