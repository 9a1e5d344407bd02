"""Values with units: 5\\text{ cm}, 9.8\\frac{m}{s^2}, 30^\\circ, \\$12, \\SI{15}{\\metre}, 5 h 30 min."""

from __future__ import annotations

import re
from fractions import Fraction

from rethink.grading.formulas.cursor import END, Cursor
from rethink.grading.formulas.tokens import Token, Unreadable
from rethink.grading.formulas.tree import Measured, Name, Node, Number, Tree
from rethink.grading.formulas.units import is_followed_by_smaller, read_unit, scale, siunitx
from rethink.grading.formulas.wording import FUNCTION_WORDS

_NO_UNITS = (FUNCTION_WORDS - {"min"}) | {"and", "or", "if", "for", "when"}
_SIGNS = {"mu": "μ", "Omega": "Ω", "ohm": "Ω", "degree": "°", "circ": "°", "%": "%"}
_CLOSERS = (")", "]", "}", "\\}", ",", ";", "newrow", "\\end", "+", "-", "\\pm", "no bracket", "=", "<", ">", "&")
_COMMANDS_BEHIND = ("leq", "geq", "le", "ge", "neq", "in", "lor", "land", "approx", "cup", "to", "quad", "rangle", "pm")


def measured(cursor: Cursor, value: Tree) -> Tree | None:
    """Return the value with the unit or the scale word (million) that follows; None if neither does."""
    if isinstance(value, Measured) or cursor.in_argument:
        return _compound(cursor, value)
    start = cursor.at
    factor = _scale(cursor)
    if factor is not None:
        return factor if value == Number(factor.value) else Node("*", (value, factor))
    text, written = _unit_text(cursor)
    unit = read_unit(text, written) if text else None
    if unit is None or not _is_last(cursor):
        cursor.at = start
        return None
    return Measured(value, unit)


def _scale(cursor: Cursor, money: bool = False) -> Number | None:
    """Take a word like million (or the M of money), and return its value."""
    token = cursor.peek()
    if token.kind not in ("text", "letters"):
        return None
    first, _, rest = token.text.strip().partition(" ")
    factor = scale(first, money)
    if factor is None:
        return None
    cursor.take()
    if rest.strip():
        cursor.at -= 1
        cursor.tokens[cursor.at] = Token("text", rest.strip(), True)
    return Number(factor)


def _compound(cursor: Cursor, value: Tree) -> Tree | None:
    """Return the sum of a value in hours and one in minutes (or feet and inches) that stands right behind it."""
    if not isinstance(value, Measured) or cursor.peek().kind != "number":
        return None
    start = cursor.at
    smaller = measured(cursor, cursor.read_power())
    if isinstance(smaller, Measured) and is_followed_by_smaller(value.unit, smaller.unit):
        return Node("+", (value, smaller))
    cursor.at = start
    return None


def _is_last(cursor: Cursor) -> bool:
    """Return whether nothing stands behind a unit that could belong to it."""
    token = cursor.peek()
    if token is END or token.kind == "number" or cursor.sees(*_CLOSERS):
        return True
    if token.kind == "command":
        return token.text in _COMMANDS_BEHIND
    return token.kind in ("text", "letters") and token.text.strip(" ,").lower() in ("and", "or", "if", "for", "when")


def _unit_text(cursor: Cursor) -> tuple[str, bool]:
    """Take what may be a unit, and return it as plain text, and whether it is set as text or stands behind a space."""
    text, written = "", False
    first = cursor.peek()
    while True:
        token = cursor.peek()
        gap = " " if text and text[-1] not in "/·μ" else ""
        if token.text.strip(" ,").lower() in _NO_UNITS:
            break
        if token.kind == "text":
            text += gap + _plain(token.text)
            written = True
        elif token.kind == "letters":
            text += ("" if text.endswith(("μ", "°", "k", "M", "m")) and not token.space else gap) + token.text
            written = written or (token is first and token.space and len(token.text) > 1)
        elif token.kind == "command" and token.text in _SIGNS:
            text += gap + _SIGNS[token.text]
        elif token.kind == "sign" and token.text in ("%", "°", "€", "£", "¥", "₹", "$", "Ω"):
            text += gap + token.text
        elif text and cursor.sees("/", "\\cdot", "\\times", "*") and _unit_follows(cursor):
            text += "/" if token.text == "/" else "·"
        elif text and cursor.sees("^"):
            power = _power(cursor)
            if power is None:
                break
            text += f"^{power}"
            continue
        elif cursor.sees("\\frac", "\\dfrac", "\\tfrac"):
            fraction = _fraction(cursor)
            if fraction is None:
                break
            text, written = text + gap + fraction, True
            continue
        else:
            break
        cursor.take()
    return text.strip(" ."), written


def _plain(text: str) -> str:
    """Return the content of \\text{...} without LaTeX: m/s$^2$ is m/s^2."""
    text = re.sub(r"\\(?:[,;:! ]|quad|cdot(?![a-z]))", " ", text)
    text = re.sub(r"\\(?:mu|text|mathrm)(?![a-z])", lambda found: "μ" if found[0] == "\\mu" else "", text)
    text = text.replace("\\Omega", "Ω").replace("\\%", "%").replace("\\$", "$")
    text = re.sub(r"\^\{?(-?\d)\}?", r"^\1", text)
    return re.sub(r"[~\s]+", " ", re.sub(r"[{}$]", "", text) if "$" not in text.strip("$ ") else text).strip()


def _unit_follows(cursor: Cursor) -> bool:
    token = cursor.peek(1)
    return token.kind == "text" or (token.kind == "letters" and len(token.text) <= 4) or token.text in _SIGNS


def _power(cursor: Cursor) -> str | None:
    """Take ^2 or ^{-1}; leave anything else."""
    start = cursor.at
    cursor.take()
    tokens = cursor.group() if cursor.sees("{") else [cursor.take()]
    power = "".join(token.text for token in tokens)
    if re.fullmatch(r"-?\d", power):
        return power
    cursor.at = start
    return None


def _fraction(cursor: Cursor) -> str | None:
    """Take \\frac{\\text{m}}{\\text{s}^2}; leave a fraction that is no unit."""
    start = cursor.at
    cursor.take()
    parts: list[str] = []
    for _ in range(2):
        if not cursor.sees("{"):
            break
        inner = type(cursor)(cursor.group())
        text, written = _unit_text(inner)
        if not text or inner.peek() is not END or not written:
            break
        parts.append(text)
    if len(parts) == 2:
        return "/".join(parts)
    cursor.at = start
    return None


def percent(cursor: Cursor, value: Tree) -> Tree:
    """Return a value with the percent sign behind it."""
    cursor.take()
    unit = read_unit("%", True)
    assert unit is not None
    return Measured(value, unit)


def degree(cursor: Cursor, value: Tree) -> Tree:
    """Return a value in degrees, of angle or of temperature."""
    text = "°"
    if cursor.sees("{"):
        for token in cursor.group()[1:]:
            text += token.text.strip()
    else:
        cursor.take()
    token = cursor.peek()
    if token.kind in ("text", "letters") and token.text.strip() in ("C", "F"):
        text += cursor.take().text.strip()
    unit = read_unit(text, True)
    if unit is None:
        raise Unreadable(f"the unit {text[:20]!r}")
    return Measured(value, unit)


def currency(cursor: Cursor) -> Tree:
    """Return a value with the sign of its currency in front."""
    sign = cursor.take().text.strip().replace("\\", "")
    unit = read_unit(sign, True)
    value = cursor.read_power()
    if unit is None or isinstance(value, Name):
        raise Unreadable(f"the currency {sign[:20]!r}")
    factor = _scale(cursor, money=True)
    return Measured(value if factor is None else Node("*", (value, factor)), unit)


def siunitx_value(cursor: Cursor, name: str) -> Tree:
    """Return \\SI{15}{\\metre} and \\num{1.5e3}."""
    digits = "".join(token.text for token in cursor.group())
    number = re.fullmatch(r"(-?)(\d+(?:\.\d+)?|\.\d+)(?:e([+-]?\d{1,3}))?", digits)
    if number is None:
        raise Unreadable("a number in siunitx")
    value = Number(Fraction(f"{number[2]}e{number[3] or 0}"), len(number[2].partition(".")[2]))
    tree: Tree = Node("-", (value,)) if number[1] else value
    if name == "num":
        return tree
    text = "".join(("\\" if token.kind == "command" else "") + token.text for token in cursor.group())
    unit = siunitx(text)
    if unit is None:
        raise Unreadable(f"the unit {text[:20]!r}")
    return Measured(tree, unit)
