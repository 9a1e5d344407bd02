"""What is said about names and leaves an answer as it is: f(x) = 2x for all real x, f(x) = cx for some constant c, and
a_n = 2n - 1 with n \\in N.

Only what follows the definition of a function or a sequence is left out, and only if the other answer says nothing."""

from __future__ import annotations

import re

from rethink.grading.formulas.tree import Constant, Name, Node, Tree, names

_WHOLE = re.compile(r"\\mathbb\{[RZQN]\}(?:\^(?:\+|\*|\{?\+\}?)|_(?:\+|>0|\{\+\}|\{>0\}))")
_CONSTANTS = (Constant("R"), Constant("C"))


def unquantified(a: Tree, b: Tree) -> tuple[Tree, Tree]:
    """Return two answers without what only one of them says about its names."""
    ours, theirs = _definitions(a), _definitions(b)
    return (a, b) if (ours != a) == (theirs != b) else (ours, theirs)


def _definitions(tree: Tree) -> Tree:
    """Return the definitions of functions in front of what is said about their names; other trees as they are."""
    if not isinstance(tree, Node) or tree.operator not in (",", "and"):
        return tree
    defined: list[Tree] = []
    variables: set[str] = set()
    n_said = 0
    for part in tree.operands:
        found = _variables(part)
        if found and not n_said:
            defined.append(part)
            variables |= found
        elif defined and _says_nothing(part, variables):
            n_said += 1
        else:
            return tree
    if not n_said:
        return tree
    return defined[0] if len(defined) == 1 else Node(tree.operator, tuple(defined))


def _variables(tree: Tree) -> set[str]:
    """Return the names that a definition such as f(x) = 2x or a_n = 2n holds for; none for anything else."""
    if not isinstance(tree, Node) or tree.operator != "=":
        return set()
    left = tree.operands[0]
    if isinstance(left, Node) and left.operator == "apply":
        return names(Node(",", left.operands[1:]))
    found = re.fullmatch(r"[a-zA-Z]_\{([a-z])\}", left.name) if isinstance(left, Name) else None
    return {found[1]} if found else set()


def _says_nothing(tree: Tree, variables: set[str]) -> bool:
    if not isinstance(tree, Node) or tree.operator != "in" or not isinstance(tree.operands[0], Name):
        return False
    name, among = tree.operands
    if isinstance(name, Name) and name.name in variables:
        return isinstance(among, Constant) or bool(isinstance(among, Name) and _WHOLE.fullmatch(among.name))
    return among in _CONSTANTS
