"""The values of named functions, factorials, binomials and of everything that counts in steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from rethink.grading.formulas.arithmetic import BITS, TOO_LARGE, Arithmetic, NoValue, Value
from rethink.grading.formulas.verdicts import NotJudged

_GAMMA_DIGITS = 400
"""Constants of the gamma function to 1,000 digits take seconds."""


def small(arithmetic: Arithmetic, x: Any) -> int:
    """Return the size below which the rounding of an odd function is zero."""
    return min(0, int(arithmetic.mp.mag(x)))


def sine(arithmetic: Arithmetic, x: Value) -> Value:
    if x == 0:
        return Fraction(0)
    number = arithmetic.float_of(x)
    return arithmetic.function("sin", number, small(arithmetic, number))


def cosine(arithmetic: Arithmetic, x: Value) -> Value:
    return Fraction(1) if x == 0 else arithmetic.function("cos", arithmetic.float_of(x), 0)


def tangent(arithmetic: Arithmetic, x: Value) -> Value:
    return arithmetic.divide(sine(arithmetic, x), cosine(arithmetic, x))


def cotangent(arithmetic: Arithmetic, x: Value) -> Value:
    return arithmetic.divide(cosine(arithmetic, x), sine(arithmetic, x))


def secant(arithmetic: Arithmetic, x: Value) -> Value:
    return arithmetic.divide(Fraction(1), cosine(arithmetic, x))


def cosecant(arithmetic: Arithmetic, x: Value) -> Value:
    return arithmetic.divide(Fraction(1), sine(arithmetic, x))


def arcus(name: str) -> Callable[[Arithmetic, Value], Value]:
    """Return an inverse function of mpmath, as a function of ours."""

    def inverse(arithmetic: Arithmetic, x: Value) -> Value:
        number = arithmetic.float_of(x)
        if x == 0 and name != "acos" and name != "acosh":
            return Fraction(0)
        return arithmetic.function(name, number, small(arithmetic, number) if x != 0 else 0)

    return inverse


def arc_cotangent(arithmetic: Arithmetic, x: Value) -> Value:
    return arithmetic.difference(arithmetic.mp.pi / 2, arcus("atan")(arithmetic, x))


def hyperbolic_sine(arithmetic: Arithmetic, x: Value) -> Value:
    return arithmetic.divide(_difference_of_exponentials(arithmetic, x), Fraction(2))


def hyperbolic_cosine(arithmetic: Arithmetic, x: Value) -> Value:
    return arithmetic.divide(_sum_of_exponentials(arithmetic, x), Fraction(2))


def hyperbolic_tangent(arithmetic: Arithmetic, x: Value) -> Value:
    # From exponentials, so that the tiny part of the tangent of a large number is seen.
    return arithmetic.divide(_difference_of_exponentials(arithmetic, x), _sum_of_exponentials(arithmetic, x))


def hyperbolic_cotangent(arithmetic: Arithmetic, x: Value) -> Value:
    return arithmetic.divide(_sum_of_exponentials(arithmetic, x), _difference_of_exponentials(arithmetic, x))


def _sum_of_exponentials(arithmetic: Arithmetic, x: Value) -> Value:
    return arithmetic.add([arithmetic.exponential(x), arithmetic.exponential(-x)])


def _difference_of_exponentials(arithmetic: Arithmetic, x: Value) -> Value:
    return arithmetic.difference(arithmetic.exponential(x), arithmetic.exponential(-x))


def real_part(arithmetic: Arithmetic, x: Value) -> Value:
    return x if isinstance(x, Fraction) else arithmetic.note(x.real)


def imaginary_part(arithmetic: Arithmetic, x: Value) -> Value:
    return Fraction(0) if isinstance(x, Fraction) else arithmetic.note(x.imag)


def conjugate(arithmetic: Arithmetic, x: Value) -> Value:
    return x if isinstance(x, Fraction) else arithmetic.note(x.conjugate())


def argument(arithmetic: Arithmetic, x: Value) -> Value:
    if x == 0:
        raise NoValue("the argument of zero")
    return arithmetic.function("arg", arithmetic.float_of(x))


def absolute(arithmetic: Arithmetic, x: Value) -> Value:
    return abs(x) if isinstance(x, Fraction) else arithmetic.note(arithmetic.mp.fabs(x))


def sign(arithmetic: Arithmetic, x: Value) -> Fraction:
    real = _real(arithmetic, x)
    return Fraction((real > 0) - (real < 0))


def _real(arithmetic: Arithmetic, x: Value) -> Value:
    if isinstance(x, arithmetic.mp.mpc):
        raise NoValue("complex numbers are not ordered")
    return x


def extreme(arithmetic: Arithmetic, values: list[Value], largest: bool) -> int:
    """Return the index of the largest or smallest value."""
    best = 0
    for k, value in enumerate(values):
        difference = arithmetic.difference(_real(arithmetic, value), _real(arithmetic, values[best]))
        if difference != 0 and (difference > 0) == largest:
            best = k
    return best


def floor(arithmetic: Arithmetic, x: Value) -> Fraction:
    x = exact_if_whole(arithmetic, _real(arithmetic, x))
    return Fraction(math.floor(x)) if isinstance(x, Fraction) else Fraction(int(arithmetic.mp.floor(x)))


def ceiling(arithmetic: Arithmetic, x: Value) -> Fraction:
    return -floor(arithmetic, -x)


def exact_if_whole(arithmetic: Arithmetic, x: Value) -> Value:
    """Return a float that is whole up to rounding as a Fraction, anything else unchanged."""
    if isinstance(x, (Fraction, arithmetic.mp.mpc)):
        return x
    nearest = Fraction(int(arithmetic.mp.nint(x)))
    return nearest if arithmetic.difference(x, nearest) == 0 else x


def whole(arithmetic: Arithmetic, x: Value) -> int:
    x = exact_if_whole(arithmetic, x)
    if not isinstance(x, Fraction) or x.denominator != 1:
        raise NoValue("not a whole number")
    return x.numerator


def modulo(arithmetic: Arithmetic, a: Value, b: Value) -> Value:
    if b == 0:
        raise NoValue("division by zero")
    return arithmetic.difference(a, arithmetic.multiply([b, floor(arithmetic, arithmetic.divide(a, b))]))


def divisor(arithmetic: Arithmetic, values: list[Value]) -> Fraction:
    return Fraction(math.gcd(*_wholes(arithmetic, values)))


def multiple(arithmetic: Arithmetic, values: list[Value]) -> Fraction:
    return Fraction(math.lcm(*_wholes(arithmetic, values)))


def _wholes(arithmetic: Arithmetic, values: list[Value]) -> list[int]:
    numbers = []
    for value in values:
        number = whole(arithmetic, value)
        arithmetic.budget.spend(2 + (number.bit_length() / 1000) ** 2 * 5)
        numbers.append(number)
    return numbers


def factorial(arithmetic: Arithmetic, x: Value) -> Value:
    x = exact_if_whole(arithmetic, x)
    if not isinstance(x, Fraction) or x.denominator != 1:
        return _gamma(arithmetic, arithmetic.add([x, Fraction(1)]))
    n = x.numerator
    if n < 0:
        raise NoValue("the factorial of a negative number")
    if n > BITS or (n > 100 and n * (math.log2(n) - 1.4) > BITS):
        raise NotJudged("a factorial too large to compute")
    arithmetic.budget.spend(2 + (n / 30) ** 1.5)
    return Fraction(math.factorial(n))


def double_factorial(arithmetic: Arithmetic, x: Value) -> Value:
    n = whole(arithmetic, x)
    if n < -1:
        raise NoValue("the double factorial of a negative number")
    if n > 10_000:
        raise NotJudged("a factorial too large to compute")
    arithmetic.budget.spend(2 + n)
    return Fraction(math.prod(range(n, 0, -2)))


def _gamma(arithmetic: Arithmetic, x: Value) -> Value:
    number = arithmetic.float_of(x)
    if arithmetic.digits > _GAMMA_DIGITS or arithmetic.mp.mag(number) > 10:
        raise NotJudged(TOO_LARGE)
    arithmetic.budget.spend(arithmetic.digits**2 / 100)
    return arithmetic.function("gamma", number)


def binomial(arithmetic: Arithmetic, n: Value, k: Value) -> Value:
    """Return the binomial coefficient, which is a polynomial of n if k is whole."""
    n, k = exact_if_whole(arithmetic, n), exact_if_whole(arithmetic, k)
    if isinstance(k, Fraction) and k.denominator == 1:
        if isinstance(n, Fraction) and n.denominator == 1 and n >= 0:
            return _whole_binomial(arithmetic, n.numerator, k.numerator)
        if k < 0:
            return Fraction(0)
        if k > 500:
            raise NotJudged("a binomial too large to compute")
        product: Value = Fraction(1)
        for j in range(int(k)):
            factor = arithmetic.add([n, Fraction(-j)])
            product = arithmetic.divide(arithmetic.multiply([product, factor]), Fraction(j + 1))
        return product
    above = factorial(arithmetic, n)
    below = [factorial(arithmetic, k), factorial(arithmetic, arithmetic.difference(n, k))]
    return arithmetic.divide(above, arithmetic.multiply(below))


def _whole_binomial(arithmetic: Arithmetic, n: int, k: int) -> Fraction:
    if not 0 <= k <= n:
        return Fraction(0)
    k = min(k, n - k)
    bits = k * (n.bit_length() - k.bit_length() + 2.5)
    if bits > BITS / 8:
        raise NotJudged("a binomial too large to compute")
    arithmetic.budget.spend(2 + (bits / 1000) ** 2 * 15)
    return Fraction(math.comb(n, k))


FUNCTIONS: dict[str, Callable[[Arithmetic, Value], Value]] = {
    "sin": sine,
    "cos": cosine,
    "tan": tangent,
    "cot": cotangent,
    "sec": secant,
    "csc": cosecant,
    "arcsin": arcus("asin"),
    "arccos": arcus("acos"),
    "arctan": arcus("atan"),
    "arccot": arc_cotangent,
    "sinh": hyperbolic_sine,
    "cosh": hyperbolic_cosine,
    "tanh": hyperbolic_tangent,
    "coth": hyperbolic_cotangent,
    "arsinh": arcus("asinh"),
    "arcosh": arcus("acosh"),
    "artanh": arcus("atanh"),
    "ln": Arithmetic.logarithm,
    "exp": Arithmetic.exponential,
    "Re": real_part,
    "Im": imaginary_part,
    "arg": argument,
    "conjugate": conjugate,
    "!": factorial,
    "!!": double_factorial,
}
