"""Brackets and environments: groups, tuples, intervals, sets, absolute values, matrices, systems, cases."""

from __future__ import annotations

import itertools

from rethink.grading.formulas.cursor import Cursor
from rethink.grading.formulas.tokens import Token, Unreadable
from rethink.grading.formulas.tree import Node, Tree, Words


def between_bars(cursor: Cursor) -> Tree:
    opening = cursor.take()
    if opening.text == "\\|":
        inner = cursor.read_sum()
        cursor.expect("\\|")
        return Node("norm", (inner,))
    argument, cursor.in_argument = cursor.in_argument, False
    cursor.bars += 1
    inner = cursor.read_sum()
    cursor.expect("|", "\\vert", "\\rvert")
    cursor.bars -= 1
    cursor.in_argument = argument
    return Node("abs", (inner,))


def bracketed(cursor: Cursor) -> Tree:
    """Return what is in brackets: a group, a tuple, an interval, a set."""
    opening = cursor.take().text.removeprefix("\\").replace("lbrace", "{").replace("lbrack", "[")
    closing = {"(": (")", "]", "["), "[": ("]", ")", "["), "]": ("[", "]", ")"), "{": ("\\}", "}", "\\rbrace")}
    is_set = cursor.previous().text in ("\\{", "lbrace")
    if is_set and cursor.takes("\\}", "\\rbrace"):
        return Node("{}", ())
    if is_set and cursor.sees("\\begin"):
        tree = environment(cursor)
        cursor.takes("\\}", "no bracket")
        return tree
    with cursor.bracket(is_set):
        inner = cursor.read_list()
        conditions: tuple[Tree, ...] = ()
        if is_set and cursor.takes(":", "|", "\\mid", "\\colon", "\\vert"):
            cursor.in_set = False
            conditions = _items(cursor.read_list(), ",", "and")
        close = cursor.expect(*closing.get(opening, ("\\rangle",))).text
    if conditions:
        return Node("such that", (inner, *conditions))
    if is_set:
        return Node("{}", _items(inner, ","))
    items = _items(inner, ",")
    if opening == "{" or len(items) == 1:
        return inner
    if opening == "langle":
        return Node("<>", items)
    left = "[" if opening == "[" else "("
    right = "]" if close == "]" else ")"
    return Node(left + right, items)


def _items(tree: Tree, *operators: str) -> tuple[Tree, ...]:
    return tree.operands if isinstance(tree, Node) and tree.operator in operators else (tree,)


_MATRICES = frozenset(("matrix", "pmatrix", "bmatrix", "Bmatrix", "smallmatrix", "array"))
_CASES = frozenset(("cases", "dcases", "aligned", "align", "split", "gathered"))
_CONDITIONS = ("if", "for", "when", "where", "otherwise", "else", "for all", "if and only if")


def environment(cursor: Cursor) -> Tree:
    """Return a matrix, a system or cases."""
    start = cursor.at
    cursor.expect("\\begin")
    name = "".join(token.text for token in cursor.group()).rstrip("*")
    if name == "array" and cursor.sees("{"):
        cursor.group()
    braced = start > 0 and cursor.tokens[start - 1].text in ("\\{", "lbrace")
    rows = _rows(cursor, name)
    if name == "vmatrix":
        return Node("det", (Node("matrix", _matrix_rows(cursor, rows)),))
    if name in _CASES or (name == "array" and braced):
        return Node("cases", tuple(_case(cursor, row) for row in rows))
    if name in _MATRICES:
        return Node("matrix", _matrix_rows(cursor, rows))
    raise Unreadable(f"the environment {name}")


def _matrix_rows(cursor: Cursor, rows: list[list[list[Token]]]) -> tuple[Tree, ...]:
    found: list[Tree] = []
    for row in rows:
        found.append(Node("row", tuple(cursor.inside(cell) for cell in row)))
    return tuple(found)


def _rows(cursor: Cursor, name: str) -> list[list[list[Token]]]:
    """Take everything up to the \\end of an environment, and return its rows of cells of tokens."""
    rows: list[list[list[Token]]] = [[[]]]
    depth = braces = 0
    while True:
        token = cursor.take()
        if token.kind == "end":
            raise Unreadable(f"the environment {name} never ends")
        if token.kind == "command" and token.text in ("begin", "end"):
            if token.text == "end" and depth == 0:
                cursor.group()
                break
            depth += 1 if token.text == "begin" else -1
        if token.kind == "sign":
            braces += {"{": 1, "}": -1}.get(token.text, 0)
        if depth == braces == 0 and token.text == "newrow":
            rows.append([[]])
        elif depth == braces == 0 and token.text == "&" and token.kind == "sign":
            rows[-1].append([])
        elif token.text != "hline":
            rows[-1][-1].append(token)
    return [row for row in rows if any(row)]


def _case(cursor: Cursor, row: list[list[Token]]) -> Node:
    """Return a row of cases: a value, and its conditions behind & or behind a comma or the word if."""
    cells = list(filter(None, row))
    tokens = list(itertools.chain.from_iterable(cells))
    split = len(cells[0])
    if len(cells) == 1:
        split = next((at for at, token in enumerate(tokens) if _condition_word(token)), split)
    elif _relates(cells[1][0]):  # an aligned equation: x &= 3
        split = len(tokens)
    value, conditions = tokens[:split], tokens[split:]
    while value and value[-1].text in (",", ";", "."):
        del value[-1]
    while conditions and (conditions[0].text in (",", ":") or (_condition_word(conditions[0]) and len(conditions) > 1)):
        del conditions[0]
    while conditions and conditions[-1].text in (",", ";", "."):
        del conditions[-1]
    if not conditions:
        return Node("case", (cursor.inside(value),))
    if len(conditions) == 1 and conditions[0].kind in ("text", "letters") and len(conditions[0].text.strip()) > 2:
        return Node("case", (cursor.inside(value), Words(conditions[0].text.strip(" ,."))))
    return Node("case", (cursor.inside(value), cursor.inside(conditions)))


def _condition_word(token: Token) -> bool:
    word = token.text.strip(" ,:").lower()
    return token.kind in ("text", "letters") and word in _CONDITIONS


def _relates(token: Token) -> bool:
    return token.text in ("=", "<", ">", "leq", "geq", "le", "ge", "neq", "ne", "in", "approx", "equiv")
