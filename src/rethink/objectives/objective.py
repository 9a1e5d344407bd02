"""From graded groups to a policy-gradient update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from annotated_types import Gt
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from rethink.errors import UserError
from rethink.objectives.advantages import (
    advantages,
    check_group_size,
    overlong_penalty,
    smallest_group,
    subsets_differ,
)
from rethink.objectives.parts import Advantage, PolicyGradient
from rethink.objectives.surrogates import CISPO, GMPO, SAPO, AdvantageAwareShaping, Clip, Shaping, Surrogate
from rethink.objectives.update import Update
from rethink.settings import Finite, Size, Threshold
from rethink.types import Group, Sample


@dataclass(frozen=True)
class Objective:
    """Settings that turn graded groups into a policy-gradient loss; one per phase of a method. Raise ValueError for
    settings that exclude each other.

    - `advantage`: "center" is r - mean of the group (Dr. GRPO, and ThinkTwice's release); "standardize" also divides by
      the group's standard deviation (n - 1) + 1e-6 (GRPO, arXiv 2402.03300, eq. 3). Others are "rloo", "maxrl",
      "pass_at_k", and over all groups of an update "reinforce_pp" and "reinforce_pp_baseline" (docs/losses.md).
    - `clip_low`, `clip_high`: the ratio is clipped to [1 - clip_low, 1 + clip_high]; with `surrogate` "gmpo", its log is
      clipped to [-clip_low, clip_high]. `method.objective` sets the values of each paper (docs/losses.md).
    - `dual_clip`: the bound of the loss where A < 0, in multiples of |A|; inf switches it off.
    - `importance_sampling_level`: ratios per "token", or per "sequence" (GSPO) (docs/losses.md).
    - `loss_aggregation`: the mean over "token", over "sequence", or over a "constant" length (docs/losses.md).
    - `constant_length`: the number of tokens per sample that loss_aggregation="constant" divides by; 0 is `max_tokens`.
    - `kl_coef`: the coefficient of the KL term to the start weights, or to those of `training.reference_every`
      (docs/losses.md).
    - `truncated`: replies cut at `max_tokens` count as graded ("keep"), count in the baseline only ("mask"), or get
      at most reward 0 ("wrong").
    - `overlong_buffer`: the number of tokens below `max_tokens` over which a penalty on the reward rises from 0 to 1
      (DAPO's soft overlong punishment); 0 is off.
    - `zero_std_groups`: groups of equal rewards (with "pass_at_k": of subsets with equal rewards) have no gradient, except
      with "reinforce_pp"; "keep" counts their tokens in the denominator, "drop" leaves them out (DAPO).
    - `n_steps`: the number of optimizer steps per update.
    - `pass_k`: the k of "pass_at_k", below the number of replies per group.
    - `surrogate`: how a token's loss depends on its advantage: "clip" (PPO, GRPO, DAPO, GSPO), "gmpo", "cispo" or "sapo"
      (docs/losses.md).
    - `tau_pos`: the temperature of SAPO's gate for positive advantages.
    - `tau_neg`: the temperature of SAPO's gate for all other advantages.
    - `kl_estimator`: the estimate of the KL divergence in the KL term: "k3" (GRPO) or "k2" in the loss, or "k1" in the
      advantage.
    - `entropy_coef`: the coefficient of the entropy bonus, over the whole distribution of each trained token.

    >>> Objective(advantage="standardize", clip_high=0.2, kl_coef=0.001).n_steps
    4
    """

    advantage: Literal[
        "center", "standardize", "rloo", "maxrl", "pass_at_k", "reinforce_pp", "reinforce_pp_baseline"
    ] = "center"
    clip_low: Threshold = 0.2
    clip_high: PositiveFloat = 0.28
    dual_clip: Annotated[float, Gt(1)] | None = 3.0
    importance_sampling_level: Literal["token", "sequence"] = "token"
    loss_aggregation: Literal["token", "sequence", "constant"] = "token"
    constant_length: NonNegativeInt = 0
    kl_coef: Size = 0.0
    truncated: Literal["keep", "mask", "wrong"] = "keep"
    overlong_buffer: NonNegativeInt = 0
    zero_std_groups: Literal["keep", "drop"] = "keep"
    n_steps: PositiveInt = 4
    pass_k: NonNegativeInt = 0
    surrogate: Literal["clip", "gmpo", "cispo", "sapo"] = "clip"
    tau_pos: Finite = 1.0
    tau_neg: Finite = 1.05
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    entropy_coef: Size = 0.0

    def __post_init__(self) -> None:
        if (self.advantage == "pass_at_k") != (self.pass_k > 0):
            raise ValueError(
                'advantage = "pass_at_k" and pass_k, the k of pass@k, need each other; set both or neither'
            )
        if self.kl_coef and self.kl_estimator == "k1" and self.surrogate == "gmpo":
            raise ValueError(
                'kl_estimator = "k1" gives each token its own advantage, but surrogate = "gmpo" has one ratio for all '
                'tokens of a reply; choose "k2" or "k3"'
            )

    def update(self, name: str, groups: Sequence[Group], shaping: Shaping | None = None) -> Update:
        """Return an update with one policy-gradient part over all graded samples; `shaping` is the loss of guided
        tokens."""
        return self.update_from_pairs(name, self.pairs(groups), groups, shaping)

    def update_from_pairs(
        self,
        name: str,
        pairs: Sequence[tuple[Sample, Advantage]],
        groups: Sequence[Group],
        shaping: Shaping | None = None,
        rewarded: Sequence[Group] | None = None,
    ) -> Update:
        """Return an update from samples and their advantages (one per sample, or one per token). `groups` holds all
        samples, also those that are not trained; `rewarded` the groups that the advantages come from, if it is others."""
        part = PolicyGradient(
            tuple(sample for sample, _ in pairs),
            tuple(advantage for _, advantage in pairs),
            self.make_surrogate(shaping),
            loss_aggregation=self.loss_aggregation,
            constant_length=self._constant_length(pairs),
            kl_coef=self.kl_coef,
            kl_estimator=self.kl_estimator,
            entropy_coef=self.entropy_coef,
        )
        rewards = tuple(map(self._rewards, groups if rewarded is None else rewarded))
        return Update(name, (part,), n_steps=self.n_steps, groups=tuple(groups), rewards=rewards)

    def pairs(self, groups: Sequence[Group]) -> list[tuple[Sample, float]]:
        """Return the samples of an update's groups that enter the loss, with their advantages.

        Samples without a reward enter neither the baseline nor the loss, and neither do groups that are not `useful`."""
        kept: list[list[Sample]] = []
        rewards_P_G: list[list[float]] = []
        for group in groups:
            if self.useful(group):
                kept.append([s for s in group if s.reward is not None])
                rewards_P_G.append(list(self._rewards(group)))
        pairs = []
        for samples, advantages_G in zip(kept, advantages(self.advantage, rewards_P_G, self.pass_k), strict=True):
            for sample, advantage in zip(samples, advantages_G, strict=True):
                if self.truncated != "mask" or sample.stop != "length":
                    pairs.append((sample, advantage))
        return pairs

    def useful(self, group: Group) -> bool:
        """Return whether the group has enough rewards for a baseline, and is not dropped for equal rewards."""
        self._check_k(group)
        rewards_G = self._rewards(group)
        if len(rewards_G) < smallest_group(self.advantage):
            return False
        return self.zero_std_groups == "keep" or subsets_differ(rewards_G, max(1, self.pass_k))

    def check_group_size(self, name: str, n: int, others: str = "") -> None:
        """Raise ValueError if groups of n samples, the setting `name`, are too small for a baseline.

        `others` names replies with this objective of which there may be any number per group."""
        check_group_size(name, n, smallest_group(self.advantage))
        if n == 1 and self.zero_std_groups == "drop":
            raise ValueError(
                f'{name} = 1 and zero_std_groups = "drop" would drop all groups: a single reward is equal to itself; set '
                'zero_std_groups = "keep"'
            )
        if self.pass_k >= n:
            raise ValueError(
                f"{name} must be above pass_k = {self.pass_k}, not {n}: pass@k compares subsets of a group"
            )
        if self.pass_k and others:
            raise ValueError(
                f'advantage = "pass_at_k" needs groups of more than pass_k = {self.pass_k} replies, but there may be fewer '
                f"{others}; choose another advantage"
            )

    def refuse_negative_rewards(self, setting: str, why: str) -> None:
        """Raise ValueError if the rewards of this objective, the value of a method's setting, must not be negative."""
        if self.advantage == "maxrl":
            raise ValueError(
                f'{setting}.advantage = "maxrl" needs rewards of at least 0, but {why}; choose another advantage'
            )

    def _check_k(self, group: Group) -> None:
        if self.advantage == "pass_at_k" and 0 < len(group) <= self.pass_k:
            raise UserError(
                f'advantage = "pass_at_k" needs groups of more than pass_k = {self.pass_k} replies, but there is one of '
                f"{len(group)}; lower pass_k or sample more replies"
            )

    def make_surrogate(self, shaping: Shaping | None = None) -> Surrogate:
        """Return the surrogate with its settings. `shaping` is the loss of guided tokens, beside the clipped one."""
        if shaping is not None and self.surrogate != "clip":
            raise ValueError(
                f'this method shapes the loss of some tokens, which needs surrogate = "clip", not "{self.surrogate}"'
            )
        if self.surrogate == "gmpo":
            return GMPO(self.clip_low, self.clip_high)
        if self.surrogate == "cispo":
            return CISPO(self.clip_low, self.clip_high)
        if self.surrogate == "sapo":
            return SAPO(self.tau_pos, self.tau_neg)
        dual_clip = None if self.dual_clip == math.inf else self.dual_clip
        clip = Clip(self.clip_low, self.clip_high, dual_clip, self.importance_sampling_level)
        return AdvantageAwareShaping(**vars(shaping), clip=clip) if shaping else clip

    def _constant_length(self, pairs: Sequence[tuple[Sample, Advantage]]) -> int:
        """Return the length that a constant aggregation divides by: by default, the longest that a reply can be.

        It is 1 for other aggregations, which do not use it."""
        if self.loss_aggregation != "constant":
            return 1
        longest = 1
        for sample, _ in pairs:
            longest = max(longest, sample.sampling.max_tokens)
        return self.constant_length or longest

    def _rewards(self, group: Group) -> tuple[float, ...]:
        """Return the rewards of the graded samples, as the settings change them."""
        return tuple(self._reward(sample) for sample in group if sample.reward is not None)

    def _reward(self, sample: Sample) -> float:
        assert sample.reward is not None
        reward = sample.reward
        if self.truncated == "wrong" and sample.stop == "length":
            reward = min(0.0, reward)  # a penalty stays: otherwise it would be better to be cut than to be wrong
        return reward - overlong_penalty(len(sample.ids), sample.sampling.max_tokens, self.overlong_buffer)


def objectives_of(method: Any) -> Iterator[tuple[str, Objective]]:
    """Yield the objectives among the settings of a method, with the names of their settings."""
    for f in fields(method):
        value = getattr(method, f.name)
        if isinstance(value, Objective):
            yield f.name, value
