"""Text that spells a special token, such as "<|im_end|>" in a question: it is encoded as text.

Special tokens that a chat template writes must stay special. So those in messages are put between two marks before the
template sees them. After that, the marked ones are encoded as text, and everything else as always.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

OPEN, CLOSE = "\ufdd0", "\ufdd1"
"""The marks: code points that are never characters."""


class SpecialText:
    """The special tokens of a tokenizer, and their texts as ordinary tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def mark(self, text: str) -> str:
        """Return a message's text with marks around each special token that it spells."""
        return self._special.sub(rf"{OPEN}\g<0>{CLOSE}", text)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, with marked tokens as text."""
        if OPEN not in text:
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        first, *rest = self._marked.split(text)  # text, marked token, text, ...
        ids: list[int] = list(self.tokenizer.encode(first, add_special_tokens=False))
        for i, piece in enumerate(rest):
            ids += self._as_text[piece] if i % 2 == 0 else self._encode_later(piece)
        return ids

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._as_text)) or "(?!)")

    @cached_property
    def _marked(self) -> re.Pattern[str]:
        return re.compile(f"{OPEN}({self._special.pattern}){CLOSE}")

    @cached_property
    def _as_text(self) -> dict[str, list[int]]:
        """The ids of each special token's text, longest first.

        Tokenizers of whole words cannot write some of them as text; those are left out and stay special."""
        special = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        found = {}
        for token in sorted(special, key=len, reverse=True):
            ids = self._encode_later(token, split_special_tokens=True)
            if self.tokenizer.convert_tokens_to_ids(token) in ids:  # a vocabulary of words or pieces may hold it
                ids = [i for letter in token for i in self._encode_later(letter)]
            if self.tokenizer.decode(ids) == token and self.tokenizer.convert_tokens_to_ids(token) not in ids:
                found[token] = ids
        return found

    def _encode_later(self, text: str, **options: bool) -> list[int]:
        """Return the ids of a text that is not the beginning of a prompt, where some tokenizers add a space."""
        if not self._adds_space:
            return list(self.tokenizer.encode(text, add_special_tokens=False, **options))
        ids = self.tokenizer.encode(f"\n{text}", add_special_tokens=False, **options)
        newline = self.tokenizer.encode("\n", add_special_tokens=False)
        if ids[: len(newline)] != newline:
            return list(self.tokenizer.encode(text, add_special_tokens=False, **options))
        return list(ids[len(newline) :])

    @cached_property
    def _adds_space(self) -> bool:
        first = self.tokenizer.encode("a", add_special_tokens=False)
        return bool(self.tokenizer.encode("\na", add_special_tokens=False)[-len(first) :] != first)
