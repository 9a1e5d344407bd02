"""Replies that show a thought and then an answer: how they are written, read, and made to skip the thought."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rethink.methods.metrics import mean
from rethink.types import Group, Sample


@dataclass(frozen=True)
class ThoughtForm:
    """The form of a reply with a thought: marks, thought, marks, answer, marks, and nothing else.

    - `thought`: the marks around the thought.
    - `answer`: the marks around the answer; two empty texts for none.
    - `empty`: the text of a thought that is skipped.

    >>> form = ThoughtForm()
    >>> form.write("2 and 2", "4")
    '<think>2 and 2</think><answer>4</answer>'
    >>> form.skip(form.write("2 and 2", "4"))
    '<think>\\n\\n</think><answer>4</answer>'
    """

    thought: tuple[str, str] = ("<think>", "</think>")
    answer: tuple[str, str] = ("<answer>", "</answer>")
    empty: str = "\n\n"

    def __post_init__(self) -> None:
        if not all(mark.strip() for mark in self.thought) or self.empty.strip():
            raise ValueError("form.thought needs two marks, and form.empty must be white space")

    def write(self, thought: str, answer: str) -> str:
        """Return a reply with this thought and answer."""
        return f"{self.thought[0]}{thought}{self.thought[1]}{self.answer[0]}{answer}{self.answer[1]}"

    def skip(self, reply: str) -> str | None:
        """Return the reply with an empty thought; None if it does not have the form."""
        found = self._match(reply)
        return None if found is None else reply[: found.start(1)] + self.empty + reply[found.end(1) :]

    def fits(self, reply: str) -> bool:
        """Return whether the whole reply has the form: one thought, which may be empty, then one answer.

        White space around the marks does not matter. A mark that occurs again, inside the thought or the answer, breaks
        the form."""
        return self._match(reply) is not None

    def is_skipped(self, reply: str) -> bool:
        """Return whether the reply begins with a thought of nothing but white space."""
        opening, closing = (re.escape(mark.strip()) for mark in self.thought)
        return re.match(rf"\s*{opening}\s*{closing}", reply) is not None

    def _match(self, reply: str) -> re.Match[str] | None:
        marks = [mark.strip() for mark in (*self.thought, *self.answer)]
        before, after, start, end = map(re.escape, marks)
        found = re.fullmatch(rf"\s*{before}(.*?){after}\s*{start}(.*\S.*?){end}\s*", reply, re.DOTALL)
        if found is None or any(mark and mark in part for mark in marks for part in found.groups()):
            return None
        return found


def describe_thoughts(groups: Sequence[Group], form: ThoughtForm) -> dict[str, float]:
    """Return the share of skipped thoughts, accuracy and tokens with and without a thought, and the tokens saved.

    `tokens_saved` compares at equal accuracy: over the problems that have right replies of both kinds, it is the mean
    number of tokens of those with a thought minus that of those without one. An undefined mean is NaN."""
    skipped: list[Sample] = []
    others: list[Sample] = []
    saved: list[float] = []
    for group in groups:
        short, long = _by_thought(group, form)
        skipped += short
        others += long
        if any(s.right for s in short) and any(s.right for s in long):
            saved.append(_tokens(filter(_is_right, long)) - _tokens(filter(_is_right, short)))
    n = len(skipped) + len(others)
    return {
        "skipped_frac": len(skipped) / n if n else math.nan,
        "accuracy_skipped": _accuracy(skipped),
        "accuracy_thought": _accuracy(others),
        "tokens_skipped": _tokens(skipped),
        "tokens_thought": _tokens(others),
        "tokens_saved": mean(saved),
    }


def _by_thought(group: Group, form: ThoughtForm) -> tuple[list[Sample], list[Sample]]:
    """Return the replies of a group with a skipped thought, and the others."""
    skipped: list[Sample] = []
    others: list[Sample] = []
    for sample in group:
        if form.is_skipped(sample.text):
            skipped.append(sample)
        else:
            others.append(sample)
    return skipped, others


def _is_right(sample: Sample) -> bool:
    return sample.right is True


def _tokens(samples: Iterable[Sample]) -> float:
    return mean([len(s.ids) for s in samples])


def _accuracy(samples: Sequence[Sample]) -> float:
    return mean([float(s.right) for s in samples if s.right is not None])
