"""Strategies by name: how names are read, what stages make of one another's answers, and the candidates they share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, product

import pytest

from rethink.errors import UserError
from rethink.policies.base import PolicyWrapper
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.strategies import Attempt, CachedPolicy, Setup, parse, parse_all
from rethink.strategies.parse import FIRST, REDUCERS, ROUNDS
from rethink.types import Group, Problem, Prompt, Sampling
from support.evaluations import Narrow, grade_marks

TEXTS = Prompts(refine="again", merge="{question} {candidates}", rate="{question} {candidate}", seed=13)


def problem(name: str = "p") -> Problem:
    """Replies to it begin with right or wrong; their last word is the answer."""
    return Problem(
        name, f"question {name}", "g", grade_marks, extract_answer=lambda r: r.split()[-1], equal_answers=str.__eq__
    )


# Names


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("solve", [("solve", 1)]),
        ("solve:7", [("solve", 7)]),
        ("refine", [("solve", 1), ("refine", 1)]),
        ("refine:3", [("solve", 1), ("refine", 3)]),
        ("vote", [("solve", 4), ("vote", 1)]),
        ("vote:11", [("solve", 11), ("vote", 1)]),
        ("merge:2", [("solve", 2), ("merge", 1)]),
        ("best:5+refine:3", [("solve", 5), ("best", 1), ("refine", 3)]),
        ("solve:8+refine+vote", [("solve", 8), ("refine", 1), ("vote", 1)]),
        (" vote:8 + refine ", [("solve", 8), ("vote", 1), ("refine", 1)]),
        ("merge:4+refine", [("solve", 4), ("merge", 1), ("refine", 1)]),
        ("reflect:2+reflexion:3", [("solve", 1), ("reflect", 2), ("reflexion", 3)]),
        ("self-refine:5", [("solve", 1), ("self-refine", 5)]),
        ("socratic", [("socratic", 20)]),
        ("socratic:7+self-refine", [("socratic", 7), ("self-refine", 1)]),
        ("vote:007", [("solve", 7), ("vote", 1)]),
    ],
)
def test_names_are_stages(text: str, stages: list[tuple[str, int]]) -> None:
    """Guards against a number that is taken for rounds where it counts candidates, and the other way round."""
    found = parse(text)
    assert (found.name, found.stages) == (text.strip(), tuple(stages))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "votes:3",
            "strategy 'votes:3': unknown stage 'votes'; choose from solve, socratic, refine, reflect, ",
        ),
        ("", "strategy '': unknown stage ''; choose from "),
        ("solve+", "strategy 'solve+': unknown stage ''"),
        ("Vote", "unknown stage 'Vote'"),
        ("vote:0", "strategy 'vote:0': vote:N needs a positive integer N, not '0'"),
        ("vote:", "not ''"),
        ("vote:-3", "not '-3'"),
        ("vote:2.5", "not '2.5'"),
        ("vote:8:3", "not '8:3'"),
        ("refine:²", "not '²'"),
        ("solve+refine:٣", "not '٣'"),
        (
            "refine+solve:8",
            "strategy 'refine+solve:8': solve:8 can only come first; move it to the front or remove it",
        ),
        ("refine+socratic", "socratic can only come first; move it to the front or remove it"),
        ("solve:8+vote:8", "vote:8 can only come first; write vote without a number here"),
    ],
)
def test_names_that_are_none(text: str, complaint: str) -> None:
    """Guards against tracebacks, and errors that do not say what to write."""
    with pytest.raises(UserError, match=re.escape(complaint)):
        parse(text)


def test_several_names() -> None:
    """Guards against a strategy that is run twice because it is written in two ways."""
    found = parse_all("vote:4, refine ,vote,solve+refine:1,refine:2,")
    assert [s.stages for s in found] == [parse(text).stages for text in ("vote:4", "refine", "refine:2")]
    for nothing in ("", " , "):
        with pytest.raises(UserError, match="no strategy is given"):
            parse_all(nothing)


@pytest.mark.parametrize(
    ("text", "needs", "n_solve"),
    [
        ("solve:3", set(), 3),
        ("refine+self-refine", set(), 1),
        ("merge:5", set(), 5),
        ("reflect", {"verifier"}, 1),
        ("reflexion:3", {"verifier"}, 1),
        ("best:7", {"judge"}, 7),
        ("solve:2+reflect+best+vote", {"verifier", "judge", "comparable answers"}, 2),
        ("socratic+refine", {"comparable answers"}, 0),
    ],
)
def test_what_a_strategy_needs(text: str, needs: set[str], n_solve: int) -> None:
    """Guards against a run that ends hours later for want of a judge, and candidates that are drawn for nobody."""
    assert (parse(text).needs, parse(text).n_solve) == (needs, n_solve)


# A grade that is asked twice about the same answer is asked the same.
PAIRS = sorted({*product([*FIRST, *ROUNDS, *REDUCERS], [*ROUNDS, *REDUCERS])} - {("best", "best")})


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_every_stage_goes_behind_every_other(first: str, second: str) -> None:
    """Guards against stages that only work on first answers. All prompts of a run are of different groups, so that no two
    stages draw the same random numbers, and each is counted."""
    policy = FakePolicy(lambda p, i, v: f"wrong {(p.seed + i) % 3}" if p.phase != "rate" else "\\boxed{3}")
    setup = Setup(policy, TEXTS, judge=policy)
    problems = [problem(f"p{n}") for n in range(3)]
    found = parse(f"{first}+{second}").run(setup, problems)
    assert [a.problem for a in found] == problems
    assert all(len(a.answers) == 1 for a in found)
    assert len({p.group for p in policy.shown}) == len(policy.shown)
    used = [s for a in found for s in a.samples]
    assert len({s.prompt.group for s in used}) == len(policy.shown)
    assert sum(a.n_prompt_tokens or 0 for a in found) == sum(
        len(m.content.split()) for p in policy.shown for m in p.messages
    )


# Stages one after another


def counted(prompt: Prompt, index: int, version: int) -> str:
    """Of eight first answers five end with b; a refinement keeps the last word and says what it was made of."""
    if prompt.phase == "solve":
        return f"s{index} {'abbabbba'[index]}"
    if prompt.phase == "merge":
        return "merged b"
    assert prompt.draft is not None
    return f"{prompt.phase}({prompt.draft.text.replace(' ', '.')}) {prompt.draft.text[-1]}"


def test_all_candidates_are_refined_before_the_vote() -> None:
    """solve:8+refine+vote: 16 samples, a vote on the refinements."""
    policy = FakePolicy(counted)
    (attempt,) = parse("solve:8+refine+vote").run(Setup(policy, TEXTS), [problem()])
    assert [p.phase for p in policy.shown] == ["solve"] + ["refine"] * 8
    assert [s.text for s in attempt.answers] == ["refine(s1.b) b"]
    assert (len(attempt.samples), attempt.depth) == (16, 2)


def test_the_chosen_answer_alone_is_refined() -> None:
    """vote:8+refine: 9 samples. Only one of a tie is refined, and expected of the attempt is its refinement alone."""
    policy = FakePolicy(counted)
    (attempt,) = parse("vote:8+refine").run(Setup(policy, TEXTS), [problem()])
    assert [s.text for s in attempt.finals] == ["refine(s1.b) b"]
    assert (len(attempt.samples), attempt.depth, len(policy.shown)) == (9, 2, 2)
    (attempt,) = parse("vote:2+refine").run(Setup(FakePolicy(counted), TEXTS), [problem()])
    assert len(attempt.finals) == 1


def test_the_merged_answer_is_refined() -> None:
    """merge:4+refine: 6 samples, three calls in sequence."""
    (attempt,) = parse("merge:4+refine").run(Setup(FakePolicy(counted), TEXTS), [problem()])
    assert [s.text for s in attempt.answers] == ["refine(merged.b) b"]
    assert [s.prompt.phase for s in attempt.samples] == ["solve"] * 4 + ["merge", "refine"]
    assert attempt.depth == 3


@pytest.mark.parametrize(
    "text", ["refine+refine", "reflect+reflexion", "merge+merge", "refine:2+vote+refine:2", "self-refine+self-refine"]
)
def test_a_second_stage_does_not_repeat_the_first(text: str) -> None:
    """Regression: the second of two stages of one kind drew its samples with the first one's seeds, and its prompts were
    counted as the same."""
    policy = FakePolicy(lambda *_: "wrong b")
    (attempt,) = parse(text).run(Setup(policy, TEXTS), [problem()])
    assert len({p.seed for p in policy.shown}) == len(policy.shown)
    assert attempt.n_prompt_tokens == sum(len(m.content.split()) for p in policy.shown for m in p.messages)


# What strategies share


@dataclass
class Restless(PolicyWrapper):
    """Never gives the same reply twice, as an endpoint may; `calls` lists the number of prompts and of samples of each."""

    overlong: Callable[[Prompt], bool] = lambda _: False
    calls: list[tuple[int, int]] = field(default_factory=list)
    asked: list[Prompt] = field(default_factory=list)

    version = 7

    def __post_init__(self) -> None:
        numbers = count()
        super().__init__(Narrow(lambda p, i, v: f"wrong {next(numbers)}", self.overlong))

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        self.calls.append((len(prompts), n))
        self.asked += prompts
        yield from super().groups(prompts, n, sampling)


def firsts(attempt: Attempt) -> list[str]:
    return [s.text for s in attempt.samples if s.prompt.phase == "solve"]


def test_all_strategies_begin_with_the_same_candidates() -> None:
    """Guards against a gap between strategies that is one between candidates. Of 5 drawn at once each sees as many as it
    asks for, whatever comes first; no first answer is drawn twice."""
    policy = Restless()
    setup = Setup(CachedPolicy(policy, 5), TEXTS)
    problems = [problem("p"), problem("q"), problem("r")]
    found = {text: parse(text).run(setup, problems) for text in ("refine", "merge:3", "vote:5", "solve:2", "vote:3")}
    assert policy.calls[0] == (3, 5)
    assert sum(p.phase == "solve" for p in policy.asked) == 3
    for n in range(3):
        drawn = firsts(found["vote:5"][n])
        assert len(set(drawn)) == 5
        assert [firsts(found[text][n]) for text in found] == [drawn[:1], drawn[:3], drawn, drawn[:2], drawn[:3]]
    # A strategy pays for what it was given, not for what was drawn: 3 tokens a reply, 2 of a question.
    assert [(a.n_tokens, a.n_prompt_tokens) for a in found["solve:2"]] == [(6, 2)] * 3
    assert all(len({s.prompt.group for s in a.samples}) == 1 for a in found["vote:5"])


def test_later_looks_at_the_same_answer_are_shared_too() -> None:
    """Guards against two strategies that differ in the second round although both began with the same refinement."""
    setup = Setup(CachedPolicy(policy := Restless(), 3), TEXTS)
    once, twice, voted = (parse(t).run(setup, [problem()])[0] for t in ("refine", "refine:2", "solve:3+refine+vote"))
    assert twice.samples[:2] == once.samples
    assert once.samples[1] in voted.samples
    # Three first answers, one refinement, a second of it, and two of the other answers.
    assert policy.calls == [(1, 3), (1, 1), (1, 1), (2, 1)]


def test_other_prompts_with_the_same_seed_are_not_shared() -> None:
    """Guards against an answer merged from two candidates that stands for one from four: their prompts share a seed."""
    setup = Setup(CachedPolicy(policy := Restless(), 4), TEXTS)
    (two,), (four,) = (parse(text).run(setup, [problem()]) for text in ("merge:2", "merge:4"))
    assert policy.calls == [(1, 4), (1, 1), (1, 1)]
    assert two.answers[0].text != four.answers[0].text


def test_more_are_drawn_only_where_they_lack() -> None:
    """By hand: 2, then 3 more for the one problem that has them, 5 for the other; samples keep their order and the indices
    go on. The further ones have a seed of their own, or a policy that does repeat itself would give the first ones again.
    They are counted with the first: one prompt."""
    policy = Restless()
    shared = CachedPolicy(policy)
    p, q = TEXTS.ask([problem("p"), problem("q")])
    (two,) = shared.sample([p], 2)
    (five, others), (three,) = shared.sample([p, q], 5), shared.sample([p], 3)
    assert policy.calls == [(1, 2), (1, 3), (1, 5)]
    assert five[:2] == two
    assert three == five[:3]
    assert [s.index for s in five] == [s.index for s in others] == [0, 1, 2, 3, 4]
    assert len({s.text for s in (*five, *others)}) == 10
    assert [asked.seed == p.seed for asked in policy.asked] == [True, False, False]
    assert policy.asked[2].seed == q.seed
    assert Attempt(p.problem, samples=five).n_prompt_tokens == 2
    faithful = CachedPolicy(FakePolicy(lambda p, i, v: f"{p.seed} {i}"))
    (few,), (more,) = faithful.sample([p], 2), faithful.sample([p], 5)
    assert (more[:2], len({s.text for s in more})) == (few, 5)


def test_only_first_answers_are_drawn_ahead() -> None:
    """Guards against refinements nobody asked for."""
    policy = Restless()
    (attempt,) = parse("refine").run(Setup(CachedPolicy(policy, 7), TEXTS), [problem()])
    assert policy.calls == [(1, 7), (1, 1)]
    assert len(attempt.samples) == 2


def test_other_samplings_are_other_samples() -> None:
    """Guards against greedy replies where others were asked for."""
    policy = Restless()
    shared, (ask,) = CachedPolicy(policy), TEXTS.ask([problem()])
    drawn = [shared.sample([ask], 1, sampling)[0][0].text for sampling in (None, Sampling(0.0), Sampling(0.5), None)]
    assert len(set(drawn)) == 3
    assert drawn[0] == drawn[3]
    assert shared.sample([replace(ask, seed=3)], 1)[0][0].text not in drawn


def test_skipped_prompts_stay_skipped() -> None:
    """Guards against a prompt that is over-long to one strategy and not to the next, and one that is asked again."""
    policy = Restless(lambda p: p.problem.id == "q")
    setup = Setup(CachedPolicy(policy, 3), TEXTS)
    problems = [problem("p"), problem("q"), problem("r")]
    found = [parse(text).run(setup, problems) for text in ("vote:3", "solve:5", "refine")]
    assert [[len(firsts(a)) for a in some] for some in found] == [[3, 0, 3], [5, 0, 5], [1, 0, 1]]
    assert [some[1].notes for some in found] == [{"over-long prompts": 1}] * 3
    assert sum(p.problem.id == "q" for p in policy.asked) == 1


def test_a_shared_policy_is_its_policy() -> None:
    """Guards against a stand-in that forgets what it stands for; the same prompt twice in a call is drawn once."""
    policy = Restless()
    shared, (ask,) = CachedPolicy(policy), TEXTS.ask([problem()])
    assert shared.version == 7
    assert shared.transcribe(ask, "a b").text == "a b"
    assert shared.splice(shared.transcribe(ask, "a"), "b") is None
    first, second = shared.sample([ask, ask], 3)
    assert first == second
    assert policy.calls == [(1, 3)]
    assert shared.sample([], 3) == []
