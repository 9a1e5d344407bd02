"""Whether two formulas are equal: the same values wherever they are compared.

Equal trees are equal. Otherwise values decide, at points that follow from a hash of both formulas and a seed (`points`),
exactly where they are rational, and else with so many digits that a difference could not hide (`arithmetic`). Smooth
formulas that agree at random points are equal everywhere. What is not smooth needs more: roots and absolute values must
agree for negative values too, and floors, sums and powers of -1 for each class of whole numbers. Where that cannot be
shown, the pair is not judged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction

from rethink.grading.formulas import steps
from rethink.grading.formulas.arithmetic import (
    MOST_DIGITS,
    TOO_LARGE,
    Arithmetic,
    Budget,
    NotJudged,
    NoValue,
    Value,
)
from rethink.grading.formulas.points import Point, Points
from rethink.grading.formulas.structure import BINDING, callee_name, free_names, infinite, words
from rethink.grading.formulas.tree import Measured, Name, Node, Number, Tree, walk
from rethink.grading.formulas.values import Reader

FUNCTION_LETTERS = frozenset(
    ("f", "g", "h", "F", "G", "H", "P", "E", "\\phi", "\\psi", "\\Phi", "\\Psi", "\\Gamma", "\\zeta")
)
"""Names that stay functions even where they also occur without parentheses."""
NOT_WORKED_OUT = "a sum, integral or limit that is not worked out"
POSITIVE_ONLY = "equal for positive values only"
SOME_ONLY = "equal for some values only"
_FIRST_DIGITS = 200
_POINTS = 3
_MOST_CLASSES = 64
_MOST_PARTS = 2_000


@dataclass
class _At:
    """How two formulas compare at a point. Of a formula without a value there the value is None."""

    equal: bool
    values: tuple[bool, bool] = (True, True)
    real: tuple[bool, bool] = (True, True)
    unsure: bool = False


@dataclass
class _Pair:
    """Two formulas and how their names are read."""

    a: Tree
    b: Tree
    points: Points
    budget: Budget
    written: float
    factors: frozenset[str] = frozenset()
    log_scale: str = ""
    sides: dict[Tree, set[int]] = field(default_factory=dict)
    largest: int = 0

    def at(self, numbers: Point, stand_ins: bool = False, classes: Point | None = None) -> _At:
        """Compare at a point, with as many digits as it takes."""
        digits = _FIRST_DIGITS
        while True:
            arithmetic = Arithmetic(digits, self.budget)
            reader = Reader(arithmetic, dict(numbers), self.factors, stand_ins, classes, self.log_scale)
            first, is_first_real = _value(reader, self.a)
            second, is_second_real = _value(reader, self.b)
            found = _At(False, (first is not None, second is not None), (is_first_real, is_second_real), reader.unsure)
            self.largest = max(self.largest, int(self.written), reader.largest)
            for part, signs in reader.sides.items():
                self.sides.setdefault(part, set()).update(signs)
            if first is not None and second is not None:
                found.equal = arithmetic.difference(first, second) == 0
                if not arithmetic.steps:
                    return found
                if not found.equal and digits > 40 + 3 * arithmetic.spread() + self.written:
                    return found
            needed = arithmetic.digits_needed(self.written)
            if needed <= digits:
                return found
            if needed > MOST_DIGITS:
                raise NotJudged(TOO_LARGE)
            digits = 100 * math.ceil(needed / 100 + 0.3)


def _value(reader: Reader, tree: Tree) -> tuple[Value | None, bool]:
    """Return the value, or None, and whether every part is real."""
    reader.arithmetic.real = True
    try:
        value = reader.value(tree)
    except NoValue:
        return None, False
    return value, reader.arithmetic.real


def agree(a: Tree, b: Tree, seed: str = "") -> bool:
    """Return whether two formulas, that are no lists or relations, are equal. Raise NotJudged if it cannot be told."""
    if a == b:
        return True
    if words(a) != words(b):  # "not 0" is no number times 0
        return False
    try:
        return _agree(a, b, seed)
    except RecursionError as err:
        raise NotJudged("nested too deeply to compare") from err


def equal_equations(left: Tree, right: Tree, wanted_left: Tree, wanted_right: Tree, seed: str = "") -> bool:
    """Return whether the sides of two equations are equal, or left minus right of one is a multiple of the other's."""
    if left == wanted_left and right == wanted_right:
        return True
    first, second = _minus(left, right), _minus(wanted_left, wanted_right)
    factors, _ = _factors(first, second)
    first, second = _multiplied(first, factors), _multiplied(second, factors)
    if free_names(first) and free_names(first) == free_names(second) and _are_multiples(first, second, seed):
        return True
    return agree(left, wanted_left, seed) and agree(right, wanted_right, seed)


def _multiplied(tree: Tree, factors: set[str]) -> Tree:
    """Return a tree with products for the factors in front of parentheses: x^2(y+1)."""
    if not isinstance(tree, Node):
        return tree
    is_product = tree.operator == "apply" and len(tree.operands) == 2 and callee_name(tree) in factors
    return Node("*" if is_product else tree.operator, tuple(_multiplied(part, factors) for part in tree.operands))


def _minus(a: Tree, b: Tree) -> Tree:
    return Node("+", (a, Node("-", (b,))))


def _are_multiples(a: Tree, b: Tree, seed: str) -> bool:
    """Return whether one formula is a constant, that is not zero, times the other."""
    names = sorted(free_names(a) | free_names(b))
    point = Points(names, repr(a), repr(b), seed).positive(1)
    here, there = _substituted(a, point), _substituted(b, point)
    zero = Number(Fraction(0))
    if agree(here, zero, seed) or agree(there, zero, seed):
        return False
    return agree(Node("*", (a, there)), Node("*", (b, here)), seed)


def _substituted(tree: Tree, point: Point) -> Tree:
    """Return a tree with numbers for names, except those of functions and of the variables of sums."""
    if isinstance(tree, Name):
        return Number(point[tree.name]) if tree.name in point else tree
    if isinstance(tree, Measured):
        return replace(tree, value=_substituted(tree.value, point))
    if not isinstance(tree, Node):
        return tree
    kept = tree.operands[:1] if tree.operator in ("apply", "derivative", "partial") else ()
    if tree.operator in BINDING and isinstance(tree.operands[1], Name):
        point = {name: value for name, value in point.items() if name != tree.operands[1].name}
    return Node(tree.operator, (*kept, *[_substituted(part, point) for part in tree.operands[len(kept) :]]))


def _agree(a: Tree, b: Tree, seed: str) -> bool:
    signs = infinite(a), infinite(b)
    if any(signs):
        return signs[0] == signs[1]
    a, b = _fold_constants(a, b)
    written = _written(a) + _written(b)
    names = sorted(free_names(a) | free_names(b))
    pair = _Pair(a, b, Points(names, repr(a), repr(b), seed), Budget(), written)
    sure, unsure = _factors(a, b)
    pair.factors = frozenset(sure)
    if _with_any_base(pair):
        return True
    if unsure and _with_any_base(replace(pair, factors=frozenset(sure | unsure))):
        raise NotJudged("a name before parentheses may be a function or a factor")
    return False


def _with_any_base(pair: _Pair) -> bool:
    """Compare; logarithms without a base must agree whatever the base is."""
    if _equal(pair):
        return True
    if any(
        isinstance(p, Node) and p.operator == "log" and len(p.operands) == 1 for t in (pair.a, pair.b) for p in walk(t)
    ):
        for scale in ("e", "10"):
            if _equal(replace(pair, log_scale=scale)):
                raise NotJudged("a logarithm without a base")
    return False


def _fold_constants(a: Tree, b: Tree) -> tuple[Tree, Tree]:
    """Return both with c for C, the constant of integration, unless both occur in one."""
    names = free_names(a), free_names(b)
    if {"c", "C"} <= names[0] or {"c", "C"} <= names[1] or not {"c", "C"} <= names[0] | names[1]:
        return a, b
    return _renamed(a), _renamed(b)


def _renamed(tree: Tree) -> Tree:
    if tree == Name("C"):
        return Name("c")
    if isinstance(tree, Measured):
        return replace(tree, value=_renamed(tree.value))
    if not isinstance(tree, Node):
        return tree
    return Node(tree.operator, tuple(_renamed(operand) for operand in tree.operands))


def _written(tree: Tree) -> float:
    """Return how many digits a formula has."""
    digits, parts = 0.0, 0
    for part in walk(tree):
        parts += 1
        if isinstance(part, Number):
            digits += (part.value.numerator.bit_length() + part.value.denominator.bit_length()) / 3.3
        elif isinstance(part, Measured):
            digits += (part.unit.factor.numerator.bit_length() + part.unit.factor.denominator.bit_length()) / 3.3
    if parts > _MOST_PARTS:
        raise NotJudged("too long to compare")
    return digits


def _factors(a: Tree, b: Tree) -> tuple[set[str], set[str]]:
    """Return the names in front of parentheses that are factors, and those that may be."""
    called: set[str] = set()
    bare: set[str] = set()
    for tree in (a, b):
        _collect(tree, called, bare)
    sure = {name for name in called & bare if name not in FUNCTION_LETTERS}
    unsure = {name for name in called if (name in bare) == (name in FUNCTION_LETTERS)}
    return sure, unsure


def _collect(tree: Tree, called: set[str], bare: set[str]) -> None:
    """Add names in front of one argument to called, all others to bare."""
    if isinstance(tree, Name):
        bare.add(tree.name)
    elif isinstance(tree, Measured):
        _collect(tree.value, called, bare)
    elif isinstance(tree, Node):
        operands = tree.operands
        if tree.operator == "apply":
            if callee_name(tree) and len(operands) == 2:
                called.add(callee_name(tree))
            operands = operands[1:]
        for operand in operands:
            _collect(operand, called, bare)


def _equal(pair: _Pair) -> bool:
    if not pair.points.names:
        return _equal_numbers(pair)
    trees = (pair.a, pair.b)
    is_stepped = any(steps.steps(tree) for tree in trees)
    is_folded = any(steps.has_folds(tree) for tree in trees)
    if (is_stepped or is_folded) and _equal_everywhere(pair, stand_ins=True) is True:
        return True
    if is_stepped:
        return _equal_for_whole_numbers(pair)
    pair.sides.clear()
    verdict = _equal_everywhere(pair)
    if verdict is None:
        raise NotJudged(NOT_WORKED_OUT)
    if verdict and is_folded and not _all_sides_seen(pair):
        raise NotJudged(SOME_ONLY)
    return verdict


def _equal_numbers(pair: _Pair) -> bool:
    found = pair.at({})
    if found.values == (False, False):
        raise NotJudged("no finite value")
    if not found.equal and found.unsure and all(found.values):
        raise NotJudged(NOT_WORKED_OUT)
    return found.equal


def _equal_everywhere(pair: _Pair, stand_ins: bool = False) -> bool | None:
    """Return whether two formulas agree at random points, for all signs where these matter; None if a difference proves
    nothing.
    """
    has_branches = steps.has_branches(pair.a) or steps.has_branches(pair.b)
    wants_real = has_branches and _wants_real(pair)
    compared, complex_ones, trouble = 0, [], ""
    for turn in range(12):
        try:
            found = pair.at(pair.points.positive(turn), stand_ins)
        except NotJudged as err:
            trouble = str(err)
            continue
        if not any(found.values):
            continue
        if wants_real and not all(found.real):
            complex_ones.append(found)
            continue
        if not found.equal:
            return None if found.unsure else False
        compared += 1
        if compared == _POINTS:
            break
    if compared < _POINTS:
        if trouble or len(complex_ones) < _POINTS:
            raise NotJudged(trouble or "no finite values to compare")
        if not all(found.equal for found in complex_ones):
            return None if any(found.unsure for found in complex_ones) else False
    if has_branches:
        _refuse_if_signs_matter(pair, stand_ins, wants_real)
    return True


def _wants_real(pair: _Pair) -> bool:
    """Return whether points count only if all parts are real there: unless the imaginary unit occurs."""
    return Name("i") not in walk(pair.a) and Name("i") not in walk(pair.b)


def _refuse_if_signs_matter(pair: _Pair, stand_ins: bool, wants_real: bool) -> None:
    """Raise NotJudged if two formulas that agree for positive values do not for others."""
    is_single = len(pair.points.names) == 1
    is_folded = steps.has_folds(pair.a) or steps.has_folds(pair.b)
    signed = set(pair.points.names) if is_single or is_folded else steps.signed_names(pair.points.names)
    for point in pair.points.of_other_signs(signed):
        try:
            found = pair.at(point, stand_ins)
        except NotJudged:
            continue
        if not found.equal and (not wants_real or all(found.real) or (is_single and any(found.real))):
            raise NotJudged(POSITIVE_ONLY)
    for point in pair.points.of_other_sizes(pair.largest, signed):
        try:
            found = pair.at(point, stand_ins)
        except NotJudged:
            continue
        if not found.equal and all(found.real):
            raise NotJudged(SOME_ONLY)


def _all_sides_seen(pair: _Pair) -> bool:
    """Return whether every absolute value was compared with a positive and a negative inside, alone or for all signs of
    all names.
    """
    parts = [part for part in pair.sides if free_names(part)]
    if all(_is_monomial(part) for part in parts):
        return True
    return all(pair.sides[part] == {1, -1} and _are_multiples(part, parts[0], "") for part in parts)


def _is_monomial(tree: Tree) -> bool:
    """Return whether the sign of a tree follows from the signs of its names."""
    if isinstance(tree, Node) and tree.operator in ("*", "/", "-", "^", "abs"):
        return all(_is_monomial(operand) for operand in tree.operands)
    return isinstance(tree, (Number, Name))


def _equal_for_whole_numbers(pair: _Pair) -> bool:
    """Compare formulas with floors, powers of -1 and the like: for each class of remainders if that decides, otherwise at
    whole numbers, which can only show that they differ.
    """
    ours, theirs = steps.counting_names(pair.a), steps.counting_names(pair.b)
    counting = (ours | theirs) & set(pair.points.names)
    if counting and ours == theirs and _equal_for_each_class(pair, counting):
        return True
    points = pair.points.whole(counting)
    if not counting:
        points += pair.points.of_other_signs(set(pair.points.names)) + pair.points.of_other_sizes(
            pair.largest, set(pair.points.names)
        )
    compared, wants_real = 0, _wants_real(pair)
    for point in points:
        try:
            found = pair.at(point)
        except NotJudged:
            continue
        if not all(found.values) or (wants_real and not all(found.real)):
            continue
        compared += 1
        if not found.equal and not found.unsure:
            return False
    raise NotJudged(SOME_ONLY if compared else "no whole numbers to compare")


def _equal_for_each_class(pair: _Pair, counting: set[str]) -> bool:
    first, second = steps.period(pair.a), steps.period(pair.b)
    if first is None or second is None or math.lcm(first, second) ** len(counting) > _MOST_CLASSES:
        return False
    for turn, classes in enumerate(pair.points.classes(counting, math.lcm(first, second))):
        found = pair.at(pair.points.positive(turn), classes=classes)
        if not found.equal or found.unsure:
            return False
    return True
