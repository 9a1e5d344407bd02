"""ThinkTuning (RRV et al., arXiv 2508.07616): GRPO in which a teacher of the same size comments on some of the
student's replies. The comment is appended to the reply as if the student had written it.

Differences from the release: the teacher's tokens do get the shaped loss (`objectives.Shaping`), which
the release contains but never calls, and only they do (the release marks the whole guided reply); gamma depends on the
advantage, in a direction that we infer (in the release, swapped bounds make it constant); feedback is appended as token
ids, and dropped, not cut, if the reply gets longer than `max_tokens`; random choices derive from seeds.

What the release runs: n_solve 5, fraction 0.1, last_fraction 0.01, n_guided 17, stop_at 0.06, min_per_group 1 (feedback
on one reply of each group in 8 batches) and shaping.gamma "none". With its shaped loss connected, that would be
shaping.gamma "released", guided_scope "trajectory" and cap inf.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import NonNegativeInt, PositiveInt

from rethink.methods.actors import Actors
from rethink.methods.think_tuning_feedback import parse_feedback, teacher_prompt
from rethink.objectives import Objective, Shaping, Update
from rethink.seeds import rng
from rethink.settings import Probability
from rethink.types import Group, Problem, Sample, Sampling


@dataclass(frozen=True)
class ThinkTuning:
    """GRPO with a teacher's feedback on some replies: one update per problem batch.

    The baseline is the mean over all replies of a group, with and without feedback.

    - `n_solve`: the number of replies per problem.
    - `fraction`, `last_fraction`: the expected fraction of finished replies that get feedback, in the first problem
      batch and in the last one with feedback; linear in between.
    - `n_guided`: the number of problem batches with feedback.
    - `stop_at`: end feedback once the fraction is at most this; 0 is off.
    - `min_per_group`: the least number of replies per group that get feedback, if as many are finished.
    - `pick`: "any" chooses among all finished replies, "wrong" among wrong ones.
    - `feedback`: "tags" asks the teacher for opinion, reason and phrase, with four examples; "again" takes the
      teacher's answer to the refine prompt.
    - `separator`: the text between reply and feedback.
    - `max_feedback_tokens`: the length at which the teacher's feedback is cut.
    - `shaping`: the loss of the teacher's tokens, or of whole replies with feedback (`guided_scope`).
    - `solve`: the objective of all other tokens.
    """

    asks_teacher: ClassVar[bool] = True

    n_solve: int = 8
    fraction: Probability = 0.25
    last_fraction: Probability = 0.05
    n_guided: NonNegativeInt = 50
    stop_at: Probability = 0.0
    min_per_group: NonNegativeInt = 0
    pick: Literal["any", "wrong"] = "any"
    feedback: Literal["tags", "again"] = "tags"
    separator: str = "\n\n"
    max_feedback_tokens: PositiveInt = 512
    shaping: Shaping = Shaping()
    solve: Objective = Objective("standardize", clip_low=0.2, clip_high=0.2)

    def __post_init__(self) -> None:
        self.solve.check_group_size("n_solve", self.n_solve)
        self.solve.make_surrogate(self.shaping)

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        groups = actors.policy.sample(actors.prompts.ask(problems), self.n_solve)
        fraction = self.guided_fraction(actors.state.setdefault("n_batches", 0))
        if fraction is not None:
            groups = self.add_feedback(actors, groups, fraction)
        actors.state["n_batches"] += 1
        yield self.solve.update("solve", actors.grade(groups), self.shaping)

    def guided_fraction(self, t: int) -> float | None:
        """Return the fraction of replies that get feedback in problem batch t; None once feedback is over."""
        fraction = self.fraction - max(0.0, self.fraction - self.last_fraction) * t / max(1, self.n_guided - 1)
        is_over = t >= self.n_guided or 0 < self.stop_at >= fraction or self.fraction == 0 == self.min_per_group
        return None if is_over else fraction

    def add_feedback(self, actors: Actors, groups: Sequence[Group], fraction: float) -> list[Group]:
        """Return the groups, with the teacher's feedback appended to a fraction of the replies."""
        chosen: list[Sample] = []
        for group in groups:
            chosen += self.choose_replies(actors, group, fraction)
        asks = [teacher_prompt(actors.prompts, sample, self.feedback) for sample in chosen]
        sampling = Sampling(temperature=0.0, max_tokens=self.max_feedback_tokens)
        notes = actors.role("teacher").sample(asks, 1, sampling)
        spliced: dict[tuple[str, int], Sample | None] = {}
        for sample, note in zip(chosen, notes, strict=True):
            text = parse_feedback(note, self.feedback, self.separator)
            if text:
                spliced[sample.key] = actors.policy.splice(sample, text)  # None: longer than max_tokens
        return [_replaced(group, spliced) for group in groups]

    def choose_replies(self, actors: Actors, group: Group, fraction: float) -> list[Sample]:
        """Return random finished replies: fraction * n of n, but at least `min_per_group`, and at most all of them.

        fraction * n is rounded at random, up with the probability of its decimals, so its mean over groups is exact.
        """
        (graded,) = actors.grade([group]) if self.pick == "wrong" else (group,)
        eligible = []
        for sample, verdict in zip(group, graded, strict=True):
            if sample.stop == "stop" and (self.pick == "any" or verdict.right is False):
                eligible.append(sample)
        if not eligible:
            return []
        generator = rng(group[0].prompt.seed, group[0].version, "guide")
        expected = fraction * len(eligible)
        n = int(expected)
        if generator.random() < expected - n:
            n += 1
        return generator.sample(eligible, min(len(eligible), max(self.min_per_group, n)))


def _replaced(group: Group, spliced: Mapping[tuple[str, int], Sample | None]) -> Group:
    return tuple(spliced.get(s.key) or s for s in group)
