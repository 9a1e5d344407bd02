"""Names in front of answers: x = 5, f(x) = 2x, (x, y) = (3, 4), x = 1 and y = 2, x \\in [1, 2]."""

from __future__ import annotations

from dataclasses import dataclass

from rethink.grading.formulas.relations import is_statement
from rethink.grading.formulas.tree import LISTS, Name, Node, Tree, names, put, walk

_LABELS = frozenset(
    ["sin", "cos", "tan", "cot", "sec", "csc", "det", "tr", "arg", "max", "min", "gcd", "lcm", "Re", "Im"]
)
"""Functions whose value of plain names may be asked for, as in \\sin A = 3/5."""


@dataclass(frozen=True)
class Named:
    """What stands behind the names in front; several names belong to a tuple, or to each tuple of a list."""

    names: tuple[Tree, ...]
    body: Tree

    @property
    def is_assignment(self) -> bool:
        return len(self.names) > 1


def named(tree: Tree) -> Named:
    """Return the names in front of an answer and what stands behind them; no names if there are none."""
    if not isinstance(tree, Node):
        return Named((), tree)
    if tree.operator == "=" and len(tree.operands) == 2:
        left, right = tree.operands
        names_ = front(left)
        if names_:
            return Named(names_, right)
        names_ = front(right)
        return Named(names_, left) if names_ else Named((), tree)
    if tree.operator == "in":
        left, right = tree.operands
        return Named(front(left), right) if front(left) else Named((), tree)
    if tree.operator == "mod":
        return _congruence(tree)
    if tree.operator == "chain":
        return _chain(tree)
    if tree.operator == "cases":
        system = equations(tree)
        return named(Node("and", system)) if len(system) > 1 else Named((), tree)
    if tree.operator in LISTS:
        return _list(tree)
    return Named((), tree)


def equations(tree: Node) -> tuple[Tree, ...]:
    """Return the equations of a system; () if the tree has cases with conditions."""
    found: list[Tree] = []
    for case in tree.operands:
        if not isinstance(case, Node) or len(case.operands) != 1:
            return ()
        found.append(case.operands[0])
    return tuple(found)


def front(tree: Tree) -> tuple[Tree, ...]:
    """Return the names that a left side consists of; () if it is a formula."""
    if isinstance(tree, Node) and tree.operator == "()" and len(tree.operands) > 1:
        return tree.operands if all(is_label(part) for part in tree.operands) else ()
    return (tree,) if is_label(tree) else ()


def is_label(tree: Tree) -> bool:
    """Return whether a tree may name a value: x, f(x), f^{-1}(x), AB, |AB|, \\angle ABC, \\frac{dy}{dx}, \\sin A."""
    if isinstance(tree, Name):
        return tree.name not in ("i", "e")
    if not isinstance(tree, Node):
        return False
    if tree.operator == "apply":
        callee, *arguments = tree.operands
        if isinstance(callee, Node) and callee.operator == "^":
            callee = callee.operands[0]
        return isinstance(callee, Name) and (callee.name[0].isupper() or not any(map(_is_formula, arguments)))
    if tree.operator in ("derivative", "partial", "limit", "integral"):
        return True
    if tree.operator in _LABELS:
        return not any(map(_is_formula, tree.operands))
    if tree.operator in ("cup", "cap", "setminus"):
        return all(isinstance(part, Name) and part.name.isupper() for part in tree.operands)
    if tree.operator in ("abs", "norm"):
        inner = tree.operands[0]
        return is_label(inner) and not (isinstance(inner, Name) and inner.name in ("x", "y", "t"))
    return tree.operator == "*" and all(map(_is_point, tree.operands))


def _is_point(tree: Tree) -> bool:
    """Return whether a factor belongs to the name of a line, an angle or a number: AB, m\\angle ABC, \\dim V."""
    if not isinstance(tree, Name):
        return False
    return tree.name.isupper() or tree.name in ("m", "dim", "deg") or tree.name.startswith("\\angle")


def is_combination(tree: Tree) -> bool:
    """Return whether a tree is made of several values and no numbers, so that its value may be asked for: m + n,
    f(1) + f(2), |z_1 - z_2|.
    """
    if not isinstance(tree, Node):
        return False
    if tree.operator in ("abs", "norm"):
        return len(names(tree)) > 1 and not names(tree) & {"x", "y", "t"}
    if tree.operator not in ("+", "*", "/") or (len(names(tree)) < 2 and "apply" not in map(_operator, walk(tree))):
        return False
    return all(map(_is_asked, tree.operands))


def _is_asked(tree: Tree) -> bool:
    """Return whether a tree is a name, the value f(1) of a function, or made of such."""
    if isinstance(tree, Name) or not isinstance(tree, Node):
        return isinstance(tree, Name)
    return is_label(tree) or (tree.operator in ("+", "-", "*", "/") and all(map(_is_asked, tree.operands)))


def _operator(tree: Tree) -> str:
    return tree.operator if isinstance(tree, Node) else ""


def _is_formula(tree: Tree) -> bool:
    """Return whether an argument is more than names, numbers and functions of these."""
    allowed = ("apply", "-", "()", ",")
    return any(isinstance(part, Node) and part.operator not in allowed for part in walk(tree))


def quotient(tree: Node) -> Node:
    """Return the ratio 1:2 as 1/2, and other statements as they are."""
    return Node("/", tree.operands) if tree.operator == ":" else tree


def _chain(tree: Node) -> Named:
    """Return x = 2 + 3 = 5 as the name x and the equation 2 + 3 = 5, and AE : EB = 3 : 5 as a name and the ratio."""
    first, *rest = tree.operands
    if list(map(_operator, tree.operands)) == [":", "=", ":"] and isinstance(first, Node):
        return Named((first,), rest[1]) if all(map(is_label, first.operands)) else Named((), tree)
    if isinstance(first, Node) and first.operator == "=":
        names_ = front(first.operands[0])
        if names_:
            return Named(names_, rest[0] if len(rest) == 1 else Node("chain", tuple(rest)))
    return Named((), tree)


def _congruence(tree: Node) -> Named:
    """Return x \\equiv 3 \\pmod 7 as the name x and 3 \\pmod 7."""
    statement, modulus = tree.operands
    if isinstance(statement, Node) and statement.operator == "equiv" and front(statement.operands[0]):
        return Named(front(statement.operands[0]), Node("mod", (statement.operands[1], modulus)))
    return Named((), tree)


def _list(tree: Node) -> Named:
    """Return the names of a list: x = 1, x = 2; n = 2, 3, 4; x = 1, y = 2; x = 1, y = 2, x = 3, y = 4."""
    items = list(map(named, tree.operands))
    first, others = items[0].names, {item.names for item in items[1:]}
    if not first:
        return Named((), tree)
    if others == {first} or (others == {()} and not any(map(is_statement, tree.operands[1:]))):
        return Named(first, Node(tree.operator, tuple(_flat(items))))
    found = _assignments(items)
    if found is None or (tree.operator == "or" and len(found.names) == len(items)):
        return Named((), tree)
    return found


def _assignments(items: list[Named]) -> Named | None:
    """Return x = 1, y = 2 as the names x and y and the tuple of the values, or a list of tuples; None for anything else."""
    names_: list[Tree] = []
    values: list[Tree] = []
    for item in items:
        if len(item.names) != 1:
            return None
        names_ += item.names
        values.append(item.body)
    width = names_.index(names_[0], 1) if names_[0] in names_[1:] else len(names_)
    if len(set(names_[:width])) < width or names_ != names_[:width] * (len(names_) // width):
        return None
    rows: list[Tree] = []
    for start in range(0, len(values), width):
        rows.append(Node("()", tuple(values[start : start + width])))
    return Named(tuple(names_[:width]), rows[0] if len(rows) == 1 else Node(",", tuple(rows)))


def _flat(items: list[Named]) -> list[Tree]:
    """Return the bodies of items; those of a list one by one."""
    found: list[Tree] = []
    for item in items:
        if isinstance(item.body, Node) and item.body.operator == ",":
            found += item.body.operands
        else:
            found.append(item.body)
    return found


def in_order(body: Tree, from_: tuple[Tree, ...], to: tuple[Tree, ...]) -> Tree:
    """Return the body with the items of its tuples in the order of other names."""
    if from_ == to or not isinstance(body, Node):
        return body
    if body.operator == "()" and len(body.operands) == len(from_):
        return Node("()", tuple(body.operands[from_.index(name)] for name in to))
    return Node(body.operator, tuple(in_order(part, from_, to) for part in body.operands))


def same_function(ours: Named, theirs: Named) -> Named | None:
    """Return our answer with the other one's variable, if both define a function of one variable: f(x) = x + 1 and
    f(z) = z + 1, or y = x + 1 and f(x) = x + 1; None for anything else.
    """
    a, b = _definition(ours), _definition(theirs)
    if a is None or b is None or (a[0] != b[0] and ("y" not in (a[0], b[0]) or "'" in a[0] + b[0])):
        return None
    if not a[1] or not b[1] or a[1] == b[1]:
        return ours
    if b[1] in names(ours.body):
        return None
    return Named(theirs.names, put(ours.body, Name(a[1]), Name(b[1])))


def _definition(answer: Named) -> tuple[str, str] | None:
    """Return the names of function and variable in f(x) = ...; y and "" for y = ...; None for anything else."""
    if len(answer.names) != 1:
        return None
    left = answer.names[0]
    if left == Name("y"):
        return "y", ""
    if isinstance(left, Node) and left.operator == "apply" and len(left.operands) == 2:
        callee, argument = left.operands
        if isinstance(callee, Name) and isinstance(argument, Name):
            return callee.name, argument.name
    return None


def are_numbered(names_: tuple[Tree, ...]) -> bool:
    """Return whether names are one letter with several subscripts, as x_1 and x_2."""
    stems = {name.name.partition("_")[0] if isinstance(name, Name) and "_" in name.name else "" for name in names_}
    return len(stems) == 1 and "" not in stems


def are_roots_of(names_: tuple[Tree, ...], other: tuple[Tree, ...]) -> bool:
    """Return whether names number the values of one other name, as x_1 and x_2 do with those of x."""
    first = names_[0]
    if len(names_) < 2 or len(other) != 1 or not are_numbered(names_) or not isinstance(first, Name):
        return False
    return other[0] == Name(first.name.partition("_")[0])
