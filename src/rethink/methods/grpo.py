"""GRPO (Shao et al., arXiv 2402.03300): sample a group per problem, compare each reply with its group.

Differences from the paper: the advantage is centered, not standardized, and there is no KL term, by default (both are
settings of the objective); the clip is asymmetric with a dual clip, as ThinkTwice's released control arm was run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rethink.methods.actors import Actors
from rethink.methods.advantages import check_size
from rethink.methods.groups import Objective
from rethink.objectives import Update
from rethink.types import Problem, Sample


@dataclass(frozen=True)
class GRPO:
    """Solve, and learn from the verdicts: one update per problem batch.

    `max_groups` (0: no bound) trains the first so many groups of unequal rewards alone: with a larger problem batch, the
    dynamic sampling of DAPO (arXiv 2503.14476), except that a batch with fewer of them is not filled up from the next.
    """

    n_solve: int = 8
    solve: Objective = Objective()
    max_groups: int = 0

    def __post_init__(self) -> None:
        check_size("n_solve", self.n_solve)
        if self.max_groups < 0 or (self.max_groups and self.solve.zero_std_groups == "keep"):
            raise ValueError('max_groups must not be negative, and needs solve.zero_std_groups = "drop"')

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        solved = actors.rollout(actors.prompts.ask(problems), self.n_solve)
        weighted: list[tuple[Sample, float]] = []
        n_groups = 0
        for group in solved:
            found = self.solve.weigh(group)
            if found and not 0 < self.max_groups <= n_groups:
                weighted += found
                n_groups += 1
        yield self.solve.update_weighted("solve", weighted, solved)
