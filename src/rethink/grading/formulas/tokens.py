"""The tokens of an answer. Every character that means something belongs to one; dress (sizes, colors, spaces) does not.

A number is one token, with its groups of digits joined: 1,234 and 1\\,234 and 0.123\\,456, and 3{,}5 is 3.5. Letters in a
row are one token, which the parser splits."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rethink.grading.formulas.spelling import spell, word_set

MAX_TEXT = 5000
"""Longer answers (in characters) are not read."""

MAX_DIGITS = 4000
"""Longer numbers are not read; Python itself has such a limit."""


class Unreadable(Exception):
    """The text has something that is outside the grammar; the message says what."""


@dataclass(frozen=True)
class Token:
    """A piece of an answer. `kind` is number, letters, command (without its backslash), text (the content of \\text{...})
    or sign; `space` says whether a space stands before it.
    """

    kind: str
    text: str
    space: bool = False


_TEXT = word_set("text textbf textit textrm textsf texttt textnormal mathrm mbox hbox operatorname mathit mathsf rm bf")
"""Commands whose argument is text, or a name in upright letters."""
_DRESS = word_set(
    "left right middle mleft mright big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm Bigm "
    "displaystyle textstyle scriptstyle limits nolimits large Large LARGE huge Huge small tiny normalsize "
    "bf it rm mathstrut nonumber notag"
)
_DRESS_WITH_ARGUMENT = word_set("color textcolor hspace vspace phantom vphantom hphantom label tag")
_SPACES = word_set("quad qquad enspace thinspace medspace thickspace space")
_SIGNS = {"colon": ":", "pounds": "£", "textsterling": "£", "euro": "€", "yen": "¥", "texteuro": "€"}
_BLANK = r"(?:\s|~|\\[,;:! >]|\\(?:quad|qquad|thinspace|enspace)(?![a-zA-Z]))"
_GROUP = r"(?:,(?:\\! ?)?|\{,\}(?:\\!)?|\\[,;:! ]|\\thinspace|[ \u2009~])"
_GROUPED = rf"\d{{1,3}}(?:{_GROUP}\d{{3}}(?!\d))+"
_TOKEN = re.compile(
    rf"(?P<blank>{_BLANK}+)"
    rf"|(?P<grouped>{_GROUPED}(?:\.\d+)?)"
    r"|(?P<comma>\d+\{,\}\d+)"
    r"|(?P<scientific>(?:\d+(?:\.\d*)?|\.\d+)[eE][-+]?\d{1,3}(?![\d.^a-zA-Z]))"
    r"|(?P<number>\d+\.(?=[/*^])|\d+(?:\.\d+(?:(?:\\,|\u2009)\d{3})*(?:(?:\\,|\u2009)\d{1,2}(?!\d))?)?|\.\d+)"
    r"|(?P<braced>\{[:=<>]\})"
    r"|(?P<row>\\\\(?:\[[^\]]*\])?|\\newline|\\cr(?![a-zA-Z]))"
    r"|(?P<command>\\[a-zA-Z]+\*?)"
    r"|(?P<escaped>\\[^a-zA-Z])"
    r"|(?P<letters>[^\W\d_]+)"
    r"|(?P<sign>\*\*|:=|<=|>=|!=|==|.)",
    re.DOTALL,
)
_MODULE = re.compile(r"(?<![\w.\\])(?:np|numpy|math|sympy)\.(?=[a-z])")
_OPENING = ("(", "[", "\\{", ",")
_SAME = {"<=": "leq", ">=": "geq", "!=": "neq"}


def tokenize(text: str, grouped: bool = True) -> list[Token]:
    """Return the tokens of an answer. Without `grouped`, a comma never belongs to a number, as in the list 100,200.

    Raise Unreadable for a control character, braces that do not match, and too long a text or number."""
    if len(text) > MAX_TEXT:
        raise Unreadable(f"it has more than {MAX_TEXT:,} characters")
    return _tokens(_remove_dollars(_MODULE.sub("", spell(text))), grouped)


def _remove_dollars(text: str) -> str:
    """Return the text without the dollar signs around mathematics; a lone one is the currency."""
    bare = re.sub(r"\\\$", "", text)
    if bare.count("$") % 2 == 0:
        text = re.sub(r"(?<!\\)\$", " ", text)
    return re.sub(r"(?<!\\)\\[()\[\]]", " ", text)


def _tokens(text: str, grouped: bool) -> list[Token]:
    found: list[Token] = []
    at, space = 0, False
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None
        kind, piece = str(match.lastgroup), match[0]
        if kind == "grouped" and not _may_be_grouped(piece, found, grouped):
            match = re.compile(r"\d+(?:\.\d+)?").match(text, at)
            assert match is not None
            kind, piece = "number", match[0]
        at = match.end()
        if kind == "blank":
            space = True
            continue
        if kind == "command":
            token, at = _command(piece[1:].rstrip("*"), text, at)
            if token is None:
                space = True
                continue
        else:
            token = _token(kind, piece)
        found.append(Token(token.kind, token.text, space))
        space = False
    return found


def _may_be_grouped(piece: str, before: list[Token], grouped: bool) -> bool:
    if "," not in piece:
        return not piece.startswith("0")
    if piece.startswith("0") or "{,}" in piece:
        return not piece.startswith("0")
    return grouped and not (before and before[-1].text in _OPENING and before[-1].kind == "sign")


def _token(kind: str, piece: str) -> Token:
    if kind in ("number", "grouped", "comma") and len(piece) > MAX_DIGITS:
        raise Unreadable(f"a number of more than {MAX_DIGITS:,} digits")
    if kind == "grouped":
        whole, point, rest = piece.partition(".")
        return Token("number", re.sub(r"\D", "", whole) + point + rest)
    if kind == "scientific":
        return Token("number", piece.replace(".e", "e").replace(".E", "e"))
    if kind == "comma":
        return Token("number", piece.replace("{,}", "."))
    if kind == "number":
        return Token("number", re.sub(r"[^\d.]", "", piece).removesuffix("."))
    if kind == "braced":
        return Token("sign", piece[1])
    if kind == "row":
        return Token("sign", "newrow")
    if kind == "escaped":
        return Token("sign", piece if piece in ("\\{", "\\}", "\\|") else piece[1:])
    if kind == "sign":
        if piece in _SAME:
            return Token("command", _SAME[piece])
        if not piece.isprintable() or piece == "\ufffd":
            raise Unreadable("a character that is not text")
        return Token("sign", {"**": "^", "==": "="}.get(piece, piece))
    return Token(kind, piece)


def _command(name: str, text: str, at: int) -> tuple[Token | None, int]:
    """Return the token of a command and where the rest of the text begins; no token for dress."""
    if name == "not":
        negated = re.compile(rf"{_BLANK}*(=|\\in(?![a-zA-Z]))").match(text, at)
        if negated is not None:
            return Token("command", "neq" if negated[1] == "=" else "notin"), negated.end()
    if name in _SIGNS:
        return Token("sign", _SIGNS[name]), at
    if name in _SPACES:
        return None, at
    if name in _DRESS_WITH_ARGUMENT:
        group = _argument(text, at)
        return None, group[1] if group else at
    if name in _TEXT:
        group = _argument(text, at)
        if group is not None:
            return Token("text", group[0]), group[1]
    if name in ("dim", "deg"):
        return Token("letters", name), at
    if name in _DRESS:
        after = re.compile(rf"{_BLANK}*\.").match(text, at) if name in ("left", "right") else None
        return (Token("sign", "no bracket"), after.end()) if after else (None, at)
    return Token("command", name), at


def _argument(text: str, at: int) -> tuple[str, int] | None:
    """Return the content of the braces that open here, and where they end; None if none open."""
    start = re.compile(r"\s*\{").match(text, at)
    if start is None:
        return None
    depth = 1
    for brace in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start.end()):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[start.end() : brace.start()], brace.end()
    raise Unreadable("braces do not match")
