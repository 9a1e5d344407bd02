"""Text that arrives in pieces: cut it at a stop string, and tell thinking from the answer.

What comes out does not depend on where the pieces begin and end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from rethink.thinking import MARKS

Kind = Literal["reasoning", "content"]
Emit = Callable[[Kind, str], None]


class StopStrings:
    """Passes text on up to the first stop string, which is the one that is complete first.

    The first `n_opened` characters are passed on without a search: the template has put them there, no model."""

    def __init__(self, stop: Sequence[str], emit: Callable[[str], None], n_opened: int = 0) -> None:
        self.stop, self.emit = stop, emit
        self.found = False
        self._n_opened = n_opened
        self._held = ""

    def add(self, piece: str) -> None:
        """Pass on what can be passed on; hold back what may be the beginning of a stop string."""
        if self.found:
            return
        if self._n_opened:
            opened, piece = piece[: self._n_opened], piece[self._n_opened :]
            self._n_opened -= len(opened)
            if opened:
                self.emit(opened)
        text = self._held + piece
        ends = [(text.index(one) + len(one), text.index(one)) for one in self.stop if one in text]
        self.found = bool(ends)
        n = min(ends)[1] if ends else len(text) - n_held_back(text, self.stop)
        self._held = "" if ends else text[n:]
        if n:
            self.emit(text[:n])

    def end(self) -> None:
        """Pass on what was held back."""
        held, self._held = self._held, ""
        if held:
            self.emit(held)


def cut_at_stop(text: str, stop: Sequence[str], n_opened: int = 0) -> str | None:
    """Return the text before the first stop string after the first `n_opened` characters; None if there is none."""
    kept: list[str] = []
    strings = StopStrings(stop, kept.append, n_opened)
    strings.add(text)
    return "".join(kept) if strings.found else None


class ThinkingSplit:
    """Passes on a reply: the thinking that it begins with as reasoning, everything else as content."""

    def __init__(self, emit: Emit, marks: Sequence[str] = ()) -> None:
        pairs = [*MARKS, (marks[0], marks[1])] if marks else MARKS
        self.emit = emit
        self._closing = {opening: closing for opening, closing in pairs if opening}
        self._state: Literal["undecided", "thinking", "content"] = "undecided"
        self._open_mark = ""
        self._held = ""
        self._is_start = False  # white space at the start of thinking, and of the answer after it, is dropped

    def add(self, piece: str) -> None:
        """Pass on what can be passed on."""
        self._held += piece
        if self._state == "undecided":
            self._decide()
        if self._state == "thinking":
            self._drop_space()
            self._think()
        if self._state == "content":
            self._drop_space()
            self._pass_on("content", len(self._held))

    def end(self) -> None:
        """Pass on what was held back."""
        self._pass_on("reasoning" if self._state == "thinking" else "content", len(self._held))

    def _decide(self) -> None:
        begun = self._held.lstrip()
        for opening in sorted(self._closing, key=len, reverse=True):
            if begun.startswith(opening):
                self._open_mark, self._state, self._is_start = opening, "thinking", True
                self._held = begun[len(opening) :]
                return
        if not any(opening.startswith(begun) for opening in self._closing):
            self._state = "content"

    def _drop_space(self) -> None:
        if self._is_start:
            self._held = self._held.lstrip()
            self._is_start = not self._held

    def _think(self) -> None:
        closing = self._closing[self._open_mark]
        place = self._held.find(closing)
        if place < 0:
            self._pass_on("reasoning", len(self._held) - n_held_back(self._held, [closing]))
            return
        self._pass_on("reasoning", place)
        self._held = self._held[len(closing) :]
        self._state, self._is_start = "content", True

    def _pass_on(self, kind: Kind, n: int) -> None:
        passed, self._held = self._held[:n], self._held[n:]
        if passed:
            self.emit(kind, passed)


def n_held_back(text: str, marks: Sequence[str]) -> int:
    """Return the length of the longest end of a text with which one of the marks begins."""
    for n in range(min(len(text), max(map(len, marks), default=1) - 1), 0, -1):
        if any(mark.startswith(text[-n:]) for mark in marks):
            return n
    return 0
