"""Names: letters and words, functions by name, accents, subscripts."""

from __future__ import annotations

import re
from fractions import Fraction

from rethink.grading.formulas import blocks
from rethink.grading.formulas.cursor import Cursor
from rethink.grading.formulas.measures import currency
from rethink.grading.formulas.tokens import Token, Unreadable
from rethink.grading.formulas.tree import FUNCTIONS, Constant, Name, Node, Number, Tree
from rethink.grading.formulas.unit_table import BEFORE_NUMBERS, CURRENCY_SIGNS
from rethink.grading.formulas.wording import FUNCTION_WORDS, is_word

SAME_FUNCTION = {
    "tg": "tan",
    "ctg": "cot",
    "arctg": "arctan",
    "arcctg": "arccot",
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "arcsinh": "arsinh",
    "arccosh": "arcosh",
    "arctanh": "artanh",
    "sign": "sgn",
}
_CONSTANTS = {"infty": "infinity", "pi": "pi", "infinity": "infinity"}
_VECTORS = frozenset(("overrightarrow", "mathbf", "boldsymbol", "bm", "vec"))
_SETS = frozenset("RZQNC")
PHRASES = {"imath": "i", "jmath": "j", "ell": "l", "lbrace": "\\{"}


def letters(cursor: Cursor) -> Tree:
    token = cursor.peek()
    run = token.text
    if run in BEFORE_NUMBERS and cursor.peek(1).kind == "number" and (len(run) > 2 or run == "Rs"):
        return currency(cursor)
    if run == "US" and cursor.sees("$", ahead=1):
        cursor.take()
        return currency(cursor)
    if not run.isascii():
        cursor.take()
        return Name(run)
    function = re.match(r"(?:arc|ar|a)?(?:sin|cos|tan|cot|sec|csc)h?|sqrt|ln|log|lg|exp|pi", run)
    if run in FUNCTION_WORDS or run in SAME_FUNCTION:
        cursor.take()
        return function_or_constant(cursor, run)
    if function and len(run) == function.end() + 1 and function[0] != "pi":
        return function_or_constant(cursor, cursor.split(function.end()).text)
    if is_word(run) or (run.isupper() and len(run) > 2):
        return Name(cursor.take().text + subscript(cursor))
    return Name(cursor.split(1).text + ("" if len(run) > 1 else subscript(cursor)))


def text(cursor: Cursor) -> Tree:
    token = cursor.take()
    words = re.sub(r"\s+", " ", token.text.replace("\\", "")).strip(" ~")
    if words in CURRENCY_SIGNS or (words in BEFORE_NUMBERS and cursor.peek().kind == "number"):
        cursor.at -= 1
        return currency(cursor)
    if words in FUNCTION_WORDS or words in SAME_FUNCTION or words in FUNCTIONS:
        return function_or_constant(cursor, words)
    if not re.fullmatch(r"[^\W\d_](?:[\w .'-]*\w)?", words):
        raise Unreadable(f"the text {words[:30]!r} in a formula")
    return Name(words + subscript(cursor))


def function_or_constant(cursor: Cursor, name: str) -> Tree:
    """Return a function with its arguments, or a constant, by its name without a backslash."""
    name = SAME_FUNCTION.get(name, name)
    if name in _CONSTANTS:
        return Constant(_CONSTANTS[name])
    if name == "sqrt":
        return blocks.root(cursor)
    if name == "cis":
        [angle] = blocks.arguments(cursor)
        return Node("+", (Node("cos", (angle,)), Node("*", (Name("i"), Node("sin", (angle,))))))
    return blocks.function(cursor, name)


def figure(cursor: Cursor) -> Tree:
    """Return the letters behind \\angle or \\triangle as one name."""
    if cursor.peek().kind != "letters":
        raise cursor.unreadable()
    return Name(cursor.take().text)


def differential(cursor: Cursor, name: str) -> Tree:
    """Return the divergence, curl, gradient or Laplacian; a lone partial sign is not understood."""
    if name == "partial":
        raise Unreadable("a partial derivative sign on its own")
    kind = "gradient"
    if cursor.takes("\\cdot"):
        kind = "divergence"
    elif cursor.takes("\\times"):
        kind = "curl"
    elif cursor.takes("^"):
        if cursor.read_power() != Number(Fraction(2)):
            raise Unreadable("a power of nabla")
        kind = "Laplacian"
    return Node("apply", (Name(kind), cursor.read_power()))


def set_of_numbers(cursor: Cursor) -> Tree:
    if cursor.peek().kind != "letters" and not cursor.sees("{"):
        raise cursor.unreadable()
    letter = "".join(token.text for token in cursor.group()) if cursor.sees("{") else cursor.split(1).text
    if letter == "E":
        return Name("E")
    if letter not in _SETS:
        return Name(f"\\mathbb{{{letter}}}" + subscript(cursor))
    if cursor.sees("^", "_") and not cursor.sees("\\setminus", ahead=2):
        sign = cursor.take().text
        script = cursor.group() if cursor.sees("{") else [cursor.split(1)]
        return Constant(letter) if not script else Name(f"\\mathbb{{{letter}}}{sign}" + "".join(x.text for x in script))
    return Constant(letter)


def accented(cursor: Cursor, accent: str) -> Tree:
    """Return \\vec{v} or \\overline{AB} as one name; a bold or overlined number is just the number."""
    if cursor.peek().kind == "sign" and not cursor.sees("{"):
        raise cursor.unreadable()
    tokens = (
        cursor.group() if cursor.sees("{") else [cursor.take() if cursor.peek().kind == "command" else cursor.split(1)]
    )
    kinds = {token.kind for token in tokens}
    if kinds == {"number"} and accent in _VECTORS:
        return cursor.inside(tokens)
    if kinds == {"number"} and accent not in ("overline", "dot", "bar"):
        raise Unreadable(f"\\{accent} over a number")
    if accent in ("overline", "bar") and kinds != {"letters"}:
        return Node("conjugate", (cursor.inside(tokens),))
    if accent in _VECTORS and len(tokens) > 1 and not _is_name(tokens):
        if accent in ("mathbf", "boldsymbol", "bm"):
            return cursor.inside(tokens)
        raise Unreadable("an arrow over a formula")
    if accent in ("dot", "ddot") and not cursor.sees("_"):
        order = len(accent) - 2
        return Node("derivative", (Number(Fraction(order)), cursor.inside(tokens), *[Name("t")] * order))
    inner = "".join(PHRASES.get(token.text, token.text) for token in tokens if token.text not in _VECTORS)
    if len(inner) == 3 and inner[0] + inner[2] == "{}":  # \\hat{\\mathbf{x}}
        inner = inner[1]
    return Name(f"\\{'vec' if accent in _VECTORS else accent}{{{inner}}}" + subscript(cursor))


def _is_name(tokens: list[Token]) -> bool:
    return all(token.kind in ("letters", "command") or token.text in "_{}" for token in tokens)


def subscript(cursor: Cursor) -> str:
    """Take a subscript and return it in one spelling, as _{max}; "" if there is none."""
    if not cursor.takes("_"):
        return ""
    if cursor.sees("{"):
        tokens = cursor.group()
    else:
        tokens = [cursor.take() if cursor.peek().kind in ("number", "command", "text") else cursor.split(1)]
    text = ""
    for token in tokens:
        is_name = token.kind == "command" and token.text not in FUNCTION_WORDS
        text += ("\\" if is_name else "") + token.text.strip()
    return f"_{{{text}}}"
