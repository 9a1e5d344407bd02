"""Read a tree as a set of real numbers."""

from __future__ import annotations

from dataclasses import dataclass

from rethink.grading.formulas import domains
from rethink.grading.formulas.domains import without_words
from rethink.grading.formulas.inequalities import ORDERS, solve
from rethink.grading.formulas.intervals import EMPTY, Cut, Line, Reals, complement, intersection, point, union
from rethink.grading.formulas.structure import free_names, infinite
from rethink.grading.formulas.tree import INTERVALS, LISTS, SETS, Constant, Name, Node, Tree, Words, walk

RELATIONS = frozenset((*ORDERS, "in", "notin"))
_OTHERS = """{} cup cap setminus subset subseteq approx equiv sim cong propto parallel perp mid to : chain
matrix row cases case mod based norm +- -+"""
_NOT_NUMBERS = frozenset((*RELATIONS, *LISTS, *INTERVALS, *_OTHERS.split(), "such that"))


class NotASet(Exception):
    """A tree that is not a set of real numbers."""


def is_visible(tree: Tree) -> bool:
    """Return whether a tree is a set beyond doubt: not a number, list, tuple or equation."""
    if domains.domain(tree) is not None or domains.parity(tree) is not None:
        return True
    if not isinstance(tree, Node):
        return False
    if tree.operator in INTERVALS:
        is_mixed = tree.operator in ("(]", "[)")
        return len(tree.operands) == 2 and (is_mixed or any(map(infinite, tree.operands)))
    if tree.operator in SETS:
        return True
    if tree.operator in LISTS:
        return any(is_visible(part) or is_relation(part) for part in tree.operands)
    if tree.operator == "chain":
        return all(is_relation(part) and part.operator != "=" for part in tree.operands if isinstance(part, Node))
    return is_relation(tree) and tree.operator != "="


def is_relation(tree: Tree) -> bool:
    return isinstance(tree, Node) and (tree.operator in RELATIONS or tree.operator == "chain")


def is_quantity(tree: Tree) -> bool:
    """Return whether a tree may be what a relation is about: x, or f(x)."""
    if isinstance(tree, Name):
        return tree.name not in ("e", "i")
    return isinstance(tree, Node) and tree.operator == "apply"


def normal(tree: Tree) -> Tree:
    """Return the set behind D = or x \\in, R - {3} as R without 3, and "all x > 3" as x > 3."""
    tree = without_words(tree)
    if isinstance(tree, Node) and tree.operator in ("=", "in") and len(tree.operands) == 2:
        label, body = tree.operands
        if tree.operator == "in" and is_quantity(label):
            return normal(domains.as_domain(body))
        if is_quantity(label) and (is_visible(body) or _is_interval(body)):
            return normal(body)
    return _as_difference(tree)


def _as_difference(tree: Tree) -> Tree:
    """Return R - {3} as R \\setminus {3}, and other trees as they are."""
    if not isinstance(tree, Node) or tree.operator != "+":
        return tree
    first, *others = tree.operands
    parts = [domains.as_domain(first)]
    for part in others:
        if not isinstance(part, Node) or part.operator != "-" or not is_visible(part.operands[0]):
            return tree
        parts.append(part.operands[0])
    return Node("setminus", tuple(parts)) if is_visible(parts[0]) or _is_interval(first) else tree


def _is_interval(tree: Tree) -> bool:
    return isinstance(tree, Node) and tree.operator in INTERVALS


@dataclass
class Reader:
    """Read a tree as a set; relations are solved for the variable."""

    line: Line
    variable: Tree | None

    def read(self, tree: Tree) -> Reals:
        """Return a tree as a set. Raise NotASet if it is none, NotSolved if it has a relation that is not linear."""
        named = domains.domain(tree, self.line.zero_is_natural)
        if named is not None:
            return named
        tree = _as_difference(tree)
        if not isinstance(tree, Node) or tree.operator not in _NOT_NUMBERS:
            return point(_plain(tree))
        if tree.operator in INTERVALS:
            return self._interval(tree)
        if is_relation(tree):
            return self._relation(tree)
        if tree.operator == "such that":
            return self._such_that(tree)
        if tree.operator in LISTS:
            return self._list(tree)
        if tree.operator == "{}":
            return self._elements(tree)
        if tree.operator not in ("cup", "cap", "setminus"):
            raise NotASet
        parts = [self.read(domains.as_domain(part)) for part in tree.operands]
        if tree.operator == "cup":
            return union(self.line, parts)
        if tree.operator == "setminus":
            parts[1:] = [complement(self.line, part) for part in parts[1:]]
        return intersection(self.line, parts)

    def _interval(self, tree: Node) -> Reals:
        if len(tree.operands) != 2:
            raise NotASet
        low, high = map(_plain, tree.operands)
        left, right = tree.operator[0] == "[", tree.operator[1] == "]"
        if free_names(low) or free_names(high):
            self.line.say(low, high)
        order = self.line.compare(low, high)
        if order > 0 or (order == 0 and not (left and right)):
            raise NotASet
        return point(low) if order == 0 else Reals(((Cut(low, not left), Cut(high, right)),))

    def _relation(self, tree: Node) -> Reals:
        if tree.operator == "chain":
            return intersection(self.line, [self.read(part) for part in tree.operands])
        if self.variable is None or self.variable not in walk(tree):
            raise NotASet
        left, right = tree.operands
        if tree.operator in ("in", "notin"):
            if left != self.variable:
                raise NotASet
            members = self.read(domains.as_domain(right))
            return members if tree.operator == "in" else complement(self.line, members)
        return solve(self.line, tree.operator, _plain(left), _plain(right), self.variable)

    def _such_that(self, tree: Node) -> Reals:
        first, *conditions = tree.operands
        name = first.operands[0] if isinstance(first, Node) and first.operator == "in" else first
        if not isinstance(name, Name):
            raise NotASet
        inner = Reader(self.line, name)
        if name != first:
            conditions.append(first)
        return intersection(self.line, [inner.read(condition) for condition in _together(conditions)])

    def _elements(self, tree: Node) -> Reals:
        """Return a set in braces. Relations in braces are conditions: {x >= 2}."""
        if any(map(is_relation, tree.operands)):
            return self._list(Node(",", tree.operands))
        return union(self.line, [EMPTY, *(point(_plain(element)) for element in tree.operands)])

    def _list(self, tree: Node) -> Reals:
        """Return a list of sets, points or relations.

        `x < 1, x > 4` is a union because nothing is both; `x > 1, x < 4` and `x > 0, x \\ne 3` are conditions."""
        tree = Node(tree.operator, tuple(part for part in tree.operands if part != self.variable))
        parts = self._parts(tree)
        related = [part.operator for part in tree.operands if isinstance(part, Node) and is_relation(part)]
        are_points = set(related) <= {"="}
        if tree.operator == "or" or are_points:
            return self._apart(parts) if tree.operator != "or" and not related else union(self.line, parts)
        both = intersection(self.line, parts)
        if tree.operator == "and" or both.intervals:
            return both
        return self._apart(parts)

    def _parts(self, tree: Node) -> list[Reals]:
        """Return what is listed. Values may follow an equation, x = 1, 2, or what is excluded, x \\ne 1, 2."""
        found: list[Reals] = []
        before = ""
        has_relations = any(map(is_relation, tree.operands))
        for part in tree.operands:
            members = self.read(part)
            if isinstance(part, Node) and is_relation(part):
                before = part.operator
            elif before == "!=":
                members = complement(self.line, members)
            elif has_relations and before != "=" and domains.domain(part) is None:
                raise NotASet
            found.append(members)
        return found

    def _apart(self, parts: list[Reals]) -> Reals:
        """Return the union of sets of which no two have anything in common. Raise NotASet if they have: a list that says a
        thing twice is no answer."""
        if not all(part.intervals for part in parts):
            raise NotASet
        whole = union(self.line, parts)
        if not all(part.is_finite for part in parts):
            for i, part in enumerate(parts):
                for other in parts[:i]:
                    if intersection(self.line, [part, other]).intervals:
                        raise NotASet
        return whole


def _together(conditions: list[Tree]) -> list[Tree]:
    """Return x = 1, x = -1, which is what x = \\pm 1 stands for, as one condition."""
    equations = [c for c in conditions if isinstance(c, Node) and c.operator == "="]
    others = [c for c in conditions if c not in equations]
    return [*others, Node("or", tuple(equations))] if len(equations) > 1 else conditions


def _plain(tree: Tree) -> Tree:
    """Return a tree if it is an expression. Raise NotASet if it is a list, relation, matrix or text."""
    for part in walk(tree):
        if isinstance(part, Words) or (isinstance(part, Constant) and part.name not in ("pi", "infinity")):
            raise NotASet
        if isinstance(part, Node) and part.operator in _NOT_NUMBERS:
            raise NotASet
    return tree
