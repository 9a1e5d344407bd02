"""Expressions of whole numbers with + - * / and brackets: their value in exact fractions, and a normal form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

MAX_EXPRESSION = 200
"""Characters; seven numbers of four digits with all their brackets need fewer than 80."""
MAX_DEPTH = 20

_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])")


def evaluate(text: str) -> tuple[Fraction, list[int]]:
    """The value of an expression, and the numbers in it. Raises ValueError for text that is none, ZeroDivisionError for
    x / 0."""
    reader = _Reader(text, Fraction)
    return reader.value(), reader.numbers


def is_expression(text: str) -> bool:
    """Whether the text is one, be it one that divides by zero."""
    try:
        evaluate(text)
    except ZeroDivisionError:
        return True
    except ValueError:
        return False
    return True


def normal(text: str) -> str:
    """The expression without blanks and needless brackets, terms and factors in a fixed order, so that "7*3 + 5" and
    "(5 + 3 * 7)" are one. Nothing is computed. Raises ValueError for text that is no expression."""
    return str(_Reader(text, _Written.number).value())


_Factor = tuple[str, str]
"""The sign * or / and a number or a sum in brackets."""


@dataclass(frozen=True)
class _Written:
    """An expression as it is written: terms with their signs + and -, each made of factors, at least one of them a *."""

    terms: tuple[tuple[str, tuple[_Factor, ...]], ...]

    @classmethod
    def number(cls, n: int) -> _Written:
        return cls((("+", (("*", str(n)),)),))

    def __neg__(self) -> _Written:
        return _Written(tuple(("-" if sign == "+" else "+", factors) for sign, factors in self.terms))

    def __add__(self, other: _Written) -> _Written:
        return _Written(self.terms + other.terms)

    def __sub__(self, other: _Written) -> _Written:
        return self + -other

    def __mul__(self, other: _Written) -> _Written:
        return _Written((("+", self._factors() + other._factors()),))

    def __truediv__(self, other: _Written) -> _Written:
        below = tuple(("/" if sign == "*" else "*", text) for sign, text in other._factors())
        return _Written((("+", self._factors() + below),))

    def _factors(self) -> tuple[_Factor, ...]:
        (sign, factors), *more = self.terms
        return (("*", f"({self})"),) if more or sign == "-" else factors

    def __str__(self) -> str:
        terms = sorted(sign + "".join(map("".join, sorted(factors)))[1:] for sign, factors in self.terms)
        return "".join(terms).removeprefix("+")


N = TypeVar("N", Fraction, _Written)


class _Reader(Generic[N]):
    """Reads `sum := [-] product {(+|-) product}`, `product := atom {(*|/) atom}`, `atom := number | ( sum )`.

    `number` makes values of numbers; `numbers` are those it has met. Raises ValueError for text that is no expression,
    ZeroDivisionError for x / 0.
    """

    def __init__(self, text: str, number: Callable[[int], N]) -> None:
        if len(text) > MAX_EXPRESSION:
            raise ValueError(f"longer than {MAX_EXPRESSION} characters")
        self.numbers: list[int] = []
        self._number: Callable[[int], N] = number
        self._tokens = list(_tokens(text.rstrip()))[::-1]
        self._depth = 0

    def value(self) -> N:
        """The value of the whole text."""
        value = self._sum()
        if self._tokens:
            raise ValueError(f"{self._tokens[-1]!r} where an operator or the end should be")
        return value

    def _sum(self) -> N:
        value = -self._product() if self._take("-") else self._product()
        while sign := self._take("+-"):
            term = self._product()
            value = value + term if sign == "+" else value - term
        return value

    def _product(self) -> N:
        value = self._atom()
        while sign := self._take("*/"):
            factor = self._atom()
            value = value * factor if sign == "*" else value / factor
        return value

    def _atom(self) -> N:
        token = self._tokens.pop() if self._tokens else ""
        if token.isdigit():
            self.numbers.append(int(token))
            return self._number(self.numbers[-1])
        if token != "(":
            raise ValueError(f"{token!r} where a number should be" if token else "it breaks off")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ValueError(f"brackets are nested more than {MAX_DEPTH} deep")
        value = self._sum()
        if not self._take(")"):
            raise ValueError("a bracket is not closed")
        self._depth -= 1
        return value

    def _take(self, signs: str) -> str:
        return self._tokens.pop() if self._tokens and self._tokens[-1] in signs else ""


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if not token:
            raise ValueError(f"{text[at:].strip()[0]!r} is not allowed")
        yield token[1]
        at = token.end()
