"""ThinkTuning (RRV et al., arXiv 2508.07616): GRPO in which a same-size teacher comments on some of the student's replies,
and the comment is spliced on as if the student had gone on like that.

Differences from the release, where its core is not connected: guided tokens do get the shaped loss
(`objectives.AdvantageAwareShaping`); its map is aware of the advantage (swapped bounds made the release's constant);
splices work on token ids, and one over the cap is dropped, not cut; choices derive from seeds. The release:
shaping.gamma "released", fraction 0.1, last_fraction 0.01, n_guided 17, stop_at 0.06.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rethink.methods.actors import Actors
from rethink.methods.advantages import check_size
from rethink.methods.groups import Objective
from rethink.methods.think_tuning_feedback import parse, teacher_prompt
from rethink.objectives import AdvantageAwareShaping, Update
from rethink.seeds import rng
from rethink.types import Group, Problem, Sample, Sampling


@dataclass(frozen=True)
class ThinkTuning:
    """One update per problem batch; the baseline is formed over guided and unguided replies together.

    In batch t (from 0) the share of finished replies per group that the teacher comments on falls linearly from
    `fraction` to `last_fraction` at t = `n_guided` - 1; then, or once it is at most `stop_at` (0: never), shaping is off.
    `feedback` "tags" asks for opinion, reason and phrase by four examples; "again" takes the teacher's answer to the refine
    prompt, behind `joint`. `pick` "wrong" comments on wrong replies only (it looks at verdicts).
    """

    n_solve: int = 8
    fraction: float = 0.25
    last_fraction: float = 0.05
    n_guided: int = 50
    stop_at: float = 0.0
    min_per_group: int = 1
    pick: Literal["any", "wrong"] = "any"
    feedback: Literal["tags", "again"] = "tags"
    joint: str = "\n\n"
    max_feedback_tokens: int = 512
    shaping: AdvantageAwareShaping = AdvantageAwareShaping()
    solve: Objective = Objective("standardize", clip_low=0.2, clip_high=0.2)

    def __post_init__(self) -> None:
        check_size("n_solve", self.n_solve)

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        groups = actors.policy.sample(actors.prompts.ask(problems), self.n_solve)
        share = self.share(actors.state.setdefault("n_batches", 0))
        if share is not None:
            groups = self.guide(actors, groups, share)
        actors.state["n_batches"] += 1
        yield self.solve.update("solve", actors.grade(groups), self.shaping)

    def share(self, t: int) -> float | None:
        """Return the fraction in batch t; None when guidance is over."""
        share = self.fraction - max(0.0, self.fraction - self.last_fraction) * t / max(1, self.n_guided - 1)
        is_over = t >= self.n_guided or 0 < self.stop_at >= share or self.fraction == 0 == self.min_per_group
        return None if is_over else share

    def guide(self, actors: Actors, groups: Sequence[Group], share: float) -> list[Group]:
        """Return the groups with some replies replaced by their spliced forms."""
        chosen: list[Sample] = []
        for group in groups:
            chosen += self.choose(actors, group, share)
        asks = [teacher_prompt(actors.prompts, sample, self.feedback) for sample in chosen]
        sampling = Sampling(temperature=0.0, max_tokens=self.max_feedback_tokens)
        notes = actors.role("teacher").sample(asks, 1, sampling)
        spliced: dict[tuple[str, int], Sample | None] = {}
        for sample, note in zip(chosen, notes, strict=True):
            text = parse(note, self.feedback, self.joint)
            if text:
                spliced[sample.key] = actors.policy.splice(sample, text)  # None: over the cap
        return [_replaced(group, spliced) for group in groups]

    def choose(self, actors: Actors, group: Group, share: float) -> list[Sample]:
        """Return max(min_per_group, floor(share * eligible)) of the eligible replies, uniformly, at most all of them."""
        (graded,) = actors.grade([group]) if self.pick == "wrong" else (group,)
        eligible = []
        for sample, verdict in zip(group, graded, strict=True):
            if sample.stop == "stop" and (self.pick == "any" or verdict.right is False):
                eligible.append(sample)
        n = min(len(eligible), max(self.min_per_group, int(len(eligible) * share)))
        return rng(group[0].prompt.seed, group[0].version, "guide").sample(eligible, n) if n else []


def _replaced(group: Group, spliced: Mapping[tuple[str, int], Sample | None]) -> Group:
    return tuple(spliced.get(s.key) or s for s in group)
