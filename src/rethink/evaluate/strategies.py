"""Several strategies on the same problems, from the same first answers; a killed evaluation goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from rethink.evaluate.look import OtherAnswersError
from rethink.evaluate.outcomes import Outcome, outcome, read_outcomes, to_record
from rethink.jsonl import append, replace_lines
from rethink.policies.base import Policy
from rethink.problems.judging import judge
from rethink.prompts import Prompts
from rethink.seeds import stable_hash
from rethink.strategies import Attempt, Setup, Shared, Strategy
from rethink.types import Problem, Sample


@dataclass(frozen=True)
class Trial:
    """The problems, the strategies, and how: `n` repeats, each from first answers of its own, and some `batch` first
    answers between two writes to the file."""

    problems: Sequence[Problem]
    strategies: Sequence[Strategy]
    n: int = 1
    batch: int = 256

    @property
    def n_solve(self) -> int:
        """How many first answers a problem gets."""
        return max([1, *(s.n_solve for s in self.strategies)])

    @property
    def batches(self) -> list[Sequence[Problem]]:
        size = max(1, self.batch // (self.n_solve * self.n))
        return [self.problems[i : i + size] for i in range(0, len(self.problems), size)]


@runtime_checkable
class KeepsPrefixes(Protocol):
    """A policy that can reuse what prompts of one batch have in common."""

    def keep_prefixes(self) -> AbstractContextManager[None]: ...


def evaluate_strategies(
    setup: Setup,
    trial: Trial,
    file: Path,
    *,
    resume: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Outcome]:
    """All outcomes, also written to `file`, batch by batch. With `resume` the whole batches in it are kept. `progress` is
    told the number of problems done. Raises OtherAnswersError for a file with outcomes of other problems or strategies."""
    if not resume:
        replace_lines(file, [])
    batches = trial.batches
    found = _finished(file, trial, batches)
    done = sum(len(batch) for batch in batches[: len(found)])
    progress(done)
    for batch in batches[len(found) :]:
        found.append(run_batch(setup, trial, batch))
        append(file, [to_record(o) for o in found[-1]])
        done += len(batch)
        progress(done)
    return [o for outcomes in found for o in outcomes]


def run_batch(setup: Setup, trial: Trial, problems: Sequence[Problem]) -> list[Outcome]:
    """The outcomes of some problems, by repeat, then strategy, then problem."""
    found: list[Outcome] = []
    with keeping_prefixes(setup.policy):
        for repeat in range(trial.n):
            shared = replace(setup, policy=Shared(setup.policy, trial.n_solve), prompts=_prompts(setup, repeat))
            attempts = {s.name: s.run(shared, problems) for s in trial.strategies}
            judged = _judged([a for some in attempts.values() for a in some])
            found += [outcome(name, repeat, a, judged) for name, some in attempts.items() for a in some]
    return found


def keeping_prefixes(policy: Policy) -> AbstractContextManager[None]:
    """Within, a policy that can do so reuses what prompts have in common."""
    return policy.keep_prefixes() if isinstance(policy, KeepsPrefixes) else nullcontext()


def _prompts(setup: Setup, repeat: int) -> Prompts:
    texts = setup.prompts
    return replace(texts, seed=stable_hash(texts.seed, "repeat", repeat)) if repeat else texts


def _judged(attempts: Sequence[Attempt]) -> dict[int, Sample]:
    """First and final answers with their verdicts, by the `id` of the sample; each is judged once."""
    samples = {id(s): s for a in attempts for s in (*a.expected, *(s for s in a.used if s.prompt.phase == "solve"))}
    (group,) = judge([tuple(samples.values())])
    return dict(zip(samples, group, strict=True))


def _finished(file: Path, trial: Trial, batches: Sequence[Sequence[Problem]]) -> list[list[Outcome]]:
    """The outcomes of the whole batches that a file begins with; what follows them is cut off the file."""
    lines = read_outcomes(file)
    found: list[list[Outcome]] = []
    first = 0
    for batch in batches:
        wanted = [(p, r, s.name) for r in range(trial.n) for s in trial.strategies for p in batch]
        there = [o for _, o in lines[first : first + len(wanted)]]
        for (problem, repeat, name), o in zip(wanted, there, strict=False):
            known = (o.problem, o.question, o.gold, o.repeat, o.strategy)
            if known != (problem.id, problem.question, problem.gold, repeat, name):
                raise OtherAnswersError(f"{file} has outcomes of other problems or strategies, {o.problem} for one")
        if len(there) < len(wanted):
            break
        found.append(there)
        first += len(wanted)
    if len(found) == len(batches) and lines[first:]:
        raise OtherAnswersError(
            f"{file} has outcomes of more problems or strategies, {lines[first][1].problem} for one"
        )
    replace_lines(file, (line for line, _ in lines[:first]))
    return found
