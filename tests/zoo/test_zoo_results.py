"""The small result files of the comparison of methods."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rethink.evaluation.answers import by_strategy
from rethink.evaluation.evaluate import EvaluationSpec, resumable_answers, run_evaluation
from rethink.evaluation.summary import summarize
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.seeds import stable_hash
from rethink.strategies import Setup, parse_all
from rethink.types import Prompt
from support.evaluations import problem
from zoo_results import (
    FIRST_STRATEGY,
    Answers,
    Point,
    Run,
    check_numbers,
    from_evaluation,
    pack,
    read_run,
    read_runs,
    unpack,
    write_run,
)

DRAFTS = np.array([[1, 0, 0, 1], [0, 0, 0, 0]], dtype=bool)
REFINED = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], dtype=bool)


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        ("solve", 2 / 8),
        ("refined", 3 / 8),
        ("solve pass@4", 1 / 2),
        ("refined pass@4", 1),
        ("fix", 2 / 6),
        ("damage", 1 / 2),
        ("fresh fix", (2 / 3 + 2 / 3) / 6),
        ("fresh damage", (2 / 3 + 2 / 3) / 2),
        ("fresh second try", (1 - 1 / 6) / 2),
        ("refine:4", 1 / 2),
        ("vote:3", 0.4),
        ("merge:3", math.nan),
    ],
)
def test_measures_by_hand(measure: str, value: float) -> None:
    """Guards each measure: two problems with four drafts each."""
    answers = Answers(DRAFTS, REFINED, {"refine:4": np.array([True, False])}, {"vote:3": 0.4})
    assert answers.value(measure) == pytest.approx(value, nan_ok=True)


def reply(prompt: Prompt, index: int, version: int) -> str:
    """Return a right or one of two wrong answers: more right ones in some problems than in others."""
    chance = stable_hash(prompt.seed, index) % 5
    return "right" if chance < 1 + (prompt.problem.id > "5") else f"wrong {chance}"


def test_the_small_form_has_the_numbers_of_the_summary() -> None:
    """Guards against verdicts of other drafts, and fresh answers of other problems: the same rates from all answers."""
    problems = [replace(problem(str(n)), extract_answer=str.strip, equal_answers=str.__eq__) for n in range(10)]
    spec = EvaluationSpec(problems, parse_all(f"{FIRST_STRATEGY},refine:2,reflect,merge:3,vote:3"))
    answers = by_strategy(run_evaluation(Setup(FakePolicy(reply), Prompts()), spec, resumable_answers(None)))
    small, whole = from_evaluation(answers), summarize(answers[FIRST_STRATEGY], (1, 4))
    assert whole.refined is not None
    for measure, rate in {
        "solve": whole.solve.accuracy,
        "solve pass@4": whole.solve.pass_at_k["4"],
        "refined": whole.refined.accuracy,
        "refined pass@4": whole.pass_at_k["4"],
        "fix": whole.fix,
        "damage": whole.damage,
        "fresh fix": whole.fix_fresh,
        "fresh damage": whole.damage_fresh,
    }.items():
        assert rate is not None
        assert 0 < rate.value < 1, measure
        assert small.value(measure) == pytest.approx(rate.value), measure
    for strategy in ("refine:2", "reflect", "merge:3", "vote:3"):
        assert small.value(strategy) == pytest.approx(summarize(answers[strategy]).accuracy.value, abs=1e-4), strategy


def test_checks_are_compared_with_verdicts() -> None:
    """Guards against checks of improved answers: of two right and two wrong answers, one of each is called wrong."""

    def reply(prompt: Prompt, index: int, version: int) -> str:
        if prompt.phase == "critique":
            return "fine" if prompt.problem.id in ("0", "2") else "not so"
        return "right" if prompt.problem.id in ("0", "1") else "wrong"

    problems = [replace(problem(str(n)), extract_answer=str.strip, equal_answers=str.__eq__) for n in range(4)]
    spec = EvaluationSpec(problems, parse_all("self-refine"))
    setup = Setup(FakePolicy(reply), Prompts(satisfied="fine"))
    answers = by_strategy(run_evaluation(setup, spec, resumable_answers(None)))["self-refine"]
    assert check_numbers(answers) == {"checks right": 0.5, "wrong called wrong": 0.5, "right called right": 0.5}


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Guards against a result file that loses or moves verdicts."""
    answers = Answers(DRAFTS, REFINED, {"reflect": np.array([False, True])}, {"entropy": 1.5})
    run = Run(
        "grpo", 3, 3e-4, "signs test 2", 100, {"sampled": 150}, {150: Point(10, 9, {"solve": 75}, {"paper": answers})}
    )
    write_run(tmp_path, run)
    found = read_run(tmp_path / "grpo-3.json")
    assert replace(found, points={}) == replace(run, points={})
    again = found.answers("sampled", "paper")
    assert again is not None
    assert found.answers("trained", "paper") is found.answers(40, "paper") is None
    assert (again.drafts.tolist(), again.refined.tolist()) == (DRAFTS.tolist(), REFINED.tolist())
    assert again.others["reflect"].tolist() == [False, True]
    assert (again.numbers, replace(found.points[150], by_sampling={})) == (
        {"entropy": 1.5},
        Point(10, 9, {"solve": 75}),
    )


def test_runs_with_other_problems_are_refused(tmp_path: Path) -> None:
    """Guards against pairs of answers to different problems."""
    for seed, problems in ((0, "signs test 2"), (1, "signs validation 2")):
        write_run(tmp_path, Run("grpo", seed, 3e-4, problems))
    with pytest.raises(ValueError, match="not the same problems"):
        read_runs(tmp_path)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 240])
def test_bits_are_unpacked_as_they_were_packed(n: int) -> None:
    verdicts = [k % 3 == 0 for k in range(n)]
    assert unpack(pack(verdicts), n).tolist() == verdicts
