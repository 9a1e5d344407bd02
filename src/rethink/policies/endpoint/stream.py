"""A reply that arrives in pieces: server-sent events, each with one chunk of a chat completion."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2

from rethink.policies.endpoint.protocol import (
    Fault,
    Reply,
    complaint,
    content_text,
    read_answer,
    stop_reason,
    token_counts,
)

LONGEST_EVENT_BYTES = 8 * 2**20


Listen = Callable[[str], None]
"""What is told the pieces of a reply."""


class Events:
    """The data of server-sent events, out of bytes that may be split anywhere. Comments and other fields are left out.

    `too_long` turns true at an event or a line above LONGEST_EVENT_BYTES; from there on there are no events."""

    def __init__(self) -> None:
        self.too_long = False
        self._line = bytearray()
        self._data: list[bytes] = []
        self._n_data_bytes = 0
        self._mark = codecs.BOM_UTF8  # legal in front of the first line

    def feed(self, content: bytes) -> list[str]:
        """The events that these bytes complete."""
        *ended, rest = content.split(b"\n")
        events = [event for part in ended if (event := self._end_line(part)) is not None]
        self._extend_line(rest)
        return events

    def finish(self) -> list[str]:
        """The event that the end of the stream completes, if any: some servers save the last empty line."""
        return self.feed(b"\n\n")

    def _extend_line(self, part: bytes) -> None:
        self.too_long = self.too_long or len(self._line) + len(part) + self._n_data_bytes > LONGEST_EVENT_BYTES
        if not self.too_long:
            self._line += part

    def _end_line(self, part: bytes) -> str | None:
        """The event that this line ends, which an empty one does."""
        self._extend_line(part)
        if self.too_long:
            return None
        line = bytes(self._line).removesuffix(b"\r").removeprefix(self._mark)
        self._line.clear()
        self._mark = b""
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._n_data_bytes += len(line)
        if line or not self._data:
            return None
        event = b"\n".join(self._data).decode("utf-8", "replace")
        self._data, self._n_data_bytes = [], 0
        return event


@dataclass(frozen=True)
class Chunk:
    """What counts of an event: the first choice's content and finish reason, and the usage so far."""

    of_choice: bool
    content: str
    finish_reason: Any
    usage: Any


def read_event(event: str) -> Chunk | Fault:
    """What an event other than [DONE] means."""
    try:
        payload = json.loads(event)
    except (ValueError, RecursionError):
        payload = None
    if isinstance(payload, dict) and payload.get("error"):
        message, parameter = complaint(payload)
        return Fault("an error event", message or event, _stated_status(payload["error"]), parameter)
    try:
        choice = next((c for c in payload["choices"] or () if c.get("index") in (None, 0)), None)
        usage = payload.get("usage")
        if choice is None:
            return Chunk(False, "", None, usage)
        delta = choice.get("delta") or {}
        return Chunk(True, content_text(delta.get("content")), choice.get("finish_reason"), usage)
    except (LookupError, TypeError, AttributeError):
        return Fault("a malformed event", complaint(payload)[0] or event, 200)


def _stated_status(error: Any) -> int:
    """The HTTP status that the server would have given, had it not begun its answer with 200 already."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 200


class Reading:
    """One attempt at a reply whose pieces `listen` is told as they come; joined they are the reply's text.

    `told` says whether there was any. `ended` says whether the reply is whole, by a finish reason or [DONE]: only usage can
    follow."""

    def __init__(self, listen: Listen) -> None:
        self.told = False
        self.ended = False
        self._listen = listen
        self._begun = False
        self._done = False
        self._texts: list[str] = []
        self._finish_reason: Any = None
        self._usage: Any = None
        # The two halves of a surrogate pair may come in two pieces; a half without the other is no text.
        self._pairs = codecs.getincrementaldecoder("utf-16-le")("replace")

    async def read(self, answer: httpx2.Response, now: float) -> Reply | Fault:
        """The whole reply, also of a server that does not stream; or what went wrong, maybe after some pieces.

        `now` is in seconds since 1970, for a Retry-After that is a date."""
        if not answer.is_success:
            return read_answer(answer.status_code, answer.headers, await answer.aread(), now)
        events, head, any_event = Events(), bytearray(), False
        async for content in answer.aiter_bytes():
            ready = events.feed(content)
            any_event = any_event or bool(ready)
            if not any_event:
                head += content[: LONGEST_EVENT_BYTES - len(head)]
            if (fault := self._take_all(ready)) is not None or self._done:
                return fault or self.whole()
            if events.too_long:
                return Fault("a malformed event", f"it has more than {LONGEST_EVENT_BYTES} bytes", 200)
        last = events.finish()
        if not any_event and not last:
            return self._take_unstreamed(read_answer(answer.status_code, answer.headers, bytes(head), now))
        if (fault := self._take_all(last)) is not None or self._done:
            return fault or self.whole()
        return Fault("an unfinished stream", "it ends without a finish reason", 200)

    def whole(self) -> Reply:
        """The reply, once nothing more will come."""
        self._tell(self._pairs.decode(b"", True))
        return Reply("".join(self._texts), stop_reason(self._finish_reason), token_counts(self._usage))

    def _take_all(self, events: list[str]) -> Fault | None:
        for event in events:
            if event.strip() == "[DONE]":
                self._done, self.ended = True, self._begun
                return None if self._begun else Fault("an answer that is no chat completion", event, 200)
            chunk = read_event(event)
            if isinstance(chunk, Fault):
                return chunk
            self._take(chunk)
        return None

    def _take(self, chunk: Chunk) -> None:
        self._begun = self._begun or chunk.of_choice
        self._usage = chunk.usage or self._usage
        if chunk.finish_reason:
            self._finish_reason, self.ended = chunk.finish_reason, True
        self._tell(self._pairs.decode(chunk.content.encode("utf-16-le", "surrogatepass")))

    def _take_unstreamed(self, answer: Reply | Fault) -> Reply | Fault:
        if isinstance(answer, Reply):
            self._tell(answer.text)
        return answer

    def _tell(self, piece: str) -> None:
        if piece:
            self.told = True
            self._texts.append(piece)
            self._listen(piece)
