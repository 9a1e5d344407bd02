"""Dynamic sampling (DAPO, arXiv 2503.14476, eq. 11): sample until enough groups have something to learn from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rethink.methods.actors import Actors
from rethink.objectives import Objective
from rethink.types import Group, Problem


def sample_useful_groups(
    actors: Actors, problems: Sequence[Problem], n: int, objective: Objective, n_wanted: int, max_rounds: int
) -> list[Group]:
    """Return graded groups of n replies to the problems, and to the run's next problems until `n_wanted` are useful.

    There are at most `max_rounds` further rounds. Each one samples as many problems as are expected to suffice, at most as
    many as there were at first. At the end of a pass over the data there may be too few."""
    groups = actors.rollout(actors.prompts.ask(problems), n)
    for _ in range(max_rounds):
        n_useful = sum(map(objective.useful, groups))
        if n_useful >= n_wanted:
            break
        expected = math.ceil((n_wanted - n_useful) * len(groups) / max(1, n_useful))
        more = actors.more_problems(min(expected, len(problems)))
        if not more:
            break
        groups += actors.rollout(actors.prompts.ask(more), n)
    return groups
