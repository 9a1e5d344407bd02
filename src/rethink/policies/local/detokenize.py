"""Incremental detokenization: a reply's text in pieces, while its ids are being sampled."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

from rethink.models.chat import Chat

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""A token that is a single byte: an invalid byte turns all byte tokens around it into U+FFFD."""
CONTRACTION = re.compile(r"['n]?['vr]?")
"""The beginnings of n't, 've and 're, which some tokenizers join to the word before."""

CONTEXT = 8
"""How many ids before the new ones are decoded with them: the first of them may lose a space, or part of a character."""
WINDOW = 32
"""The number of ids at which the window gets a new start."""


class Detokenizer:
    """Returns the new text each time ids are added. The joined pieces are the final text.

    Only a window of the last ids is decoded, so a reply of any length takes the same time per id. The text of an id depends
    on the ids just before it, but on no others. If a tokenizer changes text that was already returned (in a way that
    `settled` does not cover), pieces are empty until the text starts with what was returned.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self._special = frozenset(chat.tokenizer.all_special_ids)
        self._pieces: list[str] = []
        self._n_seen = 0
        self._start = 0  # the window: ids[start:end]
        self._end = 0
        self._n_decoded = 0
        self._returned = ""  # the beginning of the window's text that has been returned
        self._closed: deque[int] = deque(maxlen=CONTEXT)  # the places of the last ids at which a window may start

    def add(self, ids: Sequence[int]) -> str:
        """Return the new text, given all ids of the reply so far; "" while the next token may change it."""
        for place in range(self._n_seen, len(ids)):
            if not self._is_open(ids[place]):
                self._closed.append(place)
                self._end = place + 1
        self._n_seen = len(ids)
        # A window that has grown, because it is not settled (white space, say) or has no word, is decoded less often.
        patience = max(0, self._end - self._start - 2 * WINDOW) // 8
        if self._end - self._n_decoded <= patience:
            return ""
        self._n_decoded = self._end
        text = self.chat.decode(ids[self._start : self._end])
        piece = self._new_in(settled(text))
        self._move_window(ids, text)
        return piece

    def end(self, ids: Sequence[int]) -> str:
        """Return the rest of the text, given all ids of the complete reply."""
        whole, returned = self.chat.decode(ids), "".join(self._pieces)
        if whole.startswith(returned):
            return whole[len(returned) :]
        return self._new_in(self.chat.decode(ids[self._start :]))

    def _is_open(self, token: int) -> bool:
        """Return whether the text of this id depends on the next ids. Special tokens count: bytes join across them."""
        name = str(self.chat.tokenizer.convert_ids_to_tokens(token))
        return token in self._special or BYTE.fullmatch(name) is not None

    def _new_in(self, text: str) -> str:
        """Return what is new in the window's text."""
        if not text.startswith(self._returned):
            return ""
        piece = text[len(self._returned) :]
        self._returned = text
        if piece:
            self._pieces.append(piece)
        return piece

    def _move_window(self, ids: Sequence[int], text: str) -> None:
        """Start a long window later, if its text, without what is to be returned yet, then ends in the same place."""
        if self._end - self._start < WINDOW or not text.startswith(self._returned):
            return
        start, pending = self._closed[0], text[len(self._returned) :]
        shorter = self.chat.decode(ids[start : self._end])
        returned = shorter[: len(shorter) - len(pending)]
        # After a row of signs alone, the spaces that are removed may depend on how long it is.
        if shorter.endswith(pending) and any(map(str.isalnum, returned)):
            self._start, self._returned = start, returned


def settled(text: str) -> str:
    """Return the text without an end that the next token may change: part of a character, spaces that a tokenizer removes
    before a full stop, and the beginnings of contractions."""
    text = text.rstrip("\ufffd")
    bare = text.rstrip()
    for n in (2, 1):
        before, last = bare[: len(bare) - n], bare[len(bare) - n :]
        if before != before.rstrip() and CONTRACTION.fullmatch(last):
            return before.rstrip()
    return bare
