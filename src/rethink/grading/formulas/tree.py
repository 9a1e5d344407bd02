"""What a formula is once it is read: numbers, names, words, values with units, and operators on them.

The parser builds such trees and keeps every sign of the text: nothing is evaluated, dropped or reordered. Trees are
immutable and can be compared with `==`, which means the same text up to spelling.

| operator | operands | example |
|---|---|---|
| `+`, `*` | two or more | `a + b`, `2x` |
| `-` | one | `-x`; `a - b` is `+` of a and `-` of b |
| `/`, `^` | two | `\\frac{a}{b}`, `a^b` |
| `+-`, `-+` | one or two | `\\pm 1`, `2 \\mp x` |
| `root` | radicand, degree | `\\sqrt{x}` has degree 2 |
| `abs`, `norm`, `floor`, `ceil`, `!`, `!!` | one | `\\lvert x \\rvert`, `5!` |
| `binomial` | two | `\\binom{n}{k}`, `C(n, k)` with numbers |
| `log` | argument, base | `\\log_2 x`; without a base `\\log x` has only the argument |
| `sin` and the other functions in FUNCTIONS | one or more | `\\sin x`, `\\max(a, b)` |
| `mod` | two | `17 \\mod 5` |
| `apply` | callee and arguments | `f(x)`, `f^{-1}(2)`, `f'(x)`, `x(y+1)`: a function's value or a product: see `readings` |
| `derivative` | order, function, variable | `\\frac{dy}{dx}`; `partial` likewise |
| `sum`, `product` | term, variable, from, to | `\\sum_{k=1}^{n} k` |
| `integral` | term, variable, from, to, or only the first two | `\\int_0^1 x\\,dx` |
| `limit` | term, variable, value | `\\lim_{x\\to 0} x` |
| `,` | any number | `1, 2`: a list without brackets |
| `()`, `[]`, `(]`, `[)` | two or more | a point, tuple or interval |
| `{}` | any number | a set, `\\{1, 2\\}`; the empty set |
| `such that` | one (a name or a membership) and conditions | `\\{x : x > 3\\}` |
| `cup`, `cap`, `setminus` | two or more | `A \\cup B` |
| `=`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `notin`, `approx`, `to`, `:` ... | two | see RELATIONS |
| `chain` | relations | `a < b < c` is the chain of `a < b` and `b < c` |
| `and`, `or` | two or more | `x = 1 or x = 2` |
| `<>` | two or more | `\\langle 1, 2 \\rangle` |
| `mod` of a relation | the relation, modulus | `x \\equiv 3 \\pmod 7` |
| `approx` and `equiv` | also one | `\\approx 13` |
| `matrix` | rows, each a node `row` | `\\begin{pmatrix}` |
| `cases` | nodes `case` with a value and conditions | `\\begin{cases}`; a system has cases without conditions |
| `based` | digits as Words, base | `1011_2` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from rethink.grading.formulas.spelling import word_set

FUNCTIONS = word_set(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth arsinh arcosh artanh ln exp max "
    "min inf sup gcd lcm det tr Re Im arg sgn conjugate"
)
RELATIONS = word_set("= != < <= > >= in notin subset subseteq approx equiv sim cong propto parallel perp mid to :")

LISTS = (",", "and", "or")
SETS = ("{}", "cup", "cap", "setminus", "such that")
INTERVALS = ("()", "[]", "(]", "[)")
"""Two operands or more in brackets: intervals, or tuples."""
COLLECTIONS = (*LISTS, *SETS, *INTERVALS, "matrix", "cases")


@dataclass(frozen=True)
class Number:
    """An exact number. `places` counts the decimals that were written, to tell 0.50 from 1/2 where it matters."""

    value: Fraction
    places: int = 0


@dataclass(frozen=True)
class Name:
    """A variable in one spelling: `x`, `x_1`, `\\alpha`, `v_{max}`, `\\vec{v}`, `x'`."""

    name: str


@dataclass(frozen=True)
class Constant:
    """pi, infinity, or one of the sets R, Z, Q, N and C. But e and i are names: where they occur tells what they mean."""

    name: str


@dataclass(frozen=True)
class Words:
    """Text that is not a formula, as in `\\text{even}`."""

    text: str


@dataclass(frozen=True)
class Node:
    """An operator and its operands; see the table above."""

    operator: str
    operands: tuple[Tree, ...]


@dataclass(frozen=True)
class Measured:
    """A value with its unit, as `rethink.grading.formulas.units` spells it."""

    value: Tree
    unit: Unit


@dataclass(frozen=True)
class Unit:
    """A product of powers of base units times a factor.

    `powers` is sorted, as in (("m", 1), ("s", -2)). Counted nouns ("apples") are base units too. `factor` is what one
    of this unit is in base units: 1/100 for cm. `pi` is the power of pi in it: a degree is pi/180 radians."""

    powers: tuple[tuple[str, int], ...]
    factor: Fraction = Fraction(1)
    pi: int = 0


Tree = Number | Name | Constant | Words | Node | Measured


def walk(tree: Tree) -> Iterator[Tree]:
    """Yield the tree and all its parts, each before its operands."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, Node):
            waiting += reversed(part.operands)
        elif isinstance(part, Measured):
            waiting.append(part.value)


def with_parts(tree: Tree, change: Callable[[Tree], Tree]) -> Tree:
    """Return the tree with each of its operands, or the value before its unit, changed."""
    if isinstance(tree, Node):
        return Node(tree.operator, tuple(map(change, tree.operands)))
    return Measured(change(tree.value), tree.unit) if isinstance(tree, Measured) else tree


def put(tree: Tree, name: Tree, value: Tree) -> Tree:
    """Return the tree with a value wherever a name stands."""
    return value if tree == name else with_parts(tree, lambda part: put(part, name, value))


def minus(a: Tree, b: Tree) -> Tree:
    """Return a - b."""
    return Node("+", (a, Node("-", (b,))))


def is_collection(tree: Tree) -> bool:
    """Return whether a tree is a list, tuple, interval, set, matrix or system."""
    return isinstance(tree, Node) and tree.operator in COLLECTIONS


def names(tree: Tree) -> set[str]:
    """Return the names of the variables and functions in a tree."""
    return {part.name for part in walk(tree) if isinstance(part, Name)}
