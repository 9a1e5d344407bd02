"""Before and after one refinement: solve, look again, compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rethink.evaluate.intervals import Estimate, rate
from rethink.folder import append, transcript
from rethink.methods.actors import Actors, Policy, judge
from rethink.prompts import Prompts
from rethink.types import Problem, Sample


@dataclass(frozen=True)
class Look:
    """A draft and its refinement; None where the refine prompt was over-long."""

    draft: Sample
    refinement: Sample | None


def look_twice(actors: Actors, problems: Sequence[Problem], n: int, batch: int = 256) -> Iterator[list[Look]]:
    """Solve each problem n times and refine each draft once; one list per batch of problems."""
    for start in range(0, len(problems), batch):
        asks = actors.prompts.ask(problems[start : start + batch])
        drafts = [s for group in actors.judge(actors.policy.sample(asks, n)) for s in group]
        groups = actors.judge(actors.policy.sample(actors.prompts.ask_to_refine(drafts), 1))
        yield [Look(d, g[0] if g else None) for d, g in zip(drafts, groups, strict=True)]


def evaluate_policy(
    policy: Policy,
    prompts: Prompts,
    problems: Sequence[Problem],
    n: int,
    file: Path,
    progress: Callable[[int], None] = lambda _: None,
) -> Summary:
    """Look twice at every problem; each answer becomes a line of `file` as soon as its batch is done."""
    looks: list[Look] = []
    file.unlink(missing_ok=True)
    for batch in look_twice(Actors(policy, prompts, judge), problems, n):
        append(file, [transcript(s) for look in batch for s in (look.draft, look.refinement) if s is not None])
        looks += batch
        progress(len(looks) // n)
    return summarise(looks)


@dataclass(frozen=True)
class Summary:
    """Solve and refined accuracy, fix rate (wrong draft -> right) and damage rate (right draft -> wrong), with the rest.

    Answers that were not judged, and drafts that were not refined, are left out of the rates and counted.
    """

    solve: Estimate
    refined: Estimate
    fix: Estimate
    damage: Estimate
    solve_truncated_frac: float
    refine_truncated_frac: float
    solve_length_tokens: float
    refine_length_tokens: float
    n_problems: int
    n_not_judged: int
    n_not_refined: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(looks: Iterable[Look]) -> Summary:
    """The numbers of all looks together."""
    looks = list(looks)
    drafts = [look.draft for look in looks]
    refinements = [look.refinement for look in looks if look.refinement is not None]
    pairs = [(x.draft.problem.id, x.draft.right, x.refinement.right) for x in looks if x.refinement is not None]
    judged = [(problem, before, after) for problem, before, after in pairs if after is not None]
    return Summary(
        solve=_accuracy(drafts),
        refined=_accuracy(refinements),
        fix=rate([(problem, after) for problem, before, after in judged if before is False]),
        damage=rate([(problem, not after) for problem, before, after in judged if before is True]),
        solve_truncated_frac=_mean([s.stop == "length" for s in drafts]),
        refine_truncated_frac=_mean([s.stop == "length" for s in refinements]),
        solve_length_tokens=_mean([len(s.ids) for s in drafts]),
        refine_length_tokens=_mean([len(s.ids) for s in refinements]),
        n_problems=len({s.problem.id for s in drafts}),
        n_not_judged=sum(s.right is None for s in (*drafts, *refinements)),
        n_not_refined=len(drafts) - len(refinements),
    )


def _accuracy(samples: Sequence[Sample]) -> Estimate:
    return rate([(s.problem.id, s.right) for s in samples if s.right is not None])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
