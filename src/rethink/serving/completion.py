"""Chat completions and their chunks as JSON, in OpenAI's format with three additions.

`reasoning_content` holds the passes before the final reply, `usage.passes` the tokens of each, and `seed` the seed that
repeats the completion."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from rethink.strategies import Attempt
from rethink.types import Message, Sample


@dataclass
class Said:
    """What a choice has said so far."""

    reasoning: str = ""
    content: str = ""

    def add(self, kind: str, text: str) -> None:
        if kind == "reasoning":
            self.reasoning += text
        else:
            self.content += text


@dataclass(frozen=True)
class Envelope:
    """What all parts of a completion have in common."""

    model: str
    seed: int
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, said: Sequence[Said], attempts: Sequence[Attempt]) -> dict[str, Any]:
        """Return a whole completion."""
        choices: list[dict[str, Any]] = []
        for index, (words, attempt) in enumerate(zip(said, attempts, strict=True)):
            message = {"role": "assistant", "content": words.content, "refusal": None}
            if words.reasoning:
                message["reasoning_content"] = words.reasoning.strip()
            choices.append(_choice(index, "message", message, attempt.answers[0].stop))
        notes = _notes(attempts)
        return {**self._head("chat.completion"), "choices": choices, "usage": usage(attempts), **notes}

    def chunk(self, index: int, delta: Mapping[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        """Return a part of a streamed completion."""
        return {**self._head("chat.completion.chunk"), "choices": [_choice(index, "delta", delta, finish_reason)]}

    def usage_chunk(self, attempts: Sequence[Attempt]) -> dict[str, Any]:
        """Return the last part of a stream, if its usage was asked for."""
        head = self._head("chat.completion.chunk")
        return {**head, "choices": [], "usage": usage(attempts), **_notes(attempts)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "seed": self.seed}


def _choice(index: int, name: str, text: Mapping[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, name: text, "logprobs": None, "finish_reason": finish_reason}


def _notes(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Return the counts of what went other than planned, if there are any: refinements that were too long to ask for."""
    found: dict[str, int] = {}
    for attempt in attempts:
        for name, n in attempt.notes.items():
            found[name] = found.get(name, 0) + n
    return {"notes": found} if found else {}


def usage(attempts: Sequence[Attempt]) -> dict[str, Any] | None:
    """Return the tokens of all passes of all choices. A prompt that several replies share counts once.

    None if an endpoint does not report them all: clients expect numbers in a usage."""
    prompts: dict[tuple[str, tuple[Message, ...]], list[Sample]] = {}
    for attempt in attempts:
        for sample in attempt.samples:
            prompts.setdefault((sample.prompt.phase, sample.prompt.messages), []).append(sample)
    passes: list[dict[str, Any]] = []
    for (phase, _), samples in prompts.items():
        n_sampled = total(sample.n_tokens for sample in samples)
        one = {"phase": phase, "replies": len(samples), "prompt_tokens": samples[0].n_prompt_tokens}
        passes.append({**one, "completion_tokens": n_sampled})
    n_prompt = total(map(itemgetter("prompt_tokens"), passes))
    n_sampled = total(map(itemgetter("completion_tokens"), passes))
    n_final = total(attempt.answers[0].n_tokens for attempt in attempts)
    if n_prompt is None or n_sampled is None or n_final is None:
        return None
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_sampled,
        "total_tokens": n_prompt + n_sampled,
        "completion_tokens_details": {"reasoning_tokens": n_sampled - n_final},
        "passes": passes,
    }


def total(counts: Iterable[int | None]) -> int | None:
    """Return the sum; None if any count is unknown."""
    found = 0
    for n in counts:
        if n is None:
            return None
        found += n
    return found
