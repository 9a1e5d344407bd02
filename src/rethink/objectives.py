"""What a method yields to the trainer: an update and its parts, each with its loss settings. No torch.

The losses themselves are in `training/losses/`, one file for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from rethink.types import Group, Sample


@dataclass(frozen=True)
class Surrogate:
    """How the loss of a token depends on its advantage: settings, for which `training.losses.LOSSES` has a function."""


@dataclass(frozen=True)
class Clip(Surrogate):
    """PPO's clipped surrogate (arXiv 1707.06347, eq. 7), asymmetric (DAPO, arXiv 2503.14476, eq. 10), and the dual clip
    (arXiv 1912.09729, eq. 5): l = max(-A rho, -A clip(rho, 1 - low, 1 + high)); for A < 0 also l = min(l, -A dual).

    With `importance_sampling_level` "token", rho is the ratio of the token. With "sequence", it is the geometric mean of
    the ratios of the reply's tokens (GSPO, arXiv 2507.18071, eq. 7), and each token has a separate gradient (GSPO-token,
    eq. 14); there is then one truncated importance ratio per reply, too.

    >>> Clip(low=0.2, high=0.28, dual_clip=3.0)
    Clip(low=0.2, high=0.28, dual_clip=3.0, importance_sampling_level='token')
    """

    low: float = 0.2
    high: float = 0.2
    dual_clip: float | None = None
    importance_sampling_level: Literal["token", "sequence"] = "token"


@dataclass(frozen=True)
class AdvantageAwareShaping(Surrogate):
    """Advantage-aware shaping of forced tokens (ThinkTuning, arXiv 2508.07616), the ordinary clip on chosen ones.

    On a forced token of probability p the loss is -A c log p with c = p / (p + gamma), held constant and at most `cap`.
    `gamma`: "aware" runs from +strength at A = -4 to -strength at A = 4; "released" is -strength (the released code's
    swapped bounds); "constant" is +strength with the gradient through c (loss -A p / (p + strength)); "none" puts the
    clip on forced tokens as well. Tokens with A < 0 and p below `guard` take the clip.
    With sequence ratios, the mean runs over the tokens that take the clip.

    >>> AdvantageAwareShaping(gamma="constant", strength=0.1).cap
    2.0
    """

    gamma: Literal["aware", "released", "constant", "none"] = "aware"
    strength: float = 0.001
    cap: float = 2.0
    guard: float = 0.01
    clip: Clip = Clip(0.2, 0.2, 3.0)

    def __post_init__(self) -> None:
        if not (self.strength > 0 and self.cap > 0 and 0 <= self.guard <= 1):
            raise ValueError("shaping needs strength and cap above 0 and a guard in [0, 1]")


Advantage = float | tuple[float, ...]
"""Of a sample: one for all of its tokens, or one for each of `sample.ids`."""


class Part(Protocol):
    """One loss over some samples, with a denominator of its own. `training.losses` knows how to compute it."""

    @property
    def samples(self) -> tuple[Sample, ...]: ...

    @property
    def units(self) -> tuple[Sample, ...]:
        """What can be told apart: the samples, or the first of each pair. Those of one group share an optimizer step."""
        ...

    @property
    def needs_initial(self) -> bool:
        """Whether the loss compares with the frozen start model."""
        ...

    def select(self, indices: Sequence[int]) -> Part:
        """Return the part with these units only."""
        ...

    def check(self) -> None:
        """Raise ValueError for what cannot be trained on."""
        ...


@dataclass(frozen=True)
class PolicyGradient:
    """Raise the probability of samples in proportion to their advantages, one per sample or one per token of it.

    The denominator counts this part alone, over one optimizer step: with `loss_aggregation="token"` all chosen tokens, with
    "sequence" the samples that have any (each of them averaged over its own tokens), with "constant" those samples
    times `constant_length` (Dr. GRPO, arXiv 2503.20783). A sample with advantage 0 stays in the denominator.
    `kl_coef` adds kl * (exp(d) - d - 1), d = log p_initial - log p, on the same tokens under the same denominator.
    `old_log_probs` of a sample are what its ratios are taken to; where there are none, to the sampler's. The trainer fills
    them in.

    >>> from rethink.policies.fake import FakePolicy
    >>> from rethink.prompts import Prompts
    >>> from rethink.types import Problem, Verdict
    >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
    >>> policy = FakePolicy(lambda prompt, index, version: ("4", "it is 5")[index])  # scripted replies, no model
    >>> (group,) = policy.sample(Prompts("{question}").ask([problem]), n=2)
    >>> part = PolicyGradient(group, advantages=(0.5, -0.5))
    >>> [(sample.text, advantage) for sample, advantage in zip(part.samples, part.advantages)]
    [('4', 0.5), ('it is 5', -0.5)]

    With one advantage per token of the second reply, its end token included:

    >>> part = PolicyGradient(group, advantages=(0.5, (0.0, 0.0, -1.0, -1.0)))
    """

    samples: tuple[Sample, ...]
    advantages: tuple[Advantage, ...]
    surrogate: Surrogate = Clip()
    loss_aggregation: Literal["token", "sequence", "constant"] = "token"
    constant_length: int = 1
    kl_coef: float = 0.0
    coefficient: float = 1.0
    old_log_probs: tuple[tuple[float, ...] | None, ...] = ()

    @property
    def units(self) -> tuple[Sample, ...]:
        return self.samples

    @property
    def needs_initial(self) -> bool:
        return self.kl_coef != 0

    def select(self, indices: Sequence[int]) -> PolicyGradient:
        samples = tuple(self.samples[i] for i in indices)
        advantages = tuple(self.advantages[i] for i in indices)
        old: list[tuple[float, ...] | None] = []
        if self.old_log_probs:
            for i in indices:
                old.append(self.old_log_probs[i])
        return replace(self, samples=samples, advantages=advantages, old_log_probs=tuple(old))

    def check(self) -> None:
        if len(self.samples) != len(self.advantages):
            raise ValueError(f"{len(self.samples)} samples but {len(self.advantages)} advantages")
        for sample, advantage in zip(self.samples, self.advantages, strict=True):
            if isinstance(advantage, tuple) and len(advantage) != len(sample.ids):
                raise ValueError(
                    f"sample {sample.index} of {sample.prompt.group} has {len(sample.ids)} tokens but {len(advantage)} "
                    "advantages; give one per token of `sample.ids`, or one for all of them"
                )
            if sample.usage is not None:
                raise ValueError("samples of an endpoint have no token ids to train on")
            if not sample.sampling.trainable:
                raise ValueError(
                    f"a policy gradient needs samples of the full distribution, but these were drawn with "
                    f"{sample.sampling}; train with temperature above 0, top_p = 1 and top_k = 0"
                )


@dataclass(frozen=True)
class Imitate:
    """Weighted negative log-likelihood of the chosen tokens, over their number (not over the sum of the weights).

    >>> from rethink.policies.fake import FakePolicy
    >>> from rethink.prompts import Prompts
    >>> from rethink.types import Problem, Verdict
    >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
    >>> policy = FakePolicy(lambda prompt, index, version: "4")
    >>> (prompt,) = Prompts("{question}").ask([problem])
    >>> part = Imitate((policy.transcribe(prompt, "2 + 2 = 4"),), weights=(1.0,))
    >>> part.samples[0].n_trained  # five words and the end token
    6
    """

    samples: tuple[Sample, ...]
    weights: tuple[float, ...]
    coefficient: float = 1.0

    @property
    def units(self) -> tuple[Sample, ...]:
        return self.samples

    @property
    def needs_initial(self) -> bool:
        return False

    def select(self, indices: Sequence[int]) -> Imitate:
        samples = tuple(self.samples[i] for i in indices)
        return replace(self, samples=samples, weights=tuple(self.weights[i] for i in indices))

    def check(self) -> None:
        if len(self.samples) != len(self.weights):
            raise ValueError(f"{len(self.samples)} samples but {len(self.weights)} weights")


@dataclass(frozen=True)
class Prefer:
    """DPO (arXiv 2305.18290, eq. 7): the mean over pairs of -log sigmoid(beta * difference of log-ratios). Pairs in which
    no token is trained do not count.

    >>> from rethink.policies.fake import FakePolicy
    >>> from rethink.prompts import Prompts
    >>> from rethink.types import Problem, Verdict
    >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
    >>> policy = FakePolicy(lambda prompt, index, version: ("4", "it is 5")[index])
    >>> ((right, wrong),) = policy.sample(Prompts("{question}").ask([problem]), n=2)
    >>> part = Prefer(chosen=(right,), rejected=(wrong,), beta=0.1)
    >>> len(part.samples)
    2
    """

    chosen: tuple[Sample, ...]
    rejected: tuple[Sample, ...]
    beta: float = 0.1
    coefficient: float = 1.0

    @property
    def samples(self) -> tuple[Sample, ...]:
        return self.chosen + self.rejected

    @property
    def units(self) -> tuple[Sample, ...]:
        return self.chosen

    @property
    def needs_initial(self) -> bool:
        return True

    def select(self, indices: Sequence[int]) -> Prefer:
        chosen = tuple(self.chosen[i] for i in indices)
        return replace(self, chosen=chosen, rejected=tuple(self.rejected[i] for i in indices))

    def check(self) -> None:
        if len(self.chosen) != len(self.rejected):
            raise ValueError(f"{len(self.chosen)} chosen but {len(self.rejected)} rejected")


@dataclass(frozen=True)
class Update:
    """What a method yields: parts that are applied as `n_steps` optimizer steps over equal shares of whole groups.

    `groups` are all the samples that were drawn for it, trained or not, for the monitors. Samples of an older version
    than the policy's are an error unless `on_policy` is False.

    >>> from rethink.policies.fake import FakePolicy
    >>> from rethink.prompts import Prompts
    >>> from rethink.types import Problem, Verdict
    >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
    >>> policy = FakePolicy(lambda prompt, index, version: ("4", "it is 5")[index])
    >>> groups = policy.sample(Prompts("{question}").ask([problem]), n=2)
    >>> update = Update("solve", (PolicyGradient(groups[0], (0.5, -0.5)),), n_steps=1, groups=tuple(groups))
    >>> Update("solve", (PolicyGradient(groups[0], (0.5,)),))
    Traceback (most recent call last):
    ValueError: update 'solve': 2 samples but 1 advantages
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
            try:
                part.check()
            except ValueError as err:
                raise ValueError(f"update {self.name!r}: {err}") from err


def split_into_steps(part: Part, n_steps: int) -> list[Part]:
    """Return n_steps parts over whole groups, in order. They differ by one group at most, and may be empty."""
    groups: dict[str, list[int]] = {}
    for i, sample in enumerate(part.units):
        groups.setdefault(sample.prompt.group, []).append(i)
    in_order = list(groups.values())
    found: list[Part] = []
    for k in range(n_steps):
        share = in_order[len(groups) * k // n_steps : len(groups) * (k + 1) // n_steps]
        indices: list[int] = []
        for group in share:
            indices += group
        found.append(part.select(indices))
    return found
