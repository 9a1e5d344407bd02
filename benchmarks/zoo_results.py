"""The small result files of the comparison of methods: what tables and pictures are made from, without weights.

`benchmarks/zoo_evaluate.py` writes a file per run, ARM-SEED.json: for some numbers of updates, the tokens spent until then,
and for each sampling the verdicts on drafts and refinements, problem by problem. Verdicts are bits, in base64.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rethink.evaluation.answers import Answer
from rethink.evaluation.intervals import Outcome, Outcomes
from rethink.evaluation.pass_at_k import pass_at_k
from rethink.evaluation.summary import summarize
from rethink.jsonl import write_text
from rethink.strategies.attempt import OVERLONG

RESULTS = Path(__file__).parent / "results" / "zoo"
T1, PAPER = "temperature 1", "paper"
"""The names of the samplings: of training, and of the ThinkTwice paper."""

Verdicts = NDArray[np.bool_]

N_DRAFTS = 4
FIRST_STRATEGY = f"solve:{N_DRAFTS}+refine"
"""Every model answers with this one: four drafts, and a refinement of each."""

BASELINE = "grpo"
"""The arm that all others are compared with."""


@dataclass(frozen=True)
class Answers:
    """What one model answered with one sampling.

    - `drafts`, `refined`: whether each draft of each problem is right, and its refinement (problems x drafts).
    - `others`: by strategy, whether its answer to each problem is right.
    - `numbers`: means over all problems. "tokens", "refined tokens": of a draft and of a refinement. "cut", "refined cut":
      shares of these at the cap. "entropy": nats per draft. "vote:3": the accuracy of a vote, as ties have no verdict.
      "not merged": the share of cases in which the candidates were too long; there the first of them stands for the result.
      "checks right", "wrong called wrong", "right called right": how often the checks of `self-refine` agree with verdicts.
    """

    drafts: Verdicts
    refined: Verdicts
    others: Mapping[str, Verdicts] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)

    def outcomes(self, measure: str) -> Outcomes:
        """Return (problem, value) for each case of a measure of `RATES`, or for each problem with the name of a strategy;
        nothing if it was not asked for."""
        if measure in RATES:
            return RATES[measure](self.drafts, self.refined)
        return [(str(problem), float(right)) for problem, right in enumerate(self.others.get(measure, []))]

    def value(self, measure: str) -> float:
        """Return the mean of a measure, or a number; NaN if there is none."""
        if measure in self.numbers:
            return self.numbers[measure]
        return _mean([value for _, value in self.outcomes(measure)])


@dataclass(frozen=True)
class Point:
    """A run after some updates. `sampled` and `trained` are the tokens spent until then, `phases` the numbers of updates by
    name, `by_sampling` the answers, `logged` means over the last updates of what training logged."""

    sampled: int
    trained: int
    phases: Mapping[str, int] = field(default_factory=dict)
    by_sampling: Mapping[str, Answers] = field(default_factory=dict)
    logged: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A training run. `points` are by the number of updates, `marks` are the numbers at which a budget was spent.
    `prepared` counts the tokens that were sampled for its data, and `problems` names the problems.
    """

    arm: str
    seed: int
    rate: float
    problems: str
    prepared: int = 0
    marks: Mapping[str, int] = field(default_factory=dict)
    points: Mapping[int, Point] = field(default_factory=dict)

    def at(self, mark: str | int) -> Point | None:
        """Return the point at a budget or after a number of updates; None if there is none."""
        return self.points.get(self.marks.get(mark, -1) if isinstance(mark, str) else mark)

    def answers(self, mark: str | int, sampling: str) -> Answers | None:
        point = self.at(mark)
        return None if point is None else point.by_sampling.get(sampling)


def solve_outcomes(drafts: Verdicts, refined: Verdicts) -> Outcomes:
    return _each(drafts, np.ones_like(drafts))


def refined_outcomes(drafts: Verdicts, refined: Verdicts) -> Outcomes:
    return _each(refined, np.ones_like(drafts))


def fix_outcomes(drafts: Verdicts, refined: Verdicts) -> Outcomes:
    return _each(refined, ~drafts)


def damage_outcomes(drafts: Verdicts, refined: Verdicts) -> Outcomes:
    return _each(~refined, drafts)


def fresh_fix_outcomes(drafts: Verdicts, refined: Verdicts) -> Outcomes:
    """For each wrong draft, the share of the other drafts that are right: what a fresh answer would fix."""
    return _each(_share_of_others(drafts), ~drafts)


def fresh_damage_outcomes(drafts: Verdicts, refined: Verdicts) -> Outcomes:
    """For each right draft, the share of the other drafts that are wrong: what a fresh answer would damage."""
    return _each(_share_of_others(~drafts), drafts)


def fresh_second_outcomes(drafts: Verdicts, refined: Verdicts) -> Outcomes:
    """Return pass@2: a fresh answer after each wrong one."""
    return _pass(drafts, 2)


RATES: dict[str, Callable[[Verdicts, Verdicts], Outcomes]] = {
    "solve": solve_outcomes,
    "refined": refined_outcomes,
    "solve pass@4": lambda drafts, refined: _pass(drafts, N_DRAFTS),
    "refined pass@4": lambda drafts, refined: _pass(refined, N_DRAFTS),
    "fix": fix_outcomes,
    "fresh fix": fresh_fix_outcomes,
    "damage": damage_outcomes,
    "fresh damage": fresh_damage_outcomes,
    "fresh second try": fresh_second_outcomes,
}
"""The measures that follow from the verdicts on drafts and refinements. Each returns (problem, value) for each case."""


def _each(values: NDArray[Any], counts: Verdicts) -> list[Outcome]:
    """Return (problem, value) for each value that counts."""
    return [(str(problem), float(values[problem, n])) for problem, n in zip(*np.nonzero(counts), strict=True)]


def _share_of_others(verdicts: Verdicts) -> NDArray[np.float64]:
    """Return, for each answer, the share of the other answers to its problem that have the verdict."""
    return np.asarray((verdicts.sum(1, keepdims=True) - verdicts) / (verdicts.shape[1] - 1))


def _pass(verdicts: Verdicts, k: int) -> list[Outcome]:
    return [(str(p), pass_at_k(len(row), int(row.sum()), k)) for p, row in enumerate(verdicts)]


def from_evaluation(by_strategy: Mapping[str, Sequence[Answer]]) -> Answers:
    """Return the small form of an evaluation, one attempt at each problem: with `FIRST_STRATEGY`, perhaps others."""
    first = by_strategy[FIRST_STRATEGY]
    summary = summarize(first, (1,))
    assert summary.refined is not None
    numbers = {
        "tokens": summary.solve.tokens.value,
        "refined tokens": summary.refined.tokens.value,
        "cut": summary.solve.truncated.value,
        "refined cut": summary.refined.truncated.value,
        "entropy": summary.solve.entropy.value,
    }
    others: dict[str, Verdicts] = {}
    for strategy, answers in by_strategy.items():
        if strategy.startswith("vote"):
            numbers[strategy] = summarize(answers, (1,)).accuracy.value
        elif strategy != FIRST_STRATEGY:
            others[strategy] = np.array([_graded(answer.final_steps[0].right) for answer in answers])
        if strategy == "self-refine":
            numbers |= check_numbers(answers)
        if strategy.startswith("merge"):
            numbers["not merged"] = sum(OVERLONG in answer.notes for answer in answers) / len(answers)
    known = {name: round(value, 4) for name, value in numbers.items() if not math.isnan(value)}
    drafts = np.array([[_graded(step.right) for step in answer.firsts] for answer in first])
    refined = np.array([[_graded(step.right) for step in answer.final_steps] for answer in first])
    return Answers(drafts, refined, others, known)


def check_numbers(answers: Sequence[Answer]) -> dict[str, float]:
    """Return how often a check of an answer agrees with its verdict: of all, of wrong and of right answers.

    A check calls an answer wrong if another answer follows it."""
    agree: dict[bool, list[bool]] = {True: [], False: []}
    for answer in answers:
        called_wrong = any(step.phase == "improve" for step in answer.steps)
        right = _graded(answer.firsts[0].right)
        agree[right].append(called_wrong != right)
    return {
        "checks right": _mean([*agree[True], *agree[False]]),
        "wrong called wrong": _mean(agree[False]),
        "right called right": _mean(agree[True]),
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _graded(right: bool | None) -> bool:
    if right is None:
        raise ValueError("a reply was not graded; the small form has no place for that")
    return right


def write_run(folder: Path, run: Run) -> None:
    """Write the result file of a run."""
    data = asdict(run)
    for updates, point in run.points.items():
        by_sampling = {name: _to_data(answers) for name, answers in point.by_sampling.items()}
        data["points"][updates]["by_sampling"] = by_sampling
    write_text(folder / f"{run.arm}-{run.seed}.json", json.dumps(data) + "\n")


def read_run(file: Path) -> Run:
    data = json.loads(file.read_text())
    points: dict[int, Point] = {}
    for updates, point in data.pop("points").items():
        by_sampling = {name: _from_data(answers) for name, answers in point.pop("by_sampling").items()}
        points[int(updates)] = Point(**point, by_sampling=by_sampling)
    return Run(**data, points=points)


Mark = str | int
"""A budget, or a number of updates."""

Runs = dict[str, dict[int, Run]]
"""The runs of each arm, by seed."""


def read_runs(folder: Path) -> Runs:
    """Return all runs. Raise ValueError if they did not answer the same problems."""
    runs: Runs = {}
    problems: dict[str, Path] = {}
    for file in sorted(folder.glob("*.json")):
        run = read_run(file)
        runs.setdefault(run.arm, {})[run.seed] = run
        problems.setdefault(run.problems, file)
    if len(problems) > 1:
        raise ValueError(f"not the same problems: {', '.join(f'{file}: {what}' for what, file in problems.items())}")
    return runs


def with_seeds(runs: Runs, seeds: Sequence[int]) -> Runs:
    """Return the runs that have these seeds."""
    found: Runs = {}
    for arm, by_seed in runs.items():
        found[arm] = {seed: run for seed, run in by_seed.items() if seed in seeds}
    return found


def trained_longest(runs: Iterable[Run], marks: Sequence[int]) -> list[Run]:
    """Return the runs that have the most of these updates, so that all points of a curve are of the same runs.

    A run that ended at its budgets has fewer."""
    found: list[Run] = []
    most = 0
    for run in runs:
        n = len(run.points.keys() & {*marks})
        if n > most:
            found, most = [], n
        if n == most:
            found.append(run)
    return found


def _to_data(answers: Answers) -> dict[str, Any]:
    return {
        "n": len(answers.drafts),
        "drafts": pack(answers.drafts.ravel()),
        "refined": pack(answers.refined.ravel()),
        "others": {strategy: pack(right) for strategy, right in answers.others.items()},
        "numbers": dict(answers.numbers),
    }


def _from_data(data: Mapping[str, Any]) -> Answers:
    n = data["n"]
    drafts, refined = (unpack(data[name], n * N_DRAFTS).reshape(n, N_DRAFTS) for name in ("drafts", "refined"))
    others = {strategy: unpack(text, n) for strategy, text in data["others"].items()}
    return Answers(drafts, refined, others, data["numbers"])


def pack(verdicts: Iterable[bool]) -> str:
    """Return bits in base64.

    >>> unpack(pack([True, False, True]), 3).tolist()
    [True, False, True]
    """
    return base64.b64encode(np.packbits(np.array(list(verdicts), dtype=bool)).tobytes()).decode()


def unpack(text: str, n: int) -> Verdicts:
    return np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8))[:n].astype(bool)
