"""Arithmetic for values: exact fractions as long as possible, then floating-point numbers whose errors are accounted for.

Floating point proves nothing by itself: two numbers that agree to 100 digits may differ in the next one. So an `Arithmetic`
records what decides how small a difference can be that is not zero: how many digits the exact numbers have that were turned
into floats, the sizes of the largest and the smallest part, and the number of sums and functions. A difference of such
parts that is not zero has, by all experience, no more zeros after the point than all of these together. `digits_needed`
doubles that: half of the digits for rounding, half for telling zero. The comparison repeats the computation with as many
digits.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import Any

import mpmath

from rethink.grading.formulas.verdicts import NotJudged

Value = Any
"""A Fraction, or a real or complex number of mpmath."""

BITS = 400_000
"""Largest exact numbers. 2^{100000} and 2025! have 100,000 and 19,000 bits."""
MOST_DIGITS = 3_000
WORK = 600_000
"""Most work for one comparison, in microseconds of a common core, roughly."""
_LARGEST_POWER = 1 << 24
_BITS_PER_DIGIT = math.log2(10)


class NoValue(Exception):
    """A formula has no finite value at a point, such as 1/0."""


TOO_LARGE = "numbers too large or too small to compare"
TOO_HIGH = "a power too high to compute"
TOO_MUCH = "too much to compute"


class Budget:
    """The work that is left for a comparison, which is part of the work for `whole`, if there is one."""

    def __init__(self, work: float = WORK, whole: Budget | None = None) -> None:
        self.left = work
        self.whole = whole

    def spend(self, work: float) -> None:
        self.left -= work
        if self.left < 0:
            raise NotJudged(TOO_MUCH)
        if self.whole is not None:
            self.whole.spend(work)


@cache
def _context() -> Any:
    return mpmath.MPContext()


class Arithmetic:
    """Compute with a number of digits, and record the sizes of all parts."""

    def __init__(self, digits: int, budget: Budget) -> None:
        self.mp = _context()
        self.mp.dps = digits + 10
        self.digits = digits
        self.half = int(digits * _BITS_PER_DIGIT / 2)
        self.budget = budget
        self.low = self.high = 0
        self.longest = 0.0
        self.steps = 0
        self.real = True

    def digits_needed(self, written: float) -> float:
        """Return the digits that suffice for all that was computed so far, if `written` digits were written."""
        spread = max(1.0, (self.high - self.low) / _BITS_PER_DIGIT)
        return 2 * (20 + written + self.longest + spread * (self.steps + 1))

    def spread(self) -> float:
        return (self.high - self.low) / _BITS_PER_DIGIT

    def float_of(self, value: Value) -> Any:
        """Return a value as an mpmath number."""
        if not isinstance(value, Fraction):
            return value
        bits = value.numerator.bit_length() + value.denominator.bit_length()
        self.longest = max(self.longest, bits / _BITS_PER_DIGIT)
        self.budget.spend(5 + bits / 1000)
        if value:
            self.note_size(value.numerator.bit_length() - value.denominator.bit_length())
        number = self.mp.mpf(value.numerator)
        return number / value.denominator if value.denominator != 1 else number

    def note_size(self, size: int) -> None:
        """Record the size of a part, as a power of 2."""
        self.low, self.high = min(self.low, size), max(self.high, size)
        if max(-size, size) > 8 * MOST_DIGITS:
            raise NotJudged(TOO_LARGE)

    def note(self, value: Value) -> Value:
        """Record a computed value. An imaginary part that is only rounding is dropped."""
        mp = self.mp
        if not mp.isfinite(value):
            raise NoValue("no finite value")
        if value == 0:
            return Fraction(0)
        size = int(mp.mag(value))
        self.note_size(size)
        if isinstance(value, mp.mpc):
            if value.imag == 0 or mp.mag(value.imag) < size - self.half:
                return value.real
            self.real = False
            if value.real != 0 and mp.mag(value.real) < size - self.half:
                return mp.mpc(0, value.imag)
        return value

    def result(self, value: Value, scale: Any = 0) -> Value:
        """Record the value of a sum or function; it is zero if it is only the rounding of terms of size 2^scale."""
        self.steps += 1
        if value == 0 or self.mp.mag(value) < scale - self.half:
            return Fraction(0)
        return self.note(value)

    def add(self, values: list[Value]) -> Value:
        exact, floats = Fraction(0), []
        for value in values:
            if isinstance(value, Fraction):
                self._spend_exact(exact, value)
                exact += value
            else:
                floats.append(value)
        if not floats:
            return exact
        if exact:
            floats.append(self.float_of(exact))
        total, largest = self.mp.zero, None
        for value in floats:
            total += value
            size = self.mp.mag(value)
            largest = size if largest is None else max(largest, size)
            self.budget.spend(4)
        return self.result(total, largest) if len(floats) > 1 else total

    def multiply(self, values: list[Value]) -> Value:
        exact, product = Fraction(1), None
        for value in values:
            if isinstance(value, Fraction):
                self._spend_exact(exact, value)
                exact *= value
            else:
                self.budget.spend(4 + self.digits / 60)
                product = value if product is None else product * value
        if product is None or exact == 0:
            return exact
        return self.note(product * self.float_of(exact)) if exact != 1 else self.note(product)

    def divide(self, a: Value, b: Value) -> Value:
        if b == 0:
            raise NoValue("division by zero")
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            self._spend_exact(a, b)
            return a / b
        self.budget.spend(4 + self.digits / 40)
        return self.note(self.float_of(a) / self.float_of(b)) if a != 0 else a

    def difference(self, a: Value, b: Value) -> Value:
        return self.add([a, -b])

    def power(self, base: Value, exponent: Value) -> Value:
        if isinstance(exponent, Fraction):
            if exponent.denominator == 1:
                return self._whole_power(base, exponent.numerator)
            if exponent.denominator < 1000 and abs(exponent.numerator) < 1000:
                return self._whole_power(self.root(base, exponent.denominator), exponent.numerator)
        if base == 0:
            raise NoValue("zero to a power")
        if base == 1:
            return Fraction(1)
        return self.exponential(self.multiply([self.float_of(exponent), self.logarithm(base)]))

    def exponential(self, x: Value) -> Value:
        if x == 0:
            return Fraction(1)
        number = self.float_of(x)
        if self.mp.mag(number) > 20:
            raise NotJudged(TOO_LARGE)
        return self.function("exp", number)

    def logarithm(self, x: Value) -> Value:
        if x == 0:
            raise NoValue("the logarithm of zero")
        return Fraction(0) if x == 1 else self.function("log", self.float_of(x), 0)

    def function(self, name: str, x: Any, scale: Any = -(10**9)) -> Value:
        """Return the value of a function of mpmath; below 2^scale times rounding it is zero."""
        self.budget.spend(20 + self.digits**1.5 / 15)
        try:
            return self.result(getattr(self.mp, name)(x), scale)
        except (ValueError, ZeroDivisionError, OverflowError, self.mp.NoConvergence) as err:
            raise NoValue(f"no value of {name}") from err

    def root(self, x: Value, degree: int) -> Value:
        """Return the root; of a negative number the real one if the degree is odd, otherwise the first complex one."""
        if degree == 1 or x == 0:
            return x
        if isinstance(x, Fraction):
            exact = self._exact_root(abs(x), degree)
            if exact is not None and (x > 0 or degree % 2 == 1):
                return exact if x > 0 else -exact
        self.budget.spend(20 + self.digits**1.5 / 15)
        self.steps += 1
        number = self.float_of(x)
        if isinstance(number, self.mp.mpf) and number < 0 and degree % 2 == 1:
            return self.note(-self.mp.root(-number, degree))
        return self.note(self.mp.sqrt(number) if degree == 2 else self.mp.root(number, degree))

    def _exact_root(self, x: Fraction, degree: int) -> Fraction | None:
        top, bottom = _whole_root(x.numerator, degree), _whole_root(x.denominator, degree)
        self.budget.spend((x.numerator.bit_length() + x.denominator.bit_length()) / 100)
        return Fraction(top, bottom) if top is not None and bottom is not None else None

    def _whole_power(self, base: Value, n: int) -> Value:
        if isinstance(base, Fraction):
            if base == 0 and n <= 0:
                raise NoValue("zero to a power that is not positive")
            if base in (0, 1):
                return base
            if base == -1:
                return base if n % 2 else Fraction(1)
            bits = abs(n) * max(base.numerator.bit_length(), base.denominator.bit_length())
            if bits > 2 * BITS:
                raise NotJudged(TOO_HIGH)
            self.budget.spend(2 + (bits / 1000) ** 1.6)
            return base**n
        if abs(n) > _LARGEST_POWER:
            raise NotJudged(TOO_HIGH)
        self.longest = max(self.longest, n.bit_length() / _BITS_PER_DIGIT)
        self.budget.spend(10 + self.digits / 10)
        if abs(n) * abs(int(self.mp.mag(base))) > 16 * MOST_DIGITS:
            raise NotJudged(TOO_LARGE)
        return self.note(base**n)

    def _spend_exact(self, a: Fraction, b: Fraction) -> None:
        if a.denominator == 1 and b.denominator == 1:
            bits = max(a.numerator.bit_length(), b.numerator.bit_length())
            work = 2 + (bits / 1000) ** 1.6
        else:
            bits = max(
                a.numerator.bit_length(),
                a.denominator.bit_length(),
                b.numerator.bit_length(),
                b.denominator.bit_length(),
            )
            work = 3 + 3 * (bits / 1000) ** 2
        if bits > 4 * BITS:
            raise NotJudged(TOO_LARGE)
        self.budget.spend(work)


def _whole_root(n: int, degree: int) -> int | None:
    """Return the root of a whole number if it is whole."""
    if n < 2:
        return n
    if n.bit_length() > 20_000 or degree > n.bit_length():
        return None
    if degree == 2:
        root = math.isqrt(n)
    else:
        root = 1 << -(-n.bit_length() // degree)
        while True:
            nearer = ((degree - 1) * root + n // root ** (degree - 1)) // degree
            if nearer >= root:
                break
            root = nearer
    return root if root**degree == n else None
