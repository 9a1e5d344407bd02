"""VL-Rethinker (Wang et al., arXiv 2504.08837): GRPO that replays samples with an advantage, and forced
rethinking, which continues finished replies behind a trigger and imitates what leads to a right answer.

Where the paper and the released code differ, we follow the paper: the release never replays, and imitates whole replies,
also where the policy wrote the "wait". Not known from the paper, and ours: the trigger is outside the policy gradient, but
inside the imitated tokens, because the trained model has to write it alone; it is drawn from all families, where the
release often draws it by the verdict; continuations have the temperature of all samples, not 0.9. The reward is binary, or
the recipe's; the release also pays for the word "wait". docs/methods/vl-rethinker.md lists all differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rethink.methods.actors import Actors
from rethink.methods.metrics import mean
from rethink.methods.vl_rethinker_forced_rethinking import Rethinking, Rethought
from rethink.methods.vl_rethinker_replay import Replay
from rethink.objectives import Imitate, Objective, Update
from rethink.seeds import rng
from rethink.settings import Size
from rethink.types import Group, Problem, Sample


@dataclass(frozen=True)
class VLRethinker:
    """GRPO with replay and forced rethinking: one update per problem batch.

    - `n_solve`: the number of replies per problem.
    - `rethink`: which replies are continued, and which continuations are kept. These take the place of the reply before
      advantages are computed.
    - `imitation_coef`: the coefficient of imitating kept continuations, from the trigger on.
    - `replay`: which earlier samples fill the places of replies without an advantage.
    - `solve`: the objective.
    """

    n_solve: int = 8
    rethink: Rethinking = Rethinking()
    imitation_coef: Size = 0.05
    replay: Replay = Replay()
    solve: Objective = Objective(clip_high=0.35, dual_clip=math.inf, zero_std_groups="drop", n_steps=1)

    def __post_init__(self) -> None:
        self.solve.check_group_size("n_solve", self.n_solve)

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        solved = actors.rollout(actors.prompts.ask(problems), self.n_solve)
        rethought = self.rethink.continued(actors, solved)
        kept = self.rethink.kept(rethought)
        groups = replaced(solved, kept)  # before the baseline
        pairs = self.solve.pairs(groups)
        useful = [(sample, advantage) for sample, advantage in pairs if advantage]
        old = self.replay.draw(actors, max(0, len(problems) * self.n_solve - len(useful)))
        self.replay.add(actors, useful)
        trained = [*pairs, *old]
        if old:  # optimizer steps split groups in order
            rng(actors.prompts.seed, actors.policy.version, "order").shuffle(trained)
        update = self.solve.update_from_pairs("solve", trained, groups)
        imitated = tuple(from_trigger(longer) for _, longer in kept)
        part = Imitate(imitated, (1.0,) * len(imitated), self.imitation_coef)
        metrics = {
            "useful_frac": len(useful) / max(1, sum(map(len, groups))),
            **describe_replayed(old, actors.policy.version),
            **describe_rethought(rethought, kept),
        }
        yield replace(update, parts=(*update.parts, part), on_policy=not old, metrics=metrics)


def replaced(groups: Sequence[Group], kept: Sequence[Rethought]) -> list[Group]:
    """Return the groups with each kept continuation in the place of its reply."""
    continuations = {sample.key: without_trigger(longer) for sample, longer in kept}
    found: list[Group] = []
    for group in groups:
        found.append(tuple(continuations.get(sample.key, sample) for sample in group))
    return found


def without_trigger(longer: Sample) -> Sample:
    """Return the continuation with its trigger outside the loss: the policy did not choose it."""
    return replace(longer, mask=tuple(m and not f for m, f in zip(longer.mask, longer.forced, strict=True)))


def from_trigger(longer: Sample) -> Sample:
    """Return the continuation with a loss on the trigger and what follows it, but not on the reply before."""
    first = longer.forced.index(True)
    return replace(longer, mask=(False,) * first + longer.mask[first:])


def describe_replayed(old: Sequence[tuple[Sample, float]], version: int) -> dict[str, float]:
    """Return how many samples are replayed, and their mean age."""
    ages = [float(version - sample.version) for sample, _ in old]
    return {"n_replayed": len(old), "replayed_age_updates": mean(ages)}


def describe_rethought(rethought: Sequence[Rethought], kept: Sequence[Rethought]) -> dict[str, float]:
    """Return how many replies were continued, which shares of wrong ones ended right and of right ones wrong, and how many
    continuations were kept, those of wrong replies counted apart."""
    fixed: list[bool] = []
    damaged: list[bool] = []
    for sample, longer in rethought:
        if longer.right is not None and sample.right:
            damaged.append(not longer.right)
        elif longer.right is not None:
            fixed.append(longer.right)
    return {
        "n_rethought": len(rethought),
        "rethink_fix": mean(fixed),
        "rethink_damage": mean(damaged),
        "n_kept": len(kept),
        "n_wrong_replaced": sum(not sample.right for sample, _ in kept),
    }
