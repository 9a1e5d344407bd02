"""A population of answers, each written from a random subset of the one before."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from rethink.policies.fake import FakePolicy
from rethink.strategies import Attempt, Setup, aggregate, parse, pick, solve
from support.evaluations import SmallContextPolicy
from support.strategies import PROMPTS, candidates, problem, score


def shown_in(attempt: Attempt, replies: tuple[str, ...]) -> list[frozenset[str]]:
    """Return, for each answer, which of the replies its prompt shows."""
    found = []
    for answer in attempt.answers:
        (turn,) = answer.prompt.messages
        found.append(frozenset(text for text in replies if f"<{text}>" in turn.content))
    return found


def test_each_answer_is_written_from_a_random_subset() -> None:
    """By hand: five first answers of 2 words and an end token; five prompts of the question's 2 words, 3 candidates of 2
    words and "merge", and five replies of 3 words and an end token. Guards against one subset for all answers."""
    replies = ("x a", "y b", "z c", "w d", "v e")
    setup, found = candidates(*replies)
    (attempt,) = aggregate(setup, found, 3)
    assert [s.text for s in attempt.answers] == ["merge 0 a"] * 5
    assert [s.index for s in attempt.answers] == [0, 1, 2, 3, 4]
    shown = shown_in(attempt, replies)
    assert {len(subset) for subset in shown} == {3}
    assert len(set(shown)) > 2
    assert (len(attempt.samples), attempt.depth, attempt.notes) == (10, 2, {})
    assert (attempt.n_tokens, attempt.n_prompt_tokens) == (5 * 3 + 5 * 4, 2 + 5 * (2 + 3 * 2 + 1))
    assert len({s.prompt.group for s in attempt.samples}) == 1 + 5


def test_subsets_are_uniform_and_depend_on_ids_alone() -> None:
    """Guards against candidates that are preferred for their place, or drawn twice into one prompt. Each of 5 is in 2 of 5
    subsets: of 1,000 prompts 400 +- 15; 4 standard deviations."""
    replies = ("x a", "y b", "z c", "w d", "v e")
    counts: Counter[str] = Counter()
    for n in range(200):
        setup, found = candidates(*replies, about=problem(f"p{n}"))
        (attempt,) = aggregate(setup, found, 2)
        for subset in shown_in(attempt, replies):
            assert len(subset) == 2
            counts.update(subset)
        if n < 5:
            setup, found = candidates("1 a", "2 b", "3 c", "4 d", "5 e", about=problem(f"p{n}"))
            (other,) = aggregate(setup, found, 2)
            numbers = dict(zip(("1 a", "2 b", "3 c", "4 d", "5 e"), replies, strict=True))
            renamed = [frozenset(numbers[text] for text in subset) for subset in shown_in(other, tuple(numbers))]
            assert renamed == shown_in(attempt, replies)
    assert all(340 < counts[text] < 460 for text in replies)


def test_an_overlong_prompt_keeps_the_answer_in_its_place() -> None:
    """Guards against a population that shrinks, and notes that are lost. With one answer, k is one."""
    policy = SmallContextPolicy(
        lambda p, i, v: "ab"[i % 2] if p.phase == "solve" else "c",
        lambda p: p.phase == "merge" and "<b>" in p.messages[0].content,
    )
    setup = Setup(policy, PROMPTS)
    (attempt,) = aggregate(setup, solve(setup, [problem()], 6), 1)
    shown = [a.prompt.phase for a in attempt.answers]
    assert Counter(a.text for a in attempt.answers)["c"] == shown.count("merge") > 0
    assert attempt.notes == {"over-long prompts": shown.count("solve")}
    assert [a.index for a in attempt.answers] == list(range(6))
    empty = Attempt(problem())
    assert aggregate(setup, [empty], 3) == [empty]


def test_a_picked_answer_is_scored_by_the_mean() -> None:
    """Guards against a score that depends on the draw: one of four answers is right."""
    setup, found = candidates("a", "b", "c", "d")
    (attempt,) = pick(setup, found)
    assert len(attempt.answers) == 1
    assert attempt.tied == found[0].answers
    assert score(attempt) == pytest.approx(0.25)
    assert (attempt.depth, attempt.samples) == (1, found[0].samples)


def test_rsa_has_t_populations_of_n() -> None:
    """Guards against a round too many, and rounds that draw with the same random numbers: N T samples in T calls."""
    policy = FakePolicy(lambda p, i, v: f"{p.seed % 7} {'a' if p.seed % 2 else 'b'}")
    found = parse("rsa:5,2,4").run(Setup(policy, replace(PROMPTS, seed=3)), [problem("p"), problem("q")], repeats=2)
    assert [(a.problem.id, a.repeat) for a in found] == [("p", 0), ("p", 1), ("q", 0), ("q", 1)]
    for attempt in found:
        assert (len(attempt.samples), attempt.depth, len(attempt.answers), len(attempt.tied)) == (20, 4, 1, 5)
        assert len({s.prompt.group for s in attempt.samples}) == 1 + 15
    merges = [p.seed for p in policy.shown if p.phase == "merge"]
    assert len(merges) == len(set(merges)) == 4 * 15
