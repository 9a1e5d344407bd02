"""The trees that LaTeX answers are read into, and the plain forms of those that can be written in several ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from answer_audit.tokens import Unreadable

COLLECTIONS = {"list", "set", "group", "union", "relation", "matrix", "words"}
FLIPPED = {">": "<", ">=": "<="}
KNOWN = {"π", "e", "i", "∞", "%", "°", "±", "∓"}
"""Names of constants, measures and signs."""


@dataclass(frozen=True)
class Node:
    """Expressions are number, name, sum, product, inverse, power, root, call (of a known function), opaque (of an unknown
    one), factorial, double, binomial, floor, ceil and abs; the kinds in COLLECTIONS hold expressions or words."""

    kind: str
    text: str = ""
    parts: tuple[Node, ...] = ()

    def walk(self) -> Iterator[Node]:
        yield self
        for part in self.parts:
            yield from part.walk()

    def put(self, values: Mapping[str, Node]) -> Node:
        """The same with names replaced by values."""
        if self.kind == "name" and self.text in values:
            return values[self.text]
        return replace(self, parts=tuple(part.put(values) for part in self.parts))


INFINITE = Node("name", "∞")


def number(text: str | int) -> Node:
    return Node("number", str(text))


def expression(kind: str, *parts: Node, text: str = "") -> Node:
    """A node whose parts must be expressions; a number times a matrix is a matrix."""
    matrices = [part for part in parts if part.kind == "matrix"]
    if kind == "product" and len(matrices) == 1 and matrices[0] is parts[-1]:
        return _each(matrices[0], lambda entry: expression("product", *parts[:-1], entry))
    for part in parts:
        if part.kind in COLLECTIONS:
            raise Unreadable(f"a {part.kind} inside an expression")
    return parts[0] if len(parts) == 1 and kind in ("sum", "product") else Node(kind, text, parts)


def over(a: Node, b: Node) -> Node:
    return expression("product", a, expression("inverse", b))


def minus(a: Node, b: Node) -> Node:
    return expression("sum", a, expression("product", number(-1), b))


def _each(matrix: Node, change: Callable[[Node], Node]) -> Node:
    return replace(matrix, parts=tuple(replace(r, parts=tuple(map(change, r.parts))) for r in matrix.parts))


def variables(*nodes: Node) -> set[str]:
    """The names in the nodes that stand for something unknown."""
    return {part.text for node in nodes for part in node.walk() if part.kind in ("name", "opaque")} - KNOWN


def is_lone(node: Node) -> bool:
    """Whether it is a mere name, as on the left of x = 5, f(x) = 5 and (x, y) = (5, 7)."""
    return node.kind in ("name", "opaque") or (node.kind == "group" and all(map(is_lone, node.parts)))


def plain(node: Node) -> Node:
    """Collections of whatever origin (list, set, union, ±) as "many", chains of equations by their ends, < for >."""
    if node.kind in ("list", "set", "union"):
        items: list[Node] = []
        for part in map(plain, node.parts):
            items += part.parts if part.kind == "many" else (part,)
        return items[0] if len(items) == 1 else Node("many", "", tuple(items))
    if node == Node("name", "mathbb R"):
        return Node("group", "()", (expression("product", number(-1), INFINITE), INFINITE))
    signs = [part.text for part in node.walk() if part.kind == "name" and part.text in ("±", "∓")]
    if signs.count("±") > 1:
        raise Unreadable("several ±")
    if signs:
        upper, lower = node.put({"±": number(1), "∓": number(-1)}), node.put({"±": number(-1), "∓": number(1)})
        return Node("many", "", (plain(upper), plain(lower)))
    return _plain_relation(node) if node.kind == "relation" else node


def _plain_relation(node: Node) -> Node:
    signs, sides = node.text.split(), node.parts
    if set(signs) == {"="}:
        swap = is_lone(sides[-1]) and not is_lone(sides[0])
        signs, sides = ["="], (sides[-1], sides[0]) if swap else (sides[0], sides[-1])
    if set(signs) <= FLIPPED.keys():
        signs, sides = [FLIPPED[sign] for sign in reversed(signs)], sides[::-1]
    return Node("relation", " ".join(signs), sides)


def is_rule(relation: Node) -> bool:
    """Whether it says what a function does: f(x) = ..., but not f(0) = ..."""
    stated = relation.parts[0]
    return stated.kind == "opaque" and all(part.kind == "name" for part in stated.parts)


def renamed(rule: Node, other: Node) -> Node:
    """The rule with the argument's name that the other uses."""
    ours, theirs = rule.parts[0].parts, other.parts[0].parts
    return rule.put({ours[0].text: theirs[0]}) if len(ours) == len(theirs) == 1 else rule


def interval(relation: Node) -> Node | None:
    """The values of the variable that stands alone in an inequality."""
    signs, sides = relation.text.split(), relation.parts
    if not set(signs) <= {"<", "<="} or len(sides) > 3:
        return None
    if len(sides) == 2 and is_lone(sides[0]):
        signs, sides = ["<", *signs], (expression("product", number(-1), INFINITE), *sides)
    elif len(sides) == 2:
        signs, sides = [*signs, "<"], (*sides, INFINITE)
    low, variable, high = sides
    if not is_lone(variable) or variable.text in variables(low, high):
        return None
    return Node("group", "(["[signs[0] == "<="] + ")]"[signs[1] == "<="], (low, high))
