"""Forced rethinking: finished replies are continued behind a trigger such as "Wait", on token ids (arXiv 2504.08837)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import NonNegativeInt, PositiveInt

from rethink.methods.actors import Actors
from rethink.methods.metrics import accuracy
from rethink.policies.base import Policy
from rethink.seeds import rng
from rethink.settings import Probability
from rethink.types import Group, Sample

TRIGGERS = (
    "\n\nWait, let me check this once more.",
    "\n\nWait, there may be a mistake in this.",
    "\n\nWait, does this look right?",
)
"""Self-verification, self-correction and self-questioning, in our own words."""

Rethought = tuple[Sample, Sample]
"""A reply and its continuation, which is not always from its end."""


@dataclass(frozen=True)
class Rethinking:
    """Continue some finished replies behind a trigger, and keep continuations that end with a right answer.

    - `share`: the share of finished replies that are continued; 0 is off.
    - `after`: the number of updates before the first continuation (the paper's first stage).
    - `easy`: in groups with a larger share of right replies, wrong ones are not continued.
    - `cut`: the share of continued replies that are cut first: before the last `cut_before`, for each of these in turn.
    - `cut_before`: what a reply is cut before, in any case.
    - `triggers`: the texts to continue from; each continuation gets one of them at random.
    - `min_tokens`, `max_tokens`: the fewest and the most new tokens of a continuation that is kept.
    - `wait`, `max_waits`: the word that marks a rethink, in any case, and the most of them in a reply that is kept.
    - `max_kept`: the most continuations that are kept per problem.
    """

    share: Probability = 0.65
    after: NonNegativeInt = 0
    easy: Probability = 0.7
    cut: Probability = 0.5
    cut_before: tuple[str, ...] = ("wait", "\\boxed", "answer", "\n\n")
    triggers: tuple[str, ...] = TRIGGERS
    min_tokens: PositiveInt = 31
    max_tokens: PositiveInt = 1023
    wait: str = "wait"
    max_waits: PositiveInt = 4
    max_kept: PositiveInt = 2

    def __post_init__(self) -> None:
        if not self.triggers or not all((*self.triggers, *self.cut_before, self.wait)):
            raise ValueError("rethink.triggers, rethink.cut_before and rethink.wait must not hold empty texts")
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"rethink.min_tokens is {self.min_tokens}, above rethink.max_tokens ({self.max_tokens})")

    def continued(self, actors: Actors, groups: Sequence[Group]) -> list[Rethought]:
        """Return replies, each with its graded continuation. Replies without room for one are left out."""
        if not self.share or actors.policy.version < self.after:
            return []
        chosen: list[Sample] = []
        for group in groups:
            chosen += self.choose(group)
        starts = [self.cut_back(actors.policy, sample) for sample in chosen]
        triggers = [rng(*sample.key, sample.version, "trigger").choice(self.triggers) for sample in chosen]
        longer: list[Group] = []
        for extended in actors.policy.extend(starts, triggers):
            longer.append(() if extended is None else (extended,))
        found: list[Rethought] = []
        for sample, group in zip(chosen, actors.grade(longer), strict=True):
            if group:
                found.append((sample, group[0]))
        return found

    def choose(self, group: Group) -> list[Sample]:
        """Return the replies of a group to continue."""
        is_easy = accuracy([group]) > self.easy
        found: list[Sample] = []
        for sample in group:
            if sample.right is None or sample.stop != "stop" or (is_easy and not sample.right):
                continue
            if rng(*sample.key, sample.version, "rethink").random() < self.share:
                found.append(sample)
        return found

    def cut_back(self, policy: Policy, sample: Sample) -> Sample:
        """Return the reply, cut at random; never to nothing."""
        end = self.place_of_cut(sample.text)
        is_cut = end > 0 and rng(*sample.key, sample.version, "cut").random() < self.cut
        return policy.cut(sample, end) if is_cut else sample

    def place_of_cut(self, text: str) -> int:
        """Return the number of characters before the place of a cut."""
        for mark in self.cut_before:
            places = [found.start() for found in re.finditer(re.escape(mark), text, re.IGNORECASE)]
            text = text[: places[-1]] if places else text
        return len(text.rstrip())

    def kept(self, pairs: Sequence[Rethought]) -> list[Rethought]:
        """Return the pairs whose continuation is kept, at most `max_kept` per problem."""
        n_kept: dict[str, int] = {}
        found: list[Rethought] = []
        for sample, longer in pairs:
            n = n_kept.get(sample.prompt.group, 0)
            if n < self.max_kept and self.is_acceptable(longer):
                n_kept[sample.prompt.group] = n + 1
                found.append((sample, longer))
        return found

    def is_acceptable(self, longer: Sample) -> bool:
        """Return whether a continuation is finished, right, neither short nor long, and has few rethinks."""
        n_new = longer.forced[::-1].index(True)
        n_waits = len(re.findall(re.escape(self.wait), longer.text, re.IGNORECASE))
        is_right = longer.right is True and longer.stop == "stop"
        return is_right and self.min_tokens <= n_new <= self.max_tokens and n_waits <= self.max_waits
