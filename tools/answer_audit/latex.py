"""A small parser of LaTeX answers: text -> tree. It knows what answers look like, not what they mean.

    x = 1 \\pm \\frac12  ->  relation = (name x, sum (number 1, product (name ±, product (number 1, inverse (number 2)))))

Where LaTeX is ambiguous, common habits decide: `x(t)` with a name as argument is a function, `n(n-1)` a product; `2^10` is
1024; `1\\frac{1}{2}` is a mixed number; a text after a number is its unit. Where habits differ (`1/2x`; `100,200`),
`ParseOptions` chooses. Anything else raises Unreadable; the parser never guesses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from answer_audit.nodes import Node, expression, number, quotient, subtract
from answer_audit.tokens import FUNCTIONS, Thousands, Unreadable, tokenize

MAX_CHARACTERS = 2000
MAX_TOKENS = 600
MAX_NESTING = 24

RELATIONS = {"=": "=", "<": "<", ">": ">", "\\lt": "<", "\\gt": ">", "\\in": "in", "\\approx": "~", "\\ne": "!="}
RELATIONS |= {"\\le": "<=", "\\leq": "<=", "\\leqslant": "<=", "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">="}
RELATIONS |= {"\\neq": "!="}
SIGNS = {"+": None, "-": "-", "\\pm": "±", "\\mp": "∓"}
DIGITS = "0123456789."
TIMES = {"*", "\\cdot", "\\times"}
DIVIDE = {"/", "\\div"}
CLOSING = {"(": {")", "]"}, "[": {")", "]"}, "\\{": {"\\}"}, "{": {"}"}, "|": {"|"}}
CLOSING |= {"\\lfloor": {"\\rfloor"}, "\\lceil": {"\\rceil"}}
CONSTANTS = {"\\pi": "π", "\\infty": "∞", "e": "e", "i": "i"}
GREEK = re.compile(
    r"\\(?:alpha|beta|gamma|delta|(?:var)?epsilon|zeta|eta|(?:var)?theta|iota|kappa|lambda|mu|nu|xi|(?:var)?rho|sigma|tau"
    r"|upsilon|(?:var)?phi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|hbar|ell)"
)
ACCENTS = re.compile(r"\\(?:hat|bar|d?dot|tilde|overline|overrightarrow|mathbb|mathcal|widehat)")
INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "sinh": "arsinh", "cosh": "arcosh", "tanh": "artanh"}
_NAME_ARGUMENT = r"(?:- )?(?:[\d.]+|[A-Za-z]|\\[A-Za-z]+)(?: _ (?:\{ [^{}]* \}|\w+))?(?: ')*"
NAME_ARGUMENTS = re.compile(rf"\( {_NAME_ARGUMENT}(?: , {_NAME_ARGUMENT})* \)")
"""The arguments of a function named by a letter: numbers and names, as in x(t), I(0), f(x, y)."""
KINDS = {"|": "abs", "\\lfloor": "floor", "\\lceil": "ceil"}


@dataclass(frozen=True)
class ParseOptions:
    """`thousands`: where 100,200 is one number. `tight`: a/bc is a/(bc)."""

    thousands: Thousands = "outside"
    tight: bool = False


def parse(text: str, options: ParseOptions | None = None) -> tuple[Node, frozenset[str]]:
    """Return the tree of an answer, and the units after its numbers. Raise Unreadable."""
    if len(text) > MAX_CHARACTERS:
        raise Unreadable("too long")
    how = options or ParseOptions()
    found = list(tokenize(text, how.thousands))
    if len(found) > 1 and re.fullmatch(r'"\(?[A-J]\)?[.:]?', found[0]) and found[1] not in RELATIONS:
        found = found[1:]  # the letter of a choice in front of its value
    if not 0 < len(found) <= MAX_TOKENS:
        raise Unreadable("too long" if found else "empty")
    if all(token[0] == '"' for token in found):
        return Node("words", " ".join(token[1:] for token in found)), frozenset()
    parser = Parser(found, how.tight)
    return parser.parse(), frozenset(parser.units)


class Parser:
    """Recursive descent, one method per level of precedence; `position` is that of the next token."""

    def __init__(self, found: list[str], tight: bool) -> None:
        self.tokens = [*found, ""]
        self.tight = tight
        self.position = self.nesting = 0
        self.in_bars = False
        self.units: set[str] = set()

    def parse(self) -> Node:
        items = self.comma_separated()
        if self.next:
            raise Unreadable(f"cannot continue at {self.next}")
        return items[0] if len(items) == 1 else Node("list", "", tuple(items))

    @property
    def next(self) -> str:
        return self.tokens[self.position]

    def advance(self) -> str:
        """Return the next token and move past it; "" at the end, however often."""
        token = self.next
        self.position += bool(token)
        return token

    def accept(self, token: str) -> bool:
        """Return whether the next token is this one; if so, move past it."""
        self.position += (found := self.next == token)
        return found

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise Unreadable(f"{self.next or 'the end'} instead of {token}")

    def comma_separated(self) -> list[Node]:
        found = [self.relation()]
        while self.next in (",", ";"):
            self.advance()
            found.append(self.relation())
        return found

    def relation(self) -> Node:
        sides, signs = [self.union()], []
        while self.next in RELATIONS:
            signs.append(RELATIONS[self.advance()])
            sides.append(self.union())
        if signs and signs[-1] == "~":  # "1/3 = 0.33...": what is exact counts, and a name says nothing
            named = len(sides) == 2 and sides[0].kind in ("name", "opaque")
            sides, signs = (sides, ["="]) if named else (sides[:-1], signs[:-1])
        if "in" in signs:
            return sides[-1]
        return Node("relation", " ".join(signs), tuple(sides)) if signs else sides[0]

    def union(self) -> Node:
        parts = [self.sum()]
        while self.accept("\\cup"):
            parts.append(self.sum())
        return parts[0] if len(parts) == 1 else Node("union", "", tuple(parts))

    def sum(self) -> Node:
        terms = [self.signed(self.product)]
        while self.next in SIGNS:
            terms.append(self.signed(self.product))
        return expression("sum", *terms) if len(terms) > 1 else terms[0]

    def signed(self, operand: Callable[[], Node]) -> Node:
        signs: list[Node] = []
        while self.next in SIGNS:
            sign = SIGNS[self.advance()]
            signs += [number(-1)] if sign == "-" else [Node("name", sign)] if sign else []
        value = operand()
        return expression("product", *signs, value) if signs else value

    def product(self) -> Node:
        factors = [self.power()]
        while True:
            if self.next in TIMES:
                self.advance()
                factors.append(self.signed(self.power))
            elif self.next in DIVIDE:
                self.advance()
                factors.append(
                    expression("inverse", self.implicit_product() if self.tight else self.signed(self.power))
                )
            elif self.next.startswith('"'):
                self.unit()
            elif self.starts_factor():
                self.implicit_factor(factors)
            else:
                return expression("product", *factors) if len(factors) > 1 else factors[0]

    def implicit_product(self) -> Node:
        """Return factors without a sign between them, up to a function or a bracket that could start its argument."""
        factors = [self.signed(self.power)]
        while self.starts_factor() and self.next[1:] not in FUNCTIONS and self.next not in ("(", "["):
            factors.append(self.power())
        return expression("product", *factors)

    def starts_factor(self) -> bool:
        """Return whether the next token starts a factor."""
        token = self.next
        if token == "|":
            return not self.in_bars
        return starts_name(token) or token in CLOSING or token in COMMANDS or (token != "" and token[0] in DIGITS)

    def implicit_factor(self, factors: list[Node]) -> None:
        """Append a factor that follows without a sign; a whole number and a fraction of numbers are a mixed number."""
        before, token = self.tokens[self.position - 1], self.next
        value = self.power()
        if token[0] in DIGITS and before[0] in DIGITS:
            if not (
                before.isdigit() and token.isdigit() and self.next == "/" and self.tokens[self.position + 1].isdigit()
            ):
                raise Unreadable("two numbers side by side")
            self.advance()
            value = quotient(value, self.power())
        elif not (token == "\\frac" and before.isdigit() and factors[-1].kind == "number" and _of_numbers(value)):
            factors.append(value)
            return
        factors[-1] = expression("sum", factors[-1], value)

    def unit(self) -> None:
        """Read a text after a factor, with its powers and quotients. Nothing may follow it in a product."""
        start = self.position
        while self.next.startswith('"') or self.next in DIVIDE | TIMES | {"^"}:
            if self.advance() == "^":
                self.argument()
        self.units.add(re.sub(r"[^a-z0-9/]|s\b", "", " ".join(self.tokens[start : self.position]).lower()))
        if self.starts_factor():
            raise Unreadable("words amid mathematics")

    def power(self) -> Node:
        value = self.atom()
        raised = False
        while self.next in ("^", "!", "\\%", "\\degree"):
            sign = self.advance()
            if sign == "!":
                value = expression("double" if self.accept("!") else "factorial", value)
            elif sign != "^":
                value = expression("product", value, Node("name", {"\\%": "%", "\\degree": "°"}[sign]))
            elif raised:
                raise Unreadable("two exponents")
            else:
                value, raised = self.exponent(value), True
        return value

    def exponent(self, base: Node) -> Node:
        ahead = "".join(self.tokens[self.position : self.position + 3])
        if circle := re.match(r"\{?\\(?:circ|degree)\}?", ahead):
            self.position += 3 if circle.group()[0] == "{" else 1
            return expression("product", base, Node("name", "°"))
        if re.match(r'\{"(?:st|nd|rd|th)\}', ahead):
            self.position += 3
            return base
        return expression("power", base, self.signed(self.argument))

    def argument(self, digits: int | None = None) -> Node:
        """Return what a command or an exponent applies to: a group, or the next token (of a number, so many digits)."""
        token = self.next
        if digits is not None and token.isdigit() and len(token) > digits:
            self.tokens[self.position] = token[digits:]
            return number(token[:digits])
        if token[:1].isalpha() and token not in CONSTANTS:
            return Node("name", self.advance())
        return number(self.advance()) if token[:1].isdigit() else self.atom()

    def atom(self) -> Node:
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise Unreadable("nested too deeply")
        token = self.advance()
        if token in COMMANDS:
            value = COMMANDS[token](self, token)
        elif token in CLOSING:
            value = self.bracket(token)
        elif token and token[0] in DIGITS:
            value = self.plain_number(token)
        elif starts_name(token) or token[:1] == '"':
            value = self.name(token)
        else:
            raise Unreadable(f"cannot read {token or 'what ends here'}")
        self.nesting -= 1
        return value

    def bracket(self, opening: str) -> Node:
        """Return what is between brackets: for (), [], {} around a single expression, that expression."""
        outside, self.in_bars = self.in_bars, opening == "|"
        items = [] if opening == "\\{" and self.next == "\\}" else self.comma_separated()
        closing = self.advance()
        self.in_bars = outside
        if closing not in CLOSING[opening]:
            raise Unreadable(f"{closing or 'the end'} closes {opening}")
        if opening == "\\{":
            return Node("set", "", tuple(items))
        if opening in KINDS and len(items) == 1:
            return expression(KINDS[opening], *items)
        if len(items) == 1 and opening + closing in ("{}", "()", "[]"):
            return items[0]
        if len(items) > 1 and opening in ("(", "["):
            return Node("group", opening + closing, tuple(items))
        raise Unreadable(f"brackets {opening}{closing} around {len(items)}")

    def name(self, token: str) -> Node:
        """Return a variable with its subscript and primes, a constant, a text, or a function of names."""
        if token[0] == '"':
            return Node("name", token)
        if token in CONSTANTS and self.next != "_":
            return Node("name", CONSTANTS[token])
        text = token.lstrip("\\")
        text += f" {self.raw_text()}" if ACCENTS.fullmatch(token) else ""
        while True:
            primes = re.match(
                r"\^ (\{ )?((?:(?:\\prime|') ?)+)", " ".join(self.tokens[self.position : self.position + 5])
            )
            if self.accept("_"):
                text += f"_{self.raw_text()}"
            elif self.accept("'"):
                text += "'"
            elif primes:
                count = len(primes[2].split())
                self.position += 1 + count + 2 * bool(primes[1])
                text += "'" * count
            else:
                break
        if NAME_ARGUMENTS.match(" ".join(self.tokens[self.position : self.position + 24])):
            value = self.atom()
            return Node("opaque", text, value.parts if value.kind == "group" else (value,))
        return Node("name", text)

    def raw_text(self) -> str:
        """Return the tokens of a group, or the next one, as text: {max }, max and 1 are names of the same kind."""
        if not self.accept("{"):
            return self.advance().strip('\\"')
        found, depth = [], 1
        while depth and self.next:
            token = self.advance()
            depth += (token == "{") - (token == "}")
            found.append(token.strip('\\"').replace(" ", ""))
        if depth:
            raise Unreadable("the end instead of }")
        return "".join(found[:-1])

    def plain_number(self, token: str) -> Node:
        """Return a number. A subscript is its base; a line over its last digits means that they repeat."""
        if "e" in token.lower() and not re.fullmatch(r".*[eE][+-]?[0-9]{1,4}", token):
            raise Unreadable("too large")
        if "." in token and self.next in ("\\overline", "\\dot"):
            self.advance()
            period = self.raw_text()
            if not period.isdigit() or self.next[:1].isdigit():
                raise Unreadable("a repeating decimal of an unusual form")
            places = len(token) - token.index(".") - 1
            scale = expression("power", number(10), number(places))
            nines = subtract(expression("power", number(10), number(len(period))), number(1))
            return expression("sum", number(token), quotient(number(period), expression("product", scale, nines)))
        if token.isdigit() and self.accept("_"):
            base = self.raw_text()
            if not base.isdigit() or len(base) > 2 or not 2 <= int(base) <= 36 or int(max(token)) >= int(base):
                raise Unreadable(f"not a number of base {base}")
            return number(int(token, int(base)))
        return number(token)

    def fraction(self, token: str) -> Node:
        return quotient(self.argument(1), self.argument(1))

    def binomial(self, token: str) -> Node:
        return expression("binomial", self.argument(1), self.argument(1))

    def root(self, token: str) -> Node:
        index = number(2)
        if self.accept("["):
            index = self.sum()
            self.expect("]")
        return expression("root", self.argument(), index)

    def function(self, token: str) -> Node:
        """Return sin x, sin^2 x, sin^{-1} x or log_2 x. Without brackets the argument ends at the next sign, function or
        bracket.
        """
        called, extra, exponent = token[1:], [], None
        while self.next in ("_", "^"):
            if self.advance() == "^":
                exponent = self.signed(self.argument)
            elif called == "log":
                extra = [self.argument()]
            else:
                raise Unreadable(f"a subscript of {called}")
        operand = self.atom() if self.next in ("(", "[", "{") else self.implicit_product()
        if exponent == expression("product", number(-1), number(1)) and called not in ("log", "ln", "exp"):
            if called not in INVERSE:
                raise Unreadable(f"the inverse of {called}")
            called, exponent = INVERSE[called], None
        value = expression("call", operand, *extra, text=called)
        return expression("power", value, exponent) if exponent else value

    def matrix(self, token: str) -> Node:
        rows: list[list[Node]] = [[]]
        while not self.accept("\\end"):
            if self.accept("\\\\"):
                rows.append([])
            else:
                self.accept("&")
                rows[-1].append(self.sum())
        filled = tuple(Node("row", "", tuple(row)) for row in rows if row)
        if len({len(row.parts) for row in filled}) != 1:
            raise Unreadable("a matrix with rows of several lengths")
        return Node("matrix", "", filled)


COMMANDS: dict[str, Callable[[Parser, str], Node]] = {
    "\\frac": Parser.fraction,
    "\\binom": Parser.binomial,
    "\\sqrt": Parser.root,
    "\\begin": Parser.matrix,
}
COMMANDS |= dict.fromkeys((f"\\{known}" for known in FUNCTIONS), Parser.function)


def starts_name(token: str) -> bool:
    known = token in CONSTANTS or GREEK.fullmatch(token) or ACCENTS.fullmatch(token)
    return token[:1].isalpha() or bool(known)


def _of_numbers(value: Node) -> bool:
    return {node.kind for node in value.walk()} == {"product", "inverse", "number"}
