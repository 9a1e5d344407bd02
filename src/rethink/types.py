"""The values that pass between problems, methods, policies, the trainer and the evaluation.

All of them are immutable: a stage that adds something, such as a verdict, returns a copy. This module does not need torch.

Names of arrays end with their axes: `_P` problem, `_G` member of a group, `_T` token position, `_N` row of the model's
input, `_V` vocabulary entry, `_H` hidden unit. Example: `tokens_P_G_T[p][g][t]`.

The tokens of one sample, for the prompt "26 : 3 7 5" and the reply "3 * 7 = 21", which was cut at `max_tokens`::

    prompt_ids  [<user> 26 : 3 7 5 <reply>]      shown to the policy, never trained
    ids         [  3     *     7     =     21 ]  sampled by the policy
    mask        [  1     1     1     1     1  ]  1: the token counts in the loss; 0: it does not
    log_probs   [-0.7  -0.1  -1.2  -0.0  -0.0 ]  nats, of the distribution that the token was sampled from
    stop        "length"                         with "stop", the last id is the end token, and it is trained too
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rethink.images import MARK, Image, as_words

ChatRole = Literal["system", "user", "assistant"]
StopReason = Literal["stop", "length", "failed"]
"""Why a reply ends: by itself, at the token limit, or because a server failed, which is not graded."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. Its images come where the text has the mark `images.MARK`, or before the text if it has
    not one mark for each."""

    role: ChatRole
    content: str
    images: tuple[Image, ...] = ()

    @property
    def parts(self) -> list[str | Image]:
        """The images and the texts before, between and after them, in order; without images, the text alone."""
        if not self.images:
            return [self.content]
        if self.content.count(MARK) != len(self.images):
            return [*self.images, self.content]
        first, *texts = self.content.split(MARK)
        found: list[str | Image] = [first] if first else []
        for image, text in zip(self.images, texts, strict=True):
            found += [image, text] if text else [image]
        return found

    @property
    def as_record(self) -> tuple[str, ...]:
        """The turn as records of samples and answers have it: role, text, and the names of its images."""
        return (self.role, self.content, *(image.name for image in self.images))


def _with_marks(turn: Message) -> Message:
    """Return a turn with exactly one mark for each of its images."""
    if turn.content.count(MARK) == len(turn.images):
        return turn
    return replace(turn, content=f"{MARK}\n" * len(turn.images) + as_words(turn.content))


@dataclass(frozen=True)
class Verdict:
    """What a verifier found about a reply: right (True), wrong (False), or not graded (None: it failed or timed out).

    A verdict is not a number, because a reply that was not graded must never enter a mean as 0.

    - `reason` says why, for people to read.
    - `extracted` is the answer found in the reply: None if there is none, "" if the verifier does not report it.
    - `lenient` marks an answer that only lenient extraction found. With strict extraction the reply is wrong.
    - `score` is the reward, from 0 to 1, of a verifier that gives partial scores.

    >>> str(Verdict(True)), str(Verdict(None, "out of time"))
    ('right', 'not graded')
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
    """One term of a reward, before it is weighted. `value` is None if it could not be computed; `reason` says why."""

    name: str
    value: float | None
    reason: str = ""


REFINING = frozenset({"refine", "retry", "improve", "merge"})
"""The phases whose replies are refinements: their prompts show earlier answers, or reflections on them."""


@dataclass(frozen=True)
class Demonstration:
    """A reply to imitate, to the prompt of one phase.

    `shown` holds the earlier replies in that prompt: a draft (refine), a failed try (reflect), a failed try and a
    reflection (retry), or candidates (merge). `turns` holds the messages after the solve prompt, for a phase that
    `prompts` has no text for.
    """

    reply: str
    phase: str = "solve"
    shown: tuple[str, ...] = ()
    turns: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Problem:
    """A question, its gold answer, and the verifier that grades replies to it.

    - `verify` takes a reply and the gold answer, and returns a verdict.
    - `demonstrate` takes a seed and returns replies to imitate. It is None if there are no demonstrations.
    - `solve` is the instruction that asks for the answer in the format that the verifier reads. It contains {question}.
    - `suite` is the benchmark's name, for means over several benchmarks.
    - `failure` is a wrong reply that was prepared, for methods that start from one.
    - `preference` holds a chosen and a rejected reply to the same prompt, for methods that learn from pairs.
    - `earlier` holds the turns before the question, if the question ends a conversation.
    - `images` are the images of the question (`Message`); turns before it have their own.
    - `row` holds all columns of the row that the problem comes from, for verifiers and rewards; prompts do not show it.
    - `extract_answer` returns the final answer in a reply, or None if there is none; `equal_answers` compares two such
      answers. Votes need both. They are None for custom verifiers.
    - `read_refinement` returns the texts to grade in place of a refinement, which may quote earlier answers beside its own.
      It is right if one of them is, and the last one holds its answer. None: the reply itself.

    >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply.endswith(gold)))
    >>> problem.grade("It is 4").right
    True
    """

    id: str
    question: str
    gold: str
    verify: Callable[[str, str], Verdict] = field(repr=False, compare=False)
    demonstrate: Callable[[int], tuple[Demonstration, ...]] | None = field(default=None, repr=False, compare=False)
    solve: str = ""
    suite: str = ""
    failure: str | None = None
    preference: tuple[Demonstration, Demonstration] | None = field(default=None, repr=False)
    earlier: tuple[Message, ...] = ()
    images: tuple[Image, ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    extract_answer: Callable[[str], str | None] | None = field(default=None, repr=False, compare=False)
    equal_answers: Callable[[str, str], bool] | None = field(default=None, repr=False, compare=False)
    read_refinement: Callable[[str], list[str]] | None = field(default=None, repr=False, compare=False)

    @property
    def all_images(self) -> tuple[Image, ...]:
        """The images of the question, after those of the turns before it."""
        return (*(image for turn in self.earlier for image in turn.images), *self.images)

    @property
    def image_names(self) -> list[str]:
        """The names that a run folder gives to the images."""
        return [image.name for image in self.all_images]

    @property
    def transcript(self) -> str:
        """The question, after the turns before it, as one text."""
        if not self.earlier:
            return self.question
        turns = [*self.earlier, Message("user", self.question, self.images)]
        if self.all_images and any(MARK in turn.content for turn in turns):
            turns = list(map(_with_marks, turns))
        return "\n\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in turns)

    def grade(self, reply: str) -> Verdict:
        """Return the verdict on a reply's text."""
        return self.verify(reply, self.gold)


@dataclass(frozen=True)
class Prompt:
    """What a policy reads: the messages, and the seed from which all randomness of its samples derives.

    `phase` says what the prompt asks for: "solve", "refine", or any other word. `draft` is the sample that its reply
    answers to, if any: the answer that it revises or replaces, or a critique or check of one.

    >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
    >>> Prompt(problem, "solve", (Message("user", "2 + 2?"),), seed=17).group
    'p1/solve/0000000000000011'
    """

    problem: Problem
    phase: str
    messages: tuple[Message, ...]
    seed: int
    draft: Sample | None = None

    @property
    def group(self) -> str:
        """The id of the group that this prompt's samples form."""
        return f"{self.problem.id}/{self.phase}/{self.seed:016x}"

    @property
    def images(self) -> tuple[Image, ...]:
        """The images of all messages, in order."""
        return tuple(image for message in self.messages for image in message.images)

    @property
    def judged_draft(self) -> Sample | None:
        """The last reply before this prompt that has a verdict, right or wrong; critiques and checks have none.

        None if there is no such reply, or if its verifier failed."""
        draft = self.draft
        while draft is not None and draft.verdict is None:
            draft = draft.prompt.draft
        return None if draft is None or draft.right is None else draft


@dataclass(frozen=True)
class Sampling:
    """How replies are sampled. Raise ValueError for values out of range.

    - `temperature` divides the logits; 0 is greedy decoding.
    - `max_tokens`: the number of tokens, end token included, at which a reply is cut.
    - `top_p` below 1 keeps the most likely tokens up to this probability. For evaluation only.
    - `top_k` above 0 keeps this many of the most likely tokens. For evaluation only.

    >>> Sampling(temperature=0.7, top_p=0.9).trainable
    False
    """

    temperature: float = 1.0
    max_tokens: int = 1024
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(f"top_p must lie in (0, 1] and top_k be 0 (off) or more, not {self.top_p}, {self.top_k}")

    @property
    def trainable(self) -> bool:
        """True if samples come from the policy's full distribution, as policy gradients need."""
        return self.temperature > 0 and self.top_p == 1.0 and self.top_k == 0


@dataclass(frozen=True)
class Sample:
    """One reply, with the token ids that were sampled. The module's docstring shows the layout. A reply may be empty.

    - `index` is its place in the group; `version` is that of the policy that sampled it.
    - `mask` marks the tokens that count in the loss, and `log_probs` are in nats.
    - `forced` marks trained tokens that the policy did not sample (empty: none). Their log-probs are NaN until the trainer
      computes them.
    - `reward` is the number that training maximizes, None if the reply was not graded. Evaluation counts verdicts.
    - `terms` are the terms of the reward, if the recipe names several.
    - `usage` holds the numbers of prompt tokens and of sampled tokens that an endpoint reports; a number that it does not
      report is None. Samples of an endpoint have no ids and cannot be trained on. For all others `usage` is None.

    >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
    >>> prompt = Prompt(problem, "solve", (Message("user", "2 + 2?"),), seed=17)
    >>> sample = Sample(
    ...     prompt, index=0, prompt_ids=(8, 9), ids=(4, 1), mask=(True, True), log_probs=(-0.7, -0.1),
    ...     text="4", stop="stop", sampling=Sampling(), version=0,
    ... )
    >>> graded = sample.with_verdict(problem.grade(sample.text))
    >>> graded.right, graded.reward, graded.n_trained
    (True, 1.0, 2)
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
    def is_refinement(self) -> bool:
        """Whether the reply was written with earlier answers in view; a reply with a teacher's feedback is one, too."""
        return self.prompt.phase in REFINING or any(self.forced)

    @property
    def graded_texts(self) -> list[str]:
        """The reply, or the texts to grade in its place if it is a refinement; see `Problem.read_refinement`."""
        read = self.problem.read_refinement
        return [self.text] if read is None or not self.is_refinement else read(self.text)

    @property
    def final_text(self) -> str:
        """The text that holds the reply's answer, without earlier answers that a refinement quotes."""
        return self.graded_texts[-1]

    @property
    def n_trained(self) -> int:
        """The number of tokens that count in the loss."""
        return sum(self.mask)

    @property
    def n_prompt_tokens(self) -> int | None:
        """The number of prompt tokens; None if unknown."""
        return len(self.prompt_ids) if self.usage is None else self.usage[0]

    @property
    def n_tokens(self) -> int | None:
        """The number of sampled tokens; None if unknown."""
        return len(self.ids) if self.usage is None else self.usage[1]

    @property
    def right(self) -> bool | None:
        """True or False; None if the sample was not graded."""
        return None if self.verdict is None else self.verdict.right

    @property
    def key(self) -> tuple[str, int]:
        """An id that is unique in a problem batch and stays the same in every copy of this sample."""
        return self.prompt.group, self.index

    def with_verdict(self, verdict: Verdict, reward: float | None = None) -> Sample:
        """Return a copy with this verdict and reward; by default the verdict's score, or 1 if right and 0 if wrong."""
        if reward is None and verdict.right is not None:
            reward = float(verdict.right) if verdict.score is None else verdict.score
        return replace(self, verdict=verdict, reward=reward)

    def why_no_reward(self) -> str:
        """Return the reason why a graded sample has no reward; "" if it has one, or if it was never graded."""
        if self.reward is not None or self.verdict is None:
            return ""
        failed = [term for term in self.terms if term.value is None]
        if self.verdict.right is None or not failed:
            return self.verdict.reason
        return f"{failed[0].name}: {failed[0].reason}"


Group = tuple[Sample, ...]
"""The samples of one prompt, which share a baseline."""
