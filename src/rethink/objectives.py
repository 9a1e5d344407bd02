"""What a method yields to the trainer: an update and its parts, each with its loss settings. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rethink.types import Group, Sample


@dataclass(frozen=True)
class Clip:
    """PPO's clipped surrogate (arXiv 1707.06347, eq. 7), asymmetric (DAPO, arXiv 2503.14476, eq. 10), and the dual clip
    (arXiv 1912.09729, eq. 5): l = max(-A rho, -A clip(rho, 1 - low, 1 + high)); for A < 0 also l = min(l, -A dual)."""

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None


@dataclass(frozen=True)
class Shaped:
    """Advantage-aware shaping of forced tokens (ThinkTuning, arXiv 2508.07616), the ordinary clip on chosen ones.

    On a forced token of probability p the loss is -A c log p with c = p / (p + gamma), held constant and at most `cap`.
    `gamma`: "aware" runs from +strength at A = -4 to -strength at A = 4; "released" is -strength (the released code's
    swapped bounds); "constant" is +strength with the gradient through c (loss -A p / (p + strength)); "none" puts the
    clip on forced tokens as well. Tokens with A < 0 and p below `guard` take the clip.
    """

    gamma: Literal["aware", "released", "constant", "none"] = "aware"
    strength: float = 0.001
    cap: float = 2.0
    guard: float = 0.01
    clip: Clip = Clip(0.2, 0.2, 3.0)

    def __post_init__(self) -> None:
        if not (self.strength > 0 and self.cap > 0 and 0 <= self.guard <= 1):
            raise ValueError("guidance needs strength and cap above 0 and a guard in [0, 1]")


Advantage = float | tuple[float, ...]
"""Of a sample: one for all of its tokens, or one for each of `sample.ids`."""


@dataclass(frozen=True)
class PolicyGradient:
    """Raise the probability of samples in proportion to their advantages, one per sample or one per token of it.

    The denominator counts this part alone, over one optimizer step: with `mean="token"` all chosen tokens, with
    "sequence" the samples that have any (each of them averaged over its own tokens), with "constant" those samples
    times `length` (Dr. GRPO, arXiv 2503.20783). A sample with advantage 0 stays in the denominator.
    `kl` adds kl * (exp(d) - d - 1), d = log p_initial - log p, on the same tokens under the same denominator.
    """

    samples: tuple[Sample, ...]
    advantages: tuple[Advantage, ...]
    surrogate: Clip | Shaped = Clip()
    mean: Literal["token", "sequence", "constant"] = "token"
    length: int = 1
    kl: float = 0.0
    coefficient: float = 1.0


@dataclass(frozen=True)
class Imitate:
    """Weighted negative log-likelihood of the chosen tokens, over their number (not over the sum of the weights)."""

    samples: tuple[Sample, ...]
    weights: tuple[float, ...]
    coefficient: float = 1.0


@dataclass(frozen=True)
class Prefer:
    """DPO (arXiv 2305.18290, eq. 7): the mean over pairs of -log sigmoid(beta * difference of log-ratios). Pairs in which
    no token is trained do not count."""

    chosen: tuple[Sample, ...]
    rejected: tuple[Sample, ...]
    beta: float = 0.1
    coefficient: float = 1.0

    @property
    def samples(self) -> tuple[Sample, ...]:
        return self.chosen + self.rejected


Part = PolicyGradient | Imitate | Prefer


@dataclass(frozen=True)
class Update:
    """What a method yields: parts that are applied as `n_steps` optimizer steps over equal shares of whole groups.

    `groups` are all the samples that were drawn for it, trained or not, for the monitors. Samples of an older version
    than the policy's are an error unless `on_policy` is False.
    """

    name: str
    parts: tuple[Part, ...]
    n_steps: int = 1
    on_policy: bool = True
    groups: tuple[Group, ...] = ()

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise ValueError(f"update {self.name!r}: n_steps must be at least 1, not {self.n_steps}")
        for part in self.parts:
            if isinstance(part, Imitate) and len(part.samples) != len(part.weights):
                raise ValueError(f"update {self.name!r}: {len(part.samples)} samples but {len(part.weights)} weights")
            if isinstance(part, Prefer) and len(part.chosen) != len(part.rejected):
                raise ValueError(f"update {self.name!r}: {len(part.chosen)} chosen but {len(part.rejected)} rejected")
            if isinstance(part, PolicyGradient):
                _check_advantages(self.name, part)
                _check_trainable(self.name, part)


def _check_advantages(name: str, part: PolicyGradient) -> None:
    if len(part.samples) != len(part.advantages):
        raise ValueError(f"update {name!r}: {len(part.samples)} samples but {len(part.advantages)} advantages")
    for sample, advantage in zip(part.samples, part.advantages, strict=True):
        if isinstance(advantage, tuple) and len(advantage) != len(sample.ids):
            raise ValueError(
                f"update {name!r}: sample {sample.index} of {sample.prompt.group} has {len(sample.ids)} tokens but "
                f"{len(advantage)} advantages; give one per token of `sample.ids`, or one for all of them"
            )


def _check_trainable(name: str, part: PolicyGradient) -> None:
    for sample in part.samples:
        if sample.usage is not None:
            raise ValueError(f"update {name!r}: samples of an endpoint have no token ids to train on")
        if not sample.sampling.trainable:
            raise ValueError(
                f"update {name!r}: a policy gradient needs samples of the full distribution, but these were drawn "
                f"with {sample.sampling}; train with temperature above 0, top_p = 1 and top_k = 0"
            )
