"""Parts of updates, each with the settings of its loss. No torch.

The losses themselves are in `training/losses/`, one file each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from rethink.objectives.surrogates import Clip, Surrogate
from rethink.types import Sample

Advantage = float | tuple[float, ...]
"""The advantage of a sample: one number for all of its tokens, or one for each of `sample.ids`."""


class Part(Protocol):
    """One loss over some samples, with its own denominator. `training.losses` computes it."""

    @property
    def samples(self) -> tuple[Sample, ...]: ...

    @property
    def units(self) -> tuple[Sample, ...]:
        """The samples, or the chosen sample of each pair. Units of one group share an optimizer step."""
        ...

    @property
    def needs_reference(self) -> bool:
        """True if the loss compares with the reference: the start model, or a moving one."""
        ...

    def select(self, indices: Sequence[int]) -> Part:
        """Return a part with only these units."""
        ...

    def check(self) -> None:
        """Raise ValueError if the part cannot be trained on."""
        ...


@dataclass(frozen=True)
class PolicyGradient:
    """Policy gradient: raise the probability of samples in proportion to their advantages, one per sample or per token.

    The denominator counts this part alone, over one optimizer step. `loss_aggregation` "token" divides by the number of
    trained tokens; "sequence" averages each sample over its tokens, then over the samples that have any; "constant" divides
    by the number of those samples times `constant_length` (Dr. GRPO, arXiv 2503.20783). A sample with advantage 0 stays in
    the denominator. Ratios are relative to `old_log_probs`, or to the sampler's log-probs where a sample has none; the
    trainer fills them in.

    `kl_coef` adds an estimate of KL(policy || reference), on the same tokens with the same denominator; the reference is
    the start model, or the moving one of `training.reference_every`. With d = log p_reference - log p, `kl_estimator` "k3"
    adds kl_coef * (exp(d) - d - 1), whose gradient is that of KL(reference || policy), as in GRPO, and "k2" adds kl_coef *
    d^2 / 2, whose gradient is that of KL(policy || reference). "k1", -d, has no gradient on average, and is a part of the
    reward instead: the advantage of a token becomes A - kl_coef * (log p_old - log p_reference). Without ratios, that has
    the gradient of "k2" (arXiv 2510.01555).

    `entropy_coef` subtracts entropy_coef * the entropy of each trained token's whole distribution. `surrogate` says how the
    loss of a token depends on its advantage and its ratio (docs/losses.md). `coefficient` multiplies the loss of the part.

    `Update` raises ValueError for another number of advantages than of samples (or than of `sample.ids`), for advantages
    that are not finite, and for samples of an endpoint or of a truncated distribution (top-p, top-k, greedy).

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
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    entropy_coef: float = 0.0

    @property
    def units(self) -> tuple[Sample, ...]:
        return self.samples

    @property
    def needs_reference(self) -> bool:
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
            of_tokens = advantage if isinstance(advantage, tuple) else (advantage,)
            if not all(map(math.isfinite, of_tokens)):
                raise ValueError(f"sample {sample.index} of {sample.prompt.group} has an advantage that is not finite")
            if sample.usage is not None:
                raise ValueError("samples of an endpoint have no token ids to train on")
            if not sample.sampling.trainable:
                raise ValueError(
                    f"a policy gradient needs samples of the full distribution, but these were drawn with "
                    f"{sample.sampling}; train with temperature above 0, top_p = 1 and top_k = 0"
                )


@dataclass(frozen=True)
class Imitate:
    """Weighted negative log-likelihood, divided by the number of trained tokens (not by the sum of the weights).

    `weights` has one number per sample, for all of its trained tokens (`Sample.mask`). `coefficient` multiplies the loss of
    the part. `Update` raises ValueError for another number of weights than of samples.

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
    def needs_reference(self) -> bool:
        return False

    def select(self, indices: Sequence[int]) -> Imitate:
        samples = tuple(self.samples[i] for i in indices)
        return replace(self, samples=samples, weights=tuple(self.weights[i] for i in indices))

    def check(self) -> None:
        if len(self.samples) != len(self.weights):
            raise ValueError(f"{len(self.samples)} samples but {len(self.weights)} weights")
        for sample, weight in zip(self.samples, self.weights, strict=True):
            if not math.isfinite(weight):
                raise ValueError(f"sample {sample.index} of {sample.prompt.group} has a weight that is not finite")
            if sample.usage is not None:
                raise ValueError(
                    "samples of an endpoint have no token ids to train on; make some with "
                    "actors.policy.transcribe(prompt, text)"
                )


@dataclass(frozen=True)
class Prefer:
    """DPO (arXiv 2305.18290, eq. 7): the mean over pairs of -log sigmoid(beta * difference of log-ratios). Pairs in which
    no token is trained do not count.

    The i-th of `chosen` is the better reply, the i-th of `rejected` the worse one, to the same prompt. A log-ratio is the
    log-prob of a reply (the sum over its trained tokens, in nats) under the policy minus that under the reference, which is
    the start model or the moving one of `training.reference_every`. `coefficient` multiplies the loss of the part. `Update`
    raises ValueError for another number of chosen than of rejected replies.

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
    def needs_reference(self) -> bool:
        return True

    def select(self, indices: Sequence[int]) -> Prefer:
        chosen = tuple(self.chosen[i] for i in indices)
        return replace(self, chosen=chosen, rejected=tuple(self.rejected[i] for i in indices))

    def check(self) -> None:
        if len(self.chosen) != len(self.rejected):
            raise ValueError(f"{len(self.chosen)} chosen but {len(self.rejected)} rejected")
