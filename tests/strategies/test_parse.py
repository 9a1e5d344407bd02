"""Strategies by name, and stages one after another."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import pytest

from rethink.errors import UserError
from rethink.policies.fake import FakePolicy
from rethink.strategies import Setup, check_needs, parse, parse_all
from rethink.strategies.parse import FIRST, REDUCERS, ROUNDS
from rethink.types import Problem, Prompt
from support.evaluations import equal, grade_marks, last_word
from support.strategies import PROMPTS, SealedProblem


def problem(name: str = "p") -> Problem:
    """A problem whose replies begin with right or wrong and answer with their last word."""
    return Problem(name, f"question {name}", "g", grade_marks, extract_answer=last_word, equal_answers=equal)


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("solve", [("solve", 1)]),
        ("vote", [("solve", 4), ("vote", 1)]),
        ("best:5+refine:3", [("solve", 5), ("best", 1), ("refine", 3)]),
        ("solve:8+refine+vote", [("solve", 8), ("refine", 1), ("vote", 1)]),
        (" reflect:2 + reflexion:03 ", [("solve", 1), ("reflect", 2), ("reflexion", 3)]),
        ("socratic+self-refine", [("socratic", 20), ("self-refine", 1)]),
        ("aggregate", [("solve", 4), ("aggregate", 4)]),
        ("aggregate:3+vote", [("solve", 4), ("aggregate", 3), ("vote", 1)]),
        ("pick:3", [("solve", 3), ("pick", 1)]),
        ("rsa:16,4,3", [("solve", 16), ("aggregate", 4), ("aggregate", 4), ("pick", 1)]),
        ("rsa: 2, 2 ,1", [("solve", 2), ("pick", 1)]),
        ("rsa:5,2,2+vote", [("solve", 5), ("aggregate", 2), ("vote", 1)]),
        ("rsa:5,2,2+refine:2", [("solve", 5), ("aggregate", 2), ("pick", 1), ("refine", 2)]),
    ],
)
def test_names_are_stages(text: str, stages: list[tuple[str, int]]) -> None:
    """Guards against a number of candidates that is read as a number of rounds, and the reverse."""
    found = parse(text)
    assert (found.name, found.stages) == (text.strip(), tuple(stages))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("votes:3", "strategy 'votes:3': unknown stage 'votes'; choose from solve, socratic, rsa, refine, "),
        ("solve+", "unknown stage ''"),
        *((f"vote:{n}", f"not '{n}'") for n in ("0", "", "2.5", "8:3", "²")),
        ("refine+solve:8", "solve:8 can only come first; move it to the front"),
        ("solve:8+vote:8", "vote:8 can only come first; write vote without a number here"),
        *(
            (f"rsa{n}", "write rsa:N,K,T, such as rsa:8,4,3")
            for n in ("", ":", ":8", ":8,4", ":8,4,3,2", ":8,0,3", ":8,4,0")
        ),
        *(
            (f"rsa:{n}", "K of them in each prompt (at most N)")
            for n in ("4,8,3", "8,4,101", "8,4,-1", "8,4,²", "0,0,1")
        ),
        ("solve+rsa:8,4,3", "strategy 'solve+rsa:8,4,3': rsa can only come first"),
    ],
)
def test_bad_names_are_refused(text: str, message: str) -> None:
    """Guards against tracebacks, and errors that do not say what to write."""
    with pytest.raises(UserError, match=re.escape(message)):
        parse(text)


def test_several_names() -> None:
    """Guards against a strategy that runs twice because it is written in two ways."""
    found = parse_all("vote:4, refine ,vote,solve+refine:1,refine:2,")
    assert [s.stages for s in found] == [parse(text).stages for text in ("vote:4", "refine", "refine:2")]
    names = ["solve", "rsa:8,4, 3+vote", "rsa:2,1,1", "merge"]
    assert [s.name for s in parse_all(" ,".join(names))] == names
    with pytest.raises(UserError, match="strategy 'refine,2': unknown stage 'refine,2'"):
        parse_all("refine,2")
    with pytest.raises(UserError, match="no strategy is given"):
        parse_all(" , ")


@pytest.mark.parametrize(
    ("text", "needs", "n_solve", "revises"),
    [
        ("merge:5", set(), 5, False),
        ("reflexion:3", {"verifier"}, 1, True),
        ("solve:2+reflect+best+vote", {"verifier", "judge", "comparable answers"}, 2, True),
        ("socratic+refine", {"comparable answers"}, 0, True),
    ],
)
def test_what_a_strategy_needs(text: str, needs: set[str], n_solve: int, revises: bool) -> None:
    """Guards against a run that fails hours later for lack of a judge, and candidates that nothing uses."""
    strategy = parse(text)
    assert (strategy.needs, strategy.n_solve, strategy.revises) == (needs, n_solve, revises)


def test_missing_needs_are_refused() -> None:
    """Guards against a run that fails hours later for lack of a judge."""
    custom = replace(problem(), extract_answer=None)
    check_needs([parse("best+vote")], [problem()], judge=True)
    check_needs([parse("merge+refine")], [custom], judge=False)
    with pytest.raises(UserError, match='"best" needs a judge'):
        check_needs([parse("best")], [problem()], judge=False)
    with pytest.raises(UserError, match=r"solve:2\+vote compares answers"):
        check_needs([parse("solve:2+vote")], [problem(), custom], judge=True)


# A judge gives the same rating when it rates the same answer twice.
PAIRS = sorted(
    {*product([*FIRST, *ROUNDS, *REDUCERS, "aggregate"], [*ROUNDS, *REDUCERS, "aggregate"])} - {("best", "best")}
)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_every_stage_can_follow_every_other(first: str, second: str) -> None:
    """Guards against stages that only work on first answers, draw with the same random numbers or are not counted."""
    policy = FakePolicy(lambda p, i, v: f"wrong {(p.seed + i) % 3}" if p.phase != "rate" else "\\boxed{3}")
    problems = [problem(f"p{n}") for n in range(3)]
    found = parse(f"{first}+{second}").run(Setup(policy, PROMPTS, judge=policy), problems)
    assert [a.problem for a in found] == problems
    n_answers = 4 if first == "aggregate" and second not in REDUCERS else 1
    assert all(len(a.answers) == n_answers for a in found)
    assert second in REDUCERS or all(a.finals == a.answers for a in found)
    assert len({p.group for p in policy.shown}) == len({p.seed for p in policy.shown}) == len(policy.shown)
    assert len({s.prompt.group for a in found for s in a.samples}) == len(policy.shown)
    n_words = sum(len(m.content.split()) for p in policy.shown for m in p.messages)
    assert sum(a.n_prompt_tokens or 0 for a in found) == n_words


def script(prompt: Prompt, index: int, version: int) -> str:
    """Five of eight first answers end with b; a refinement keeps the last word and quotes its draft."""
    if prompt.phase == "solve":
        return f"s{index} {'abbabbba'[index]}"
    assert prompt.draft is not None
    return f"{prompt.phase}({prompt.draft.text.replace(' ', '.')}) {prompt.draft.text[-1]}"


@pytest.mark.parametrize(
    ("text", "phases", "answer", "depth"),
    [
        ("solve:8+refine+vote", ["solve"] * 8 + ["refine"] * 8, "refine(s1.b) b", 2),
        ("vote:8+refine", ["solve"] * 8 + ["refine"], "refine(s1.b) b", 2),
    ],
)
def test_stages_in_order(text: str, phases: list[str], answer: str, depth: int) -> None:
    """Guards against stages in another order, and refinements of candidates that lost the vote."""
    (attempt,) = parse(text).run(Setup(FakePolicy(script), PROMPTS), [problem()])
    assert [s.prompt.phase for s in attempt.samples] == phases
    assert ([s.text for s in attempt.finals], attempt.depth) == ([answer], depth)


@pytest.mark.parametrize(("text", "n_samples"), [("refine", 1 + 3), ("refine:2", 1 + 1 + 3), ("refine+vote", 1 + 1)])
def test_only_a_last_refinement_is_drawn_n_times(text: str, n_samples: int) -> None:
    """Guards against n refinements in the middle of a chain, where each stage would multiply the answers."""
    (attempt,) = parse(text).run(Setup(FakePolicy(script), PROMPTS, n_refine=3), [problem()])
    assert len(attempt.samples) == n_samples


@pytest.mark.parametrize("text", ["refine", "merge:3", "vote:3", "best:3", "self-refine:2", "socratic:20"])
def test_strategies_without_a_verifier_never_see_gold_or_verdicts(text: str) -> None:
    """Guards against a hidden oracle: reading the gold answer or the verifier raises."""
    sealed = SealedProblem("p", "q", "a", grade_marks, extract_answer=last_word, equal_answers=equal)
    policy = FakePolicy(lambda p, i, v: "\\boxed{7}" if p.phase == "rate" else f"so {'abc?'[(p.seed + i) % 4]}")
    (attempt,) = parse(text).run(Setup(policy, PROMPTS, judge=policy), [sealed])
    assert attempt.answers
    with pytest.raises(AssertionError, match="out of bounds"):
        _ = attempt.problem.gold
