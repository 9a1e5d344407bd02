"""Plus-minus signs: an expression with them stands for its values, 1 \\pm x for 1 + x and 1 - x."""

from __future__ import annotations

from itertools import product

from rethink.grading.formulas.tree import LISTS, SETS, Node, Tree, walk, with_parts

_SIGNS = ("+-", "-+")
_COLLECTIONS = (*LISTS, *SETS)
MAX_INDEPENDENT = 5
"""Plus-minus signs whose signs may differ from each other; 2 to the power of this many values."""


def has_signs(tree: Tree) -> bool:
    """Return whether there is a plus-minus sign anywhere in a tree."""
    return any(isinstance(part, Node) and part.operator in _SIGNS for part in walk(tree))


def expanded(tree: Tree, independent: bool = False) -> Tree:
    """Return the tree with the values of each item instead of its plus-minus signs.

    The signs of an item go together: \\pm 1 \\mp 2 is 1 - 2 and -1 + 2. With `independent`, several \\pm without any \\mp
    are independent of each other: \\pm 1 \\pm 2 is four values."""
    found = _values(tree, independent)
    return found[0] if len(found) == 1 else Node(",", tuple(found))


def is_ambiguous(tree: Tree) -> bool:
    """Return whether an item has several plus-minus signs that may belong together or not."""
    if isinstance(tree, Node) and tree.operator in _COLLECTIONS:
        return any(is_ambiguous(item) for item in tree.operands)
    return len(_independent_signs(tree)) > 1


def _independent_signs(tree: Tree) -> list[str]:
    found: list[str] = []
    for part in walk(tree):
        if isinstance(part, Node) and part.operator in _SIGNS:
            found.append(part.operator)
    return found if "-+" not in found and len(found) <= MAX_INDEPENDENT else found[:1]


def _values(tree: Tree, independent: bool) -> list[Tree]:
    if not has_signs(tree):
        return [tree]
    if isinstance(tree, Node) and tree.operator in _COLLECTIONS:
        items: list[Tree] = []
        for item in tree.operands:
            items += _values(item, independent)
        return [Node(tree.operator, tuple(items))]
    n = len(_independent_signs(tree)) if independent else 1
    found: list[Tree] = []
    for signs in product((True, False), repeat=n):
        if n == 1:
            found.append(_with_signs(tree, [signs[0]] * sum(1 for _ in walk(tree))))
        else:
            found.append(_with_signs(tree, list(signs)))
    return found


def _with_signs(tree: Tree, signs: list[bool]) -> Tree:
    """Return the tree with a sign for each plus-minus sign, taken from the front of `signs`."""
    if not isinstance(tree, Node) or tree.operator not in _SIGNS:
        return with_parts(tree, lambda part: _with_signs(part, signs))
    positive = signs.pop(0) == (tree.operator == "+-")
    *before, last = (_with_signs(part, signs) for part in tree.operands)
    term = last if positive else Node("-", (last,))
    return Node("+", (before[0], term)) if before else term
