"""Which baseline costs as much as a strategy: hand-made costs, and tries against runs with fewer of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from rethink.evaluation.answers import Answer
from rethink.evaluation.baselines import (
    MAX_TRIES,
    Baseline,
    find_baseline,
    find_name,
    first_tries,
    kind_of_baseline,
    mean_tokens,
    missing_baselines,
    vote_strategy,
)
from rethink.evaluation.evaluate import EvaluationSpec, answer_problems
from rethink.policies.fake import FakePolicy
from rethink.seeds import rng
from rethink.strategies import Setup, Strategy, parse, parse_all
from rethink.types import Prompt
from support.evaluations import made, problem, step
from support.strategies import RETRY_PROMPTS

YES, NO = [True], [False]


def costing(name: str, *tokens: int | None, right: Sequence[bool] = YES) -> list[Answer]:
    """Answers of a strategy to as many problems, each of so many tokens; a third of them in the first answer."""
    found: list[Answer] = []
    for n, total in enumerate(tokens):
        first = None if total is None else 10
        rest = None if total is None else total - 10
        steps = [step("solve", False, n_tokens=first), step("refine", right[n % len(right)], n_tokens=rest)]
        found.append(made(f"p{n}", name, [right[n % len(right)]], steps))
    return found


def named(*some: list[Answer]) -> dict[str, list[Answer]]:
    return {answers[0].strategy: answers for answers in some}


def names(strategies: Sequence[Strategy]) -> list[str]:
    return [strategy.name for strategy in strategies]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, None) for name in ("solve", "vote:3", "solve:3+vote", "fresh-retry", "fresh-retry:4", "vote:1")),
        *((name, "vote") for name in ("refine", "solve:4", "best:3", "socratic:2", "vote:5+refine", "self-refine")),
        *((name, "tries") for name in ("reflect", "solve:5+reflect+vote", "solve:2+fresh-retry", "fresh-retry+refine")),
    ],
)
def test_who_is_told_verdicts_is_compared_with_who_is_too(name: str, kind: str | None) -> None:
    """Guards against a vote as the baseline of an oracle, and a baseline that is compared with itself."""
    assert kind_of_baseline(parse(name)) == kind


@pytest.mark.parametrize(
    ("cost", "n", "weight"),
    [
        (4, 1, 0),  # cheaper than one answer: one answer
        (10, 1, 0),
        (17, 1.7, 0.7),
        (20, 2, 0),
        (26, 2 + 6 / 13, 6 / 13),
        (33, 3, 0),
    ],
)
def test_a_baseline_costs_exactly_as_much(cost: int, n: float, weight: float) -> None:
    """One answer costs 10 tokens, votes of two and three 20 and 33. Guards against a vote that is rounded."""
    votes = {1: costing("solve", 8, 12), 2: costing("vote:2", 20, 20), 3: costing("vote:3", 30, 36)}
    found = find_baseline("refine", named(costing("refine", cost - 1, cost + 1), *votes.values()))
    assert found is not None
    assert (found.kind, found.cheaper) == ("vote", False)
    assert found.n == pytest.approx(n)
    parts = [mean_tokens(part) for part in (found.smaller, found.larger)]
    assert parts[0] + found.weight * (parts[1] - parts[0]) == pytest.approx(max(10, cost))
    assert found.weight == pytest.approx(weight)


def test_outcomes_of_a_mixture_by_hand() -> None:
    """A quarter of the larger vote. p2 was not graded in one of the two, p3 was skipped."""
    smaller = [made("p0", "solve", YES), made("p1", "solve", NO), made("p2", "solve", YES), made("p3", "solve", ())]
    larger = [
        made("p0", "vote:2", [True, False]),
        made("p1", "vote:2", YES),
        made("p2", "vote:2", [None]),
        made("p3", "vote:2", ()),
    ]
    mixture = Baseline("vote", 1.25, smaller, larger, 0.25)
    assert mixture.outcomes() == [("p0", 0.875), ("p1", 0.25)]
    assert mixture.outcomes(False) == [("p0", 0.875), ("p1", 0.25), ("p2", 0.75)]
    assert mixture.outcomes(True)[-1] == ("p2", 1)
    assert [part[0].strategy for part in mixture.parts] == ["solve", "vote:2"]
    assert [part[0].strategy for part in replace(mixture, weight=0.0).parts] == ["solve"]


def test_votes_are_asked_until_they_enclose_the_cost() -> None:
    """First answers of a strategy have 10 tokens, but votes turn out to cost more, or less, than a multiple of them."""
    asked = parse_all("refine")
    some = costing("refine", 26, 26)
    assert names(missing_baselines(some, asked)) == ["vote:2", "vote:3"]
    dear = [*some, *costing("vote:2", 27, 27), *costing("vote:3", 40, 40)]
    assert names(missing_baselines(dear, asked)) == ["solve"]
    assert missing_baselines([*dear, *costing("solve", 13, 13)], asked) == []
    cheap = [*some, *costing("vote:2", 11, 11), *costing("vote:3", 20, 20)]
    assert names(missing_baselines(cheap, asked)) == ["vote:4"]
    assert missing_baselines([*cheap, *costing("vote:4", 26, 26)], asked) == []
    assert missing_baselines(some, asked, can_vote=False) == []


def test_suites_and_strategies_share_baselines() -> None:
    """Guards against a suite without its baseline, and one that is asked twice or under another name."""
    other = [replace(answer, suite="t") for answer in costing("refine", 41)]
    some = [*costing("refine", 26), *costing("solve:2+vote", 20), *other]
    assert names(missing_baselines(some, parse_all("refine"))) == ["vote:3", "vote:4", "vote:5"]
    told = [*costing("reflect", 15), *costing("reflexion:3", 61)]
    assert names(missing_baselines(told, parse_all("reflect,reflexion:3"))) == ["fresh-retry:7"]
    assert missing_baselines(costing("vote:3", 30), parse_all("vote:3")) == []


def test_unknown_costs_have_no_baseline() -> None:
    """Guards against an unknown number of tokens that counts as none; where some are known, these are the mean."""
    for tokens in ([None, None], [0, 0]):
        some = [made(f"p{n}", "refine", YES, [step("solve", True, n_tokens=t)]) for n, t in enumerate(tokens)]
        assert missing_baselines(some, parse_all("refine")) == []
        assert find_baseline("refine", {"refine": some}) is None
    assert mean_tokens(costing("refine", 20, None)) == 20
    assert names(missing_baselines(costing("refine", 25, None), parse_all("refine"))) == ["vote:2", "vote:3"]
    unknown = [*costing("reflect", 25), *costing("fresh-retry:3", None)]
    assert missing_baselines(unknown, parse_all("reflect")) == []


def test_skipped_problems_cost_nothing_and_are_in_no_mean() -> None:
    """Three skipped of four once made 30 tokens 7.5, and the vote of equal cost one of one answer."""
    skipped = [made(f"p{n}", "merge:2", ()) for n in range(1, 4)]
    some = [made("p0", "merge:2", YES, [step("solve", True, 10), step("solve", True, 10), step("merge", True, 10)])]
    assert mean_tokens([*some, *skipped]) == 30
    assert names(missing_baselines([*some, *skipped], parse_all("merge:2"))) == ["vote:3", "vote:4"]


def test_votes_by_any_name() -> None:
    """Guards against a baseline that is there under another name but not found."""
    there = ["refine", "solve:1", "solve:3+vote", "vote:2+refine"]
    assert [find_name(vote_strategy(n), there) for n in (1, 2, 3)] == ["solve:1", "", "solve:3+vote"]


def tries(*lengths: int, right: bool = False) -> list[Answer]:
    """Answers of `fresh-retry` with tries of 10 tokens: the last is right if `right`, or if it is not the last allowed."""
    most = max(lengths)
    found: list[Answer] = []
    for n, length in enumerate(lengths):
        last = right or length < most
        steps = [step("fresh" if k else "solve", last and k == length - 1, 10) for k in range(length)]
        found.append(made(f"p{n}", f"fresh-retry:{most - 1}", [last], steps, depth=length))
    return found


def test_tries_are_asked_until_they_cost_enough() -> None:
    """Of four problems, two are right at once, one after three tries and one never: tries cost 10, 15, 20, 22.5, 25, ..."""
    asked = parse_all("reflect")
    for cost, wanted in ((24, "fresh-retry:3"), (39, "fresh-retry:3"), (41, "fresh-retry:7")):
        assert names(missing_baselines(costing("reflect", cost), asked)) == [wanted]
    some = tries(1, 1, 3, 4)
    for total, n in ((8, 1), (20, 1), (24, 1.4), (30, 2), (42, 3.4), (45, 4)):  # of two problems
        found = find_baseline("reflect", named(costing("reflect", total - 10, 10), some))
        assert found is not None
        assert found.n == pytest.approx(n), total
    assert names(missing_baselines([*costing("reflect", 24), *some], asked)) == ["fresh-retry:7"]
    found = find_baseline("reflect", named(costing("reflect", 24), tries(1, 1, 3, 8)))
    assert found is not None
    assert (found.kind, found.cheaper) == ("tries", False)
    assert found.n == pytest.approx(4.6)
    assert [part[0].strategy for part in found.parts] == ["fresh-retry:3", "fresh-retry:4"]


def test_tries_end_if_nothing_is_wrong_or_there_are_many() -> None:
    """Guards against tries without end: nothing is left to try after three, or one problem is never solved."""
    asked = parse_all("reflect")
    solved = tries(1, 1, 3, 3, right=True)
    for some, n in ((solved, 3.0), (tries(*[1] * 1000, MAX_TRIES), 64.0), (tries(*[1] * 500, 100), 100.0)):
        answers = [*costing("reflect", 24), *some]
        assert missing_baselines(answers, asked) == []
        found = find_baseline("reflect", named(costing("reflect", 24), some))
        assert found is not None
        assert (found.n, found.weight, found.cheaper) == (n, 0, True)
    longer = [replace(answer, strategy="fresh-retry:7") for answer in solved]
    found = find_baseline("reflect", named(costing("reflect", 24), longer))
    assert found is not None
    assert found.n == 3


def test_fewer_tries_are_those_of_a_run_with_fewer() -> None:
    """Guards against tries that differ from those of the strategy itself: each number of rounds is also run."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        draw = rng(prompt.seed, index).random()
        word = "nonsense" if draw < 0.1 else "right" if draw < 0.4 else "wrong"
        return f"{word} {'and so on ' * int(10 * draw)}"

    def run(name: str) -> list[Answer]:
        spec = EvaluationSpec([problem(f"p{n}") for n in range(40)], parse_all(name), repeats=2)
        return answer_problems(Setup(FakePolicy(script), RETRY_PROMPTS), spec, spec.problems)

    most = run("fresh-retry:6")
    assert {len(answer.steps) for answer in most} == set(range(1, 8))
    for n in range(1, 8):
        fewer = [first_tries(answer, n) for answer in most]
        ran = run(f"fresh-retry:{n - 1}" if n > 1 else "solve")
        assert fewer == ran
