"""The value of a formula where its names have values.

Rational parts stay exact. What has no value (a function f, a derivative) gets a number from a hash of its name
and of its arguments' values: equal arguments give equal values, and no formula but the same function has them. Sums,
integrals and limits that are not computed are such stand-ins too, linear in their terms; because they have a meaning that
is not used then, a difference proves nothing (`unsure`).

`i` is the imaginary unit and `e` Euler's number, except as the variable of a sum or the like.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from fractions import Fraction

from rethink.grading.formulas import functions
from rethink.grading.formulas.arithmetic import Arithmetic, Value
from rethink.grading.formulas.folds import PERIODIC, Folds
from rethink.grading.formulas.structure import (
    BINDING,
    free_names,
    infinite,
    is_whole,
    pi_multiple,
)
from rethink.grading.formulas.tree import Constant, Measured, Name, Node, Number, Tree, Words
from rethink.grading.formulas.verdicts import NotJudged

MOST_TERMS = 10_000
_FOLDED = frozenset(("ln", "arcsin", "arccos", "arctan", "arccot", "arg"))
_UNORDERED = frozenset(("max", "min", "gcd", "lcm"))
NO_VALUE = "not an expression with a value"


def stand_in(*parts: object) -> Fraction:
    """Return a number between 1/2 and 8 that follows from the parts."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    top, bottom = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")
    denominator = 10**9 + bottom % (9 * 10**9)
    return Fraction(denominator // 2 + top % (7 * denominator), denominator)


class Evaluator:
    """Compute values of trees where names have values.

    Operators in `stand_ins` are like functions of no known meaning. With `classes`, each counting variable stands for all
    whole numbers of a class of remainders: it has a value, but what repeats itself, such as (-1)^n, is computed
    from the remainder. `log_scale` is 1/ln of the base of logarithms without a base. `salt` goes into the hash of every
    stand-in, so that no answer can be made to fit their values.
    """

    def __init__(
        self,
        arithmetic: Arithmetic,
        numbers: dict[str, Value],
        stand_ins: frozenset[str] = frozenset(),
        classes: dict[str, Value] | None = None,
        log_scale: str = "",
        is_complex: bool = False,
        salt: str = "",
    ) -> None:
        self.arithmetic = arithmetic
        self.numbers = numbers
        self.stand_ins = stand_ins
        self.classes = classes
        self.log_scale = log_scale
        self.salt = salt
        self.unsure = False
        self.largest = 0
        """How many digits the longest number or power of numbers has."""
        self.folds = Folds(arithmetic, is_complex)

    def value(self, tree: Tree) -> Value:
        """Return the value. Raise NoValue where there is none, NotJudged if it cannot be computed."""
        if isinstance(tree, Number):
            self._note_length(tree.value)
            return tree.value
        if isinstance(tree, Name):
            return self._name(tree.name)
        if isinstance(tree, Constant):
            if tree.name != "pi":
                raise NotJudged("infinity or a set inside a formula")
            self.arithmetic.note_size(2)
            return +self.arithmetic.mp.pi
        if isinstance(tree, Measured):
            return self._measured(tree)
        if isinstance(tree, Words):
            raise NotJudged(NO_VALUE)
        self.arithmetic.budget.spend(6)
        if tree.operator in self.stand_ins and free_names(tree):
            return self._stand_in_of(tree)
        special = _SPECIAL.get(tree.operator)
        if special is not None:
            return special(self, tree)
        function = functions.FUNCTIONS.get(tree.operator)
        if function is None or len(tree.operands) != 1:
            raise NotJudged(NO_VALUE)
        if self.classes is not None and tree.operator in PERIODIC and pi_multiple(tree.operands[0]):
            return self._remainder(tree)
        inside = self.value(tree.operands[0])
        if tree.operator in _FOLDED:
            self.folds.note(tree.operands[0], inside, self.value)
        return function(self.arithmetic, inside)

    def _stand_in(self, *parts: object) -> Fraction:
        return stand_in(self.salt, *parts)

    def _name(self, name: str) -> Value:
        if name in self.numbers:
            return self.numbers[name]
        if name == "i":
            return self.arithmetic.mp.mpc(0, 1)
        if name == "e":
            return +self.arithmetic.mp.e
        raise NotJudged(NO_VALUE)

    def _values(self, tree: Node) -> list[Value]:
        return [self.value(operand) for operand in tree.operands]

    def _measured(self, tree: Measured) -> Value:
        parts = [self.value(tree.value), tree.unit.factor]
        if tree.unit.pi:
            parts.append((+self.arithmetic.mp.pi) ** tree.unit.pi)
        for unit, power in tree.unit.powers:
            if unit not in ("rad", "%"):
                parts.append(self._stand_in("unit", unit) ** power)
        return self.arithmetic.multiply(parts)

    def _add(self, tree: Node) -> Value:
        return self.arithmetic.add(self._values(tree))

    def _multiply(self, tree: Node) -> Value:
        product = self.arithmetic.multiply(self._values(tree))
        if isinstance(product, Fraction) and not free_names(tree):
            self._note_length(product)
        return product

    def _negate(self, tree: Node) -> Value:
        return -self.value(tree.operands[0])

    def _divide(self, tree: Node) -> Value:
        above, below = self._values(tree)
        return self.arithmetic.divide(above, below)

    def _power(self, tree: Node) -> Value:
        base, exponent = tree.operands
        if base == Name("e") and "e" not in self.numbers:
            return self.arithmetic.exponential(self.value(exponent))
        below = self.value(base)
        if free_names(base) and not is_whole(exponent):
            above = functions.exact_if_whole(self.arithmetic, self.value(exponent))
            is_fraction = isinstance(above, Fraction)
            if "root" in self.stand_ins and not (is_fraction and above.denominator == 1):
                return self._stand_in("power", self._rounded(below), self._rounded(above))
            if not is_fraction or above.denominator % 2 == 0:
                self.folds.note(base, below, self.value)
        if below == 0 and free_names(exponent):
            # 0^{x-1} is 0 at all points but one.
            raise NotJudged("zero to a power that is not a number")
        if self.classes is not None and free_names(exponent) and not free_names(base):
            if base == Name("i"):
                return self._remainder(tree)
            if not isinstance(below, self.arithmetic.mp.mpc) and below < 0:
                turned = self.arithmetic.power(Fraction(-1), self._remainder(exponent))
                return self.arithmetic.multiply([turned, self.arithmetic.power(-below, self.value(exponent))])
        power = self.arithmetic.power(below, self.value(exponent))
        if isinstance(power, Fraction) and not free_names(tree):
            self._note_length(power)
        return power

    def _note_length(self, value: Fraction) -> None:
        bits = max(value.numerator.bit_length(), value.denominator.bit_length())
        self.largest = max(self.largest, bits * 3 // 10)

    def _root(self, tree: Node) -> Value:
        radicand, degree = self._values(tree)
        self.folds.note(tree.operands[0], radicand, self.value)
        if isinstance(degree, Fraction) and degree.denominator == 1 and 0 < degree < 10_000:
            return self.arithmetic.root(radicand, degree.numerator)
        return self.arithmetic.power(radicand, self.arithmetic.divide(Fraction(1), degree))

    def _absolute(self, tree: Node) -> Value:
        inside = self.value(tree.operands[0])
        if not isinstance(inside, self.arithmetic.mp.mpc):
            self.folds.add(tree.operands[0], 1 if inside > 0 else -1)
        return functions.absolute(self.arithmetic, inside)

    def _sign(self, tree: Node) -> Value:
        sign = functions.sign(self.arithmetic, self.value(tree.operands[0]))
        self.folds.add(tree.operands[0], 1 if sign > 0 else -1)
        return sign

    def _extreme(self, tree: Node) -> Value:
        values = self._listed(tree)
        best = functions.extreme(self.arithmetic, values, tree.operator == "max")
        if len(values) == 2:
            operands = tree.operands if len(tree.operands) == 2 else ()
            difference = Node("+", (operands[0], Node("-", (operands[1],)))) if operands else tree
            self.folds.add(difference, -1 if best else 1)
        elif free_names(tree):
            self.unsure = self.folds.is_doubtful = True
        return values[best]

    def _listed(self, tree: Node) -> list[Value]:
        operands = tree.operands
        if len(operands) == 1 and isinstance(operands[0], Node) and operands[0].operator in ("{}", ",", "()"):
            operands = operands[0].operands
        if not operands:
            raise NotJudged(NO_VALUE)
        return [self.value(operand) for operand in operands]

    def _floor(self, tree: Node) -> Value:
        inside = self.value(tree.operands[0])
        rounded = functions.floor if tree.operator == "floor" else functions.ceiling
        if self.classes is not None and free_names(tree):
            rest = self._remainder(tree.operands[0])
            return self.arithmetic.add([inside, -rest, rounded(self.arithmetic, rest)])
        return rounded(self.arithmetic, inside)

    def _modulo(self, tree: Node) -> Value:
        if self.classes is not None and free_names(tree):
            return self._remainder(tree)
        a, b = self._values(tree)
        return functions.modulo(self.arithmetic, a, b)

    def _divisors(self, tree: Node) -> Value:
        values = self._listed(tree)
        count = functions.divisor if tree.operator == "gcd" else functions.multiple
        return count(self.arithmetic, values)

    def _binomial(self, tree: Node) -> Value:
        n, k = self._values(tree)
        return functions.binomial(self.arithmetic, n, k)

    def _log(self, tree: Node) -> Value:
        inside = self.value(tree.operands[0])
        self.folds.note(tree.operands[0], inside, self.value)
        logarithm = self.arithmetic.logarithm(inside)
        if len(tree.operands) == 2:
            return self.arithmetic.divide(logarithm, self.arithmetic.logarithm(self.value(tree.operands[1])))
        if self.log_scale == "e":
            return logarithm
        if self.log_scale == "10":
            return self.arithmetic.divide(logarithm, self.arithmetic.logarithm(Fraction(10)))
        return self.arithmetic.multiply([logarithm, self._stand_in("log")])

    def _based(self, tree: Node) -> Value:
        digits, base = tree.operands
        radix = self.value(base)
        if not isinstance(digits, Words) or radix not in range(2, 37) or len(digits.text) > 10_000:
            raise NotJudged(NO_VALUE)
        try:
            return Fraction(int(digits.text, int(radix)))
        except ValueError as err:
            raise NotJudged(NO_VALUE) from err

    def _apply(self, tree: Node) -> Value:
        callee, arguments = tree.operands[0], tree.operands[1:]
        return self._stand_in("apply", callee, *[self._key(argument) for argument in arguments])

    def _bound_of(self, tree: Node) -> Value:
        """Return a stand-in for an infimum or supremum, which is no number unless all of it is."""
        self.unsure = self.unsure or not free_names(tree)
        return self._stand_in("bound", tree.operator, *[self._key(operand) for operand in tree.operands])

    def _derivative(self, tree: Node) -> Value:
        function = tree.operands[1] if len(tree.operands) > 1 else tree
        if isinstance(function, Name) or (isinstance(function, Node) and function.operator == "apply"):
            return self._stand_in(tree)
        self.unsure = True
        return self._stand_in(tree.operator, tree.operands[0], self._key(function), tree.operands[2:])

    def _sum(self, tree: Node) -> Value:
        if not isinstance(tree.operands[1], Name):
            raise NotJudged(NO_VALUE)
        bounds = []
        for bound in tree.operands[2:]:
            bounds.append(self._bound(bound))
        first, last = bounds
        if first is None or last is None or last - first > MOST_TERMS:
            return self._functional(tree)
        terms = []
        for k in range(first, last + 1):
            terms.append(self._with(tree.operands[1].name, Fraction(k), tree.operands[0]))
        return self.arithmetic.add(terms) if tree.operator == "sum" else self.arithmetic.multiply(terms)

    def _bound(self, tree: Tree) -> int | None:
        if infinite(tree):
            return None
        value = functions.exact_if_whole(self.arithmetic, self.value(tree))
        return value.numerator if isinstance(value, Fraction) and value.denominator == 1 else None

    def _functional(self, tree: Node) -> Value:
        """Return a stand-in for a sum, integral or limit, linear in its term."""
        if not isinstance(tree.operands[1], Name):
            raise NotJudged(NO_VALUE)
        self.unsure = True
        where = [tree.operator, *[infinite(bound) or self._key(bound) for bound in tree.operands[2:]]]
        values = []
        for k in range(2):
            value = self._with(tree.operands[1].name, self._stand_in("variable", k, *where), tree.operands[0])
            values.append(self.arithmetic.multiply([self._stand_in("weight", k, *where), value]))
        if tree.operator == "product":
            return self._stand_in("product", *[self._rounded(value) for value in values])
        return self.arithmetic.add(values)

    def _with(self, name: str, value: Value, tree: Tree) -> Value:
        """Return the value of a tree where a name has another value."""
        self.arithmetic.budget.spend(8)
        before = self.numbers
        self.numbers = {**before, name: value}
        try:
            return self.value(tree)
        finally:
            self.numbers = before

    def _stand_in_of(self, tree: Node) -> Value:
        if tree.operator in BINDING:
            return self._functional(tree)
        self.unsure = True
        even, keys = tree.operator in ("abs", "norm"), []
        for operand in tree.operands:
            keys.append(self._key(operand, even))
        if tree.operator in _UNORDERED:
            keys.sort(key=repr)
        return self._stand_in("step", tree.operator, *keys)

    def _key(self, tree: Tree, even: bool = False) -> object:
        """Return what is the same for trees with the same value."""
        if isinstance(tree, Node) and tree.operator in ("{}", ",", "()"):
            return (tree.operator, *[self._key(operand) for operand in tree.operands])
        value = self.value(tree)
        return self._rounded(functions.absolute(self.arithmetic, value) if even else value)

    def _rounded(self, value: Value) -> object:
        if value == 0:
            return 0
        mp, number = self.arithmetic.mp, self.arithmetic.float_of(value)
        self.arithmetic.steps += 1
        scale = self.arithmetic.half - int(mp.mag(number)) - 12
        real, imaginary = int(mp.nint(mp.ldexp(number.real, scale))), int(mp.nint(mp.ldexp(number.imag, scale)))
        both = abs(real) | abs(imaginary)
        zeros = (both & -both).bit_length() - 1  # so that 2 and 1.99... have the same key
        return real >> zeros, imaginary >> zeros, zeros - scale

    def _remainder(self, tree: Tree) -> Value:
        """Return the value for the remainders of the counting variables."""
        before, self.numbers, classes = self.numbers, {**self.numbers, **(self.classes or {})}, self.classes
        self.classes = None
        try:
            return self.value(tree)
        finally:
            self.numbers, self.classes = before, classes


_SPECIAL: dict[str, Callable[[Evaluator, Node], Value]] = {
    "+": Evaluator._add,
    "*": Evaluator._multiply,
    "-": Evaluator._negate,
    "/": Evaluator._divide,
    "^": Evaluator._power,
    "root": Evaluator._root,
    "abs": Evaluator._absolute,
    "norm": Evaluator._absolute,
    "sgn": Evaluator._sign,
    "max": Evaluator._extreme,
    "min": Evaluator._extreme,
    "floor": Evaluator._floor,
    "ceil": Evaluator._floor,
    "mod": Evaluator._modulo,
    "gcd": Evaluator._divisors,
    "lcm": Evaluator._divisors,
    "binomial": Evaluator._binomial,
    "log": Evaluator._log,
    "based": Evaluator._based,
    "apply": Evaluator._apply,
    "derivative": Evaluator._derivative,
    "partial": Evaluator._derivative,
    "inf": Evaluator._bound_of,
    "sup": Evaluator._bound_of,
    "sum": Evaluator._sum,
    "product": Evaluator._sum,
    "integral": Evaluator._functional,
    "limit": Evaluator._functional,
}
