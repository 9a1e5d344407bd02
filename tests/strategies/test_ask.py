"""Strategies at test time over a fake policy: first answers, refinement, merging, votes and a judge's choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.policies.fake import FakePolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.strategies import Attempt, Setup, best_of_n, merge, refine, solve, vote
from rethink.strategies.best_of_n import read_rating
from rethink.types import Message, Problem, Prompt, Sampling, Verdict
from support.evaluations import Narrow, equal, last_word

TEXTS = Prompts(
    refine="again",
    merge="{question} {candidates} merge",
    candidate="{n}<{candidate}>",
    between=" ",
    rate="{question} rate <{candidate}>",
    seed=13,
)


def verify(reply: str, gold: str) -> Verdict:
    word = last_word(reply)
    return Verdict(word is not None and equal(word, gold))


def problem(name: str = "p", gold: str = "a") -> Problem:
    return Problem(name, f"question {name}", gold, verify, extract_answer=last_word, equal_answers=equal)


def never(*_: Any) -> Any:
    raise AssertionError("gold answers and verdicts are out of bounds")


class Sealed(Problem):
    """A problem whose gold answer cannot be looked at."""

    def __getattribute__(self, name: str) -> Any:
        return never() if name in ("gold", "judge", "verify") else super().__getattribute__(name)


def sealed(name: str = "p") -> Problem:
    return Sealed(name, f"question {name}", "a", never, extract_answer=last_word, equal_answers=equal)


def saying(*replies: str) -> FakePolicy:
    """First answers in order; anything else echoes its phase and index."""
    return FakePolicy(lambda p, index, v: replies[index] if p.phase == "solve" else f"{p.phase} {index} a")


def expected(attempt: Attempt) -> float | None:
    """The mean verdict, None where nothing is there to be graded."""
    (group,) = grade([attempt.finals])
    return sum(bool(s.right) for s in group) / len(group) if group else None


def candidates(*replies: str, about: Problem | None = None, texts: Prompts = TEXTS) -> tuple[Setup, list[Attempt]]:
    """A problem's first answers, with a policy that is asked nothing else."""
    setup = Setup(saying(*replies), texts)
    return setup, solve(setup, [about or problem()], len(replies))


# First answers and costs


def test_first_answers_in_order() -> None:
    """Guards against answers that go to another problem, lose their index, or cost nothing."""
    policy = FakePolicy(lambda p, index, v: f"{p.problem.id} {index}")
    problems = [problem(f"p{n}") for n in range(3)]
    found = solve(Setup(policy, TEXTS), problems, 5)
    assert [a.problem for a in found] == problems
    assert [[s.text for s in a.answers] for a in found] == [[f"p{n} {i}" for i in range(5)] for n in range(3)]
    assert all((a.samples, a.finals, a.depth, a.tied, a.notes) == (a.answers, a.answers, 1, (), {}) for a in found)
    assert [p.seed for p in policy.shown] == [p.seed for p in TEXTS.ask(problems)]
    assert solve(Setup(policy, TEXTS), [], 5) == []


@pytest.mark.parametrize("first", [None, Sampling(max_tokens=5)])
@pytest.mark.parametrize("later", [None, Sampling(max_tokens=7)])
def test_first_answers_and_later_looks_have_their_own_sampling(first: Sampling | None, later: Sampling | None) -> None:
    """Once first answers were drawn as later looks are where nothing was said of them. The policy's own is 11 tokens."""
    policy = FakePolicy(lambda *_: "a " * 13, Sampling(max_tokens=11))
    setup = Setup(policy, TEXTS, first, later)
    (attempt,) = refine(setup, solve(setup, [problem()]))
    assert [s.n_tokens for s in attempt.samples] == [5 if first else 11, 7 if later else 5 if first else 11]


def test_a_prompt_is_counted_once_however_many_samples_it_has() -> None:
    """By hand: the question has 2 tokens; the five replies 2 words and an end each. A refine prompt adds the reply's 2 and
    "again"."""
    setup, (attempt,) = candidates(*["x a"] * 5)
    assert (attempt.n_prompt_tokens, attempt.n_tokens, attempt.depth) == (2, 5 * 3, 1)
    (attempt,) = refine(setup, [attempt])
    # "refine 0 a" and its end: 4 tokens.
    assert (attempt.n_prompt_tokens, attempt.n_tokens, attempt.depth) == (2 + 5 * (2 + 2 + 1), 5 * 3 + 5 * 4, 2)


@pytest.mark.parametrize(
    ("usage", "counts"), [((3, 5), (3, 10)), ((None, 5), (None, 10)), ((3, None), (3, None)), ((0, 0), (0, 0))]
)
def test_unknown_usage_stays_unknown(usage: tuple[int | None, int | None], counts: tuple[int | None, ...]) -> None:
    """Guards against unknown token counts that slip into a sum as 0, and a count of 0 that is taken for unknown."""
    _, (attempt,) = candidates("a", "b")
    first, second = attempt.samples
    attempt = replace(attempt, samples=(replace(first, usage=usage), replace(second, usage=usage)))
    assert (attempt.n_prompt_tokens, attempt.n_tokens) == counts
    attempt = replace(attempt, samples=(first, replace(second, usage=(usage[0], None))))
    assert attempt.n_tokens is None


def test_skipped_questions_have_no_answer() -> None:
    """Guards against a crash later on, a call that is counted though nobody made it, and a count that is a truth value."""
    policy = Narrow(lambda *_: "a", lambda p: p.problem.id == "p1")
    setup = Setup(policy, TEXTS, judge=policy)
    found = solve(setup, [problem("p0"), problem("p1")], 3)
    for strategy in (refine, merge, vote, best_of_n):
        found = strategy(setup, found)
    assert len(found[0].answers) == 1
    assert found[1] == Attempt(problem("p1"), notes={"over-long prompts": 1})
    assert type(found[1].notes["over-long prompts"]) is int
    assert (found[1].n_tokens, found[1].n_prompt_tokens, found[1].depth) == (0, 0, 0)
    assert all("p1" not in names for call in policy.asked[1:] for _, names in call)


# Refinement


def test_each_round_works_on_the_last_ones_text() -> None:
    """Guards against rounds that refine the first draft again, or grow the conversation."""
    policy = FakePolicy(lambda p, i, v: f"first {i}" if p.draft is None else f"{p.draft.text} +")
    setup = Setup(policy, TEXTS)
    (attempt,) = refine(setup, solve(setup, [problem()], 3), 2)
    assert [s.text for s in attempt.answers] == [f"first {i} + +" for i in range(3)]
    assert [s.index for s in attempt.answers] == [0, 1, 2]
    assert [[m.content for m in s.prompt.messages] for s in attempt.answers] == [
        ["question p", f"first {i} +", "again"] for i in range(3)
    ]
    assert (len(attempt.samples), attempt.depth) == (9, 3)
    assert len({(p.phase, p.seed) for p in policy.shown}) == 1 + 3 + 3


def test_the_first_round_is_that_of_fewer_rounds() -> None:
    """Guards against seeds that depend on the number of rounds: two strategies could then share nothing."""
    policies = [FakePolicy(lambda p, i, v: f"{p.seed}") for _ in range(2)]
    for n, policy in enumerate(policies):
        refine(Setup(policy, TEXTS), solve(Setup(policy, TEXTS), [problem()], 3), n + 1)
    assert policies[1].shown[:4] == policies[0].shown
    assert len(policies[1].shown) == 7
    assert policies[0].shown[1:] == TEXTS.ask_to_refine(solve(Setup(policies[0], TEXTS), [problem()], 3)[0].answers)


def test_an_overlong_draft_stays() -> None:
    """Guards against answers that are lost or slide to another draft. Draft 1 can never be refined: 2 rounds, 2 notes."""
    policy = Narrow(
        lambda p, i, v: f"{p.phase} {i}", lambda p: p.draft is not None and p.draft.text.startswith("solve 1")
    )
    setup = Setup(policy, TEXTS)
    first = solve(setup, [problem()], 3)
    (attempt,) = refine(setup, first, 2)
    assert [s.text for s in attempt.answers] == ["refine 0", "solve 1", "refine 0"]
    assert attempt.answers[1] is first[0].answers[1]
    assert (len(attempt.samples), attempt.depth, attempt.notes) == (3 + 2 + 2, 3, {"over-long prompts": 2})


def test_nothing_was_waited_for_where_all_drafts_are_overlong() -> None:
    """Guards against a depth that counts calls nobody made."""
    policy = Narrow(lambda *_: "a", lambda p: p.draft is not None)
    setup = Setup(policy, TEXTS)
    (attempt,) = refine(setup, solve(setup, [problem()], 3))
    assert (attempt.depth, len(attempt.samples), attempt.notes) == (1, 3, {"over-long prompts": 3})


# Votes


@pytest.mark.parametrize(
    ("replies", "gold", "right"),
    [
        ("aabc", "a", 1.0),
        ("aabb", "a", 0.5),
        ("abab", "b", 0.5),
        ("ab??", "c", 0.0),
        ("ab??", "b", 0.5),
        ("a????", "a", 1.0),  # a reply without an answer has no vote, however many there are
        ("abc", "c", 1 / 3),
        ("????", "a", 0.0),
        ("baabb", "b", 1.0),
    ],
)
def test_the_vote_in_expectation(replies: str, gold: str, right: float) -> None:
    """The cases of the specification, and more by hand: ties count as the share of tied answers that are right."""
    setup, (attempt,) = candidates(*replies, about=problem(gold=gold))
    (chosen,) = vote(setup, [attempt])
    assert expected(chosen) == pytest.approx(right)
    assert len(chosen.answers) == 1
    assert chosen.answers[0] in chosen.finals
    assert (chosen.samples, chosen.depth, chosen.n_tokens) == (attempt.samples, 1, 2 * len(replies))


def test_answers_are_compared_as_the_grader_would() -> None:
    """Guards against votes of texts: 1/2 and 0.5 are one answer, and beat two of 3."""
    setup, found = candidates("3", "1/2", "3", "0.5", "it is 2/4", about=problem(gold="0.50"))
    (chosen,) = vote(setup, found)
    assert [s.text for s in chosen.finals] == ["1/2"]
    assert expected(chosen) == 1.0


def test_where_nobody_has_an_answer_the_choice_is_among_all() -> None:
    """Guards against a vote that throws all candidates away, or lets the first of them count alone."""
    setup, (attempt,) = candidates("x ?", "y ?", "z ?")
    (chosen,) = vote(setup, [attempt])
    assert chosen.finals == attempt.answers
    assert len(chosen.answers) == 1


def test_chance_breaks_ties_by_ids_alone() -> None:
    """Guards against the first candidate that always wins, and a choice that depends on the batch. Of 40 ties between two
    answers each wins some: by a fair coin fewer than 8 of one have a probability below 1e-4."""
    problems = [problem(f"p{n}") for n in range(40)]
    setup = Setup(saying("a", "b", "b", "a"), TEXTS)
    chosen = vote(setup, solve(setup, problems, 4))
    assert {expected(a) for a in chosen} == {0.5}
    assert 8 <= sum(a.answers[0].text == "a" for a in chosen) <= 32
    alone = [vote(setup, solve(setup, [p], 4))[0] for p in problems[::-1]]
    assert alone[::-1] == chosen


def test_answers_that_cannot_be_compared() -> None:
    """Guards against a vote by text for verifiers of one's own."""
    setup, found = candidates("a", "b", about=Problem("own", "q", "a", verify))
    with pytest.raises(
        UserError, match="a vote compares answers with one another, but the verifier of own does not extract"
    ):
        vote(setup, found)


def test_equality_is_asked_for_pairs_that_differ_as_texts() -> None:
    """Guards against algebra in a worker for answers that are written alike: of 1, 1, 1, 2, 2 only one pair differs."""
    pairs: list[tuple[str, str]] = []

    def counting(a: str, b: str) -> bool:
        pairs.append((a, b))
        return equal(a, b)

    setup, found = candidates(*"11122", about=replace(problem(gold="1"), equal_answers=counting))
    assert expected(vote(setup, found)[0]) == 1.0
    assert pairs == [("2", "1")]


# Merging


def test_all_candidates_are_merged_into_one_answer() -> None:
    """k + 1 samples, each candidate once in the prompt, two calls in sequence."""
    setup, found = candidates("x a", "y b", "z c", "w d")
    (attempt,) = merge(setup, found)
    assert [s.text for s in attempt.answers] == ["merge 0 a"]
    assert (len(attempt.samples), attempt.depth, attempt.notes) == (5, 2, {})
    (turn,) = attempt.answers[0].prompt.messages
    assert [turn.content.count(f"<{text}>") for text in ("x a", "y b", "z c", "w d")] == [1] * 4
    # 4 replies of 2 words and an end, one of 3; the question's 2 tokens, then 2, 4 candidates of 2 words, and "merge".
    assert (attempt.n_tokens, attempt.n_prompt_tokens) == (4 * 3 + 4, 2 + 2 + 4 * 2 + 1)


def order(replies: Sequence[str], name: str, texts: Prompts = TEXTS) -> list[int]:
    """The indices of the candidates as the merge prompt shows them."""
    setup, found = candidates(*replies, about=problem(name), texts=texts)
    (attempt,) = merge(setup, found)
    (turn,) = attempt.answers[0].prompt.messages
    return sorted(range(len(replies)), key=lambda n: turn.content.index(f"<{replies[n]}>"))


def test_the_order_of_candidates_depends_on_ids_alone() -> None:
    """Guards against an order that tells which are right, one that is the same for all, and one that is new each time."""
    orders = [order(["x a", "y a", "z a", "v a", "w a"], f"p{n}") for n in range(11)]
    assert orders == [order(["1 ?", "2 b", "3 a", "4 c", "5 a"], f"p{n}") for n in range(11)]
    assert len({tuple(one) for one in orders}) > 5
    assert orders != [order(["x a", "y a", "z a", "v a", "w a"], f"p{n}", replace(TEXTS, seed=17)) for n in range(11)]


def test_overlong_candidates_are_cut_in_view_and_counted() -> None:
    """By hand: 100 characters are shown, 50 from each end, of "x" * 50 + 5 * "-" + "y" * 50; a second candidate is as long
    only in its thinking, and a third has exactly 100."""
    texts = replace(TEXTS, candidate_chars=100)
    replies = ("x" * 50 + "-----" + "y" * 50, f"<think>{'t' * 101}</think>seen a", "z" * 100)
    setup, found = candidates(*replies, texts=texts)
    (attempt,) = merge(setup, found)
    shown = attempt.answers[0].prompt.messages[0].content
    assert f"<{'x' * 50}\n[... 5 characters left out ...]\n{'y' * 50}>" in shown
    assert "<seen a>" in shown
    assert f"<{'z' * 100}>" in shown
    assert "ttt" not in shown
    assert attempt.notes == {"candidates cut": 1}


def test_candidates_stay_where_their_prompt_is_overlong() -> None:
    """Guards against an attempt without an answer, and one of the candidates that stands for all by its place."""
    policy = Narrow(lambda p, i, v: "ab"[i % 2] * 101, lambda p: p.phase == "merge" and p.problem.id == "p1")
    setup = Setup(policy, replace(TEXTS, candidate_chars=100))
    found = merge(setup, first := solve(setup, [problem(f"p{n}") for n in range(3)], 4))
    assert [len(a.answers) for a in found] == [1, 4, 1]
    assert found[1] == replace(first[1], notes={"over-long prompts": 1})
    assert [a.notes for a in found[::2]] == [{"candidates cut": 4}] * 2


# A grade's choice


def rated(*marks: str, **changes: Any) -> tuple[Attempt, FakePolicy]:
    """The grade's choice among candidates r0, r1, ... to which it says these."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        assert prompt.draft is not None
        return marks[prompt.draft.index]

    judge = FakePolicy(script)
    texts = replace(TEXTS, **changes)
    replies = [f"r{n} a" for n in range(len(marks))]
    setup = Setup(saying(*replies), texts, judge=judge)
    (attempt,) = best_of_n(setup, solve(setup, [problem()], len(marks)))
    return attempt, judge


@pytest.mark.parametrize(
    ("marks", "tied"),
    [
        (["\\boxed{3}", "\\boxed{7}", "\\boxed{5}"], [1]),
        (["\\boxed{7}", "so \\boxed{7.0} it is", "\\boxed{ 6.5 }"], [0, 1]),
        (["no idea", "\\boxed{0}", "11"], [1]),  # what cannot be read is below a rating of 0
        (["?", "\\boxed{11}", "\\boxed{good}"], [0, 1, 2]),
        (["\\boxed{9}, no: \\boxed{2}", "\\boxed{3 / 10}"], [1]),  # the last box counts
    ],
)
def test_the_highest_rating_wins(marks: list[str], tied: list[int]) -> None:
    """Guards against ratings that are compared as texts, and ties that the first candidate wins."""
    attempt, judge = rated(*marks)
    assert [s.index for s in attempt.finals] == tied
    assert attempt.answers[0] in attempt.finals
    assert len(attempt.answers) == 1
    assert [p.phase for p in judge.shown] == ["rate"] * len(marks)


def test_the_grade_is_asked_and_paid() -> None:
    """By hand: the grade is shown "question p rate <r0 a>", 5 words, thrice, and says 2 words and an end."""
    attempt, judge = rated("it is \\boxed{1}", "it is \\boxed{2}", "it is \\boxed{3}")
    assert [p.messages for p in judge.shown] == [(Message("user", f"question p rate <r{n} a>"),) for n in range(3)]
    assert len({p.seed for p in judge.shown}) == 3
    assert [s.prompt.phase for s in attempt.samples] == ["solve"] * 3 + ["rate"] * 3
    assert (attempt.n_prompt_tokens, attempt.n_tokens, attempt.depth) == (2 + 3 * 5, 3 * 3 + 3 * 4, 2)


def test_the_grade_sees_no_thinking_and_cuts_are_counted() -> None:
    """Guards against a judge that is shown half a solution without a word of it in the notes."""
    texts = replace(TEXTS, candidate_chars=100)
    replies = (f"<think>{'t' * 300}</think>short a", "b" * 107)
    setup = Setup(saying(*replies), texts, judge=(judge := FakePolicy(lambda *_: "\\boxed{5}")))
    (attempt,) = best_of_n(setup, solve(setup, [problem()], 2))
    assert judge.shown[0].messages[0].content == "question p rate <short a>"
    assert f"{'b' * 50}\n[... 7 characters left out ...]\n{'b' * 50}>" in judge.shown[1].messages[0].content
    assert attempt.notes == {"candidates cut": 1}


def test_overlong_candidates_are_rated_lowest() -> None:
    """Guards against a skipped rating that shifts all others by one."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        assert prompt.draft is not None
        return f"\\boxed{{{3 - prompt.draft.index}}}"

    judge = Narrow(script, lambda p: p.draft is not None and p.draft.index == 0)
    setup = Setup(saying("r0", "r1", "r2"), TEXTS, judge=judge)
    found = best_of_n(setup, solve(setup, [problem("p0"), problem("p1")], 3))
    assert [a.answers[0].text for a in found] == ["r1", "r1"]
    assert [(len(a.samples), a.depth, a.notes) for a in found] == [(5, 2, {"over-long prompts": 1})] * 2
    unseen = replace(setup, judge=Narrow(script, lambda _: True))
    (attempt,) = best_of_n(unseen, solve(unseen, [problem()], 3))
    assert (len(attempt.finals), attempt.depth) == (3, 1)


def test_without_a_grade_there_is_no_best() -> None:
    """Guards against a policy that grades itself unasked."""
    setup, found = candidates("a", "b")
    with pytest.raises(UserError, match=r'"best" needs a judge: name a model with judge\.path'):
        best_of_n(setup, found)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("\\boxed{0}", 0.0),
        ("\\boxed{10}", 10.0),
        ("\\boxed{10/10}", 10.0),
        ("\\boxed{10.5}", -1.0),
        ("\\boxed{-3}", -1.0),
        ("\\boxed{7", -1.0),
        ("7", -1.0),
        ("", -1.0),
        ("\\boxed{}", -1.0),
        (f"\\boxed{{{'9' * 400}}}", -1.0),
    ],
)
def test_ratings_are_read(text: str, value: float) -> None:
    """Guards against crashes on what grades write, and ratings beyond the scale that win."""
    assert read_rating(text) == value


# Gold answers


@pytest.mark.parametrize("strategy", [refine, merge, vote, best_of_n])
def test_gold_answers_and_verdicts_are_never_looked_at(
    strategy: Callable[[Setup, list[Attempt]], list[Attempt]],
) -> None:
    """Guards against an oracle where none is told: any look at the gold answer or the verifier raises here."""
    setup = Setup(saying("a", "b", "a"), TEXTS, judge=FakePolicy(lambda *_: "\\boxed{7}"))
    (attempt,) = strategy(setup, solve(setup, [sealed()], 3))
    assert attempt.answers
    with pytest.raises(AssertionError, match="out of bounds"):
        _ = attempt.problem.gold
