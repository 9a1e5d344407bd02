"""The values that pass between problems, methods, policies, the trainer and the evaluation.

Everything here is immutable; a stage that adds something (a verdict, say) returns a copy. No torch.

Axes in names follow one legend: `_P` problem, `_G` member of a group, `_T` token position, `_N` row handed to the
model, `_V` vocabulary entry, `_H` hidden unit. `tokens_P_G_T[p][g][t]`.

One sample at token level, for the prompt "26 : 3 7 5" and the reply "3 * 7 = 21" that ran into its cap::

    prompt_ids  [<user> 26 : 3 7 5 <reply>]      shown to the policy, never trained
    ids         [  3     *     7     =     21 ]  chosen by the policy
    mask        [  1     1     1     1     1  ]  1 = counts in the loss, 0 = forced upon the policy and left out
    log_probs   [-0.7  -0.1  -1.2  -0.0  -0.0 ]  nats, of the distribution it was drawn from
    stop        "length"                         with "stop", the last id is the end token, and it is trained
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

Role = Literal["system", "user", "assistant"]
StopReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Verdict:
    """Right (True), wrong (False) or not judged (None: the verifier failed or ran out of time), with the reason.

    Deliberately not a number: a reply that was not judged must never slip into a mean as 0. `extracted` is the answer
    that was found in the reply: None where there is none, "" where the verifier does not say. `lenient` marks an answer
    that only lenient extraction found; by strict extraction the reply has none and is wrong.
    """

    right: bool | None
    reason: str = ""
    extracted: str | None = ""
    lenient: bool = False

    def __str__(self) -> str:
        return {True: "right", False: "wrong", None: "not judged"}[self.right]


Phase = Literal["solve", "refine", "reflect", "retry", "merge"]


@dataclass(frozen=True)
class Demonstration:
    """A reply to imitate, to the prompt of a phase. `shown` are the earlier replies in that prompt: a draft (refine), a
    failed try (reflect), a failed try and a reflection (retry), candidates (merge)."""

    reply: str
    phase: Phase = "solve"
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """A question with its gold answer and the verifier that judges replies to it.

    `demonstrate` maps a seed to replies worth imitating; problems that only a verifier knows have none. `solve` is the
    instruction that asks for the answer in the form the verifier reads, with {question} in it; `suite` is the name of
    the benchmark, for means over several. `failure` is a wrong reply to it that was prepared, for methods that start
    from one. For votes: `answer` is the final answer in a reply (None: none to read), `same` whether two are equal; both
    are None for verifiers of one's own.
    """

    id: str
    question: str
    gold: str
    verify: Callable[[str, str], Verdict] = field(repr=False, compare=False)
    demonstrate: Callable[[int], tuple[Demonstration, ...]] | None = field(default=None, repr=False, compare=False)
    solve: str = ""
    suite: str = ""
    failure: str | None = None
    answer: Callable[[str], str | None] | None = field(default=None, repr=False, compare=False)
    same: Callable[[str, str], bool] | None = field(default=None, repr=False, compare=False)

    def judge(self, reply: str) -> Verdict:
        """The verdict on a reply's text."""
        return self.verify(reply, self.gold)


@dataclass(frozen=True)
class Prompt:
    """What is shown to a policy: the messages, and the seed that all randomness of its samples derives from."""

    problem: Problem
    phase: str
    messages: tuple[Message, ...]
    seed: int
    draft: Sample | None = None

    @property
    def group(self) -> str:
        """The identity of the group that this prompt's samples form."""
        return f"{self.problem.id}/{self.phase}/{self.seed:016x}"


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn. Temperature 0 is greedy. `top_p` below 1 and `top_k` are for evaluation only."""

    temperature: float = 1.0
    max_tokens: int = 1024
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(f"top_p must lie in (0, 1] and top_k be 0 (off) or more, not {self.top_p}, {self.top_k}")

    @property
    def trainable(self) -> bool:
        """Whether log-probs of these samples are those of the policy's full distribution."""
        return self.temperature > 0 and self.top_p == 1.0 and self.top_k == 0


@dataclass(frozen=True)
class Sample:
    """One reply, id by id as it was drawn; the module's docstring shows one. Length 0 is legal.

    `forced` marks tokens that count though somebody else wrote them (empty: none do); their log-probs are NaN until the
    trainer computes them.

    A policy that shows text alone (an endpoint) gives no ids; `usage` then holds the number of prompt tokens and of
    sampled tokens as it states them, None for what it does not state. Such samples cannot be trained on.
    """

    prompt: Prompt
    index: int
    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    log_probs: tuple[float, ...]
    text: str
    stop: StopReason
    sampling: Sampling
    version: int
    verdict: Verdict | None = None
    usage: tuple[int | None, int | None] | None = None
    forced: tuple[bool, ...] = ()

    @property
    def problem(self) -> Problem:
        return self.prompt.problem

    @property
    def n_trained(self) -> int:
        """How many tokens count in the loss."""
        return sum(self.mask)

    @property
    def n_prompt_tokens(self) -> int | None:
        """How many tokens were shown; None where that is unknown."""
        return len(self.prompt_ids) if self.usage is None else self.usage[0]

    @property
    def n_tokens(self) -> int | None:
        """How many tokens were sampled; None where that is unknown."""
        return len(self.ids) if self.usage is None else self.usage[1]

    @property
    def right(self) -> bool | None:
        """True or False, or None where it has not been, or could not be, judged."""
        return None if self.verdict is None else self.verdict.right

    def judged(self, verdict: Verdict) -> Sample:
        return replace(self, verdict=verdict)


Group = tuple[Sample, ...]


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


@dataclass(frozen=True)
class PolicyGradient:
    """Raise the probability of samples in proportion to their weights (advantages, one per sample).

    The denominator counts this part alone, over one optimiser step: with `mean="token"` all chosen tokens, with
    "sequence" the samples that have any (each of them averaged over its own tokens), with "constant" those samples
    times `length` (Dr. GRPO, arXiv 2503.20783). A sample with weight 0 stays in the denominator.
    `kl` adds kl * (exp(d) - d - 1), d = log p_initial - log p, on the same tokens under the same denominator.
    """

    samples: tuple[Sample, ...]
    weights: tuple[float, ...]
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
    """What a method yields: parts that are applied as `n_steps` optimiser steps over equal shares of whole groups.

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
            if isinstance(part, PolicyGradient | Imitate) and len(part.samples) != len(part.weights):
                raise ValueError(f"update {self.name!r}: {len(part.samples)} samples but {len(part.weights)} weights")
            if isinstance(part, Prefer) and len(part.chosen) != len(part.rejected):
                raise ValueError(f"update {self.name!r}: {len(part.chosen)} chosen but {len(part.rejected)} rejected")
            if isinstance(part, PolicyGradient):
                _check_trainable(self.name, part)


def _check_trainable(name: str, part: PolicyGradient) -> None:
    for sample in part.samples:
        if sample.usage is not None:
            raise ValueError(f"update {name!r}: samples of an endpoint have no token ids to train on")
        if not sample.sampling.trainable:
            raise ValueError(
                f"update {name!r}: a policy gradient needs samples of the full distribution, but these were drawn "
                f"with {sample.sampling}; train with temperature above 0, top_p = 1 and top_k = 0"
            )
