"""Names, numbers and commands of LaTeX answers: what the reader finds at the bottom of its descent."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from answer_audit.latex_nodes import Node, expression, minus, number, over
from answer_audit.latex_tokens import FUNCTIONS, Unreadable

if TYPE_CHECKING:
    from answer_audit.latex import Parser

CONSTANTS = {"\\pi": "π", "\\infty": "∞", "e": "e", "i": "i"}
GREEK = re.compile(
    r"\\(?:alpha|beta|gamma|delta|(?:var)?epsilon|zeta|eta|(?:var)?theta|iota|kappa|lambda|mu|nu|xi|(?:var)?rho|sigma|tau"
    r"|upsilon|(?:var)?phi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|hbar|ell)"
)
ACCENTS = re.compile(r"\\(?:hat|bar|d?dot|tilde|overline|overrightarrow|mathbb|mathcal|widehat)")
INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "sinh": "arsinh", "cosh": "arcosh", "tanh": "artanh"}
_LONE = r"(?:- )?(?:[\d.]+|[A-Za-z]|\\[A-Za-z]+)(?: _ (?:\{ [^{}]* \}|\w+))?(?: ')*"
LONE = re.compile(rf"\( {_LONE}(?: , {_LONE})* \)")
"""The argument of a function whose name is a mere letter: numbers and names, as in x(t), I(0), f(x, y)."""


def begins_name(token: str) -> bool:
    known = token in CONSTANTS or GREEK.fullmatch(token) or ACCENTS.fullmatch(token)
    return token[:1].isalpha() or bool(known)


def name(parser: Parser, token: str) -> Node:
    """A variable with its subscript and primes, a constant, a text, or a function of a lone argument."""
    if token[0] == '"':
        return Node("name", token)
    if token in CONSTANTS and parser.next != "_":
        return Node("name", CONSTANTS[token])
    text = token.lstrip("\\")
    text += f" {_raw(parser)}" if ACCENTS.fullmatch(token) else ""
    while True:
        primes = re.match(r"\^ (\{ )?((?:(?:\\prime|') ?)+)", " ".join(parser.tokens[parser.at : parser.at + 5]))
        if parser.took("_"):
            text += f"_{_raw(parser)}"
        elif parser.took("'"):
            text += "'"
        elif primes:
            count = len(primes[2].split())
            parser.at += 1 + count + 2 * bool(primes[1])
            text += "'" * count
        else:
            break
    if LONE.match(" ".join(parser.tokens[parser.at : parser.at + 24])):
        value = parser.atom()
        return Node("opaque", text, value.parts if value.kind == "group" else (value,))
    return Node("name", text)


def _raw(parser: Parser) -> str:
    """The tokens of a group, or the next one, as text: {max }, max and 1 are names of the same kind."""
    if not parser.took("{"):
        return parser.take().strip('\\"')
    found, depth = [], 1
    while depth and parser.next:
        token = parser.take()
        depth += (token == "{") - (token == "}")
        found.append(token.strip('\\"').replace(" ", ""))
    if depth:
        raise Unreadable("the end instead of }")
    return "".join(found[:-1])


def plain_number(parser: Parser, token: str) -> Node:
    """A number; with a subscript its digits are of that base, with a line over its last ones they go on forever."""
    if "e" in token.lower() and not re.fullmatch(r".*[eE][+-]?[0-9]{1,4}", token):
        raise Unreadable("too large")
    if "." in token and parser.next in ("\\overline", "\\dot"):
        parser.take()
        period = _raw(parser)
        if not period.isdigit() or parser.next[:1].isdigit():
            raise Unreadable("a repeating decimal of an unusual form")
        places = len(token) - token.index(".") - 1
        scale = expression("power", number(10), number(places))
        nines = minus(expression("power", number(10), number(len(period))), number(1))
        return expression("sum", number(token), over(number(period), expression("product", scale, nines)))
    if token.isdigit() and parser.took("_"):
        base = _raw(parser)
        if not base.isdigit() or len(base) > 2 or not 2 <= int(base) <= 36 or int(max(token)) >= int(base):
            raise Unreadable(f"not a number of base {base}")
        return number(int(token, int(base)))
    return number(token)


def _fraction(parser: Parser, token: str) -> Node:
    return over(parser.argument(1), parser.argument(1))


def _binomial(parser: Parser, token: str) -> Node:
    return expression("binomial", parser.argument(1), parser.argument(1))


def _root(parser: Parser, token: str) -> Node:
    index = number(2)
    if parser.took("["):
        index = parser.sum()
        parser.need("]")
    return expression("root", parser.argument(), index)


def _function(parser: Parser, token: str) -> Node:
    """sin x, sin^2 x, sin^{-1} x, log_2 x; without brackets the argument ends at the next sign, function or bracket."""
    called, extra, exponent = token[1:], [], None
    while parser.next in ("_", "^"):
        if parser.take() == "^":
            exponent = parser.signed(parser.argument)
        elif called == "log":
            extra = [parser.argument()]
        else:
            raise Unreadable(f"a subscript of {called}")
    operand = parser.atom() if parser.next in ("(", "[", "{") else parser.implicit()
    if exponent == expression("product", number(-1), number(1)) and called not in ("log", "ln", "exp"):
        if called not in INVERSE:
            raise Unreadable(f"the inverse of {called}")
        called, exponent = INVERSE[called], None
    value = expression("call", operand, *extra, text=called)
    return expression("power", value, exponent) if exponent else value


def _matrix(parser: Parser, token: str) -> Node:
    rows: list[list[Node]] = [[]]
    while not parser.took("\\end"):
        if parser.took("\\\\"):
            rows.append([])
        else:
            parser.took("&")
            rows[-1].append(parser.sum())
    filled = tuple(Node("row", "", tuple(row)) for row in rows if row)
    if len({len(row.parts) for row in filled}) != 1:
        raise Unreadable("a matrix with rows of several lengths")
    return Node("matrix", "", filled)


COMMANDS: dict[str, Callable[[Parser, str], Node]] = {
    "\\frac": _fraction,
    "\\binom": _binomial,
    "\\sqrt": _root,
    "\\begin": _matrix,
}
COMMANDS |= dict.fromkeys((f"\\{known}" for known in FUNCTIONS), _function)
