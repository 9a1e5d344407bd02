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

ChatRole = Literal["system", "user", "assistant"]
StopReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: ChatRole
    content: str


@dataclass(frozen=True)
class Verdict:
    """Right (True), wrong (False) or not graded (None: the verifier failed or ran out of time), with the reason.

    Deliberately not a number: a reply that was not graded must never slip into a mean as 0. `extracted` is the answer
    that was found in the reply: None where there is none, "" where the verifier does not say. `lenient` marks an answer
    that only lenient extraction found; by strict extraction the reply has none and is wrong. `score` is the reward, from
    0 to 1, where the verifier gives one that is neither 1 for right nor 0 for wrong.
    """

    right: bool | None
    reason: str = ""
    extracted: str | None = ""
    lenient: bool = False
    score: float | None = None

    def __str__(self) -> str:
        return {True: "right", False: "wrong", None: "not graded"}[self.right]


@dataclass(frozen=True)
class RewardTerm:
    """One term of a reward, before its weight: None, with the reason, where it could not be computed."""

    name: str
    value: float | None
    reason: str = ""


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
    """A question with its gold answer and the verifier that grades replies to it.

    `demonstrate` maps a seed to replies worth imitating; problems that only a verifier knows have none. `solve` is the
    instruction that asks for the answer in the form the verifier reads, with {question} in it; `suite` is the name of
    the benchmark, for means over several. `failure` is a wrong reply to it that was prepared, for methods that start
    from one. For votes: `extract_answer` is the final answer in a reply (None: none to read),
    `equal_answers` whether two are equal; both are None for custom verifiers.
    """

    id: str
    question: str
    gold: str
    verify: Callable[[str, str], Verdict] = field(repr=False, compare=False)
    demonstrate: Callable[[int], tuple[Demonstration, ...]] | None = field(default=None, repr=False, compare=False)
    solve: str = ""
    suite: str = ""
    failure: str | None = None
    extract_answer: Callable[[str], str | None] | None = field(default=None, repr=False, compare=False)
    equal_answers: Callable[[str, str], bool] | None = field(default=None, repr=False, compare=False)

    def grade(self, reply: str) -> Verdict:
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

    `reward` is the number that training maximizes, None where the reply was not graded; evaluation counts verdicts.
    `terms` are what it is the weighted sum of, where a recipe names several.

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
    reward: float | None = None
    terms: tuple[RewardTerm, ...] = ()
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
        """True or False, or None where it has not been, or could not be, graded."""
        return None if self.verdict is None else self.verdict.right

    @property
    def key(self) -> tuple[str, int]:
        """What tells this sample from every other one of a problem batch, whatever copies are made of it."""
        return self.prompt.group, self.index

    def with_verdict(self, verdict: Verdict, reward: float | None = None) -> Sample:
        """Return the sample with its verdict and its reward: the verdict's, unless another one is given."""
        if reward is None and verdict.right is not None:
            reward = float(verdict.right) if verdict.score is None else verdict.score
        return replace(self, verdict=verdict, reward=reward)

    def why_no_reward(self) -> str:
        """Return why a graded sample has no reward; "" where it has one, or was never graded."""
        if self.reward is not None or self.verdict is None:
            return ""
        failed = [term for term in self.terms if term.value is None]
        if self.verdict.right is None or not failed:
            return self.verdict.reason
        return f"{failed[0].name}: {failed[0].reason}"


Group = tuple[Sample, ...]
