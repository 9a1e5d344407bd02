"""A position in the tokens of an answer, for the parser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from rethink.grading.formulas.tokens import Token, Unreadable
from rethink.grading.formulas.tree import Tree

END = Token("end", "")
MAX_DEPTH = 60


class Cursor(ABC):
    """Read tokens one after another. `parse.Parser` adds the levels of the grammar."""

    def __init__(self, tokens: list[Token], depth: int = 0) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = depth
        """How many brackets are open, so that nothing recurses without end."""
        self.bars = 0
        """How many |...| are open in the innermost bracket."""
        self.in_set = False
        """Whether the innermost bracket is a set's, where a bar or colon means "such that"."""
        self.in_argument = False
        """Whether this is the argument of a function without brackets, as in \\sin 2x."""

    @abstractmethod
    def read_list(self) -> Tree:
        """Return a list, an alternative, or a single item."""

    @abstractmethod
    def read_sum(self) -> Tree:
        """Return a sum, or what is less."""

    @abstractmethod
    def read_product(self) -> Tree:
        """Return a product, or what is less."""

    @abstractmethod
    def read_power(self) -> Tree:
        """Return a power, or what stands alone."""

    def inside(self, tokens: list[Token]) -> Tree:
        """Return what the tokens of a group mean, which must be all of it."""
        inner = type(self)([*tokens], self.depth + 1)
        if inner.depth > MAX_DEPTH:
            raise Unreadable("it is nested too deeply")
        tree = inner.read_list()
        if inner.peek() is not END:
            raise inner.unreadable()
        return tree

    def peek(self, ahead: int = 0) -> Token:
        """Return the next token without taking it; END behind the last one."""
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else END

    def take(self) -> Token:
        """Return the next token; the one behind it is next."""
        token = self.peek()
        self.at += token is not END
        return token

    def previous(self) -> Token:
        """Return the token that was taken last; END if none was."""
        return self.tokens[self.at - 1] if self.at else END

    def sees(self, *texts: str, ahead: int = 0) -> bool:
        """Return whether the next token is one of these signs or commands (written with a backslash)."""
        token = self.peek(ahead)
        if token.kind == "command":
            return "\\" + token.text in texts
        return token.kind == "sign" and token.text in texts

    def takes(self, *texts: str) -> bool:
        """Take the next token if it is one of these; return whether it was."""
        found = self.sees(*texts)
        self.at += found
        return found

    def expect(self, *texts: str) -> Token:
        """Take one of these tokens, or raise Unreadable."""
        if not self.sees(*texts):
            raise self.unreadable()
        return self.take()

    def unreadable(self) -> Unreadable:
        """Return the error that the next token is not understood here."""
        token = self.peek()
        if token is END:
            return Unreadable("it ends too early")
        name = f"\\{token.text}" if token.kind == "command" else token.text
        return Unreadable(f"{name[:30]!r} is not understood here")

    @contextmanager
    def bracket(self, is_set: bool = False) -> Iterator[None]:
        """Open a bracket for the time of this context."""
        outside = self.bars, self.in_set, self.in_argument
        self.bars, self.in_set, self.in_argument = 0, is_set, False
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("it is nested too deeply")
        yield
        self.depth -= 1
        self.bars, self.in_set, self.in_argument = outside

    def group(self) -> list[Token]:
        """Take {...} and return the tokens inside."""
        self.expect("{")
        start, depth = self.at, 1
        while depth:
            token = self.take()
            if token is END:
                raise Unreadable("braces do not match")
            if token.kind == "sign":
                depth += {"{": 1, "}": -1}.get(token.text, 0)
        return self.tokens[start : self.at - 1]

    def split(self, length: int) -> Token:
        """Take the first characters of the next token; the rest of it stays."""
        token = self.take()
        if token.kind == "number" and not token.text.isdecimal():
            raise Unreadable("a command without braces")
        if len(token.text) > length:
            self.at -= 1
            self.tokens[self.at] = Token(token.kind, token.text[length:])
        return Token(token.kind, token.text[:length], token.space)
