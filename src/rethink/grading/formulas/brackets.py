"""Brackets: groups, tuples, intervals, sets, absolute values."""

from __future__ import annotations

from rethink.grading.formulas import environments
from rethink.grading.formulas.cursor import Cursor
from rethink.grading.formulas.tree import Node, Tree


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
        tree = environments.environment(cursor)
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
