"""Incremental detokenization: a reply's text in pieces, while its ids are being sampled."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rethink.models.chat import Chat

UNSETTLED = re.compile(r"(\s+['n]?['vr]?\s*)?\ufffd*\Z")
"""The end of a text that the next token may change: part of a character, spaces that a tokenizer removes before a full
stop, and the beginnings of n't, 've and 're, which some tokenizers join to the word before."""
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""A token that is a single byte: an invalid byte turns all byte tokens around it into U+FFFD."""


class Detokenizer:
    """Returns the new text each time ids are added. The joined pieces are the final text.

    If a tokenizer changes text that was already returned (in a way not covered above), pieces are empty until the text
    starts with what was returned.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.text = ""
        self._special = frozenset(chat.tokenizer.all_special_ids)

    def add(self, ids: Sequence[int]) -> str:
        """Return the new text, given all ids of the reply so far; "" while the next token may change it."""
        n = len(ids)
        while n and self._is_open(ids[n - 1]):
            n -= 1
        return self._new_in(UNSETTLED.sub("", self.chat.decode(ids[:n])))

    def end(self, ids: Sequence[int]) -> str:
        """Return the rest of the text, given all ids of the complete reply."""
        return self._new_in(self.chat.decode(ids))

    def _is_open(self, token: int) -> bool:
        """Return whether the text of this id depends on the next ids. Special tokens count: bytes join across them."""
        name = str(self.chat.tokenizer.convert_ids_to_tokens(token))
        return token in self._special or BYTE.fullmatch(name) is not None

    def _new_in(self, text: str) -> str:
        if not text.startswith(self.text):
            return ""
        new = text[len(self.text) :]
        self.text = text
        return new
