"""Learn to merge: one policy answers, and writes one better answer from several (ParaGator, arXiv 2603.18886, section 3;
AggLM, arXiv 2509.06870; PaCoRe, arXiv 2601.05593).

First answers are trained with the advantages of pass@k, because a merge needs one good candidate among k; merged answers
with the ordinary ones. Candidates come from the current weights (ParaGator), not from a data set made before (AggLM). With
several `rounds`, merged answers are the candidates of the next round, as these papers do at test time (PaCoRe, RSA).

Choices that are ours: candidates are drawn at random without replacement; both kinds of answers are one update, each with
its own denominator; verdicts say whether a set is easy, not a vote. No critic as in PaCoRe, no data filter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from annotated_types import Ge
from pydantic import PositiveInt

from rethink.methods.actors import Actors
from rethink.methods.metrics import accuracy
from rethink.objectives import Objective, Update
from rethink.seeds import rng, stable_hash
from rethink.settings import Probability
from rethink.types import Group, Problem, Prompt, Sample


@dataclass(frozen=True)
class LearnToMerge:
    """Answer each problem and merge random sets of the answers: one update per problem batch.

    - `n_solve`: the number of first answers per problem.
    - `k`: the number of candidates that a merge prompt shows.
    - `n_merge`: the number of merged answers per merge prompt.
    - `n_sets`: the number of merge prompts per problem and round.
    - `rounds`: the number of rounds; after the first, candidates are the merged answers of the round before.
    - `easy`: the share of easy sets, of which most candidates are right, that are merged; hard sets always are. Below 1, it
      balances both kinds as in AggLM. A problem without a merged set has no further rounds.
    - `solve`, `merge`: the objectives of first answers and of merged answers.
    """

    later_phases: ClassVar[tuple[str, ...]] = ("merge",)

    n_solve: int = 8
    k: Annotated[int, Ge(2)] = 4
    n_merge: int = 8
    n_sets: PositiveInt = 1
    rounds: PositiveInt = 1
    easy: Probability = 1.0
    solve: Objective = Objective("pass_at_k", pass_k=4)
    merge: Objective = Objective()

    def __post_init__(self) -> None:
        self.solve.check_group_size("n_solve", self.n_solve)
        self.merge.check_group_size("n_merge", self.n_merge)
        if self.k > self.n_solve or (self.rounds > 1 and self.k > self.n_sets * self.n_merge):
            raise ValueError(
                f"k = {self.k} candidates are drawn from n_solve = {self.n_solve} first answers, and in later rounds from "
                f"n_sets * n_merge = {self.n_sets * self.n_merge} merged ones; lower k"
            )
        if self.solve.n_steps != self.merge.n_steps:
            raise ValueError("solve.n_steps and merge.n_steps are those of one update: set both to the same number")

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        solved = actors.rollout(actors.prompts.ask(problems), self.n_solve)
        metrics = {"solve_accuracy": accuracy(solved)}
        merged: list[Group] = []
        pools = solved
        for number in range(self.rounds):
            groups = actors.rollout(self.ask_to_merge(actors, pools, number), self.n_merge)
            metrics[f"merge_accuracy_{number + 1}"] = accuracy(groups)
            merged += groups
            pools = pools_of(groups)
        first = self.solve.update("solve", solved)
        second = self.merge.update("merge", merged)
        places = {problem.id: place for place, problem in enumerate(problems)}
        groups = sorted(filter(None, [*solved, *merged]), key=lambda group: places[group[0].problem.id])
        yield replace(
            first,
            name="solve+merge",
            parts=first.parts + second.parts,
            groups=tuple(groups),
            metrics=metrics,
            rewards=first.rewards + second.rewards,
        )

    def ask_to_merge(self, actors: Actors, pools: Sequence[Group], number: int) -> list[Prompt]:
        """Return the merge prompts of a round: `n_sets` random sets of k answers of each pool, without some easy ones."""
        asks: list[Prompt] = []
        for pool in pools:
            for i in range(self.n_sets if pool else 0):
                prompts = replace(actors.prompts, seed=stable_hash(actors.prompts.seed, "merge", number, i))
                draw = rng(prompts.seed, pool[0].problem.id, "candidates")
                candidates = draw.sample(pool, min(self.k, len(pool)))
                if not is_easy(candidates) or draw.random() < self.easy:
                    asks += prompts.ask_to_merge([pool[0].problem], [[s.text for s in candidates]])
        return asks


def is_easy(candidates: Sequence[Sample]) -> bool:
    """Return whether more than half of the graded candidates are right."""
    verdicts = [s.right for s in candidates if s.right is not None]
    return 2 * sum(verdicts) > len(verdicts)


def pools_of(groups: Sequence[Group]) -> list[Group]:
    """Return the samples of each problem as one pool, in order."""
    pools: dict[str, Group] = {}
    for group in groups:
        if group:
            pools[group[0].problem.id] = pools.get(group[0].problem.id, ()) + group
    return list(pools.values())
