"""Group baselines: from graded groups to a policy-gradient update (shared by the methods that use GRPO)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rethink.methods.advantages import ADVANTAGES, overlong
from rethink.objectives import Advantage, AdvantageAwareShaping, Clip, PolicyGradient, Update
from rethink.types import Group, Sample


@dataclass(frozen=True)
class Objective:
    """How graded groups become a loss; one per phase.

    `advantage`: "center" is r - mean of the group (as ThinkTwice was run, and Dr. GRPO); "standardize" divides that by
    the group's standard deviation (n - 1) + 1e-6 (GRPO, arXiv 2402.03300, eq. 3).
    `truncated`: replies cut at their cap are kept as graded ("keep"), stay in the baseline but get no loss ("mask"),
    or count as wrong ("wrong"). `overlong_buffer`: see `advantages.overlong`. `zero_std_groups`: groups of equal rewards
    have no gradient; their tokens stay in the denominator ("keep") or not ("drop"). `dual_clip` inf is no dual clip.
    `importance_sampling_level`: see `objectives.Clip`."""

    advantage: Literal["center", "standardize"] = "center"
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = 3.0
    importance_sampling_level: Literal["token", "sequence"] = "token"
    loss_aggregation: Literal["token", "sequence", "constant"] = "token"
    constant_length: int = 1
    kl_coef: float = 0.0
    truncated: Literal["keep", "mask", "wrong"] = "keep"
    overlong_buffer: int = 0
    zero_std_groups: Literal["keep", "drop"] = "keep"
    n_steps: int = 4

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, not {self.n_steps}")
        if self.overlong_buffer < 0:
            raise ValueError(f"overlong_buffer must be 0 (none) or more, not {self.overlong_buffer}")

    def update(self, name: str, groups: Sequence[Group], shaping: AdvantageAwareShaping | None = None) -> Update:
        """One update with one policy-gradient part over all graded samples; `shaping` shapes forced tokens."""
        return self.update_weighted(name, [pair for group in groups for pair in self.weigh(group)], groups, shaping)

    def update_weighted(
        self,
        name: str,
        weighted: Sequence[tuple[Sample, Advantage]],
        groups: Sequence[Group],
        shaping: AdvantageAwareShaping | None = None,
    ) -> Update:
        """One update from samples with their advantages, one for all tokens or one each; `groups` are all that were
        sampled for it."""
        clip = Clip(
            self.clip_low,
            self.clip_high,
            None if self.dual_clip == math.inf else self.dual_clip,
            self.importance_sampling_level,
        )
        part = PolicyGradient(
            tuple(sample for sample, _ in weighted),
            tuple(weight for _, weight in weighted),
            replace(shaping, clip=clip) if shaping else clip,
            loss_aggregation=self.loss_aggregation,
            constant_length=self.constant_length,
            kl_coef=self.kl_coef,
        )
        return Update(name, (part,), n_steps=self.n_steps, groups=tuple(groups))

    def weigh(self, group: Group) -> list[tuple[Sample, float]]:
        """Return the group's samples that enter the loss, with their advantages. Samples without a reward are left out of
        baseline and loss; a baseline needs two."""
        graded = [s for s in group if s.reward is not None]
        if len(graded) < 2:
            return []
        rewards_G = [self._reward(s) for s in graded]
        if self.zero_std_groups == "drop" and min(rewards_G) == max(rewards_G):
            return []
        weighted = []
        for sample, advantage in zip(graded, ADVANTAGES[self.advantage](rewards_G), strict=True):
            if self.truncated != "mask" or sample.stop != "length":
                weighted.append((sample, advantage))
        return weighted

    def _reward(self, sample: Sample) -> float:
        assert sample.reward is not None
        kept = 0.0 if self.truncated == "wrong" and sample.stop == "length" else sample.reward
        return kept - overlong(len(sample.ids), sample.sampling.max_tokens, self.overlong_buffer)
