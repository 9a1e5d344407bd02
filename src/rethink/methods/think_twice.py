"""ThinkTwice (Jiao et al., arXiv 2604.01591): solve, then refine one's own draft, with the same binary reward.

Defaults follow the released code where it differs from the paper: the advantage is centered only, the clip is 0.2/0.28
with a dual clip of 3, and there is no KL term. Differences from the release, each because the release has a defect there:
optimizer steps split the samples by whole groups, the token mean is over the optimizer step, and each problem has exactly
one draft.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rethink.methods.actors import Actors
from rethink.methods.advantages import check_size
from rethink.methods.groups import Objective
from rethink.objectives import Update
from rethink.seeds import rng
from rethink.types import Group, Problem, Sample


@dataclass(frozen=True)
class ThinkTwice:
    """Two updates per problem batch. The drafts are one update older than the policy that refines them."""

    n_solve: int = 8
    n_refine: int = 8
    solve: Objective = Objective()
    refine: Objective = Objective()

    def __post_init__(self) -> None:
        check_size("n_solve", self.n_solve)
        check_size("n_refine", self.n_refine)

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        solved = actors.rollout(actors.prompts.ask(problems), self.n_solve)
        drafts = pick_drafts(solved)  # before the update, right or wrong
        yield self.solve.update("solve", solved)
        # from here on the policy has new weights
        asks = actors.prompts.ask_to_refine(drafts)
        refined = actors.rollout(asks, self.n_refine)
        yield self.refine.update("refine", refined)


def pick_drafts(groups: Sequence[Group]) -> list[Sample]:
    """One sample per group, uniformly, whether right, wrong or cut; the choice derives from the group's seed and the
    policy's version. Empty groups have none."""
    return [rng(g[0].prompt.seed, g[0].version, "draft").choice(g) for g in groups if g]
