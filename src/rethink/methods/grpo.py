"""GRPO (Shao et al., arXiv 2402.03300): sample a group of replies per problem, and compare each reply with its group.

Differences from the paper, by default: the advantage is centered, not standardized; there is no KL term; the clip is
0.2/0.28, with a dual clip of 3. These are the settings of ThinkTwice's own arm in its release, so that GRPO is its first
update. The GRPO control of that release has a clip of 0.2/0.2 and 8 optimizer steps, not 4 (recipe `grpo-qwen3-4b`). All
are keys of `Objective`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pydantic import NonNegativeInt

from rethink.methods.actors import Actors
from rethink.methods.dynamic_sampling import sample_useful_groups
from rethink.objectives import Objective, Update
from rethink.types import Problem


@dataclass(frozen=True)
class GRPO:
    """Answer each problem `n_solve` times and reinforce the better answers: one update per problem batch.

    - `n_solve`: the number of replies per problem.
    - `solve`: the objective.
    - `max_groups`: train only the first groups with unequal rewards, at most this many; 0 trains all, or with
      `fill_rounds` as many as the problem batch has problems.
    - `fill_rounds`: if there are fewer, how many times further problems are sampled to fill up (dynamic sampling,
      arXiv 2503.14476); 0 is off.

    >>> from rethink.policies.fake import FakePolicy
    >>> from rethink.problems.rewards import grade
    >>> from rethink.prompts import Prompts
    >>> from rethink.types import Verdict
    >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
    >>> policy = FakePolicy(lambda prompt, index, version: "4" if index == 0 else "5")  # scripted replies, no model
    >>> (update,) = GRPO(n_solve=4).updates(Actors(policy, Prompts("{question}"), grade), [problem])
    >>> update.parts[0].advantages
    (0.75, -0.25, -0.25, -0.25)
    """

    n_solve: int = 8
    solve: Objective = Objective()
    max_groups: int = 0
    fill_rounds: NonNegativeInt = 0

    def __post_init__(self) -> None:
        self.solve.check_group_size("n_solve", self.n_solve)
        if self.max_groups < 0 or (self.max_groups and self.solve.zero_std_groups == "keep"):
            raise ValueError('max_groups must not be negative, and needs solve.zero_std_groups = "drop"')
        if self.fill_rounds and self.solve.zero_std_groups == "keep":
            raise ValueError('fill_rounds needs solve.zero_std_groups = "drop"')

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        n_wanted = self.max_groups or len(problems)
        solved = sample_useful_groups(actors, problems, self.n_solve, self.solve, n_wanted, self.fill_rounds)
        trained = solved
        if self.max_groups or self.fill_rounds:
            trained = list(filter(self.solve.useful, solved))[:n_wanted]
        update = self.solve.update_from_pairs("solve", self.solve.pairs(trained), solved)
        yield replace(update, metrics={"n_trained_groups": len(trained)}) if self.fill_rounds else update
