"""Expressions of integers with + - * / and brackets: their value in exact fractions, and a normal form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

MAX_EXPRESSION = 200
"""Characters. Seven numbers of four digits with all their brackets need fewer than 80."""
MAX_DEPTH = 20

_TOKEN = re.compile(r"\s*([0-9]+|[-+*/()])")


def evaluate(text: str) -> tuple[Fraction, list[int]]:
    """Return the value of an expression, and the numbers in it.

    Raise ValueError if the text is not an expression, ZeroDivisionError if it divides by zero.
    """
    parser = _Parser(text, Fraction)
    return parser.parse(), parser.numbers


def is_expression(text: str) -> bool:
    """Return whether the text is an expression, even one that divides by zero."""
    try:
        evaluate(text)
    except ZeroDivisionError:
        return True
    except ValueError:
        return False
    return True


def normalize(text: str) -> str:
    """Return the expression without spaces and needless brackets, with terms and factors in a fixed order.

    "7*3 + 5" and "(5 + 3 * 7)" have the same normal form. Nothing is computed. Raise ValueError if the text is not an
    expression.
    """
    return str(_Parser(text, _Symbolic.number).parse())


_Factor = tuple[str, str]
"""The sign * or /, and a number or a sum in brackets."""


@dataclass(frozen=True)
class _Symbolic:
    """An expression that is not computed: terms with signs + and -, each made of factors, at least one of them with *."""

    terms: tuple[tuple[str, tuple[_Factor, ...]], ...]

    @classmethod
    def number(cls, n: int) -> _Symbolic:
        return cls((("+", (("*", str(n)),)),))

    def __neg__(self) -> _Symbolic:
        return _Symbolic(tuple(("-" if sign == "+" else "+", factors) for sign, factors in self.terms))

    def __add__(self, other: _Symbolic) -> _Symbolic:
        return _Symbolic(self.terms + other.terms)

    def __sub__(self, other: _Symbolic) -> _Symbolic:
        return self + -other

    def __mul__(self, other: _Symbolic) -> _Symbolic:
        return _Symbolic((("+", self._factors() + other._factors()),))

    def __truediv__(self, other: _Symbolic) -> _Symbolic:
        below = tuple(("/" if sign == "*" else "*", text) for sign, text in other._factors())
        return _Symbolic((("+", self._factors() + below),))

    def _factors(self) -> tuple[_Factor, ...]:
        (sign, factors), *more = self.terms
        return (("*", f"({self})"),) if more or sign == "-" else factors

    def __str__(self) -> str:
        terms = sorted(sign + "".join(map("".join, sorted(factors)))[1:] for sign, factors in self.terms)
        return "".join(terms).removeprefix("+")


N = TypeVar("N", Fraction, _Symbolic)


class _Parser(Generic[N]):
    """Parser of `sum := [-] product {(+|-) product}`, `product := atom {(*|/) atom}`, `atom := number | ( sum )`.

    `number` converts an integer to a value; `numbers` collects the integers in the text.
    """

    def __init__(self, text: str, number: Callable[[int], N]) -> None:
        if len(text) > MAX_EXPRESSION:
            raise ValueError(f"longer than {MAX_EXPRESSION} characters")
        self.numbers: list[int] = []
        self._number: Callable[[int], N] = number
        self._tokens = list(_tokens(text.rstrip()))[::-1]
        self._depth = 0

    def parse(self) -> N:
        """Return the value of the whole text. Raise ValueError if it is not an expression, ZeroDivisionError for x / 0."""
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
            raise ValueError(f"{token!r} where a number should be" if token else "it ends too early")
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
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if not token:
            raise ValueError(f"{text[position:].strip()[0]!r} is not allowed")
        yield token[1]
        position = token.end()
