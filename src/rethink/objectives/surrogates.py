"""Surrogates: settings that say how a token's loss depends on its advantage. No torch.

The losses themselves are in `training/losses/`, one file each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Surrogate:
    """Settings that say how a token's loss depends on its advantage. `training.losses.LOSSES` maps each class to a loss."""


@dataclass(frozen=True)
class Clip(Surrogate):
    """PPO's clipped surrogate (arXiv 1707.06347, eq. 7), asymmetric (DAPO, arXiv 2503.14476, eq. 10), and the dual clip
    (arXiv 1912.09729, eq. 5): l = max(-A rho, -A clip(rho, 1 - low, 1 + high)); for A < 0 also l = min(l, -A dual).

    With `importance_sampling_level` "token", rho is the ratio of the token. With "sequence", it is the geometric mean of
    the ratios of the reply's tokens (GSPO, arXiv 2507.18071, eq. 7), and each token has a separate gradient (GSPO-token,
    eq. 14). If all tokens of a reply have the same advantage, loss and gradient are those of GSPO's sequence form (eq. 5).

    >>> Clip(low=0.2, high=0.28, dual_clip=3.0)
    Clip(low=0.2, high=0.28, dual_clip=3.0, importance_sampling_level='token')
    """

    low: float = 0.2
    high: float = 0.2
    dual_clip: float | None = None
    importance_sampling_level: Literal["token", "sequence"] = "token"


@dataclass(frozen=True)
class GMPO(Surrogate):
    """Geometric-mean policy optimization (arXiv 2507.20673): each reply has one ratio, the geometric mean of its
    tokens' ratios, each clipped before that. l = -A exp(mean of m), where m = min(log rho, high) for A > 0 and
    max(log rho, -low) for A < 0. The bounds are those of log-ratios; the paper clips to [exp(-0.4), exp(0.4)].

    If a reply's tokens have different advantages, their mean counts, and each sign clips its own token.

    >>> GMPO(low=0.4, high=0.4)
    GMPO(low=0.4, high=0.4)
    """

    low: float = 0.4
    high: float = 0.4


@dataclass(frozen=True)
class CISPO(Surrogate):
    """Clipped importance weights (MiniMax-M1, arXiv 2506.13585, eqs. 4 and 5): l = -A w log p, where the weight
    w = clip(rho, 1 - low, 1 + high) is held constant. No token loses its gradient. The paper has no lower bound (`low` is
    1) and does not state `high`; 4, a weight of at most 5, is the choice of ScaleRL (arXiv 2510.13786) and TRL.

    >>> CISPO(high=4.0).low
    1.0
    """

    low: float = 1.0
    high: float = 4.0


@dataclass(frozen=True)
class SAPO(Surrogate):
    """Soft adaptive policy optimization (arXiv 2511.20347, eqs. 5 and 6): a smooth gate instead of a clip,
    l = -A (4 / tau) sigmoid(tau (rho - 1)), where tau is `tau_pos` for A > 0 and `tau_neg` otherwise. The gradient has the
    weight rho at rho = 1, and falls off on both sides, faster for a larger tau.

    >>> SAPO().tau_neg
    1.05
    """

    tau_pos: float = 1.0
    tau_neg: float = 1.05


@dataclass(frozen=True)
class Shaping:
    """How the loss of guided tokens is shaped (ThinkTuning, arXiv 2508.07616); all other tokens are clipped.

    On a guided token of probability p the loss has the gradient of -A c log p, where c = p / (p + gamma) is held constant;
    there is neither ratio nor importance weight. Sequence ratios average over the clipped tokens.

    - `gamma`: the gamma of c = p / (p + gamma). "aware" falls from +strength at A = -4 to -strength at A = 4, so rare
      tokens count more if A > 0 and less if A < 0. This direction is our inference: the released formula without its clamp
      would rise from -strength to +strength. "released" is -strength, which that clamp returns for every A, because its
      bounds are swapped. "constant" is +strength, with the gradient through c: the loss is -A p / (p + strength). "none"
      clips guided tokens like all others.
    - `strength`: the largest size of gamma.
    - `cap`: the upper bound of c.
    - `guard`: guided tokens with A < 0 and a probability below this are clipped like all others.
    - `guided_scope`: which tokens are guided: the forced ones ("feedback"), or all tokens of a sample that has forced ones
      ("trajectory", as in the released code).

    Standardized advantages of n replies are at most (n - 1) / sqrt(n). With n = 8 that is 2.5, so an "aware" gamma is at
    most 0.0006, and c differs from 1 by more than 5% only where p < 0.013.

    >>> Shaping(gamma="constant", strength=0.1).cap
    2.0
    """

    gamma: Literal["aware", "released", "constant", "none"] = "aware"
    strength: float = 0.001
    cap: float = 2.0
    guard: float = 0.01
    guided_scope: Literal["feedback", "trajectory"] = "feedback"

    def __post_init__(self) -> None:
        if not (self.strength > 0 and self.cap > 0 and 0 <= self.guard <= 1):
            raise ValueError("shaping needs strength and cap above 0 and a guard in [0, 1]")


@dataclass(frozen=True)
class AdvantageAwareShaping(Shaping, Surrogate):
    """Shaping of guided tokens, with the clip of an objective on all others.

    >>> AdvantageAwareShaping(gamma="none", clip=Clip(0.2, 0.28)).clip.high
    0.28
    """

    clip: Clip = Clip(0.2, 0.2, 3.0)
