"""Rates and their intervals against scipy, simulation and second formulas; before and after one refinement, by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from rethink.evaluate.intervals import difference, rate, wilson
from rethink.evaluate.refinement import Look, evaluate_policy, summarise
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.types import Problem, Prompt, Sample, Sampling, Verdict

# ---------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 13), (13, 13), (1, 7), (5, 11), (613, 1000), (1, 100_003)])
def test_wilson_against_scipy(k: int, n: int) -> None:
    """Guards against a slip in the formula; 1e-12 is rounding."""
    theirs = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson(k / n, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(0, 13), (13, 13), (5, 11)])
def test_one_answer_per_problem_is_the_plain_interval(k: int, n: int) -> None:
    """Guards against a cluster correction where there are no clusters."""
    found = rate([(f"p{i}", i < k) for i in range(n)])
    theirs = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert (found.value, found.n) == (k / n, n)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_effective_sample_size_by_hand() -> None:
    """Guards against a wrong cluster variance. Three problems, two answers each: 2, 1 and 0 right.

    p = 1/2; residual sums 1, 0, -1; variance of the mean = (1 + 0 + 1) / 6^2 * 3/2 = 1/12; n = (1/4) / (1/12) = 3.
    """
    outcomes = [("a", True), ("a", True), ("b", True), ("b", False), ("c", False), ("c", False)]
    found = rate(outcomes)
    assert (found.low, found.high) == pytest.approx(wilson(0.5, 3.0), abs=1e-12)


def test_repeated_answers_add_nothing() -> None:
    """Guards against intervals that shrink when each answer is counted again: each of 4 copies of 60 answers."""
    single = [(f"p{i}", i % 3 == 0) for i in range(60)]
    once, copied = rate(single), rate(single * 4)
    assert copied.value == once.value
    assert once.high - once.low <= copied.high - copied.low < 1.02 * (once.high - once.low)


def test_independent_answers_do_count() -> None:
    """Guards against one answer per problem as a rule: 20 answers without correlation are worth about 20."""
    draw = np.random.default_rng(7)
    outcomes = [(f"p{i % 100}", bool(draw.random() < 0.4)) for i in range(2000)]
    found = rate(outcomes)
    low, high = wilson(found.value, 2000)
    assert found.high - found.low == pytest.approx(high - low, rel=0.25)


@pytest.mark.parametrize("outcome", [True, False])
def test_all_alike_does_not_give_zero_width(outcome: bool) -> None:
    """Guards against certainty from a sample: 11 problems all right, however many answers each, are 11 answers."""
    found = rate([(f"p{i % 11}", outcome) for i in range(55)])
    theirs = binomtest(11 * outcome, 11).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert found.high - found.low > 0.2


@pytest.mark.parametrize(("n_right", "n_each"), [(1, 2), (1, 3), (2, 7)])
def test_problems_without_any_spread_count_once(n_right: int, n_each: int) -> None:
    """Sums of residuals that are zero but for rounding once counted as a tiny variance: 1 of 3 right in each of 5
    problems then had the interval of 15 answers, where 1 of 2 had that of 5."""
    outcomes = [(f"p{i}", j < n_right) for i in range(5) for j in range(n_each)]
    found = rate(outcomes)
    assert (found.low, found.high) == pytest.approx(wilson(n_right / n_each, 5), abs=1e-12)


def test_one_problem_is_one_answer() -> None:
    """Guards against a division by zero clusters minus one."""
    found = rate([("a", True), ("a", False), ("a", True)])
    assert (found.low, found.high) == pytest.approx(wilson(2 / 3, 1), abs=1e-12)


def test_no_answers_give_nan() -> None:
    """Guards against 0% where nothing was measured."""
    found = rate([])
    assert [math.isnan(x) for x in (found.value, found.low, found.high)] == [True] * 3
    assert (found.n, found.percent()) == (0, "undefined")


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), min_size=1))
def test_intervals_hold_their_rate(outcomes: list[tuple[str, bool]]) -> None:
    """Guards against NaN and against intervals outside 0 to 1 for any little data set."""
    found = rate(outcomes)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1
    assert found.low < found.high


@pytest.mark.parametrize(
    ("n_problems", "n_each", "a", "b"), [(60, 4, 1.0, 1.0), (100, 7, 0.5, 1.5), (200, 2, 3.0, 1.0)]
)
def test_coverage_with_correlated_answers(n_problems: int, n_each: int, a: float, b: float) -> None:
    """Guards against intervals that ignore problems: each has its own chance from Beta(a, b), mean a / (a + b).

    Of 600 simulated data sets 95% should cover; the standard error of that share is 0.9%.
    """
    draw = np.random.default_rng(11)
    covered = 0
    for _ in range(600):
        chances = draw.beta(a, b, n_problems)
        right = draw.random((n_each, n_problems)) < chances
        found = rate([(str(p), bool(ok)) for row in right for p, ok in enumerate(row)])
        covered += found.low <= a / (a + b) <= found.high
    assert 0.92 <= covered / 600 <= 0.98


# ------------------------------------------------------------------------------------------------- refinement


def judge_marks(reply: str, _gold: str) -> Verdict:
    """right, wrong, or anything else: not judged."""
    return Verdict({"right": True, "wrong": False}.get(reply.split()[0]), "by its first word")


def problem(name: str) -> Problem:
    return Problem(name, f"question {name}", "gold", judge_marks)


def answer(name: str, right: bool | None, n_tokens: int = 3, stop: str = "stop") -> Sample:
    """A judged sample of a problem of this name."""
    reply = {True: "right", False: "wrong", None: "hm"}[right]
    (group,) = FakePolicy(lambda p, i, v: reply).sample(Prompts().ask([problem(name)]), 1)
    sample = replace(group[0], ids=(5,) * n_tokens, stop="length" if stop == "length" else "stop")
    return sample.judged(Verdict(right))


def looks(pairs: Sequence[tuple[bool | None, bool | None]]) -> list[Look]:
    return [Look(answer(f"p{i}", before), answer(f"p{i}", after)) for i, (before, after) in enumerate(pairs)]


def test_transitions_by_hand() -> None:
    """Guards against rates over the wrong drafts. 4 right drafts, 1 damaged; 6 wrong ones, 2 fixed: 4/10 to 5/10."""
    pairs = [(True, True)] * 3 + [(True, False)] + [(False, True)] * 2 + [(False, False)] * 4
    found = summarise(looks(pairs))
    assert (found.solve.value, found.solve.n) == (0.4, 10)
    assert (found.refined.value, found.refined.n) == (0.5, 10)
    assert (found.damage.value, found.damage.n) == (0.25, 4)
    assert (found.fix.value, found.fix.n) == (2 / 6, 6)
    assert (found.fix.low, found.fix.high) == pytest.approx(wilson(2 / 6, 6), abs=1e-12)
    assert (found.n_problems, found.n_not_judged, found.n_not_refined) == (10, 0, 0)


def test_what_was_not_judged_is_left_out_and_counted() -> None:
    """Guards against "not judged" as 0: 2 right, 1 wrong, 1 not judged draft; of the 2 right, one refinement unknown."""
    found = summarise(looks([(True, True), (True, None), (False, True), (None, True)]))
    assert (found.solve.value, found.solve.n) == (2 / 3, 3)
    assert (found.refined.value, found.refined.n) == (1.0, 3)
    assert (found.damage.value, found.damage.n) == (0.0, 1)
    assert (found.fix.value, found.fix.n) == (1.0, 1)
    assert found.n_not_judged == 2


def test_drafts_that_were_not_refined_are_left_out_and_counted() -> None:
    """Guards against over-long refine prompts that count as wrong refinements."""
    found = summarise([*looks([(True, True), (False, False)]), Look(answer("p9", True), None)])
    assert (found.solve.value, found.solve.n) == (2 / 3, 3)
    assert (found.refined.value, found.refined.n) == (0.5, 2)
    assert (found.damage.n, found.fix.n) == (1, 1)
    assert (found.n_not_refined, found.n_problems) == (1, 3)


def test_rates_without_their_drafts_are_undefined() -> None:
    """Guards against a damage rate of 0 where no draft was right."""
    found = summarise(looks([(False, True), (False, False)]))
    assert math.isnan(found.damage.value)
    assert found.damage.n == 0


def test_lengths_and_cuts_by_hand() -> None:
    """Guards against means over drafts and refinements together: lengths 2 and 5, then 7 and 13; one draft cut."""
    pairs = [
        Look(answer("a", True, 2, "length"), answer("a", True, 7)),
        Look(answer("b", True, 5), answer("b", True, 13)),
    ]
    found = summarise(pairs)
    assert (found.solve_length_tokens, found.refine_length_tokens) == (3.5, 10.0)
    assert (found.solve_truncated_frac, found.refine_truncated_frac) == (0.5, 0.0)


def test_nothing_at_all_is_nan() -> None:
    """Guards against a division by zero on an empty evaluation."""
    found = summarise([])
    assert math.isnan(found.solve.value)
    assert math.isnan(found.solve_length_tokens)
    assert found.n_problems == 0


def script(prompt: Prompt, index: int, _version: int) -> str:
    """Drafts: a is right both times, b only the first time. Refinements mend b's second draft and spoil a's first."""
    name = prompt.problem.id
    if prompt.draft is None:
        return "right" if name == "a" or index == 0 else "wrong and long"
    first = prompt.draft.index == 0
    return "wrong" if name == "a" and first else "right indeed"


def test_evaluate_policy_by_hand(tmp_path: Path) -> None:
    """Guards against refinements paired with other drafts: 2 problems, 2 drafts each.

    Drafts R R R W (3/4); refinements W R R R (3/4); damage 1 of 3, fix 1 of 1. Lengths count the end token.
    """
    seen: list[int] = []
    policy = FakePolicy(script)
    file = tmp_path / "answers.jsonl"
    found = evaluate_policy(policy, Prompts(), [problem("a"), problem("b")], 2, file, seen.append)
    assert (found.solve.value, found.refined.value) == (0.75, 0.75)
    assert (found.damage.value, found.damage.n, found.fix.value, found.fix.n) == (1 / 3, 3, 1.0, 1)
    assert (found.solve_length_tokens, found.refine_length_tokens) == ((2 + 2 + 2 + 4) / 4, (2 + 3 + 3 + 3) / 4)
    assert seen == [2]
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(r["problem"], r["phase"], r["index"], r["verdict"], r["draft_verdict"]) for r in records] == [
        ("a", "solve", 0, "right", None),
        ("a", "refine", 0, "wrong", "right"),
        ("a", "solve", 1, "right", None),
        ("a", "refine", 1, "right", "right"),
        ("b", "solve", 0, "right", None),
        ("b", "refine", 0, "right", "right"),
        ("b", "solve", 1, "wrong", None),
        ("b", "refine", 1, "right", "wrong"),
    ]
    assert records[1]["prompt"][1] == ["assistant", "right"]
    assert records[7]["prompt"][1] == ["assistant", "wrong and long"]


def test_a_second_evaluation_replaces_the_answers(tmp_path: Path) -> None:
    """Guards against records of two evaluations in one file: a resumed run evaluates again."""
    file = tmp_path / "answers.jsonl"
    for _ in range(2):
        evaluate_policy(FakePolicy(script), Prompts(), [problem("a")], 1, file)
    assert len(file.read_text().splitlines()) == 2


def test_a_batch_after_the_other_gives_the_same_numbers(tmp_path: Path) -> None:
    """Guards against problems lost between batches: 300 problems are two batches of at most 256."""
    seen: list[int] = []
    many = [problem(str(i)) for i in range(300)]
    policy = FakePolicy(lambda p, i, v: "right" if int(p.problem.id) % 3 == 0 else "wrong", Sampling())
    found = evaluate_policy(policy, Prompts(), many, 1, tmp_path / "answers.jsonl", seen.append)
    assert (found.solve.value, found.n_problems, seen) == (100 / 300, 300, [256, 300])


def test_difference_is_paired_by_problem() -> None:
    """Guards against an interval that ignores the pairing. Mean gaps of the problems: 1 - 1/2, 0 - 0, 1 - 0; their mean
    is 1/2, their standard deviation 1/2."""
    ours = [("a", True), ("a", True), ("b", False), ("c", True)]
    theirs = [("c", False), ("b", False), ("a", False), ("a", True)]
    half = norm.ppf(0.975) * 0.5 / math.sqrt(3)
    found = difference(ours, theirs)
    assert (found.value, found.n) == (0.5, 3)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert found.percent(sign="+") == f"+50.0 [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def test_a_difference_of_other_problems_is_refused_and_one_problem_has_no_interval() -> None:
    """Guards against comparing two different test sets, and against a made-up width."""
    with pytest.raises(ValueError, match="same problems"):
        difference([("a", True)], [("b", True)])
    assert math.isnan(difference([("a", True)], [("a", False)]).low)


def test_a_verifier_that_fails_gives_no_verdict(tmp_path: Path) -> None:
    """Guards against a failure that counts as wrong, or that ends the run."""

    def broken(reply: str, gold: str) -> Verdict:
        raise RuntimeError("no such symbol")

    asked = Problem("a", "?", "1", broken)
    found = evaluate_policy(FakePolicy(lambda *_: "1"), Prompts(), [asked], 3, tmp_path / "answers.jsonl")
    assert (found.solve.n, found.n_not_judged) == (0, 6)
    assert "RuntimeError: no such symbol" in (tmp_path / "answers.jsonl").read_text()
