"""What stands alone in a formula (numbers, names, brackets, commands), and what is written right behind it."""

from __future__ import annotations

import re
from fractions import Fraction

from rethink.grading.formulas import blocks, names
from rethink.grading.formulas.brackets import between_bars, bracketed
from rethink.grading.formulas.cursor import END, Cursor
from rethink.grading.formulas.measures import currency, degree, ordinal, percent, siunitx_value
from rethink.grading.formulas.spelling import word_set
from rethink.grading.formulas.tokens import Token, Unreadable
from rethink.grading.formulas.tree import Name, Node, Number, Tree, Words
from rethink.grading.formulas.unit_table import CURRENCY_SIGNS
from rethink.grading.formulas.wording import FUNCTION_WORDS, based

_OPEN = ("(", "[", "\\{", "{", "\\langle", "\\lbrace", "\\lbrack")
_PAIRS = {"\\lfloor": ("floor", "\\rfloor"), "\\lceil": ("ceil", "\\rceil"), "\\lVert": ("norm", "\\rVert")}
_GREEK = word_set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi omicron rho "
    "varrho sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon "
    "Phi Psi Omega ell hbar Alpha Beta Epsilon aleph star dagger top"
)
_SAME_LETTER = {"varepsilon": "epsilon", "vartheta": "theta", "varphi": "phi", "varrho": "rho", "varsigma": "sigma"}
_ACCENTS = word_set(
    "vec hat bar overline dot ddot tilde widehat widetilde overrightarrow mathbf boldsymbol bm mathcal mathscr"
)
_DRESS_GROUPS = word_set("underline boxed fbox ensuremath")
_ORDINALS = ("st", "nd", "rd", "th")
_GEOMETRY = word_set("angle triangle measuredangle odot")
_OTHERS = word_set(
    "infty mathbb Bbb emptyset varnothing imath jmath langle lbrace lfloor lceil lVert lvert vert nabla partial "
    "SI qty num lbrack Re Im"
)
ATOMS = (
    _GREEK
    | _ACCENTS
    | _DRESS_GROUPS
    | _GEOMETRY
    | blocks.COMMANDS
    | FUNCTION_WORDS
    | frozenset(names.SAME_FUNCTION)
    | _OTHERS
)


def starts_atom(cursor: Cursor, ahead: int = 0) -> bool:
    """Return whether a number, name, bracket or command begins here."""
    token = cursor.peek(ahead)
    if token.kind in ("number", "letters", "text"):
        return True
    if token.kind == "command":
        if token.text in ("vert", "lvert") and ahead == 0:
            return token.text == "lvert" or not cursor.bars
        return token.text in ATOMS
    if token.text == "[":
        after = cursor.peek(ahead + 1)
        return after is not END and not cursor.sees("\\cup", "\\cap", ")", "]", ",", ahead=ahead + 1)
    if token.text == "|":
        return not cursor.bars and not cursor.in_set
    return token.text in ("(", "\\{", "{", *CURRENCY_SIGNS) and token.kind == "sign"


def parse_power(cursor: Cursor) -> Tree:
    """Return an atom with its powers, factorials, primes, percent and degree signs, and arguments."""
    tree = parse_atom(cursor)
    while True:
        if cursor.sees("^"):
            tree = _raised(cursor, tree)
        elif cursor.sees("!"):
            cursor.take()
            tree = Node("!!" if cursor.takes("!") else "!", (tree,))
        elif cursor.sees("'") and isinstance(tree, Name):
            cursor.take()
            tree = Name(tree.name + "'")
        elif isinstance(tree, Number) and _is_ordinal(cursor.peek()):
            cursor.take()
            tree = ordinal(cursor, tree)
        elif cursor.sees("%"):
            tree = percent(cursor, tree)
        elif cursor.sees("°", "\\degree"):
            tree = degree(cursor, tree)
        elif cursor.sees("(", "[") and _may_be_applied(cursor, tree):
            tree = _applied(tree, _arguments(cursor))
        else:
            return tree


def _is_ordinal(token: Token) -> bool:
    """Return whether a token is the letters behind a number in 1st or 12th."""
    return token.kind in ("letters", "text") and token.text in _ORDINALS and not token.space


def _applied(tree: Tree, arguments: tuple[Tree, ...]) -> Tree:
    numbers = all(isinstance(x, Number) for x in arguments)
    if tree == Name("C") and len(arguments) == 2 and numbers:
        return Node("binomial", arguments)
    return Node("apply", (tree, *arguments))


def _may_be_applied(cursor: Cursor, tree: Tree) -> bool:
    """Return whether brackets behind a tree may hold a function's arguments; see `apply` in the table of operators."""
    if isinstance(tree, Node) and tree.operator == "^":
        tree = tree.operands[0]
    if not isinstance(tree, Name) or cursor.in_argument or tree.name in ("i", "e"):
        return False
    return cursor.sees("(") or tree.name.isupper() or len(tree.name) > 1


def _arguments(cursor: Cursor) -> tuple[Tree, ...]:
    """Take (...) and return the items inside."""
    opening = cursor.take()
    with cursor.bracket():
        inner = cursor.read_list()
        cursor.expect(")" if opening.text == "(" else "]")
    return inner.operands if isinstance(inner, Node) and inner.operator == "," else (inner,)


def _raised(cursor: Cursor, tree: Tree) -> Tree:
    """Return the tree with the ^ behind it: a power, degrees, a prime, or the st of 1^{st}, which means nothing."""
    cursor.take()
    inner = cursor.peek(1) if cursor.sees("{") else cursor.peek()
    if (inner.kind == "command" and inner.text in ("circ", "degree")) or (
        inner.kind == "text" and inner.text.strip() == "o"
    ):
        return degree(cursor, tree)
    if inner.kind == "command" and inner.text == "prime" and isinstance(tree, Name):
        primes = cursor.group() if cursor.sees("{") else [cursor.take()]
        if any(token.text != "prime" for token in primes):
            raise Unreadable("a prime in a power")
        return Name(tree.name + "'" * len(primes))
    if inner.kind in ("text", "letters") and inner.text.strip() in _ORDINALS and isinstance(tree, Number):
        if cursor.sees("{"):
            cursor.group()
        else:
            cursor.take()
        return ordinal(cursor, tree)
    return Node("^", (tree, parse_script(cursor)))


def parse_script(cursor: Cursor) -> Tree:
    """Return the tree of a superscript: a group, or the next sign. People write x^10 and x^-1, too."""
    if cursor.sees("{"):
        tokens = cursor.group()
        if len(tokens) > 2 and tokens[0].text == "(" and tokens[-1].text == ")" and len(tokens) == 3:
            return Node("()", (cursor.inside(tokens[1:-1]),))  # the third derivative: f^{(3)}
        return cursor.inside(tokens)
    if cursor.takes("-"):
        return Node("-", (parse_script(cursor),))
    if cursor.peek().kind == "letters":
        return Name(cursor.split(1).text)
    if cursor.sees("*", "+"):
        raise Unreadable("a sign as a power")
    return parse_atom(cursor)


def parse_atom(cursor: Cursor) -> Tree:
    """Return a number, name, bracket or command."""
    token = cursor.peek()
    if token.kind == "number":
        return number(cursor)
    if token.kind == "letters":
        return names.letters(cursor)
    if token.kind == "text":
        return names.text(cursor)
    if token.kind == "command":
        return _command(cursor)
    if cursor.sees(*CURRENCY_SIGNS):
        return currency(cursor)
    if cursor.sees("|", "\\|"):
        return between_bars(cursor)
    if cursor.sees("]", *_OPEN):
        return bracketed(cursor)
    raise cursor.unreadable()


def _command(cursor: Cursor) -> Tree:
    token = cursor.take()
    name = token.text
    if name in blocks.COMMANDS:
        return blocks.block(cursor, name)
    if name in names.PHRASES and name != "lbrace":
        return Name(names.PHRASES[name] + names.subscript(cursor))
    if name in _GREEK:
        return Name("\\" + _SAME_LETTER.get(name, name) + names.subscript(cursor))
    if name in ("mathbb", "Bbb"):
        return names.set_of_numbers(cursor)
    if name in ("emptyset", "varnothing"):
        return Node("{}", ())
    if name in ("lvert", "vert"):
        cursor.at -= 1
        return between_bars(cursor)
    if name in _PAIRS or "\\" + name in _PAIRS:
        operator, close = _PAIRS["\\" + name]
        with cursor.bracket():
            inner = cursor.read_sum()
            cursor.expect(close)
        return Node(operator, (inner,))
    if name in _ACCENTS:
        return names.accented(cursor, name)
    if name in _GEOMETRY:
        letters = cursor.inside(cursor.group()) if cursor.sees("{") else names.figure(cursor)
        return (
            letters
            if isinstance(letters, Number)
            else Name(f"\\{name} {letters.name if isinstance(letters, Name) else ''}")
        )
    if name in _DRESS_GROUPS:
        return cursor.inside(cursor.group())
    if name in ("SI", "qty", "num"):
        return siunitx_value(cursor, name)
    if name in ("nabla", "partial"):
        return names.differential(cursor, name)
    if name in ("langle", "lbrace", "lbrack"):
        cursor.at -= 1
        return bracketed(cursor)
    if name in FUNCTION_WORDS or name in names.SAME_FUNCTION:
        return names.function_or_constant(cursor, name)
    cursor.at -= 1
    raise cursor.unreadable()


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
