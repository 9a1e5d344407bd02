"""One spelling for what is written in several ways: blanks, sizes, fractions, powers, units, Unicode signs.

Normalising never changes a value: "1 2" does not become 12, nor 1\\frac{1}{2} a product.
"""

from __future__ import annotations

import re
from fractions import Fraction

_SIGNS = str.maketrans(
    {
        **{
            "−": "-",
            "–": "-",
            "×": r"\times ",
            "·": r"\cdot ",
            "⋅": r"\cdot ",
            "÷": "/",
            "π": r"\pi ",
            "∞": r"\infty ",
        },
        **{"≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "∈": r"\in ", "∪": r"\cup ", "±": r"\pm ", "≈": r"\approx "},
        **{"°": "", "√": r"\sqrt", "θ": r"\theta ", "\u00a0": " ", "\u2009": " ", "~": " "},
        **{"²": "^{2}", "³": "^{3}", "⁴": "^{4}", "⁵": "^{5}", "⁶": "^{6}", "⁷": "^{7}", "⁸": "^{8}", "⁹": "^{9}"},
    }
)
_SPELLINGS = (
    (re.compile(r"\\\\(?:\[[^\]]*\])?"), r"\\newrow "),
    (re.compile(r"\bnp\.(?=[a-z])"), r"\\"),
    (re.compile(r"\\(?:[dtc]frac)(?![a-zA-Z])"), r"\\frac"),
    (
        re.compile(r"\\(?:displaystyle|textstyle|limits|[Bb]igg?[lrm]?|left|right|bigl|bigr|mleft|mright)(?![a-zA-Z])"),
        "",
    ),
    (re.compile(r"\\q?quad(?![a-zA-Z])"), " "),
    (re.compile(r"\\geqslant(?![a-zA-Z])|\\ge(?![a-zA-Z])"), r"\\geq "),
    (re.compile(r"\\leqslant(?![a-zA-Z])|\\le(?![a-zA-Z])"), r"\\leq "),
    (re.compile(r"\\ne(?![a-zA-Z])"), r"\\neq "),
    (re.compile(r"\\lbrace(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\l(?:vert|Vert)(?![a-zA-Z])|\\r(?:vert|Vert)(?![a-zA-Z])|\\\|"), "|"),
    (re.compile(r"\^ *(?:\{ *\\circ *\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z])"), ""),
    (re.compile(r"\\(?:bmod|mod|pmod)(?![a-zA-Z])"), r"\\mod "),
    (re.compile(r"\\(?:mathrm|mathbf|boldsymbol|mathit|mbox|textbf|textrm|textit|operatorname\*?)(?= *\{)"), r"\\text"),
    (re.compile(r"\\text *\{\s*(?:,?\s*(?:and|or)\s*|,\s*)\}|(?<=[\s\d}\)])(?:and|or)(?=[\s\d\\(])"), ","),
    (re.compile(r"\^ *\{? *(?:\\text *\{ *)?(?:st|nd|rd|th)\b *\}? *\}?"), ""),
    (re.compile(r"\\\$|\$|\\[()\[\]]"), ""),
    (re.compile(r"(?<=[_^])\s*(\w|\\[a-zA-Z]+)"), r"{\1}"),
    (re.compile(r"\\frac *(\d) *(\d)(?!\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac *(\d)(?= *\{)"), r"\\frac{\1}"),
    (re.compile(r"(\\frac *\{[^{}]*\}) *(\d)(?!\d)"), r"\1{\2}"),
    (re.compile(r"\\sqrt *(\d+|[a-zA-Z])(?![a-zA-Z])"), r"\\sqrt{\1}"),
    (re.compile(r"^\s*(?:the answer is|answer\s*[:=])", re.IGNORECASE), ""),
)
_BLANK = r"(?:\\[!,;:> ]|\s)"
_THOUSANDS = re.compile(rf"(?<![\d.,])\d{{1,3}}(?:(?:,(?:\\!)?{_BLANK}*|\{{,\}}|\\[,!;: ]{_BLANK}*| )\d{{3}})+(?![\d])")
_BLANKS = re.compile(rf"(?<!\d){_BLANK}++|{_BLANK}++(?!\d)")
"""A blank between digits stays, so that 1 2 is not 12; after a command the letters that follow are kept apart by it."""
_COMMAND_BLANK = re.compile(rf"(\\[a-zA-Z]+){_BLANK}+(?=[a-zA-Z])")
_UNIT = re.compile(
    r"^(?P<value>.*[\d})%!])(?P<unit>(?:[-/\s*]|\\cdot|\\[,;: ]|\\text *\{[^{}\d]*\}(?:\^\{-?\d\})?)*"
    r"\\text *\{[^{}\d]*\}(?:\^\{-?\d\})?)$"
)
_PLAIN_UNIT = re.compile(
    r"^(?P<value>[-+]?[\d.,]*\d%?) +(?P<unit>(?!(?:and|or)\b)[a-zA-Z]{2,}[a-zA-Z /.]*(?:\^\{\d\})?)$"
)
_MIXED = re.compile(r"(-?)(\d+) *\\frac\{(\d+)\}\{(\d+)\}")
_FRACTION = re.compile(r"([-+]?)\\frac\{([-+]?\d+(?:\.\d+)?)\}\{([-+]?\d+(?:\.\d+)?)\}")
_POWER_OF_TEN = re.compile(r"([-+]?)(?:(\d+(?:\.\d*)?|\.\d+)(?:\\times|\\cdot))?10\^\{([-+]?\d{1,3})\}")
_DECIMAL = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,3})?", re.IGNORECASE)
MAX_NUMBER = 400
"""Digits beyond which a number is left to the comparison as text."""


def normalise(answer: str) -> str:
    """The answer in one spelling, without its unit; see `unit`."""
    text = _spell(answer)
    return _tidy(_UNIT.sub(r"\g<value>", _PLAIN_UNIT.sub(r"\g<value>", text)))


def unit(answer: str) -> str:
    """The unit behind a value, its letters in one spelling; "" where there is none."""
    text = _spell(answer)
    found = _UNIT.match(text) or _PLAIN_UNIT.match(text)
    if not found:
        return ""
    letters = re.sub(r"\\(?:text|cdot)|square(?=[a-z ])", "", found["unit"])
    return re.sub(r"[^a-zA-Z0-9/]", "", letters).removesuffix("s").lower()


def words(answer: str) -> str | None:
    """The words of an answer that is text, `\\text{Evelyn}`, in small letters; the letter of `\\text{(C) Plane}`; None for
    formulas."""
    text = _spell(answer)
    inner = re.sub(r"\\text *\{([^{}]*)\}", r"\1", text)
    if inner == text and not re.fullmatch(r"\(?[A-Za-z]\)?|[A-Za-z][a-z' -]{2,}[A-Za-z.]*", text):
        return None
    choice = re.match(r"\(([A-Za-z])\)", inner)
    plain = choice[1].lower() if choice else re.sub(r"[^a-z]", "", inner.lower())
    return plain if re.fullmatch(r"[A-Za-z' .,()-]+", inner) and plain else None


def number(text: str) -> Fraction | None:
    """The exact value of a normalised integer, decimal, 1.5e-3, a/b, \\frac{a}{b} or mixed number, with or without %."""
    text = text.removesuffix("%")
    if len(text) > MAX_NUMBER or not text.isascii():
        return None
    mixed = _MIXED.fullmatch(text)
    if mixed:
        sign, whole, top, bottom = mixed.groups()
        return _divide(f"{sign}{int(whole) * int(bottom) + int(top)}", bottom)
    fraction = _FRACTION.fullmatch(text)
    if fraction:
        value = _divide(fraction[2], fraction[3])
        return -value if value is not None and fraction[1] == "-" else value
    power = _POWER_OF_TEN.fullmatch(text)
    if power:
        return Fraction(f"{power[1]}{(power[2] or '1').removesuffix('.')}e{power[3]}")
    top, slash, bottom = text.partition("/")
    if _DECIMAL.fullmatch(top) and (not slash or re.fullmatch(r"\d+\.?", bottom)):
        return _divide(top, bottom or "1")
    return None


def _divide(top: str, bottom: str) -> Fraction | None:
    below = Fraction(bottom.removesuffix("."))
    return Fraction(top.replace(".e", "e").replace(".E", "e").removesuffix(".")) / below if below else None


def _spell(answer: str) -> str:
    text = answer.strip().translate(_SIGNS)
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    return text.strip().rstrip(".").strip()


def _tidy(text: str) -> str:
    text = text.replace(r"\%", "%")
    text = _THOUSANDS.sub(lambda found: re.sub(r"[^\d]", "", found[0]), text)
    text = _COMMAND_BLANK.sub(r"\1\0", text)
    return _BLANKS.sub("", text).replace("\0", " ").removesuffix(".")
