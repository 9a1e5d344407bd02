"""The claims of papers, and whether they hold in result files."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rethink.evaluation.intervals import Difference
from zoo import MARKS
from zoo_arms import ARMS
from zoo_claims import CLAIMS, Claim, Sign, claim_table, measured, parse_terms, verdict
from zoo_results import PAPER, RATES, T1, Answers, Point, Run, Runs

N = 50


def answers(n_right: int) -> Answers:
    """Return four answers to each of 50 problems, `n_right` of which are right; refinement mends ten more."""
    drafts, refined = ((np.arange(4 * N) < n).reshape(N, 4) for n in (n_right, n_right + 10))
    return Answers(drafts, refined, {}, {"tokens": 30.0 + n_right, "vote:3": 0.2})


def some_runs(solve: dict[str, tuple[int, ...]]) -> Runs:
    start = Point(0, 0, {}, {T1: answers(20)})
    runs: Runs = {"start": {seed: Run("start", seed, 0.0, "p", points={0: start}) for seed in range(8)}}
    for arm, right in solve.items():
        for seed, n in enumerate(right):
            point = Point(10, 9, {}, {T1: answers(n)}, logged={"skipped_frac": 0.5})
            runs.setdefault(arm, {})[seed] = Run(arm, seed, 3e-4, "p", 0, {"sampled": 160}, {160: point})
    return runs


RUNS = some_runs({"pag": (40, 44, 60), "grpo": (40, 40)})


@pytest.mark.parametrize(
    ("terms", "by_seed"),
    [
        ("pag@160 solve - grpo@160 solve", (0.0, 0.02)),
        ("pag@sampled solve - grpo@160 solve", (0.0, 0.02)),
        ("pag@160 solve - start@0 solve", (0.1, 0.12, 0.2)),
        ("pag@160 refined - pag@160 solve - start@0 refined + start@0 solve", (0.0, 0.0, 0.0)),
        ("pag@160 skipped_frac - start@0 solve", (0.4, 0.4, 0.4)),
        ("pag@160 tokens - grpo@160 tokens", (0.0, 4.0)),
        ("pag@320 solve - grpo@160 solve", ()),
        ("score@160 solve - grpo@160 solve", ()),
    ],
)
def test_differences(terms: str, by_seed: tuple[float, ...]) -> None:
    """Guards against pairs of different seeds."""
    gap = measured(RUNS, Claim("a paper", "a claim", terms))
    assert gap.n == len(by_seed)
    if by_seed:
        assert gap.value == pytest.approx(sum(by_seed) / len(by_seed))


@pytest.mark.parametrize(
    ("value", "p", "sign", "expected"),
    [
        (0.1, 0.01, "above", "holds"),
        (-0.1, 0.01, "above", "fails"),
        (0.1, 0.2, "above", "open"),
        (0.1, math.nan, "above", "open"),
        (-0.1, 0.01, "below", "holds"),
        (0.1, 0.01, "below", "fails"),
        (-0.1, 0.01, "not below", "fails"),
        (-0.1, 0.2, "not below", "not refuted"),
        (0.1, 0.01, "not below", "not refuted"),
        (-0.2, 0.2, "not below", "open"),
    ],
)
def test_directions(value: float, p: float, sign: Sign, expected: str) -> None:
    assert verdict(Difference(value, value - 0.15, value + 0.15, 5, p), p, sign) == expected


def test_table() -> None:
    """Guards against claims without data in the table, and p-values that are not corrected."""
    claims = [
        Claim("A", "better", "pag@160 solve - start@0 solve"),
        Claim("B", "shorter", "pag@160 tokens - grpo@160 tokens", "below", is_control=True),
        Claim("C", "no data", "score@160 solve - grpo@160 solve"),
        Claim("D", "no such sampling", "pag@160 solve - grpo@160 solve", sampling=PAPER),
    ]
    lines = claim_table(RUNS, claims).split("\n")
    assert len(lines) == 5
    assert lines[2] == "| A | better | pag@160 solve - start@0 solve | +14.0 [+0.9, +27.1], p 0.089 | open |"
    assert lines[3].startswith("| B | shorter (our control) | pag@160 tokens - grpo@160 tokens | +2.00 [")


def test_new_seeds_count_only_where_training_is_longer() -> None:
    """Guards against claims that get more certain with runs that were made for another question."""
    runs = some_runs({"pag": (40, 44, 60, 40, 40, 200)})
    for seed in (0, 2, 3, 4, 5):
        runs["pag"][seed].points[320] = runs["pag"][seed].points[160]  # type: ignore[index]
    terms = ("pag@160 solve - start@0 solve", "pag@320 solve - start@0 solve")
    lines = claim_table(runs, [Claim("A", "a claim", text) for text in terms]).split("\n")
    assert "| +12.4 [" in lines[2]  # 20, 24, 40, 20 and 20 of 200
    assert "| +28.0 [" in lines[3]  # 20, 40, 20, 20 and 180 of 200


def test_all_claims_name_arms_and_marks_that_the_study_has() -> None:
    """Guards against a claim that is left out because of a typing error."""
    numbers = {"entropy", "tokens", "vote:3", "vote:4", "checks right"}
    logged = {"skipped_frac", "first_accuracy", "second_accuracy"}
    strategies = {"reflect", "self-refine", "merge:3", "refine:4"}
    for claim in CLAIMS:
        for term in parse_terms(claim.terms):
            assert term.arm in {*ARMS, "start"}, claim
            assert term.mark in {0, *MARKS, "sampled", "trained"}, claim
            assert (term.arm == "start") == (term.mark == 0), claim
            measure = term.measure.removesuffix(" at first")
            assert measure in {*RATES, *numbers, *logged, *strategies}, claim
