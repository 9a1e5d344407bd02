"""Values with units, percent and degrees, and numbers with a base.

A unit may be missing on one side, because questions often name it; so may a base. Where both sides have one, they must
mean the same: 1 m is 100 cm, and 5 cm is not 5 m."""

from __future__ import annotations

from fractions import Fraction

from rethink.grading.formulas.spelling import word_set
from rethink.grading.formulas.tree import Constant, Measured, Name, Node, Number, Tree, Unit, names, walk
from rethink.grading.formulas.unit_ratios import ratios
from rethink.grading.formulas.units import read_unit
from rethink.grading.formulas.verdicts import Equal, NotJudged, some
from rethink.grading.formulas.words import plain_text

_LETTERS = word_set("m s h g N J W V L mg ms mL mW MW GW mJ MJ kN kV kJ mA mV")
"""Units that variables may share their letters with."""


def equal_quantities(a: Tree, b: Tree, agree: Equal) -> bool:
    """Return whether two values are equal, each with or without a unit."""
    ours, theirs = quantities(a), quantities(b)
    ours = ours or _letter(a, b, 2 if theirs else 1)
    letter = _letter(b, a, 2 if ours else 1) if not theirs else []
    if letter and not ours and some([(a, letter[0].value)], agree):
        raise NotJudged("the gold answer has a letter that may be a variable or a unit")
    theirs = theirs or (letter if ours else [])
    if not ours and not theirs:
        return agree(a, b)
    if ours and theirs:
        ours, theirs = ours[:1], theirs[:1]
    pairs: list[tuple[Tree, Tree]] = []
    for value, unit in _with_units(ours, a):
        for other, other_unit in _with_units(theirs, b):
            for ratio, power in ratios(unit, other_unit):
                pairs.append((_times(value, ratio, power), other))
    return some(pairs, agree)


def _with_units(measured: list[Measured], tree: Tree) -> list[tuple[Tree, Unit | None]]:
    """Return values with their units, or else the whole tree without one."""
    if not measured:
        return [(tree, None)]
    return [(one.value, one.unit) for one in measured]


def _letter(tree: Tree, other: Tree, most: int) -> list[Measured]:
    """Return 8 m, 8 m^2 or 8 MW, where letters are read as names, as a value with its unit.

    Not if there are more letters than `most`, the other answer has one of these names, or the value has any."""
    if not isinstance(tree, Node) or tree.operator != "*" or len(tree.operands) > 1 + most:
        return []
    value, *letters = tree.operands
    power = Fraction(1)
    last = letters[-1]
    if isinstance(last, Node) and last.operator == "^":
        letters[-1], exponent = last.operands
        power = exponent.value if isinstance(exponent, Number) else Fraction(0)
    symbol = ""
    for letter in letters:
        if not isinstance(letter, Name) or letter.name in names(other):
            return []
        symbol += letter.name
    if names(value) or symbol not in _LETTERS or power not in (1, 2, 3):
        return []
    unit = read_unit(f"{symbol}^{power}", True)
    return [] if unit is None else [Measured(value, unit)]


def quantities(tree: Tree) -> list[Measured]:
    """Return a value with its unit, or 5 h 30 min in each of its units; [] for a value without a unit.

    The unit behind a sum, as in 5 - \\sqrt2 cm, belongs to all of it, but not a percent or degree sign."""
    one = _quantity(tree)
    if one is not None:
        return [one]
    if not (isinstance(tree, Node) and tree.operator == "+"):
        return []
    *others, last = tree.operands
    unit_of_all = _quantity(last)
    if unit_of_all is not None and not _is_pure(unit_of_all.unit) and not any(map(has_unit, others)):
        return [Measured(Node("+", (*others, unit_of_all.value)), unit_of_all.unit)]
    terms: list[Measured] = []
    for part in tree.operands:
        term = _quantity(part)
        if term is None or (terms and term.unit.powers != terms[0].unit.powers):
            return []
        terms.append(term)
    total = Node("+", tuple(_base(term) for term in terms))
    found: list[Measured] = []
    for unit in dict.fromkeys(term.unit for term in terms):
        found.append(Measured(_times(total, 1 / unit.factor, -unit.pi), unit))
    return found


def _quantity(tree: Tree) -> Measured | None:
    """Return the unit of a value, of its negative, or of a product or quotient, with the value in it."""
    if isinstance(tree, Measured):
        return tree
    if not isinstance(tree, Node) or tree.operator not in ("-", "*", "/"):
        return None
    with_unit = [n for n, part in enumerate(tree.operands) if _quantity(part) is not None]
    if len(with_unit) != 1 or (tree.operator == "/" and with_unit[0] == 1):
        return None
    inner = _quantity(tree.operands[with_unit[0]])
    if inner is None:
        return None
    operands = list(tree.operands)
    operands[with_unit[0]] = inner.value
    return Measured(Node(tree.operator, tuple(operands)), inner.unit)


def has_unit(tree: Tree) -> bool:
    """Return whether a unit occurs in a tree."""
    return any(isinstance(part, Measured) for part in walk(tree))


def _is_pure(unit: Unit) -> bool:
    return all(name in ("rad", "%") for name, _ in unit.powers)


def _base(one: Measured) -> Tree:
    """Return the value in base units."""
    return _times(one.value, one.unit.factor, one.unit.pi)


def _times(value: Tree, factor: Fraction, pi: int) -> Tree:
    """Return a value times a factor and a power of pi."""
    parts: list[Tree] = [value]
    if factor != 1:
        parts.append(Number(factor))
    if pi:
        parts.append(Node("^", (Constant("pi"), Number(Fraction(pi)))))
    return Node("*", tuple(parts)) if len(parts) > 1 else value


def is_based(tree: Tree) -> bool:
    """Return whether a number is written with its base, as 1011_2."""
    return isinstance(tree, Node) and tree.operator == "based"


def equal_based(a: Tree, b: Tree) -> bool:
    """Return whether the digits are the same, and the bases too unless one is missing."""
    bases = [tree.operands[1] for tree in (a, b) if isinstance(tree, Node) and tree.operator == "based"]
    return _digits(a) == _digits(b) is not None and len(set(bases)) == 1


def _digits(tree: Tree) -> str | None:
    if isinstance(tree, Node) and tree.operator == "based":
        return plain_text(tree.operands[0])
    return plain_text(tree)
