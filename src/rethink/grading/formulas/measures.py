"""Values with units: 5\\text{ cm}, 9.8\\frac{m}{s^2}, 30^\\circ, \\$12, \\SI{15}{\\metre}, 5 h 30 min."""

from __future__ import annotations

import re
from fractions import Fraction

from rethink.grading.formulas.cursor import END, Cursor
from rethink.grading.formulas.tokens import Token, Unreadable
from rethink.grading.formulas.tree import Measured, Name, Node, Number, Tree, Unit
from rethink.grading.formulas.unit_table import CURRENCY_SIGNS
from rethink.grading.formulas.units import is_followed_by_smaller, read_unit, scale, siunitx
from rethink.grading.formulas.wording import CONDITION_WORDS, FUNCTION_WORDS, IS_AMONG

_BEHIND = CONDITION_WORDS | {"and", "or", "if", "when"}
_NO_UNITS = (FUNCTION_WORDS - {"min", "sec"}) | _BEHIND
_SIGNS = {"mu": "μ", "Omega": "Ω", "ohm": "Ω", "AA": "Å", "degree": "°", "%": "%"}
_CLOSERS = (")", "]", "}", "\\}", ",", ";", "newrow", "\\end", "+", "-", "\\pm", "no bracket", "=", "<", ">", "&")
_COMMANDS_BEHIND = ("leq", "geq", "le", "ge", "neq", "in", "lor", "land", "approx", "cup", "to", "quad", "rangle", "pm")


def measured(cursor: Cursor, value: Tree) -> Tree | None:
    """Return the value with the unit or the scale word (million) that follows; None if neither does."""
    if isinstance(value, Measured) or cursor.in_argument:
        return _compound(cursor, value)
    start = cursor.at
    factor = _scale(cursor)
    if factor is not None:
        return factor if value == Number(Fraction(1)) else Node("*", (value, factor))
    first = cursor.peek()
    if cursor.takes("\\unit", "\\si"):
        return Measured(value, _siunitx(cursor))
    text, written = _unit_text(cursor)
    unit = read_unit(text, written) if text else None
    thousands = text == "K" and not first.space and not first.text.startswith((" ", "~", "\\"))
    if unit is None or thousands or not _is_last(cursor):
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
    start = cursor.at
    token = cursor.peek()
    if not isinstance(value, Measured):
        return None
    if token.kind in ("text", "letters") and token.text.strip() == "and" and cursor.peek(1).kind == "number":
        cursor.take()
    if cursor.peek().kind != "number":
        cursor.at = start
        return None
    smaller: Tree | None = _minutes(cursor) if dict(value.unit.powers).get("rad") else None
    if smaller is None:
        smaller = measured(cursor, cursor.read_power())
    if isinstance(smaller, Measured) and is_followed_by_smaller(value.unit, smaller.unit):
        return Node("+", (value, smaller))
    cursor.at = start
    return None


def _minutes(cursor: Cursor) -> Measured | None:
    """Return minutes or seconds of an angle, as in 3^\\circ 20' 15''; None for anything else."""
    start = cursor.at
    number = cursor.take()
    marks = ""
    while cursor.sees("'") or (cursor.sees("^") and cursor.sees("\\prime", "'", ahead=1)):
        cursor.at += 2 if cursor.sees("^") else 1
        marks += "'"
    unit = read_unit({"'": "′", "''": "″"}.get(marks, ""), True)
    if unit is None:
        cursor.at = start
        return None
    return Measured(Number(Fraction(number.text), len(number.text.partition(".")[2])), unit)


def _is_last(cursor: Cursor) -> bool:
    """Return whether nothing stands behind a unit that could belong to it."""
    token = cursor.peek()
    if token is END or token.kind == "number" or cursor.sees(*_CLOSERS):
        return True
    if token.kind == "command":
        return token.text in _COMMANDS_BEHIND
    return token.kind in ("text", "letters") and token.text.strip(" ,").lower() in _BEHIND


def _unit_text(cursor: Cursor, text: str = "") -> tuple[str, bool]:
    """Take what may be a unit, and return it as plain text, and whether it is set as text or stands behind a space.

    A currency in front is the begin of the unit, as in $10/hour."""
    written = bool(text)
    first = cursor.peek()
    while True:
        token = cursor.peek()
        is_prefix = text in ("k", "M", "m", "G") and token.text in ("Omega", "ohm", "Ω")
        gap = " " if text and text[-1] not in "/·μ" and not is_prefix else ""
        if token.text.strip(" ,").lower() in _NO_UNITS:
            break
        if token.kind == "text" and IS_AMONG.fullmatch(token.text.strip(" .")):
            break
        if token.kind == "text":
            text += gap + _plain(token.text)
            written = True
        elif token.kind == "letters":
            text += ("" if text.endswith(("μ", "°", "k", "M", "m")) and not token.space else gap) + token.text
            written = written or (token is first and token.space and len(token.text) > 2)  # 2 mg is 2 times m times g
        elif token.kind == "command" and token.text in _SIGNS:
            text += gap + _SIGNS[token.text]
        elif token.kind == "sign" and token.text in ("%", "°", "¢", "Ω", *CURRENCY_SIGNS):
            text += gap + token.text
        elif text and cursor.sees("/", "\\cdot", "\\times", "*") and _unit_follows(cursor):
            text += "/" if token.text == "/" else "·"
        elif text and cursor.sees("^"):
            power = _power(cursor)
            if power is None:
                break
            text += f"^{power}"
            continue
        elif cursor.sees("{"):
            group = _group(cursor)
            if group is None:
                break
            text, written = text + gap + group, True
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


def _group(cursor: Cursor) -> str | None:
    """Take {\\rm km}, and return its text; leave anything else."""
    start = cursor.at
    words = cursor.group()
    text = " ".join(token.text.strip() for token in words)
    if (
        words
        and all(token.kind in ("text", "letters") for token in words)
        and (len(text) > 1 or words[0].kind == "text")
    ):
        return text
    cursor.at = start
    return None


def _plain(text: str) -> str:
    """Return the content of \\text{...} without LaTeX: m/s$^2$ is m/s^2."""
    text = re.sub(r"\\(?:[,;:! ]|quad|cdot(?![a-z]))", " ", text)
    text = re.sub(r"\\mu(?![a-z])\s*", "μ", text)
    text = re.sub(r"\\(?:text|mathrm)(?![a-z])", "", text)
    text = text.replace("\\Omega", "Ω").replace("\\AA", "Å").replace("\\%", "%").replace("\\$", "$")
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


def ordinal(cursor: Cursor, value: Tree) -> Tree:
    """Return a value such as the 12 of 12^{th} with the thing behind it, as in 12th grade."""
    token = cursor.peek()
    unit = read_unit(token.text.strip() + "s", True) if token.kind in ("text", "letters") else None
    if unit is None:
        return value
    cursor.take()
    return Measured(value, unit)


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
    negative = cursor.takes("-")
    value = cursor.read_power()
    if negative:
        value = Node("-", (value,))
    if unit is None or isinstance(value, Name):
        raise Unreadable(f"the currency {sign[:20]!r}")
    factor = _scale(cursor, money=True)
    value = value if factor is None else Node("*", (value, factor))
    return Measured(value, _money_per(cursor, sign, unit))


def _money_per(cursor: Cursor, sign: str, unit: Unit) -> Unit:
    """Return the unit of money with what follows, as in $10 per hour and $2 million dollars."""
    start = cursor.at
    text, _ = _unit_text(cursor, sign)
    name = read_unit(text.removeprefix(sign), True)
    found = unit if name == unit else read_unit(text, True)
    if found is None or cursor.at == start or not _is_last(cursor):
        cursor.at = start
        return unit
    return found


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
    return Measured(tree, _siunitx(cursor))


def _siunitx(cursor: Cursor) -> Unit:
    """Take the unit in braces, in the commands of siunitx."""
    text = "".join(("\\" if token.kind == "command" else "") + token.text for token in cursor.group())
    unit = siunitx(text)
    if unit is None:
        raise Unreadable(f"the unit {text[:20]!r}")
    return unit
