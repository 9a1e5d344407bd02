"""Trees of answers in one line, as (operator operand ...), for tests."""

from __future__ import annotations

from rethink.grading.formulas.tree import Constant, Measured, Name, Number, Tree, Words


def line(tree: Tree) -> str:
    """Return a tree as text: names and numbers as they are, words in quotes, <value unit> with its unit's base units."""
    if isinstance(tree, Number):
        return str(tree.value)
    if isinstance(tree, Name | Constant):
        return tree.name
    if isinstance(tree, Words):
        return repr(tree.text)
    if isinstance(tree, Measured):
        powers = " ".join(f"{name}^{power}" if power != 1 else name for name, power in tree.unit.powers)
        return f"<{line(tree.value)} {tree.unit.factor}{'pi' * tree.unit.pi} {powers}>"
    return "(" + " ".join([tree.operator, *map(line, tree.operands)]) + ")"
