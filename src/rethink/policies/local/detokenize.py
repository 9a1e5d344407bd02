"""A reply's text, piece by piece, while its ids are still being sampled."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rethink.models.chat import Chat

UNSETTLED = re.compile(r"(\s+['n]?['vr]?\s*)?\ufffd*\Z")
"""The end of a text that the next token may change: half of a character, blanks that go away before a full stop, and
the beginnings of n't, 've and 're, which some tokenizers pull up to the word before."""
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""Where bytes are tokens of their own, one that is no text turns all those around it into U+FFFD."""


class Detokenizer:
    """Returns what is new in the text whenever ids are added. The pieces, joined, are the final text.

    Should a tokenizer take back what was returned (beyond what is known above), nothing more comes until it agrees again.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.text = ""
        self._special = frozenset(chat.tokenizer.all_special_ids)

    def add(self, ids: Sequence[int]) -> str:
        """Return the new text, given all ids of the reply so far; "" where the next token may change it."""
        n = len(ids)
        while n and self._is_open(ids[n - 1]):
            n -= 1
        return self._new_in(UNSETTLED.sub("", self.chat.decode(ids[:n])))

    def end(self, ids: Sequence[int]) -> str:
        """Return what is left of the text, given all ids of the whole reply."""
        return self._new_in(self.chat.decode(ids))

    def _is_open(self, token: int) -> bool:
        """Whether the text of this id depends on the next. Special tokens have no text, so bytes meet over them."""
        name = str(self.chat.tokenizer.convert_ids_to_tokens(token))
        return token in self._special or BYTE.fullmatch(name) is not None

    def _new_in(self, text: str) -> str:
        if not text.startswith(self.text):
            return ""
        new = text[len(self.text) :]
        self.text = text
        return new
