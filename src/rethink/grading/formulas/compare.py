"""Whether an answer equals a gold answer, as trees.

Lists without brackets and sets are unordered; tuples and intervals are ordered, and their brackets count. A list never
equals one value, but `3/8 or 0.375` are two spellings of one. Names in front may be missing on one side. Every link of a
chain such as 10/4 = 2.5 must be right."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import filterfalse, product

from rethink.grading.formulas import fronts, plus_minus, relations
from rethink.grading.formulas.agree import agree, equal_equations
from rethink.grading.formulas.approximations import exact, is_approximate, rounded
from rethink.grading.formulas.arithmetic import WORK, Budget
from rethink.grading.formulas.derivatives import same_notation, worked_out
from rethink.grading.formulas.fronts import Named, named
from rethink.grading.formulas.matrices import equal_rows, identity, in_columns, is_transposed, rows, vector
from rethink.grading.formulas.piecewise import equal_pieces, is_piecewise
from rethink.grading.formulas.quantified import unquantified
from rethink.grading.formulas.quantities import equal_based, equal_quantities, is_based
from rethink.grading.formulas.sets import equal_sets, has_conditions
from rethink.grading.formulas.structure import words
from rethink.grading.formulas.sums import equal_by_induction
from rethink.grading.formulas.tree import (
    INTERVALS,
    LISTS,
    Constant,
    Name,
    Node,
    Number,
    Tree,
    Words,
    is_collection,
    names,
    walk,
    with_parts,
)
from rethink.grading.formulas.verdicts import NotJudged, every, same_items, some
from rethink.grading.formulas.words import equal_words, listed

MAX_COMPARISONS = 20_000
_LISTS = (*LISTS, "{}")
_MOST_WORK = 3 * WORK
"""For all items of a list together."""


def equal(answer: Tree, gold: Tree, seed: str = "") -> bool:
    """Return whether an answer is right. Raise NotJudged if no part differs and some cannot be compared."""
    if answer == gold:
        return True
    answer, gold = same_notation(worked_out(answer), worked_out(gold))
    answer, gold = unquantified(answer, gold)
    comparison = _Comparison(seed)
    if not (plus_minus.has_signs(answer) or plus_minus.has_signs(gold)):
        return comparison.equal(answer, gold)

    def read(independent: bool) -> bool:
        return comparison.equal(plus_minus.expanded(answer, independent), plus_minus.expanded(gold, independent))

    right = read(independent=False)
    several = plus_minus.is_ambiguous(answer) or plus_minus.is_ambiguous(gold)
    if several and read(independent=True) != right:
        raise NotJudged("several plus-minus signs, which may belong together or not")
    return right


@dataclass
class _Comparison:
    """One comparison of two answers, with a bound on its work."""

    seed: str
    left: int = MAX_COMPARISONS
    work: Budget = field(default_factory=lambda: Budget(_MOST_WORK))

    def equal(self, a: Tree, b: Tree) -> bool:
        """Return whether two answers or items are equal, with or without names in front."""
        if a == b:
            return True
        self.left -= 1
        if self.left < 0:
            raise NotJudged("too many items to compare")
        if isinstance(a, Number) and isinstance(b, Number):
            return a.value == b.value
        if is_approximate(a) or is_approximate(b):
            return self._approximations(a, b)
        if _is_congruence(a) and _are(b, b, "="):
            return False
        if has_conditions(a) or has_conditions(b):
            as_sets = self._as_sets(a, b)
            if as_sets is not None:
                return as_sets
        ours, theirs = named(a), named(b)
        if not ours.names and not theirs.names:
            return self.bodies(a, b)
        if ours.names and theirs.names:
            return self._both_named(ours, theirs, a, b)
        if _is_condition(a) or _is_condition(b):
            return self.bodies(a, b)
        return self._one_named(ours, theirs)

    def _approximations(self, a: Tree, b: Tree) -> bool:
        """Compare where a side has an approximate sign. The gold answer may mean its exact or its rounded value."""
        value = exact(a) if is_approximate(a) else a
        if is_approximate(b):
            wanted = exact(b)
            accepted = rounded(b) if wanted is None else [wanted, *rounded(b)]
            given = [value] if value is not None else rounded(a)
            return some(product(given, accepted), self.equal)
        if isinstance(a, Node) and len(a.operands) == 1:  # \\approx 13
            return self.equal(a.operands[0], b)
        return value is not None and self.equal(value, b)

    def _both_named(self, ours: Named, theirs: Named, a: Tree, b: Tree) -> bool:
        if ours.names == theirs.names or (len(ours.names) == len(theirs.names) == 1 and self._same_label(ours, theirs)):
            return self.equal(ours.body, theirs.body)
        if ours.is_assignment and set(ours.names) == set(theirs.names):
            return self.equal(fronts.in_order(ours.body, ours.names, theirs.names), theirs.body)
        if fronts.are_roots_of(ours.names, theirs.names) or fronts.are_roots_of(theirs.names, ours.names):
            return self.equal(_without_brackets(ours.body, theirs.body), _without_brackets(theirs.body, ours.body))
        function = fronts.same_function(ours, theirs)
        if function is not None:
            return self.equal(function.body, theirs.body)
        return _are(a, b, "=") and self.bodies(a, b)

    def _same_label(self, ours: Named, theirs: Named) -> bool:
        """Return whether two labels are the same formula: AB and BA."""
        a, b = ours.names[0], theirs.names[0]
        return isinstance(a, Node) and isinstance(b, Node) and a.operator == b.operator == "*" and self.scalars(a, b)

    def _one_named(self, ours: Named, theirs: Named) -> bool:
        """Compare what stands behind the names with an answer without names."""
        with_names, a, b = (ours if ours.names else theirs), ours.body, theirs.body
        if not with_names.is_assignment:
            return self.equal(a, b)
        if fronts.are_numbered(with_names.names):  # roots: x_1 = 2, x_2 = 3
            return self.equal(_without_brackets(a, b), _without_brackets(b, a))
        if {name.name for name in with_names.names if isinstance(name, Name)} <= {"x", "y", "z"}:
            order = tuple(sorted(with_names.names, key=str))
            body = fronts.in_order(with_names.body, with_names.names, order)
            return self.equal(body, b) if ours.names else self.equal(a, body)
        return self.equal(a, b)

    def bodies(self, a: Tree, b: Tree) -> bool:
        """Return whether two answers without names in front are equal."""
        if is_piecewise(a) or is_piecewise(b):
            return _are(a, b, "cases") and equal_pieces(a, b, self.equal)  # type: ignore[arg-type]
        a, b = _brackets(_system(a)), _brackets(_system(b))
        a, b = listed(_point(a, b), b), listed(_point(b, a), a)
        matrix = self._matrices(a, b)
        if matrix is not None:
            return matrix
        same_kind = self._same_kind(a, b)
        if same_kind is not None:
            return same_kind
        alternatives = self._alternatives(a, b)
        if alternatives is not None:
            return alternatives
        as_sets = self._as_sets(a, b)
        if as_sets is not None:
            return as_sets
        if isinstance(a, Node) and isinstance(b, Node) and a.operator in _LISTS and b.operator in _LISTS:
            return same_items(items(a), items(b), self.equal)
        if isinstance(a, Words) or isinstance(b, Words):
            return equal_words(a, b)
        return self._others(a, b)

    def _as_sets(self, a: Tree, b: Tree) -> bool | None:
        """Compare as sets of numbers; None if they are something else."""
        if _have_several_names(a, b):
            return None
        try:
            return equal_sets(a, b, self.seed)
        except NotJudged:
            if _is_value(a) or _is_value(b):
                return None
            raise

    def _matrices(self, a: Tree, b: Tree) -> bool | None:
        """Compare as matrices; a row or column equals the tuple of its entries. None if neither is a matrix."""
        ours, theirs = rows(in_columns(a, b)), rows(in_columns(b, a))
        if ours is None and theirs is None:
            return None
        if ours is not None and theirs is not None:
            return equal_rows(ours, theirs, self.equal)
        if ours is not None and rows(identity(b, ours)) is not None:
            return equal_rows(ours, rows(identity(b, ours)) or (), self.equal)
        if theirs is not None and rows(identity(a, theirs)) is not None:
            return equal_rows(rows(identity(a, theirs)) or (), theirs, self.equal)
        as_tuple = vector(ours or theirs or ())
        if as_tuple is None:
            return False
        return self._same_kind(as_tuple, b) is True if ours else self._same_kind(a, as_tuple) is True

    def _same_kind(self, a: Tree, b: Tree) -> bool | None:
        """Compare lists with lists, tuples with tuples, intervals with intervals; None if they are something else."""
        if not isinstance(a, Node) or not isinstance(b, Node):
            return None
        if a.operator in INTERVALS and b.operator in INTERVALS:
            if a.operator != b.operator or len(a.operands) != len(b.operands):
                return False
            return every(zip(a.operands, b.operands, strict=True), self.equal)
        if {a.operator, b.operator} == {",", "()"}:  # 1, 2 for the point (1, 2)
            if len(a.operands) != len(b.operands):
                return False
            return every(zip(a.operands, b.operands, strict=True), self.equal)
        if a.operator in _LISTS and b.operator in _LISTS and not _has_condition(a) and not _has_condition(b):
            if "{}" in (a.operator, b.operator):
                return same_items(self._distinct(items(a)), self._distinct(items(b)), self._elements)
            return same_items(items(a), items(b), self.equal)
        return None

    def _elements(self, a: Tree, b: Tree) -> bool:
        """Return whether two elements of sets are equal; there {1} is not 1."""
        if is_collection(a) != is_collection(b) and (_single(a), _single(b)) != (a, b):
            return False
        return self.equal(a, b)

    def _distinct(self, found: list[Tree]) -> list[Tree]:
        """Return the elements of a set without repetitions."""
        distinct: list[Tree] = []
        for item in found:
            if item not in distinct and not some(product([item], distinct), self.equal):
                distinct.append(item)
        return distinct

    def _others(self, a: Tree, b: Tree) -> bool:
        if _are(a, b, "mod") and isinstance(a, Node) and isinstance(b, Node):
            return self.equal(a.operands[1], b.operands[1]) and self._residues(a, b)
        if relations.is_statement(a) or relations.is_statement(b):
            return self._relations(a, b)
        if is_based(a) or is_based(b):
            return equal_based(a, b)
        if is_collection(a) or is_collection(b):
            single = _single(a), _single(b)
            return single != (a, b) and self.equal(*single)
        return equal_quantities(a, b, self.scalars)

    def _alternatives(self, a: Tree, b: Tree) -> bool | None:
        """Compare 3/8 or 0.375 with one value, which each of them must equal; None if neither is that."""
        if isinstance(a, Node) and a.operator == "or" and not is_collection(b) and not _has_condition(a):
            return every(((item, b) for item in items(a)), self.equal)
        if isinstance(b, Node) and b.operator == "or" and not is_collection(a) and not _has_condition(b):
            return every(((a, item) for item in items(b)), self.equal)
        return None

    def _relations(self, a: Tree, b: Tree) -> bool:
        """Compare statements; the sides of 10/4 = 2.5 with a value, which each of them must equal."""
        if relations.is_statement(a) and relations.is_statement(b):
            assert isinstance(a, Node)
            assert isinstance(b, Node)
            if (a.operator == ":") != (b.operator == ":"):  # x = 3/5 for 3:5
                return self.equal(fronts.quotient(a), fronts.quotient(b))
            return relations.equal_relations(a, b, self.equal, self._equations)
        statement, value, ours = (a, b, True) if relations.is_statement(a) else (b, a, False)
        assert isinstance(statement, Node)
        sides, operators = relations.sides(statement)
        if operators == [":"]:  # 1:2 for 1/2
            ratio = fronts.quotient(statement)
            return self.equal(ratio, value) if ours else self.equal(value, ratio)
        if len(sides) == 2 and value != Number(Fraction(0)) and not names(value):  # m + n = 25
            sides = list(filterfalse(fronts.is_combination, sides)) or sides
        if any(operator != "=" for operator in operators) or is_collection(value):
            return False
        return every(((side, value) if ours else (value, side) for side in sides), self.equal)

    def _residues(self, a: Node, b: Node) -> bool:
        """Compare 3 \\pmod 7 with 10 \\pmod 7, or two congruences."""
        if relations.is_statement(a.operands[0]) or relations.is_statement(b.operands[0]):
            return self.equal(a.operands[0], b.operands[0])
        return self.scalars(a, b)

    def _equations(self, a: Node, b: Node) -> bool:
        left, right, wanted_left, wanted_right = map(_as_names, (*a.operands, *b.operands))
        return equal_equations(left, right, wanted_left, wanted_right, self.seed)

    def scalars(self, a: Tree, b: Tree) -> bool:
        """Return whether two formulas have the same value."""
        a, b = _as_names(a), _as_names(b)
        return equal_by_induction(a, b, self._agree) or self._agree(a, b)

    def _agree(self, a: Tree, b: Tree) -> bool:
        return agree(a, b, self.seed, self.work)


def items(tree: Node) -> list[Tree]:
    """Return the items of a list, and those of the lists inside that have no brackets."""
    found: list[Tree] = []
    for item in tree.operands:
        if isinstance(item, Node) and item.operator in LISTS and not _has_condition(item):
            found += items(item)
        else:
            found.append(item)
    return found


def has_list(tree: Tree) -> bool:
    """Return whether there is a list, tuple, interval or set in a tree."""
    return any(isinstance(part, Node) and part.operator in (*_LISTS, *INTERVALS) for part in walk(tree))


def _are(a: Tree, b: Tree, operator: str) -> bool:
    return isinstance(a, Node) and isinstance(b, Node) and a.operator == b.operator == operator


def _is_condition(tree: Tree) -> bool:
    """Return whether a tree is a relation, or a list of some, that no name in front explains: x > 5, x \\ne 2."""
    if isinstance(tree, Node) and tree.operator in (",", "and", "or"):
        return all(map(_is_condition, tree.operands)) and not named(tree).names
    return relations.is_statement(tree) and not named(tree).names


def _has_condition(tree: Node) -> bool:
    return any(relations.is_statement(item) and not named(item).names for item in tree.operands)


def _is_value(tree: Tree) -> bool:
    """Return whether a tree is a single value, and no set in any notation."""
    if isinstance(tree, (Constant, Words)):
        return isinstance(tree, Constant) and tree.name in ("pi", "infinity")
    if isinstance(tree, Name):
        return " " not in tree.name and "\\mathbb" not in tree.name
    if isinstance(tree, Node) and tree.operator in ("+", "*", "-"):
        return all(map(_is_value, tree.operands))
    return not is_collection(tree) and not relations.is_statement(tree)


def _have_several_names(a: Tree, b: Tree) -> bool:
    """Return whether both are relations, and one is between several variables."""
    if not relations.is_statement(a) or not relations.is_statement(b):
        return False
    for tree in (a, b):
        variables = [name for name in names(tree) - words(tree) if not name.startswith("\\mathbb")]
        if len(variables) > 1:
            return True
    return False


def _single(tree: Tree) -> Tree:
    """Return the only element of a set; other trees as they are."""
    return tree.operands[0] if isinstance(tree, Node) and tree.operator == "{}" and len(tree.operands) == 1 else tree


def _without_brackets(tree: Tree, other: Tree) -> Tree:
    """Return a tuple as a list, if the other answer is a list or set."""
    if _are(tree, tree, "()") and isinstance(other, Node) and other.operator in _LISTS and isinstance(tree, Node):
        return Node(",", tree.operands)
    return tree


def _brackets(tree: Tree) -> Tree:
    """Return a vector in angle brackets, or a tuple that is transposed, as a tuple."""
    if is_transposed(tree) and isinstance(tree, Node) and isinstance(tree.operands[0], Node):
        inner = tree.operands[0]
        tree = Node("()", inner.operands) if inner.operator in ("()", "[]", "<>") else tree
    return Node("()", tree.operands) if isinstance(tree, Node) and tree.operator == "<>" else tree


def _point(tree: Tree, other: Tree) -> Tree:
    """Return P(3, 4) as (3, 4), if the other answer is a tuple of as many items."""
    if not _are(tree, tree, "apply") or not _are(other, other, "()"):
        return tree
    assert isinstance(tree, Node)
    callee, *items_ = tree.operands
    is_letter = isinstance(callee, Name) and callee.name[0].isupper()
    return Node("()", tuple(items_)) if is_letter and len(items_) > 1 else tree


def _system(tree: Tree) -> Tree:
    """Return a system of equations as a list."""
    if isinstance(tree, Node) and tree.operator == "cases":
        parts = fronts.equations(tree)
        return Node("and", parts) if len(parts) > 1 else parts[0] if parts else tree
    return tree


def _is_congruence(tree: Tree) -> bool:
    return isinstance(tree, Node) and tree.operator == "mod" and _are(tree.operands[0], tree.operands[0], "equiv")


def _as_names(tree: Tree) -> Tree:
    """Return a formula with a name for each of its words."""
    if isinstance(tree, Words):
        return Name(f"\\text{{{' '.join(tree.text.split()).casefold()}}}")
    return with_parts(tree, _as_names)
