"""Commands with arguments: fractions, roots, functions, sums, integrals, derivatives, matrices, cases."""

from __future__ import annotations

import re
from fractions import Fraction

from rethink.grading.formulas.brackets import environment
from rethink.grading.formulas.cursor import Cursor
from rethink.grading.formulas.tokens import Token, Unreadable
from rethink.grading.formulas.tree import FUNCTIONS, Name, Node, Number, Tree

_FRACTIONS = frozenset(["frac", "dfrac", "tfrac", "cfrac", "nicefrac", "sfrac"])
_BINOMIALS = frozenset(["binom", "dbinom", "tbinom"])
_INVERSE = {
    **{"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot"},
    **{"sinh": "arsinh", "cosh": "arcosh", "tanh": "artanh"},
}
_INVERSE_OF_RECIPROCAL = {"sec": "arccos", "csc": "arcsin", "coth": "artanh"}
COMMANDS = _FRACTIONS | _BINOMIALS | frozenset(["sqrt", "sum", "prod", "int", "lim", "begin"])


def block(cursor: Cursor, name: str) -> Tree:
    """Return the tree of a command, of which the name was taken."""
    if name in _FRACTIONS:
        return _fraction(cursor)
    if name in _BINOMIALS:
        return Node("binomial", (_argument(cursor), _argument(cursor)))
    if name == "sqrt":
        return root(cursor)
    if name in ("sum", "prod"):
        return _sum(cursor, {"sum": "sum", "prod": "product"}[name])
    if name == "int":
        return _integral(cursor)
    if name == "lim":
        return _limit(cursor)
    cursor.at -= 1
    return environment(cursor)


def _argument(cursor: Cursor) -> Tree:
    """Return an argument of a command: a group or the next sign, so that \\frac12 is a half."""
    if cursor.sees("{"):
        return cursor.inside(cursor.group())
    token = cursor.peek()
    if token.kind == "number":
        if "." in token.text or len(token.text) > 2:
            raise Unreadable("a command without braces")
        return Number(Fraction(cursor.split(1).text))
    if token.kind == "letters":
        return Name(cursor.split(1).text)
    return cursor.read_power()


def _fraction(cursor: Cursor) -> Tree:
    start = cursor.at
    if cursor.sees("{"):
        top = cursor.group()
        bottom = cursor.group() if cursor.sees("{") else []
        derivative = _derivative(cursor, top, bottom)
        if derivative is not None:
            return derivative
        cursor.at = start
    return Node("/", (_argument(cursor), _argument(cursor)))


def _derivative(cursor: Cursor, top: list[Token], bottom: list[Token]) -> Tree | None:
    """Return \\frac{d^2 y}{dx^2} or \\frac{\\partial f}{\\partial x}; None for a plain fraction."""
    sign, top, bottom = _split_d(top, bottom)
    if not sign:
        return None
    order, top = _order(top)
    variables: list[Tree] = []
    while bottom:
        end = 1
        while end < len(bottom) and bottom[end].text not in ("^", "d", "partial"):
            end += 1
        variable = bottom[:end]
        times, bottom = _order(bottom[end:])
        if variable[0].kind not in ("letters", "command") or times > 9:
            return None
        variables += [cursor.inside(variable)] * times
        if bottom and bottom[0].text not in ("d", "partial"):
            return None
        bottom = bottom[1:]
    if order != len(variables):
        raise Unreadable("a derivative with two different orders")
    function = cursor.inside(top) if top else cursor.read_power()
    return Node("partial" if sign == "partial" else "derivative", (Number(Fraction(order)), function, *variables))


def _order(tokens: list[Token]) -> tuple[int, list[Token]]:
    """Return the power that begins the tokens, as the 2 of ^2 or ^{2}, and the others; 1 if none does."""
    if not tokens or tokens[0].text != "^":
        return 1, tokens
    inner = tokens[2:] if len(tokens) > 3 and tokens[1].text == "{" and tokens[3].text == "}" else tokens[1:]
    if not inner or not re.fullmatch(r"[1-9]", inner[0].text):
        raise Unreadable("a derivative whose order is not a digit")
    return int(inner[0].text), inner[2:] if tokens[1].text == "{" else inner[1:]


def _split_d(top: list[Token], bottom: list[Token]) -> tuple[str, list[Token], list[Token]]:
    """Return the d or partial sign that begins both parts, and the parts without it; "" unless both begin so."""
    if not top or not bottom:
        return "", top, bottom
    if top[0].text == bottom[0].text == "partial":
        return "partial", top[1:], bottom[1:]
    rests = []
    for tokens in (top, bottom):
        first = tokens[0]
        if first.kind not in ("letters", "text") or not first.text.strip().startswith("d"):
            return "", top, bottom
        rest = first.text.strip()[1:]
        rests.append(([Token("letters", rest)] if rest else []) + tokens[1:])
    if (
        not rests[1]
        or rests[1][0].kind not in ("letters", "command")
        or (len(rests[1][0].text) > 1 and rests[1][0].kind == "letters")
    ):
        return "", top, bottom
    if len(rests[1]) > 1 and rests[1][1].text != "^":
        return "", top, bottom
    return "d", rests[0], rests[1]


def root(cursor: Cursor) -> Tree:
    """Return a root; people write sqrt(2) and \\sqrt12, too."""
    degree: Tree = Number(Fraction(2))
    if cursor.takes("["):
        with cursor.bracket():
            degree = cursor.read_sum()
            cursor.expect("]")
    token = cursor.peek()
    if cursor.sees("{", "("):
        inner = _group_or_brackets(cursor)
    elif token.kind == "number":
        inner = Number(Fraction(cursor.take().text))
    elif token.kind == "letters":
        inner = Name(cursor.split(1).text)
    else:
        inner = cursor.read_power()
    return Node("root", (inner, degree))


def _group_or_brackets(cursor: Cursor) -> Tree:
    if cursor.sees("{"):
        return cursor.inside(cursor.group())
    cursor.take()
    with cursor.bracket():
        inner = cursor.read_list()
        cursor.expect(")")
    return inner


def function(cursor: Cursor, name: str) -> Tree:
    """Return a function with its arguments: \\sin^2 x, \\log_2(x), \\max(a, b)."""
    base: tuple[Tree, ...] = ()
    power: Tree | None = None
    while True:
        if cursor.takes("_"):
            base = (_argument(cursor),)
        elif cursor.sees("^") and power is None:
            cursor.take()
            power = _power(cursor)
        else:
            break
    if name == "lg":
        name, base = "log", (Number(Fraction(10)),)
    if (name not in FUNCTIONS and name != "log") or (base and name != "log"):
        raise Unreadable(f"the function {name!r}")
    operands = arguments(cursor)
    if power == Node("-", (Number(Fraction(1)),)) and name in _INVERSE:
        return Node(_INVERSE[name], operands)
    if power == Node("-", (Number(Fraction(1)),)) and name in _INVERSE_OF_RECIPROCAL and len(operands) == 1:
        return Node(_INVERSE_OF_RECIPROCAL[name], (Node("/", (Number(Fraction(1)), operands[0])),))
    tree = Node(name, (*operands, *base))
    return tree if power is None else Node("^", (tree, power))


def _power(cursor: Cursor) -> Tree:
    if cursor.takes("-"):
        return Node("-", (_argument(cursor),))
    return _argument(cursor)


def arguments(cursor: Cursor) -> tuple[Tree, ...]:
    """Return the arguments of a function, with or without brackets."""
    if cursor.sees("(", "[", "\\{", "{"):
        closing = {"(": ")", "[": "]", "\\{": "\\}", "{": "}"}[cursor.take().text]
        with cursor.bracket():
            inner = cursor.read_list()
            cursor.expect(closing)
        return inner.operands if isinstance(inner, Node) and inner.operator == "," else (inner,)
    outside, cursor.in_argument = cursor.in_argument, True
    tree = _open_argument(cursor)
    cursor.in_argument = outside
    return (tree,)


def _open_argument(cursor: Cursor) -> Tree:
    """Return the argument of \\sin 2x: factors without a sign between them, up to the next bracket or function."""
    if cursor.takes("-"):
        return Node("-", (_open_argument(cursor),))
    stops = cursor.sees("|", "\\lvert")
    factors = [cursor.read_power()]
    while not stops and _goes_on(cursor):
        factors.append(cursor.read_power())
    return factors[0] if len(factors) == 1 else Node("*", tuple(factors))


def _goes_on(cursor: Cursor) -> bool:
    token = cursor.peek()
    if token.kind == "command":
        return token.text in _FRACTIONS or token.text in (
            "sqrt",
            "pi",
            "alpha",
            "beta",
            "theta",
            "phi",
            "omega",
            "lambda",
            "gamma",
            "mu",
        )
    before = cursor.previous()
    is_function = token.text in FUNCTIONS or token.text in ("log", "ln", "and", "or")
    return token.kind == "letters" and not is_function and before.kind in ("number", "letters", "command", "sign")


def _sum(cursor: Cursor, operator: str) -> Tree:
    start: Tree | None = None
    end: Tree | None = None
    while cursor.sees("_", "^"):
        if cursor.take().text == "_":
            start = _argument(cursor)
        else:
            end = _argument(cursor)
    if not (isinstance(start, Node) and start.operator == "=" and end is not None):
        raise Unreadable("a sum without bounds")
    return Node(operator, (cursor.read_product(), *start.operands, end))


def _limit(cursor: Cursor) -> Tree:
    cursor.expect("_")
    to = _argument(cursor)
    if not (isinstance(to, Node) and to.operator == "to"):
        raise Unreadable("a limit without its variable")
    return Node("limit", (cursor.read_product(), *to.operands))


def _integral(cursor: Cursor) -> Tree:
    bounds: dict[str, Tree] = {}
    while cursor.sees("_", "^"):
        which = cursor.take().text
        bounds[which] = _argument(cursor)
    term, variable = _integrand(cursor)
    if set(bounds) == {"_", "^"}:
        return Node("integral", (term, variable, bounds["_"], bounds["^"]))
    if bounds:
        raise Unreadable("an integral with one bound")
    return Node("integral", (term, variable))


def _integrand(cursor: Cursor) -> tuple[Tree, Tree]:
    """Take the integrand and dx, and return it and the variable."""
    found: list[Token] = []
    depth = 0
    while cursor.at < len(cursor.tokens):
        token = cursor.take()
        if token.kind == "sign":
            depth += {"{": 1, "(": 1, "}": -1, ")": -1}.get(token.text, 0)
        text = token.text.strip()
        if depth == 0 and token.kind in ("letters", "text") and (text == "d" or (len(text) > 1 and text[-2] == "d")):
            before, variable = (text[:-2], text[-1]) if text != "d" else ("", "")
            found += [Token("letters", before)] if before else []
            name: Tree = Name(variable) if variable else cursor.read_power()
            return (cursor.inside(found) if found else Number(Fraction(1))), name
        found.append(token)
    raise Unreadable("an integral without its variable")
