"""Trees of parsed LaTeX answers, and canonical forms for what can be written in several ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from answer_audit.tokens import Unreadable

COLLECTIONS = {"list", "set", "group", "union", "relation", "matrix", "words"}
FLIPPED = {">": "<", ">=": "<="}
KNOWN = {"π", "e", "i", "∞", "%", "°", "±", "∓"}
"""Names of constants, units of measure and signs."""


@dataclass(frozen=True)
class Node:
    """A node. Expressions are number, name, sum, product, inverse, power, root, call (of a known function), opaque (of an
    unknown one), factorial, double, binomial, floor, ceil and abs; the kinds in COLLECTIONS hold expressions or words.
    """

    kind: str
    text: str = ""
    parts: tuple[Node, ...] = ()

    def walk(self) -> Iterator[Node]:
        yield self
        for part in self.parts:
            yield from part.walk()

    def substitute(self, values: Mapping[str, Node]) -> Node:
        """Return the node with names replaced by values."""
        if self.kind == "name" and self.text in values:
            return values[self.text]
        return replace(self, parts=tuple(part.substitute(values) for part in self.parts))


INFINITY = Node("name", "∞")


def number(text: str | int) -> Node:
    return Node("number", str(text))


def expression(kind: str, *parts: Node, text: str = "") -> Node:
    """Return a node whose parts must be expressions; a number times a matrix is a matrix."""
    matrices = [part for part in parts if part.kind == "matrix"]
    if kind == "product" and len(matrices) == 1 and matrices[0] is parts[-1]:
        return _map_entries(matrices[0], lambda entry: expression("product", *parts[:-1], entry))
    for part in parts:
        if part.kind in COLLECTIONS:
            raise Unreadable(f"a {part.kind} inside an expression")
    return parts[0] if len(parts) == 1 and kind in ("sum", "product") else Node(kind, text, parts)


def quotient(a: Node, b: Node) -> Node:
    return expression("product", a, expression("inverse", b))


def subtract(a: Node, b: Node) -> Node:
    return expression("sum", a, expression("product", number(-1), b))


def _map_entries(matrix: Node, change: Callable[[Node], Node]) -> Node:
    return replace(matrix, parts=tuple(replace(r, parts=tuple(map(change, r.parts))) for r in matrix.parts))


def variables(*nodes: Node) -> set[str]:
    """Return the names of unknowns in the nodes."""
    return {part.text for node in nodes for part in node.walk() if part.kind in ("name", "opaque")} - KNOWN


def is_name(node: Node) -> bool:
    """Return whether the node is a mere name, as on the left of x = 5, f(x) = 5 and (x, y) = (5, 7)."""
    return node.kind in ("name", "opaque") or (node.kind == "group" and all(map(is_name, node.parts)))


def canonical(node: Node) -> Node:
    """Return any collection (list, set, union, ±) as "many", a chain of equations by its ends, and < for >."""
    if node.kind in ("list", "set", "union"):
        items: list[Node] = []
        for part in map(canonical, node.parts):
            items += part.parts if part.kind == "many" else (part,)
        return items[0] if len(items) == 1 else Node("many", "", tuple(items))
    if node == Node("name", "mathbb R"):
        return Node("group", "()", (expression("product", number(-1), INFINITY), INFINITY))
    signs = [part.text for part in node.walk() if part.kind == "name" and part.text in ("±", "∓")]
    if signs.count("±") > 1:
        raise Unreadable("several ±")
    if signs:
        upper, lower = (
            node.substitute({"±": number(1), "∓": number(-1)}),
            node.substitute({"±": number(-1), "∓": number(1)}),
        )
        return Node("many", "", (canonical(upper), canonical(lower)))
    return _canonical_relation(node) if node.kind == "relation" else node


def _canonical_relation(node: Node) -> Node:
    signs, sides = node.text.split(), node.parts
    if set(signs) == {"="}:
        swap = is_name(sides[-1]) and not is_name(sides[0])
        signs, sides = ["="], (sides[-1], sides[0]) if swap else (sides[0], sides[-1])
    if set(signs) <= FLIPPED.keys():
        signs, sides = [FLIPPED[sign] for sign in reversed(signs)], sides[::-1]
    return Node("relation", " ".join(signs), sides)


def is_function_rule(relation: Node) -> bool:
    """Return whether the relation defines a function: f(x) = ..., but not f(0) = ..."""
    stated = relation.parts[0]
    return stated.kind == "opaque" and all(part.kind == "name" for part in stated.parts)


def rename_argument(rule: Node, other: Node) -> Node:
    """Return the rule with the argument name that the other one uses."""
    ours, theirs = rule.parts[0].parts, other.parts[0].parts
    return rule.substitute({ours[0].text: theirs[0]}) if len(ours) == len(theirs) == 1 else rule


def as_interval(relation: Node) -> Node | None:
    """Return the values of the variable in an inequality as an interval; None for other relations."""
    signs, sides = relation.text.split(), relation.parts
    if not set(signs) <= {"<", "<="} or len(sides) > 3:
        return None
    if len(sides) == 2 and is_name(sides[0]):
        signs, sides = ["<", *signs], (expression("product", number(-1), INFINITY), *sides)
    elif len(sides) == 2:
        signs, sides = [*signs, "<"], (*sides, INFINITY)
    low, variable, high = sides
    if not is_name(variable) or variable.text in variables(low, high):
        return None
    return Node("group", "(["[signs[0] == "<="] + ")]"[signs[1] == "<="], (low, high))
