"""Numbers: 12, 1.5, 0.1\\overline{6}, 1011_2."""

from __future__ import annotations

import re
from fractions import Fraction

from rethink.grading.formulas.cursor import Cursor
from rethink.grading.formulas.tokens import Unreadable
from rethink.grading.formulas.tree import Number, Tree, Words
from rethink.grading.formulas.wording import based


def number(cursor: Cursor) -> Tree:
    token = cursor.take()
    if cursor.sees(".", ahead=0) and cursor.sees("\\overline", "\\dot", "\\bar", ahead=1):
        cursor.take()
        return _repeating(cursor, token.text + ".")
    if "." in token.text and cursor.sees("\\overline", "\\dot", "\\bar"):
        return _repeating(cursor, token.text)
    if cursor.takes("_"):
        if not (cursor.sees("{") or cursor.peek().kind == "number"):
            raise cursor.unreadable()
        base = cursor.inside(cursor.group()) if cursor.sees("{") else number(cursor)
        tree = based(token.text, int(base.value)) if isinstance(base, Number) else None
        if tree is None:
            raise Unreadable("a number with a subscript")
        return tree
    _, _, decimals = token.text.partition(".")
    if re.fullmatch(r"0\d", token.text) and cursor.at > 1 and cursor.tokens[cursor.at - 2].text == ":":
        return Words(token.text)  # minutes, as in 7:05
    return Number(Fraction(token.text), len(decimals))


def _repeating(cursor: Cursor, written: str) -> Tree:
    """Return the value of 0.1\\overline{6} or 0.\\dot{1}4285\\dot{7}."""
    first = cursor.take().text
    period = _digits(cursor)
    if first == "dot" and cursor.peek().kind == "number":
        period += cursor.take().text
    if first == "dot" and cursor.takes("\\dot"):
        period += _digits(cursor)
    _, _, fixed = written.partition(".")
    if not period.isdecimal() or (not fixed.isdecimal() and fixed):
        raise Unreadable("a repeating decimal without digits")
    value = Fraction(written.rstrip(".")) + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return Number(value, len(fixed) + len(period))


def _digits(cursor: Cursor) -> str:
    if cursor.sees("{"):
        return "".join(token.text for token in cursor.group())
    return cursor.split(1).text
