"""One choice of a completion: run a strategy, and tell what each pass says while it is sampled.

The final reply is content, and everything before it reasoning. Where the last pass is known beforehand (the plain model,
refinement, a merged answer), it comes piece by piece; after a vote, say, the final reply comes as a whole at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from rethink.policies.base import Policy, PolicyWrapper
from rethink.policies.cancel import Cancellation
from rethink.serving.api_error import ApiError
from rethink.serving.limits import Limits
from rethink.serving.text_stream import Emit, Kind, StopStrings, ThinkingSplit, cut_at_stop
from rethink.strategies import Attempt, Setup, Strategy
from rethink.strategies.attempt import PHASE_TITLES
from rethink.types import Group, Problem, Prompt, Sample, Sampling


@runtime_checkable
class Streams(Protocol):
    """A policy that can stream a reply."""

    def stream(self, prompt: Prompt, sampling: Sampling | None, on_text: Callable[[str], None]) -> Sample | None: ...


@runtime_checkable
class OpensReplies(Protocol):
    """A policy that knows how the template begins its replies."""

    def opened(self, prompt: Prompt) -> str: ...


@dataclass(frozen=True)
class Teller:
    """How to tell what is said: to whom, up to which stop strings, and with which marks of thinking."""

    emit: Emit
    stop: Sequence[str] = ()
    marks: Sequence[str] = ()


def run_choice(
    strategy: Strategy, setup: Setup, problem: Problem, teller: Teller, cancellation: Cancellation, limits: Limits
) -> Attempt:
    """Return the attempt at the problem, and tell it. Raise ApiError if there is no reply, Cancelled if nobody waits."""
    policy = PassPolicy(setup.policy, strategy, teller, cancellation)
    (attempt,) = strategy.run(replace(setup, policy=policy), [problem])
    if not attempt.answers:
        most = f": a prompt has at most {limits.prompt_tokens:,} tokens here" if limits.prompt_tokens else ""
        message = f"the messages are too long for this server{most}"
        raise ApiError(400, message, "messages", code="context_length_exceeded")
    final = attempt.answers[0]
    if final.stop == "failed":
        raise ApiError(502, final.verdict.reason if final.verdict else "the endpoint gave no reply")
    if not policy.told_final:
        policy.tell(final.text, final.prompt, is_final=True)
    return attempt


class PassPolicy(PolicyWrapper):
    """A policy that tells what it samples, cuts replies at stop strings, and raises Cancelled once nobody waits."""

    def __init__(self, policy: Policy, strategy: Strategy, teller: Teller, cancellation: Cancellation) -> None:
        super().__init__(policy)
        self.teller, self.cancellation = teller, cancellation
        self.told_final = False
        self._final = final_call(strategy)
        self._is_plain = strategy.stages == (("solve", 1),)
        self._n_calls: Counter[str] = Counter()
        self._n_told: Counter[str] = Counter()
        self._opened: dict[str, int] = {}  # by group: the length of what the template opens

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        self.cancellation.check()
        phase = prompts[0].phase
        self._n_calls[phase] += 1
        is_single = len(prompts) * n == 1
        is_final = is_single and (phase, self._n_calls[phase]) == self._final
        if is_single and isinstance(self.policy, Streams):
            yield 0, self._stream(self.policy, prompts[0], sampling, is_final)
            return
        found: list[Group] = [()] * len(prompts)
        for i, group in self.policy.groups(prompts, n, sampling):
            self.cancellation.check()
            found[i] = tuple(map(self._cut, group))
        for i, group in enumerate(found):
            for sample in group:
                self.tell(sample.text, sample.prompt, is_final)
            yield i, group

    def tell(self, text: str, prompt: Prompt, is_final: bool) -> None:
        """Tell a whole reply."""
        strings, end = self._open(prompt, is_final)
        strings.add(text)
        end()

    def _stream(self, policy: Streams, prompt: Prompt, sampling: Sampling | None, is_final: bool) -> Group:
        strings, end = self._open(prompt, is_final)

        def on_text(piece: str) -> None:
            self.cancellation.check()
            strings.add(piece)

        sample = policy.stream(prompt, sampling, on_text)
        if sample is None:
            return ()
        end()
        return (self._cut(sample),)

    def _open(self, prompt: Prompt, is_final: bool) -> tuple[StopStrings, Callable[[], None]]:
        """Return what takes the pieces of a reply, and what to call at its end."""
        heading = "" if self._is_plain else self._heading(prompt, is_final)

        def emit(kind: Kind, text: str) -> None:
            nonlocal heading
            if kind == "reasoning" and heading:
                self.teller.emit("reasoning", heading)
                heading = ""
            self.teller.emit(kind, text)

        split = ThinkingSplit(emit, self.teller.marks)
        on_text = split.add if is_final else lambda text: emit("reasoning", text)
        strings = StopStrings(self.teller.stop, on_text, self._n_opened(prompt))

        def end() -> None:
            strings.end()
            split.end()
            if is_final:
                self.told_final = True
            elif not heading:
                self.teller.emit("reasoning", "\n\n")

        return strings, end

    def _heading(self, prompt: Prompt, is_final: bool) -> str:
        """Return the title of a pass, such as "Draft 2:"."""
        title = PHASE_TITLES.get(prompt.phase, prompt.phase).capitalize()
        self._n_told[prompt.phase] += not is_final
        number = f" {self._n_told[prompt.phase]}" if self._n_told[prompt.phase] > 1 else ""
        return f"{title}{number}:\n"

    def _cut(self, sample: Sample) -> Sample:
        """Return the sample without the text from a stop string on; its tokens stay, because they were sampled."""
        text = cut_at_stop(sample.text, self.teller.stop, self._n_opened(sample.prompt))
        return sample if text is None else replace(sample, text=text, stop="stop")

    def _n_opened(self, prompt: Prompt) -> int:
        """Return the length of what the template, not the model, has put at the start of the replies: an opening mark."""
        if not self.teller.stop or not isinstance(self.policy, OpensReplies):
            return 0
        if prompt.group not in self._opened:
            self._opened[prompt.group] = len(self.policy.opened(prompt))
        return self._opened[prompt.group]


def final_call(strategy: Strategy) -> tuple[str, int] | None:
    """Return the phase of the last pass, and its number among the calls of that phase; None if it is not known beforehand.

    >>> from rethink.strategies import parse
    >>> final_call(parse("solve")), final_call(parse("refine:2")), final_call(parse("merge:3")), final_call(parse("vote"))
    (('solve', 1), ('refine', 2), ('merge', 1), None)
    """
    name, number = strategy.stages[-1]
    if name == "solve":
        return ("solve", 1) if number == 1 else None
    if name == "refine":
        return "refine", sum(rounds for other, rounds in strategy.stages if other == "refine")
    n_merges = sum(other in ("aggregate", "merge") for other, _ in strategy.stages)
    return ("merge", n_merges) if name == "merge" else None


def n_samples(strategy: Strategy) -> int:
    """Return the most replies that a strategy draws for one problem, or somewhat more.

    >>> from rethink.strategies import parse
    >>> [n_samples(parse(text)) for text in ("solve", "refine", "vote:5", "solve:8+refine:2+vote", "merge:4")]
    [1, 3, 5, 40, 5]
    """
    total = width = 1
    for name, number in strategy.stages:
        if name == "solve":
            total = width = number
        elif name == "socratic":
            total = 8 + 14 * number  # a node's 8 continuations, up to 6 sub-questions and their answers
        elif name in ("vote", "pick", "merge", "best"):
            total += {"merge": 1, "best": width}.get(name, 0)
            width = 1
        else:
            total += width if name == "aggregate" else 2 * width * number  # a comment and an answer per round
    return total
