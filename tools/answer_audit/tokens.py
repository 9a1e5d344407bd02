"""The tokenizer of LaTeX answers.

A token is a number (1234.5), a letter, a sign, a command (one for all variants, as \\frac for \\dfrac), or a text, which
starts with a quotation mark ("cm). Spacing, sizes, fonts and dollar signs are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

FUNCTIONS = {"sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "ln", "log", "exp"}
FUNCTIONS |= {"arcsin", "arccos", "arctan", "arsinh", "arcosh", "artanh"}
ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "arcsinh": "arsinh", "arctanh": "artanh"}
WORDS = {"and": ",", "or": ",", "pi": "\\pi", "sqrt": "\\sqrt", "infinity": "\\infty", "infty": "\\infty"}
UNITS = {
    "cm",
    "mm",
    "km",
    "kg",
    "mph",
    "hours",
    "minutes",
    "seconds",
    "days",
    "years",
    "degrees",
    "meters",
    "inches",
    "feet",
}
UNITS |= {"units", "cents", "dollars"}
SYNONYMS = {"**": "^", "%": "\\%", "\\lbrace": "\\{", "\\rbrace": "\\}", "\\|": "|", "\\ast": "*"}
SYNONYMS |= dict.fromkeys(("\\vert", "\\lvert", "\\rvert"), "|")
SYNONYMS |= {f"\\{size}{what}": f"\\{what}" for size in "tdc" for what in ("frac", "binom")}
GLYPHS = str.maketrans(
    {
        "÷": "/",
        "π": r"\pi ",
        "∞": r"\infty ",
        "°": r"\degree ",
        "√": r"\sqrt ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
    }
    | {"±": r"\pm ", "∈": r"\in ", "²": "^2", "³": "^3", "$": " "}
    | {"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "\N{MULTIPLICATION SIGN}": "*", "\N{MIDDLE DOT}": "*"}
    | {"\N{UNION}": r"\cup ", "\N{NO-BREAK SPACE}": " ", "\N{RIGHT SINGLE QUOTATION MARK}": "'"}
)

_TEXT = r"\\(?P<font>text[a-z]*|[mh]box|mathrm|mathit|mathsf|operatorname\*?)\s*\{(?P<text>[^{}]*)\}"
_SPACE = (
    r"(?P<space>\s+|~|\\[,;:!> ]|\\(?:left|right)(?![A-Za-z])(?:\s*\.)?|\\(?:q?quad|displaystyle|textstyle|limits|mathbf"
    r"|boldsymbol|bm|vec|angle|underline|large|Large|[bB]igg?[lrm]?)(?![A-Za-z]))"
)
_END = r"(?:\.\d+)?(?![\d.])"
_GROUPS = r"\d{1,3}(?:(?:,?\\!\s*|\{,\}|\\,|\\ |~| )\d{3})+" + _END
_COMMAS = r"\d{1,3}(?:,\d{3})+" + _END
_PLAIN = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_REST = (
    r"(?P<begin>\\begin\s*\{(?:[pb]?matrix|smallmatrix|array)\}(?:\s*\{[lcr|]*\})?)|(?P<end>\\end\s*\{[a-z]+\})|(?P<row>\\\\)"
    r"|(?P<word>(?:np\.|math\.)?[A-Za-z]{2,})|(?P<sign>\\[A-Za-z]+|\\[{}%|]|\*\*|[A-Za-z]|[-+*/^_=<>(){}\[\],;!'|&%])"
)


def _lexer(number: str) -> re.Pattern[str]:
    return re.compile("|".join([f"(?P<number>{number})", _TEXT, _SPACE, _REST]), re.ASCII)


_PLAIN_LEXER = _lexer(_PLAIN)
_LEXERS = {True: _lexer(f"{_GROUPS}|{_COMMAS}|{_PLAIN}"), False: _lexer(f"{_GROUPS}|{_PLAIN}")}


class Unreadable(Exception):
    """The text cannot be parsed, or the comparison is undecided; the message says why."""


Thousands = Literal["outside", "nowhere", "everywhere"]


def tokenize(text: str, thousands: Thousands = "outside") -> Iterator[str]:
    """Yield the tokens of a text. `thousands` says where, relative to brackets, 100,200 is one number. Raise Unreadable."""
    text = re.sub(r"^\s*\\[(\[]|\\[)\]]\s*$|\\\$", " ", text).translate(GLYPHS).rstrip()
    if text.endswith(".."):
        raise Unreadable("it continues with dots")
    text = text.rstrip(" \n\t.,;")
    at = depth = 0
    token = ""
    while at < len(text):
        joined = thousands == "everywhere" or (thousands == "outside" and depth == 0)
        alone = token in ("_", "^", "\\frac", "\\sqrt")  # log_7 343 has no 7343 in it
        lexer = _PLAIN_LEXER if alone else _LEXERS[joined]
        found = lexer.match(text, at)
        if found is None:
            raise Unreadable(f"no such sign: {text[at : at + 10]!r}")
        at = found.end()
        for token in _tokens_of(found):
            depth += (token in ("(", "[", "\\{")) - (token in (")", "]", "\\}"))
            yield token


def _tokens_of(found: re.Match[str]) -> Iterator[str]:
    what, token = found.lastgroup, found.group()
    if what == "number":
        yield re.sub(r"[^\d.eE+-]", "", token)
    elif what == "text":
        yield from _text(found["font"], found["text"].replace("~", " ").strip())
    elif what == "word":
        yield from _word(token)
    elif what == "sign":
        yield SYNONYMS.get(token, token)
    elif what != "space":
        yield {"begin": "\\begin", "end": "\\end", "row": "\\\\"}[str(what)]


def _text(font: str, words: str) -> Iterator[str]:
    name = ALIASES.get(words, words)
    if not re.search("[A-Za-z]", words):
        yield from tokenize(words)
    elif words.strip(" ,").lower() in ("and", "or"):
        yield ","
    elif name in FUNCTIONS:
        yield f"\\{name}"
    elif not font.startswith("text") and words in ("e", "i", "d"):
        yield words
    else:
        yield f'"{words}'


def _word(letters: str) -> Iterator[str]:
    """Yield the tokens of a run of letters: a product of variables, unless it is a known word."""
    name = letters.split(".")[-1]
    name = ALIASES.get(name, name)
    if name in FUNCTIONS:
        yield f"\\{name}"
    elif name in WORDS:
        yield WORDS[name]
    elif name in UNITS:
        yield f'"{name}'
    elif "." in letters:
        raise Unreadable(f"no such function: {letters}")
    else:
        yield from name
