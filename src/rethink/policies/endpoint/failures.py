"""Prompts without a usable reply: each is recorded with the reason, and too many are an error."""

from __future__ import annotations

from collections.abc import Callable

from rethink.errors import UserError
from rethink.policies.endpoint.replies import ServerReply
from rethink.types import Prompt

MAX_IN_A_ROW = 5
"""After this many prompts in a row without a usable reply, the cause is not the prompts: raise UserError."""

REASONING_ADVICE = (
    "a reply has only reasoning and no content (reported once): if replies are cut at the token limit while the model "
    "still thinks, raise max_tokens; otherwise turn its thinking off, or start the server without a reasoning parser"
)


class Failures:
    """Counts the prompts without a usable reply and warns of the first one of each kind.

    `n_replies` counts whole replies of the server, also ungraded ones. `last` is the message about the last prompt that
    failed or was skipped."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.warn = warn
        self.n_replies = 0
        self.last = ""
        self._n_graded = 0
        self._in_a_row: set[str] = set()
        self._without_reply: set[str] = set()
        self._warned: set[str] = set()

    def warn_once(self, kind: str, message: str) -> None:
        if message and kind not in self._warned:
            self._warned.add(kind)
            self.warn(message)

    def check_reply(self, prompt: Prompt, reply: ServerReply, url: str) -> None:
        """Count a reply; warn of the first that is not graded or has only reasoning. May raise UserError, as `add` does."""
        self.n_replies += 1
        if reply.note == "reasoning":
            self.warn_once("reasoning", REASONING_ADVICE)
        if not reply.ungraded_reason:
            self._n_graded += 1
            self._in_a_row.clear()
        elif reply.note == "filtered":  # the server works, so several in a row are no reason to stop
            self._without_reply.add(prompt.group)
            self.last = f"{url}: {reply.ungraded_reason}"
            self._warn_of(prompt, reply.ungraded_reason)
        else:
            self.add(prompt, reply.ungraded_reason, f"{url}: {reply.ungraded_reason}")

    def add(self, prompt: Prompt, reason: str, message: str) -> None:
        """Count a prompt that is not graded. Raise UserError with the message after several in a row."""
        self._in_a_row.add(prompt.group)
        self._without_reply.add(prompt.group)
        self.last = message
        if len(self._in_a_row) >= MAX_IN_A_ROW:
            raise UserError(f"{message} (the same for {MAX_IN_A_ROW} prompts in a row)")
        self._warn_of(prompt, reason)

    def skip(self, prompt: Prompt, message: str) -> None:
        """Count an over-long prompt."""
        self._without_reply.add(prompt.group)
        self.last = message
        self.warn_once(
            "over-long", f"a prompt is too long for the endpoint; such prompts are skipped and counted: {message}"
        )

    @property
    def nothing_graded(self) -> bool:
        """True if there were failures, and no reply that can be graded."""
        return not self._n_graded and bool(self._without_reply)

    @property
    def are_many(self) -> bool:
        """True if so many prompts failed or were skipped that it cannot be chance."""
        return len(self._without_reply) >= MAX_IN_A_ROW

    def _warn_of(self, prompt: Prompt, reason: str) -> None:
        self.warn_once("ungraded", f"problem {prompt.problem.id} is not graded (reported once): {reason}")
