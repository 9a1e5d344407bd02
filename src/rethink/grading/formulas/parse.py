"""Read an answer into a tree, with a closed grammar: what it does not know raises Unreadable.

Levels, from the loosest: lists and alternatives (`,`, `and`, `or`), relations (`=`, `<`, `\\in`), unions of sets, sums,
products, signs, powers, and what stands alone (`parse_atoms`). Nothing is evaluated, and no token is left out."""

from __future__ import annotations

import re
from fractions import Fraction

from rethink.grading.formulas.atoms import parse_power, starts_atom
from rethink.grading.formulas.cursor import END, Cursor
from rethink.grading.formulas.measures import measured
from rethink.grading.formulas.tokens import Token, Unreadable, tokenize
from rethink.grading.formulas.tree import Constant, Measured, Name, Node, Number, Tree, Words
from rethink.grading.formulas.wording import (
    CONDITION_WORDS,
    IS_AMONG,
    based_number,
    clock_time,
    plain_words,
    splice_text,
)

_RELATIONS_TEXT = r"""
    = := =, \equiv equiv, \approx \simeq approx, \sim sim, \cong cong, \propto propto,
    \ne \neq !=, < \lt <, > \gt >, \le \leq \leqslant \leqq <=, \ge \geq \geqslant \geqq >=, \in in, \notin notin,
    \subset subset, \subseteq subseteq, \to \rightarrow \longrightarrow \mapsto to, \parallel parallel, \perp perp,
    \mid mid, : \colon :
"""
_RELATIONS: dict[str, str] = {}
"""Signs and commands, and the operators that they mean."""
for _row in map(str.split, _RELATIONS_TEXT.split(",")):
    _RELATIONS.update(dict.fromkeys(_row[:-1], _row[-1]))
_CONDITIONS = ("\\in", "<", ">", "\\le", "\\leq", "\\leqslant", "\\ge", "\\geq", "\\geqslant", "\\ne", "\\neq")
_SET_OPERATORS = {
    **dict.fromkeys(("\\cup", "\\bigcup"), "cup"),
    "\\cap": "cap",
    **dict.fromkeys(("\\setminus", "\\backslash", "\\smallsetminus"), "setminus"),
}


def parse(text: str, grouped: bool = True) -> Tree:
    """Return the tree of an answer. With `grouped`, 1,234 is one number, otherwise a list.

    Raise Unreadable if any part of the text is outside the grammar."""
    tokens = _set_braces(splice_text(tokenize(text, grouped)))
    words = plain_words(tokens)
    if words is not None:
        return Words(words)
    found = clock_time(tokens) or based_number(tokens)
    if found is not None:
        return found
    try:
        return Parser([]).inside(tokens)
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None


def _set_braces(tokens: list[Token]) -> list[Token]:
    """Return {x | x > 1}, which LaTeX would print without braces, with those of a set."""
    if len(tokens) < 5 or tokens[0].text != "{" or tokens[-1].text != "}":
        return tokens
    depth, marks = 0, 0
    for token in tokens[1:-1]:
        depth += {"{": 1, "}": -1}.get(token.text, 0)
        marks += depth == 0 and token.text in (":", "|", "mid")
        if depth < 0:
            return tokens
    if tokens[1].kind != "letters" or not marks:
        return tokens
    return [Token("sign", "\\{"), *tokens[1:-1], Token("sign", "\\}")]


class Parser(Cursor):
    """The levels of the grammar as methods."""

    def read_list(self) -> Tree:
        return parse_list(self)

    def read_sum(self) -> Tree:
        return parse_sum(self)

    def read_product(self) -> Tree:
        return parse_product(self)

    def read_power(self) -> Tree:
        return parse_power(self)


def parse_list(cursor: Cursor) -> Tree:
    """Return items separated by commas, `and` and `or`. Empty items are nothing: 13, is 13."""
    items: list[Tree] = []
    kinds: set[str] = set()
    while True:
        separator = _separator(cursor)
        while separator:
            if items:
                kinds.add(separator)
            separator = _separator(cursor)
        if _ends_list(cursor) and not (cursor.sees("]") and cursor.previous().text in ("", "(")):  # ]1,4[
            break
        items.append(parse_relation(cursor))
        if _opens_condition(cursor):
            cursor.take()
            items.append(parse_relation(cursor))
            cursor.expect(")")
            kinds.add(",")
        separator = _separator(cursor)
        if not separator:
            break
        if not _ends_list(cursor):
            kinds.add(separator)
    if not items:
        raise Unreadable("it is empty") if cursor.peek() is END else cursor.unreadable()
    if len(items) == 1:
        return items[0]
    if "or" in kinds:
        return Node("or", tuple(items))
    if "and" in kinds and all(isinstance(x, Node) and x.operator in {*_RELATIONS.values(), "chain"} for x in items):
        return Node("and", tuple(items))
    return Node(",", tuple(items))


def _separator(cursor: Cursor) -> str:
    """Take a separator, and return "," or "and" or "or"; "" if there is none."""
    token = cursor.peek()
    word = token.text.strip(" ,").lower() if token.kind in ("text", "letters") else ""
    if word in ("or", "and") or cursor.sees("\\lor", "\\vee", "\\land", "\\wedge", "&"):
        cursor.take()
        return "or" if word == "or" or token.text in ("lor", "vee") else "and"
    if word in CONDITION_WORDS and not cursor.in_argument:
        cursor.take()
        return ","
    if cursor.takes(",", ";", "newrow") or (
        token.kind == "text" and token.text.strip() in (",", ";") and cursor.take()
    ):
        return ","
    return ""


def _opens_condition(cursor: Cursor) -> bool:
    """Return whether (k \\in Z) or (x > 0) follows, which is no factor."""
    return cursor.sees("(") and cursor.peek(1).kind == "letters" and cursor.sees(*_CONDITIONS, ahead=2)


def _ends_list(cursor: Cursor) -> bool:
    return cursor.peek() is END or cursor.sees(")", "]", "\\}", "}", "\\rangle", "\\end", "no bracket", ".")


def parse_relation(cursor: Cursor) -> Tree:
    """Return sides with relations between them; a chain if there are several."""
    start = cursor.peek()
    if cursor.sees("\\approx", "\\equiv", "=") and starts_atom(cursor, ahead=1):  # "\\approx 13"
        cursor.take()
        right = parse_set(cursor)
        return right if start.text == "=" else Node(_RELATIONS["\\" + start.text], (right,))
    sides = [parse_set(cursor)]
    relations: list[str] = []
    while True:
        relation = _relation(cursor)
        if relation is None:
            break
        relations.append(relation)
        sides.append(parse_set(cursor))
    if not relations:
        among = _is_among(cursor)
        return Node("in", (sides[0], among)) if among else _congruence(cursor, sides[0])
    pairs: list[Tree] = []
    for n, relation in enumerate(relations):
        pairs.append(Node(relation, (sides[n], sides[n + 1])))
    return _congruence(cursor, pairs[0] if len(pairs) == 1 else Node("chain", tuple(pairs)))


def _is_among(cursor: Cursor) -> Constant | None:
    """Take "is an integer" or "is a real number", and return the set that it means."""
    token = cursor.peek()
    found = IS_AMONG.fullmatch(token.text.strip(" .")) if token.kind == "text" else None
    if found is None:
        return None
    cursor.take()
    return Constant("Z" if found[1] == "integer" else "R")


def _relation(cursor: Cursor) -> str | None:
    aligned = cursor.sees("&")  # y &= x
    token = cursor.peek(aligned)
    name = ("\\" if token.kind == "command" else "") + token.text
    if token.kind not in ("command", "sign") or name not in _RELATIONS:
        return None
    if cursor.in_set and name in (":", "\\mid"):
        return None
    cursor.at += 1 + aligned
    if not aligned:
        cursor.takes("&")
    return _RELATIONS[name]


def _congruence(cursor: Cursor, tree: Tree) -> Tree:
    """Return the tree with the modulus that follows, if one does: x \\equiv 3 \\pmod 7."""
    if not cursor.sees("\\pmod", "\\mod", "\\bmod", "("):
        return tree
    bracket = cursor.sees("(") and cursor.peek(1).text in ("mod", "bmod")
    if cursor.sees("(") and not bracket:
        return tree
    cursor.at += 1 + bracket
    modulus = cursor.read_sum()
    if bracket:
        cursor.expect(")")
    return Node("mod", (tree, modulus))


def parse_set(cursor: Cursor) -> Tree:
    """Return a union, intersection or difference of sets, or just a sum."""
    tree = cursor.read_sum()
    while cursor.sees(*_SET_OPERATORS):
        operator = _SET_OPERATORS["\\" + cursor.take().text]
        tree = Node(operator, (tree, cursor.read_sum()))
    return tree


def parse_sum(cursor: Cursor) -> Tree:
    """Return a sum. `a - b` is the sum of a and -b; plus-minus is another operator."""
    tree = _signed_product(cursor)
    while True:
        if cursor.takes("+"):
            tree = _add(tree, _signed_product(cursor))
        elif cursor.takes("-"):
            tree = _add(tree, Node("-", (_signed_product(cursor),)))
        elif cursor.sees("\\pm", "\\mp"):
            operator = "+-" if cursor.take().text == "pm" else "-+"
            tree = Node(operator, (tree, cursor.read_product()))
        elif cursor.takes("\\choose"):
            tree = Node("binomial", (tree, cursor.read_sum()))
        else:
            return tree


def _add(tree: Tree, term: Tree) -> Tree:
    before = tree.operands if isinstance(tree, Node) and tree.operator == "+" else (tree,)
    return Node("+", (*before, term))


def _signed_product(cursor: Cursor) -> Tree:
    if cursor.takes("-"):
        negated = _signed_product(cursor)
        if isinstance(negated, Measured):
            return Measured(Node("-", (negated.value,)), negated.unit)
        return Node("-", (negated,))
    if cursor.takes("+"):
        return _signed_product(cursor)
    if cursor.sees("\\pm", "\\mp"):
        operator = "+-" if cursor.take().text == "pm" else "-+"
        return Node(operator, (_signed_product(cursor),))
    return cursor.read_product()


def parse_product(cursor: Cursor) -> Tree:
    """Return a product or quotient, from left to right, with the unit behind it."""
    tree = cursor.read_power()
    divided = False
    while True:
        unit = measured(cursor, tree)
        if unit is not None:
            tree = unit
        elif cursor.sees("\\times") and _ends_in_vector(tree):
            cursor.take()
            tree = _cross(tree, _signed_factor(cursor))
            divided = False
        elif cursor.takes("\\cdot", "\\times", "*", "\\ast", "\\cdotp"):
            tree = _multiply(tree, _signed_factor(cursor))
            divided = False
        elif cursor.takes("/", "\\div"):
            tree = _divide(tree, _signed_factor(cursor))
            divided = True
        elif _is_times_sign(cursor):
            cursor.split(1)
            tree = _multiply(tree, _signed_factor(cursor))
        elif starts_atom(cursor) and not _is_separator(cursor) and not _opens_condition(cursor):
            if divided and not (_is_proper(tree) and cursor.peek().space):  # but 2/3 x
                raise Unreadable("a/bc, which may mean (a/b)c or a/(bc)")
            tree = _implicit_product(cursor, tree)
        else:
            return tree


def _ends_in_vector(tree: Tree) -> bool:
    last = tree.operands[-1] if isinstance(tree, Node) and tree.operator == "*" else tree
    return isinstance(last, Name) and last.name.startswith(("\\vec", "\\hat"))


def _cross(tree: Tree, factor: Tree) -> Tree:
    """Return the cross product of two vectors, which their order changes, or the product of a vector and a number."""
    if not _ends_in_vector(factor):
        return _multiply(tree, factor)
    if isinstance(tree, Node):
        return Node("*", (*tree.operands[:-1], _cross(tree.operands[-1], factor)))
    return Node("apply", (Name("cross"), tree, factor))


def _is_times_sign(cursor: Cursor) -> bool:
    """Return whether an x stands between numbers, as in 3 x 10^8."""
    token, after, before = cursor.peek(), cursor.peek(1), cursor.previous()
    return token.kind == "letters" and token.text == "x" and before.kind == after.kind == "number" and token.space


def _is_separator(cursor: Cursor) -> bool:
    token = cursor.peek()
    if token.kind == "text" and IS_AMONG.fullmatch(token.text.strip(" .")):
        return True
    return token.kind in ("text", "letters") and token.text.strip(" ,").lower() in CONDITION_WORDS | {"and", "or"}


def _signed_factor(cursor: Cursor) -> Tree:
    if cursor.takes("-"):
        return Node("-", (_signed_factor(cursor),))
    if cursor.takes("+"):
        return _signed_factor(cursor)
    return cursor.read_power()


def _implicit_product(cursor: Cursor, tree: Tree) -> Tree:
    """Return the product of two factors without a sign between them, or the mixed number 1 \\frac{1}{2}."""
    token = cursor.peek()
    before = cursor.previous()
    if token.kind == "number" and before.kind == "number" and token.space:
        if (
            isinstance(tree, Number)
            and tree.places == 0
            and cursor.sees("/", ahead=1)
            and cursor.peek(2).kind == "number"
        ):
            top, _, bottom = cursor.take(), cursor.take(), cursor.take()
            if re.fullmatch(r"\d+", top.text) and re.fullmatch(r"0*[1-9]\d*", bottom.text):
                part = Node("/", (_whole(top), _whole(bottom)))
                return Node("+", (tree, part))
        raise Unreadable("two numbers without a sign between them")
    if token.kind == "number" and isinstance(before, Token) and before.kind == "number":
        raise Unreadable("two numbers without a sign between them")
    mixed = (
        isinstance(tree, Number)
        and tree.places == 0
        and before.kind == "number"
        and cursor.sees("\\frac", "\\dfrac", "\\tfrac")
    )
    factor = cursor.read_power()
    last = tree.operands[-1] if isinstance(tree, Node) and tree.operator == "*" else tree
    if isinstance(last, Number) and isinstance(factor, Number) and "(" not in (before.text, token.text):
        raise Unreadable("two numbers without a sign between them")
    if mixed and isinstance(factor, Measured) and _is_proper(factor.value):
        return Measured(Node("+", (tree, factor.value)), factor.unit)
    if mixed and _is_proper(factor):
        return Node("+", (tree, factor))
    return _multiply(tree, factor)


def _whole(token: Token) -> Number:
    return Number(Fraction(token.text))


def _is_proper(tree: Tree) -> bool:
    """Return whether a tree is a fraction of two whole numbers, as in a mixed number."""
    return (
        isinstance(tree, Node)
        and tree.operator == "/"
        and all(isinstance(x, Number) and x.places == 0 and x.value > 0 for x in tree.operands)
    )


def _divide(tree: Tree, factor: Tree) -> Tree:
    """Return a quotient. The sign of percent or degrees behind a fraction belongs to all of it, as in 1/2%."""
    if isinstance(factor, Measured) and isinstance(factor.value, Number) and isinstance(tree, Number):
        return Measured(Node("/", (tree, factor.value)), factor.unit)
    return Node("/", (tree, factor))


def _multiply(tree: Tree, factor: Tree) -> Tree:
    if isinstance(tree, Measured):
        if isinstance(factor, Name) and tree.unit.powers == (("rad", 1),):  # 180^\\circ k
            return Measured(_multiply(tree.value, factor), tree.unit)
        raise Unreadable("something is written behind a unit")
    if isinstance(factor, Measured):  # 3 \cdot 50% is 150%
        return Measured(_multiply(tree, factor.value), factor.unit)
    before = tree.operands if isinstance(tree, Node) and tree.operator == "*" else (tree,)
    return Node("*", (*before, factor))
