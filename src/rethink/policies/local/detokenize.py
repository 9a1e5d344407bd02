"""A reply's text, piece by piece, while its ids are still being drawn."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rethink.models.chat import Chat

UNSETTLED = re.compile(r"(\s+['n]?['vr]?\s*)?\ufffd*\Z")
"""The end of a text that the next token may change: half of a character, blanks that go away before a full stop, and
the beginnings of n't, 've and 're, which some tokenizers pull up to the word before."""
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""Where bytes are tokens of their own, one that is no text turns all those around it into U+FFFD."""


class Pieces:
    """Tells `listen` what is new in the text whenever ids are added. The pieces, joined, are the final text.

    Should a tokenizer take back what was told (beyond what is known above), nothing more is told until it agrees again.
    """

    def __init__(self, chat: Chat, listen: Callable[[str], None]) -> None:
        self.chat = chat
        self.listen = listen
        self.told = ""
        self._special = frozenset(chat.tokenizer.all_special_ids)

    def hear(self, ids: Sequence[int]) -> None:
        """The ids of the reply so far."""
        n = len(ids)
        while n and self._is_open(ids[n - 1]):
            n -= 1
        self._tell(UNSETTLED.sub("", self.chat.decode(ids[:n])))

    def end(self, text: str) -> None:
        """The text of the whole reply."""
        self._tell(text)

    def _is_open(self, token: int) -> bool:
        """Whether the text of this id depends on the next. Special tokens have no text, so that bytes meet over them."""
        name = str(self.chat.tokenizer.convert_ids_to_tokens(token))
        return token in self._special or BYTE.fullmatch(name) is not None

    def _tell(self, text: str) -> None:
        if len(text) > len(self.told) and text.startswith(self.told):
            new, self.told = text[len(self.told) :], text
            self.listen(new)
