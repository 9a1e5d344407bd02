"""Equality by algebra with math-verify; runs only in worker processes (`pool.grade_in_worker`).

math-verify alone calls 1/2004! and 1/2006!, 3=3 and 4=4, or n=2,3,4 and n=1,2,3 equal (its issues 14 and 60). So this
package splits lists and equations itself (`equality`), and equal expressions must also agree numerically at 30 digits
or more.
"""

from __future__ import annotations

import hashlib
import random
import re
from typing import Any

from rethink.grading.equality import EQUALS, equal

_TOWER = re.compile(r"(\d+|!)[)}]*\^[{(]*(\d+)[)}]*\^[{(]*(\d+)")
_HUGE_POWER = re.compile(r"\d[)}]*\^[{(]*-?\d{5,}|\d{5,}!|!!!|\d{8,}\^")
_TWO_NUMBERS = re.compile(r"\d (?=\d)")
_DOTS = re.compile(r"\\[lc]?dots(?![a-zA-Z])|\.\d*\.")
_SUBSCRIPT = re.compile(r"(\\(?:log|sum|prod|int|lim|gamma|Gamma)|[EITe])?_\{((?:[^{}]|\{[^{}]*\})*)\}")
"""Subscripts are parts of names. Signs, commands and some letters in them stop the parser."""
_DERIVATIVE = re.compile(
    r"\\frac\{d(?:\^\{(\d)\})?(\\?[a-zA-Z]+(?:_\{\w+\})?)(?:\([a-z]\))?\}\{d([a-zA-Z])(?:\^\{\1\})?\}|"
    r"\\(d?)dot\{(\\?[a-zA-Z]+)\}(?!_)"
)
"""dv/dt and \\dot{v} become names, because the derivative of a mere name would be 0."""
_RESERVED = re.compile(r"\\text ?\{[^{}]*\}|\\[a-zA-Z]+|[IT]")
_RESERVED_AS = {"I": r"\Upsilon_{01}", "T": r"\Upsilon_{04}", r"\gamma": r"\Upsilon_{02}", r"\Gamma": r"\Upsilon_{03}"}
"""Names that the parser would misread: I as the imaginary unit, x^T as x transposed, \\gamma-1 as a gamma function of
-1.
"""
DIGITS, DIGITS_OF_VARIABLES, DIGITS_OF_SUMS = 500, 150, 30
"""Digits to which numbers are compared; rounding may cost less than a tenth of them."""
RANGES = ((0.3, 0.9), (1.2, 2.9), (3.3, 8.7))
"""Each point takes its variables from one of these ranges. Where in the range follows from a hash of both texts, so that
nobody can write an answer that differs from the gold answer everywhere but at the points."""
_INEXACT = re.compile(r"\\(?:approx|equiv|sim|simeq|cong|propto|doteq|thickapprox)(?![a-zA-Z])|~|≡|≃|≅|∝")
UNREADABLE = "the gold answer cannot be read as mathematics"


class Undecided(Exception):
    """No verdict; the message says why."""


def prepare() -> None:
    """Import what takes seconds, and compare once, because the first comparison builds parsers."""
    grade("x+1", "1+x")


def grade(answer: str, gold: str) -> tuple[bool | None, str]:
    """Return right (True, False, or None if the comparison fails) and the reason."""
    try:
        right = equal(answer, gold, _algebra)
        return right, "nested too deeply to compare" if right is None else "compared by algebra"
    except Undecided as err:
        return None, str(err)


def _algebra(answer: str, gold: str) -> bool:
    _refuse_huge_numbers(answer)
    _refuse_huge_numbers(gold)
    if _DOTS.search(gold):
        raise Undecided(UNREADABLE)
    if _would_be_misread(answer, gold):
        return False
    ours, wanted = EQUALS.split(answer), EQUALS.split(gold)
    if len(ours) == len(wanted) == 2:
        return _equal_equations(ours, wanted)
    return len(ours) == len(wanted) == 1 and _verify(answer, gold)


def _would_be_misread(answer: str, gold: str) -> bool:
    """Return whether the answer has something that the parser would drop or read as a product, and that the gold answer
    lacks.
    """
    modulus, wanted = answer.partition("\\mod")[2], gold.partition("\\mod")[2]
    return (
        _DOTS.search(answer) is not None
        or (_INEXACT.search(answer) is not None and not _INEXACT.search(gold))
        or (_TWO_NUMBERS.search(answer) is not None and not _TWO_NUMBERS.search(gold))  # "5 6" is neither 5 nor 30
        or answer.count("'") != gold.count("'")
        or "\\angle" in answer + gold
        or bool(modulus and wanted and modulus != wanted)
    )


def _refuse_huge_numbers(text: str) -> None:
    """Raise Undecided for numbers that would keep a computer algebra system busy until it is killed."""
    tower = _TOWER.search(text)
    if _HUGE_POWER.search(text) or (tower and _exponent(tower) > 10_000):
        raise Undecided("a power too high to compare")
    if text.count("(") + text.count("{") > 100:
        raise Undecided("too many brackets to compare")


def _exponent(tower: re.Match[str]) -> float:
    try:
        return float(int(tower[2])) ** int(tower[3])
    except OverflowError:
        return float("inf")


def _verify(answer: str, gold: str) -> bool:
    import sympy
    from math_verify import verify

    ours, wanted = _parse(answer), _parse(gold)
    if wanted is None or wanted.has(sympy.zoo, sympy.nan):
        raise Undecided(UNREADABLE)
    if ours is None or ours.has(sympy.zoo, sympy.nan):
        return False
    close = _numerically_equal(ours, wanted)
    return close if close is not None else bool(verify(wanted, ours, timeout_seconds=None))


def _parse(text: str) -> Any:
    """Return the sympy expression, or None if it cannot be read. Capital and small letters are different names."""
    from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    plain = _SUBSCRIPT.sub(_subscript_as_digits, _DERIVATIVE.sub(_derivative_as_name, text)).replace(r"\newrow", r"\\")
    plain = _RESERVED.sub(_rename_reserved, plain)
    # No units: the parser would read 6m as six meters, equal to 6.
    plain = normalize_latex(plain, NormalizationConfig(units=False, boxed="none"))
    try:
        return latex2sympy(
            plain, normalization_config=None, conversion_config=ConversionConfig(lowercase_symbols=False)
        )
    except Exception:  # the parser raises plain exceptions, and whatever sympy raises
        return None


def _derivative_as_name(found: re.Match[str]) -> str:
    order, name, variable = found[1] or "1", found[2], found[3]
    if name is None:
        order, name, variable = "2" if found[4] else "1", found[5], "t"
    return f"R_{{{name}{variable}{order}}}"


def _rename_reserved(found: re.Match[str]) -> str:
    is_function = found[0] == r"\Gamma" and found.string.startswith("(", found.end())
    return found[0] if is_function else _RESERVED_AS.get(found[0], found[0])


def _subscript_as_digits(found: re.Match[str]) -> str:
    """Return a name with its subscript as digits. Letters with a fixed meaning, such as E in E_0, are replaced too."""
    before, subscript = found[1] or "", re.sub(r"\\text|[{}\\, ]", "", found[2])
    if before.startswith(("\\log", "\\sum", "\\prod", "\\int", "\\lim")):
        return found[0]
    digits = subscript if subscript.isdecimal() else "".join(f"{ord(c):04}" for c in subscript)
    return f"_{{{digits}}}" if not before else f"\\Upsilon_{{00{ord(before[-1])}{ord(before[1:2] or '0')}{digits}}}"


def _numerically_equal(a: Any, b: Any) -> bool | None:
    """Return whether two expressions agree numerically for several values of the variables; None if undecided."""
    import sympy

    if not (isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr)):
        return None
    a, b = _unify_symbols(_floats_to_fractions(a), _floats_to_fractions(b))
    unit = {sympy.Symbol("i"): sympy.I}  # read as a name, but mostly meant as the imaginary unit
    return _agree_at_points(a, b) or _agree_at_points(a.subs(unit), b.subs(unit))


def _floats_to_fractions(expression: Any) -> Any:
    """Return the expression with fractions for decimals."""
    import sympy

    return sympy.nsimplify(expression, rational=True) if expression.has(sympy.Float) else expression


def _unify_symbols(a: Any, b: Any) -> tuple[Any, Any]:
    """Return both with one symbol per name, because the parser may give a name different assumptions in different places. c
    and C are the same constant of integration, unless both occur.
    """
    import sympy

    folds = not ({"c", "C"} <= _names(a) or {"c", "C"} <= _names(b))
    renamed = []
    for expression in (a, b):
        symbols = {}
        for symbol in expression.free_symbols:
            symbols[symbol] = sympy.Symbol("c" if folds and symbol.name == "C" else symbol.name)
        renamed.append(expression.subs(symbols))
    return renamed[0], renamed[1]


def _names(expression: Any) -> set[str]:
    return {symbol.name for symbol in expression.free_symbols}


def _agree_at_points(a: Any, b: Any) -> bool | None:
    """Return whether two expressions are equal exactly, or agree at each of several points. Raise Undecided if they agree
    only for positive values, or have parts too large or too small for the digits that are compared.
    """
    if a == b:
        return True
    variables = sorted(a.free_symbols | b.free_symbols, key=str)
    if not variables:
        return _agree_at_point(a, b, {})
    points = _test_points(a, b, len(variables))
    for values in points:
        near = _agree_at_point(a, b, dict(zip(variables, values, strict=True)))
        if not near:
            return near
    if len(variables) == 1 and _depends_on_sign(a, b):
        for values in points:
            if not _agree_at_point(a, b, {variables[0]: -values[0]}):
                raise Undecided("equal for positive values only")
    for expression in (a, b):
        _refuse_extreme_parts(expression, DIGITS_OF_VARIABLES)  # a float in a sum would absorb a tiny number
    return True


def _depends_on_sign(a: Any, b: Any) -> bool:
    """Return whether an expression has roots or logarithms, which may be equal to another for positive values only."""
    import sympy

    for power in a.atoms(sympy.Pow) | b.atoms(sympy.Pow):
        if power.exp.is_Rational and power.exp.q % 2 == 0:
            return True
    return bool(a.has(sympy.log) or b.has(sympy.log))


def _test_points(a: Any, b: Any, n: int) -> list[list[Any]]:
    """Return values for n variables: positive, as most variables are lengths and times; of both signs where the sign
    matters; whole numbers for counting variables.
    """
    import sympy

    def has(*kinds: Any) -> bool:
        return bool(a.has(*kinds) or b.has(*kinds))

    initials = {name[0] for name in _names(a) | _names(b)}
    if has(sympy.floor, sympy.ceiling, sympy.Mod, sympy.Sum, sympy.Product) and initials <= set("ijklmnpqKMN"):
        return _whole_points(n)
    draw = random.Random(hashlib.sha256(f"{a} {b}".encode()).digest())
    points = []
    for low, high in RANGES:
        points.append([sympy.Float(_fraction_between(draw, low, high), DIGITS_OF_VARIABLES) for _ in range(n)])
    if has(sympy.Abs, sympy.Max, sympy.Min, sympy.sign, sympy.floor, sympy.ceiling):
        points += _points_of_both_signs(points)
    return points


def _fraction_between(draw: random.Random, low: float, high: float) -> Any:
    """Return a random fraction with a denominator that no short text has."""
    import sympy

    bottom = draw.randrange(10**9, 10**10)
    return sympy.Rational(draw.randrange(int(low * bottom), int(high * bottom)), bottom)


def _whole_points(n: int) -> list[list[Any]]:
    import sympy

    points = []
    for start in range(1, 25):
        for step in (1, 5):
            points.append([sympy.Integer(start + step * i) for i in range(n)])
    return points


def _points_of_both_signs(points: list[list[Any]]) -> list[list[Any]]:
    """Return each point with every first, second or third value negative, and the others larger."""
    found = []
    for values in points:
        for k in (1, 2, 3):
            found.append([-x if i % k == 0 else x * k for i, x in enumerate(values)])
    return found


def _agree_at_point(a: Any, b: Any, at: dict[Any, Any]) -> bool | None:
    """Return whether two expressions have the same value at a point; None if one has no finite value."""
    import sympy
    from sympy.concrete.expr_with_limits import ExprWithLimits

    try:
        x, y = a.subs(at), b.subs(at)
        digits = DIGITS_OF_VARIABLES if x.has(sympy.Float) or y.has(sympy.Float) else DIGITS
        if x.has(ExprWithLimits) or y.has(ExprWithLimits):
            digits = DIGITS_OF_SUMS
        else:
            x, y = x.doit(), y.doit()
            if x.is_Rational and y.is_Rational:
                return bool(x == y)
        size, other = _magnitude(x), _magnitude(y)
        if not (size.is_finite and other.is_finite):
            return None
        difference = x - y
        if difference.is_Rational and not difference.has(sympy.Float):
            return bool(difference == 0)
        if _magnitude(difference, digits) > max(size, other) * sympy.Float(10) ** (-0.9 * digits):
            return False
        _refuse_extreme_parts(x, digits)
        _refuse_extreme_parts(y, digits)
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return None
    return True


def _refuse_extreme_parts(expression: Any, digits: int) -> None:
    """Raise Undecided if a part of an expression is so large or small that this many digits could miss a difference."""
    import sympy

    limit = sympy.Float(10) ** (0.4 * digits)
    for part in sympy.preorder_traversal(expression):
        if isinstance(part, sympy.Expr) and part.is_number and part != 0:
            size = _magnitude(part)
            if size > limit or size * limit < 1:
                raise Undecided("numbers too large or too small to compare")


def _magnitude(number: Any, digits: int = DIGITS) -> Any:
    """Return the larger absolute value of real and imaginary part; `digits` is the precision for small differences."""
    import sympy

    return max(abs(part) for part in sympy.N(number, 15, maxn=digits).as_real_imag())


def _equal_equations(ours: list[str], wanted: list[str]) -> bool:
    """Return whether the sides are equal, or left minus right of one is a constant multiple of that of the other."""
    import sympy

    sides = [_parse(side) for side in (*ours, *wanted)]
    if not all(isinstance(side, sympy.Expr) for side in sides):
        return False
    left, right, wanted_left, wanted_right = sides
    if _numerically_equal(left, wanted_left) and _numerically_equal(right, wanted_right):
        return True
    first, second = _unify_symbols(left - right, wanted_left - wanted_right)
    if not first.free_symbols or first.free_symbols != second.free_symbols:
        return False
    at = dict(
        zip(sorted(first.free_symbols, key=str), _test_points(first, second, len(first.free_symbols))[0], strict=True)
    )
    scale, wanted_scale = first.subs(at), second.subs(at)
    return scale != 0 and wanted_scale != 0 and _numerically_equal(first * wanted_scale, second * scale) is True
