"""One answer from several candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rethink.prompts import Prompts
from rethink.strategies import Setup, merge, solve
from support.evaluations import SmallContextPolicy
from support.strategies import PROMPTS, candidates, problem


def test_all_candidates_are_merged_into_one_answer() -> None:
    """By hand: 4 replies of 2 words and an end token, one of 3; the question's 2 tokens, then 2, 4 candidates of 2 words,
    and "merge"."""
    setup, found = candidates("x a", "y b", "z c", "w d")
    (attempt,) = merge(setup, found)
    assert [s.text for s in attempt.answers] == ["merge 0 a"]
    assert (len(attempt.samples), attempt.depth, attempt.notes) == (5, 2, {})
    (turn,) = attempt.answers[0].prompt.messages
    assert [turn.content.count(f"<{text}>") for text in ("x a", "y b", "z c", "w d")] == [1] * 4
    assert (attempt.n_tokens, attempt.n_prompt_tokens) == (4 * 3 + 4, 2 + 2 + 4 * 2 + 1)


def shown_order(replies: Sequence[str], name: str, prompts: Prompts = PROMPTS) -> list[int]:
    """The indices of the candidates in the order of the merge prompt."""
    setup, found = candidates(*replies, about=problem(name), prompts=prompts)
    (attempt,) = merge(setup, found)
    (turn,) = attempt.answers[0].prompt.messages
    return sorted(range(len(replies)), key=lambda n: turn.content.index(f"<{replies[n]}>"))


def test_the_order_of_candidates_depends_on_ids_alone() -> None:
    """Guards against an order that reveals which are right, is the same for all problems, or changes from run to run."""
    replies = ["x a", "y a", "z a", "v a", "w a"]
    orders = [shown_order(replies, f"p{n}") for n in range(11)]
    assert orders == [shown_order(["1 ?", "2 b", "3 a", "4 c", "5 a"], f"p{n}") for n in range(11)]
    assert len({tuple(order) for order in orders}) > 5
    assert orders != [shown_order(replies, f"p{n}", replace(PROMPTS, seed=17)) for n in range(11)]


def test_cut_candidates_are_counted() -> None:
    """Guards against a model that silently sees half of a solution. Thinking does not count."""
    replies = ("x" * 105, f"<think>{'t' * 101}</think>seen a", "z" * 100)
    setup, found = candidates(*replies, prompts=replace(PROMPTS, candidate_chars=100))
    (attempt,) = merge(setup, found)
    content = attempt.answers[0].prompt.messages[0].content
    assert f"<{'x' * 50}\n[... 5 characters left out ...]\n{'x' * 50}>" in content
    assert "<seen a>" in content
    assert f"<{'z' * 100}>" in content
    assert attempt.notes == {"candidates cut": 1}


def test_candidates_stay_if_their_prompt_is_overlong() -> None:
    """Guards against an attempt without an answer, or with one candidate picked by its place."""
    policy = SmallContextPolicy(
        lambda p, i, v: "ab"[i % 2] * 101, lambda p: p.phase == "merge" and p.problem.id == "p1"
    )
    setup = Setup(policy, replace(PROMPTS, candidate_chars=100))
    found = merge(setup, first := solve(setup, [problem(f"p{n}") for n in range(3)], 4))
    assert [len(a.answers) for a in found] == [1, 4, 1]
    assert found[1] == replace(first[1], notes={"over-long prompts": 1})
    assert [a.notes for a in found[::2]] == [{"candidates cut": 4}] * 2
