"""Values of expressions at fixed points, by mpmath, to 1000 digits.

So many digits are needed because answers may be integers of hundreds of digits, and 2^1009 is not 2^1009 - 1. A separate
mpmath context keeps the precision of the global one unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from mpmath import MPContext

from answer_audit.nodes import Node
from answer_audit.tokens import Unreadable
from rethink.seeds import rng

DIGITS = 1000
MAX_BITS = 4_000_000
MAX_WHOLE = 20_000
BEYOND = object()
REAL_POINTS = ("real 1", "real 2", "real 3")
WHOLE_POINTS = tuple(f"whole {n}" for n in range(40))

_mp = MPContext()
_mp.dps = DIGITS
_NOISE = _mp.mpf(10) ** -(DIGITS - 50)
"""What remains of a sum that should be 0, relative to its largest term."""
_EQUAL = _mp.mpf(10) ** -(DIGITS - 100)
"""Values with a smaller relative difference are equal; another fifty digits may be lost on the way."""

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "π": lambda: +_mp.pi,
    "e": lambda: +_mp.e,
    "i": lambda: _mp.mpc(0, 1),
    "∞": lambda: _mp.inf,
}
_MEASURES: dict[str, Callable[[], Any]] = {"%": lambda: _mp.mpf(1) / 100, "°": lambda: _mp.pi / 180}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "tan": lambda x: _near_zero(_mp.sin(x), x) / _near_zero(_mp.cos(x), x),
    "cot": lambda x: _near_zero(_mp.cos(x), x) / _near_zero(_mp.sin(x), x),
    "sin": lambda x: _near_zero(_mp.sin(x), x),
    "cos": lambda x: _near_zero(_mp.cos(x), x),
    "sec": lambda x: 1 / _near_zero(_mp.cos(x), x),
    "csc": lambda x: 1 / _near_zero(_mp.sin(x), x),
    "sinh": _mp.sinh,
    "cosh": _mp.cosh,
    "tanh": _mp.tanh,
    "exp": _mp.exp,
    "ln": _mp.log,
    "arcsin": _mp.asin,
    "arccos": _mp.acos,
    "arctan": _mp.atan,
    "arsinh": _mp.asinh,
    "arcosh": _mp.acosh,
    "artanh": _mp.atanh,
}


def equal(a: Any, b: Any) -> bool:
    return bool(a == b or (_mp.isfinite(a) and _mp.isfinite(b) and abs(a - b) <= _EQUAL * max(abs(a), abs(b))))


def is_constant(values: Sequence[Any], positive: bool) -> bool:
    """Return whether all values are the same nonzero number, and positive if `positive`."""
    same = all(values) and all(equal(value, values[0]) for value in values)
    return same and (not positive or (_is_real(values[0]) and values[0].real > 0))


class Values:
    """`plain`: percent and degrees are units, not factors. `ten`: a logarithm without a base has base 10."""

    def __init__(self, plain: bool = False, ten: bool = False) -> None:
        self.plain = plain
        self.ten = ten
        self._known: dict[tuple[Node, str], Any] = {}

    def value_at(self, node: Node, point: str) -> Any:
        """Return the value at a point: None if there is none, BEYOND if it is too large to compute."""
        try:
            return self._cached_value(node, point)
        except (ZeroDivisionError, ValueError, OverflowError):
            return None
        except Unreadable:
            return BEYOND

    def _cached_value(self, node: Node, point: str) -> Any:
        key = (node, point)
        if key not in self._known:
            value = self._compute(node, point)
            if _mp.isnan(value):
                raise ValueError("undefined")
            if _mp.isfinite(value) and value and abs(_mp.mag(value)) > MAX_BITS:
                raise Unreadable("too large")
            self._known[key] = value
        return self._known[key]

    def _compute(self, node: Node, point: str) -> Any:
        if node.kind == "number":
            return _mp.mpf(node.text)
        if node.kind == "name":
            return self._name(node.text, point)
        parts = [self._cached_value(part, point) for part in node.parts]
        if node.kind == "opaque":
            return _opaque(node.text, parts)
        if node.kind == "call":
            return self._call(node.text, parts)
        return _OPERATIONS[node.kind](*parts)

    def _name(self, name: str, point: str) -> Any:
        if name in _CONSTANTS:
            return _CONSTANTS[name]()
        if name in _MEASURES:
            return _mp.one if self.plain else _MEASURES[name]()
        draw = rng("audit", name, point)
        return _mp.mpf(draw.randint(1, 30) if point.startswith("whole") else draw.uniform(0.3, 2.9))

    def _call(self, name: str, parts: list[Any]) -> Any:
        x = parts[0]
        if _mp.isfinite(x) and x and _mp.mag(x) > (MAX_BITS.bit_length() if name in _GROWING else 400):
            raise Unreadable("too large")
        if name == "log":
            base = parts[1] if len(parts) > 1 else _mp.mpf(10) if self.ten else _mp.e
            return _mp.log(x) / _mp.log(base)
        return _FUNCTIONS[name](x)


_GROWING = {"exp", "sinh", "cosh"}


def _is_real(x: Any) -> bool:
    return bool(abs(x.imag) <= _NOISE * abs(x.real))


def _near_zero(value: Any, x: Any) -> Any:
    """Return 0 for what remains of a sine that should be 0."""
    return value if abs(value) > _NOISE * max(1, abs(x)) else _mp.zero


def _sum(*terms: Any) -> Any:
    total = sum(terms, _mp.zero)
    noise = _mp.isfinite(total) and abs(total) <= _NOISE * max(abs(term) for term in terms)
    return _mp.zero if noise else total


def _power(base: Any, exponent: Any) -> Any:
    if _mp.isfinite(base) and _mp.isfinite(exponent) and base and exponent:
        if _mp.mag(exponent) > 24:
            raise Unreadable("too large")
        if _is_real(exponent) and _mp.isint(exponent.real):
            return base ** int(exponent.real)
    return base**exponent


def _root(x: Any, index: Any) -> Any:
    """Return the real root if there is one."""
    if _is_real(x) and x.real < 0 and _mp.isint(index) and int(index) % 2:
        return -_power(-x.real, 1 / index)
    return _power(x, 1 / index)


def _rounded(direction: int) -> Callable[[Any], Any]:
    """Return floor (-1) or ceil (1), which ignore noise around an integer."""

    def rounded(x: Any) -> Any:
        if not _is_real(x):
            raise ValueError("not real")
        nearest = _mp.nint(x.real)
        if abs(nearest - x.real) <= _NOISE * max(1, abs(x.real)):
            return nearest
        return _mp.ceil(x.real) if direction > 0 else _mp.floor(x.real)

    return rounded


def _whole(x: Any) -> int:
    if not _is_real(x) or not _mp.isint(x.real):
        raise ValueError("not a whole number")
    if abs(x.real) > MAX_WHOLE:
        raise Unreadable("too large")
    return int(x.real)


def _factorial(x: Any) -> Any:
    return _mp.mpf(math.factorial(_whole(x)))


def _double_factorial(x: Any) -> Any:
    if _whole(x) < 0:
        raise ValueError("negative")
    return _mp.mpf(math.prod(range(_whole(x), 0, -2)))


def _binomial(n: Any, k: Any) -> Any:
    return _mp.mpf(math.comb(_whole(n), _whole(k)))


def _opaque(name: str, parts: list[Any]) -> Any:
    """Return the value of an unknown function: a smooth one, drawn for its name."""
    draw = rng("audit", name, len(parts))
    total = _mp.zero
    for part in parts:
        if not _mp.isfinite(part) or _mp.mag(part) > 400:
            raise ValueError("undefined")
        total += draw.uniform(0.3, 0.9) * part
    return draw.uniform(1, 2) + _mp.sin(total)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "sum": _sum,
    "product": lambda *factors: _mp.fprod(factors),
    "inverse": lambda x: 1 / x,
    "power": _power,
    "root": _root,
    "abs": abs,
    "floor": _rounded(-1),
    "ceil": _rounded(1),
    "factorial": _factorial,
    "double": _double_factorial,
    "binomial": _binomial,
}
