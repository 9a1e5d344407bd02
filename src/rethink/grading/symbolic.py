"""Equality by algebra, with math-verify; runs in a worker process only (`pool.grade_in_worker`).

math-verify alone calls 1/2004! = 1/2006!, 3=3 and 4=4, or n=2,3,4 and n=1,2,3 equal (its issues 14 and 60). So lists and
equations are taken apart here (`compare`), and an equality of numbers must survive an evaluation to 30 digits.
"""

from __future__ import annotations

import re
from typing import Any

from rethink.grading.equality import EQUALS, equal

_TOWER = re.compile(r"(\d+|!)[)}]*\^[{(]*(\d+)[)}]*\^[{(]*(\d+)")
_HUGE_POWER = re.compile(r"\d[)}]*\^[{(]*-?\d{5,}|\d{5,}!|!!!|\d{8,}\^")
_TWO_NUMBERS = re.compile(r"\d (?=\d)")
_DOTS = re.compile(r"\\[lc]?dots(?![a-zA-Z])|\.\d*\.")
_SUBSCRIPT = re.compile(r"(\\(?:log|sum|prod|int|lim|gamma|Gamma)|[EITe])?_\{((?:[^{}]|\{[^{}]*\})*)\}")
"""Subscripts are parts of names; signs, commands and some letters in them keep the parser from reading the rest."""
_RATE = re.compile(
    r"\\frac\{d(?:\^\{(\d)\})?(\\?[a-zA-Z]+(?:_\{\w+\})?)(?:\([a-z]\))?\}\{d([a-zA-Z])(?:\^\{\1\})?\}|"
    r"\\(d?)dot\{(\\?[a-zA-Z]+)\}(?!_)"
)
"""dv/dt and v with a dot: a name, as the derivative of what is only a name would be taken for 0."""
_TAKEN = re.compile(r"\\text ?\{[^{}]*\}|\\[a-zA-Z]+|[IT]")
_TAKEN_AS = {"I": r"\Upsilon_{01}", "T": r"\Upsilon_{04}", r"\gamma": r"\Upsilon_{02}", r"\Gamma": r"\Upsilon_{03}"}
"""Names here; the parser takes I for the imaginary unit, x^T for x transposed, \\gamma-1 for a gamma function of -1."""
DIGITS, DIGITS_OF_VARIABLES, DIGITS_OF_SUMS = 500, 150, 30
"""Precision to which numbers are told apart; less than a tenth of the digits may be lost."""
POINTS = ((17, 23, 37), (31, 19, 13), (59, 29, 11))
"""The i-th variable is a/b + i/c at the point (a, b, c)."""
UNREADABLE = "the gold answer cannot be read as mathematics"


class Unsettled(Exception):
    """No verdict; the message says why."""


def prepare() -> None:
    """Import what takes seconds, and compare once: the first comparison builds parsers."""
    grade("x+1", "1+x")


def grade(answer: str, gold: str) -> tuple[bool | None, str]:
    """Right or wrong with the reason; None where the comparison fails."""
    try:
        right = equal(answer, gold, _algebra)
        return right, "nested too deeply to compare" if right is None else "compared by algebra"
    except Unsettled as err:
        return None, str(err)


def _algebra(answer: str, gold: str) -> bool:
    _refuse_huge(answer)
    _refuse_huge(gold)
    if _DOTS.search(gold):
        raise Unsettled(UNREADABLE)
    if _misread(answer, gold):
        return False
    ours, wanted = EQUALS.split(answer), EQUALS.split(gold)
    if len(ours) == len(wanted) == 2:
        return _same_equation(ours, wanted)
    return len(ours) == len(wanted) == 1 and _verify(answer, gold)


def _misread(answer: str, gold: str) -> bool:
    """Whether the answer has what the parser would drop, or take for a product, and the gold answer has not."""
    modulus, wanted = answer.partition("\\mod")[2], gold.partition("\\mod")[2]
    return (
        _DOTS.search(answer) is not None
        or (_TWO_NUMBERS.search(answer) is not None and not _TWO_NUMBERS.search(gold))  # "5 6" is not 5, nor 30
        or answer.count("'") != gold.count("'")
        or "\\angle" in answer + gold
        or bool(modulus and wanted and modulus != wanted)
    )


def _refuse_huge(text: str) -> None:
    """What would keep a computer algebra system busy until it is killed."""
    tower = _TOWER.search(text)
    if _HUGE_POWER.search(text) or (tower and _exponent(tower) > 10_000):
        raise Unsettled("a power too high to compare")
    if text.count("(") + text.count("{") > 100:
        raise Unsettled("brackets too many to compare")


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
        raise Unsettled(UNREADABLE)
    if ours is None or ours.has(sympy.zoo, sympy.nan):
        return False
    close = _close(ours, wanted)
    return close if close is not None else bool(verify(wanted, ours, timeout_seconds=None))


def _parse(text: str) -> Any:
    """The expression, or None where it cannot be read. Large and small letters are different names."""
    from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    plain = _SUBSCRIPT.sub(_name, _RATE.sub(_name_rate, text)).replace(r"\newrow", r"\\")
    plain = _TAKEN.sub(_name_taken, plain)
    # No units: it would read 6m as six metres, and equal to 6.
    plain = normalize_latex(plain, NormalizationConfig(units=False, boxed="none"))
    try:
        return latex2sympy(
            plain, normalization_config=None, conversion_config=ConversionConfig(lowercase_symbols=False)
        )
    except Exception:  # the parser raises plain exceptions, and whatever sympy raises
        return None


def _name_rate(found: re.Match[str]) -> str:
    order, name, variable = found[1] or "1", found[2], found[3]
    if name is None:
        order, name, variable = "2" if found[4] else "1", found[5], "t"
    return f"R_{{{name}{variable}{order}}}"


def _name_taken(found: re.Match[str]) -> str:
    is_function = found[0] == r"\Gamma" and found.string.startswith("(", found.end())
    return found[0] if is_function else _TAKEN_AS.get(found[0], found[0])


def _name(found: re.Match[str]) -> str:
    """A name with its subscript as digits. Those of its own letters, E_0 say, it wants alone."""
    before, subscript = found[1] or "", re.sub(r"\\text|[{}\\, ]", "", found[2])
    if before.startswith(("\\log", "\\sum", "\\prod", "\\int", "\\lim")):
        return found[0]
    digits = subscript if subscript.isdecimal() else "".join(f"{ord(c):04}" for c in subscript)
    return f"_{{{digits}}}" if not before else f"\\Upsilon_{{00{ord(before[-1])}{ord(before[1:2] or '0')}{digits}}}"


def _close(a: Any, b: Any) -> bool | None:
    """Whether two expressions agree numerically at points of all their variables; None where that says nothing."""
    import sympy

    if not (isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr)):
        return None
    a, b = _renamed(_exact(a), _exact(b))
    unit = {sympy.Symbol("i"): sympy.I}  # read as a name, but mostly meant as the imaginary unit
    return _agree(a, b) or _agree(a.subs(unit), b.subs(unit))


def _exact(expression: Any) -> Any:
    """With fractions for decimals."""
    import sympy

    return sympy.nsimplify(expression, rational=True) if expression.has(sympy.Float) else expression


def _renamed(a: Any, b: Any) -> tuple[Any, Any]:
    """With one symbol per name: the parser may give it different assumptions in different places. c and C are the same
    constant of integration, unless both occur."""
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


def _agree(a: Any, b: Any) -> bool | None:
    variables = sorted(a.free_symbols | b.free_symbols, key=str)
    everywhere = True
    for values in _points(a, b, len(variables)):
        near = _near(a, b, dict(zip(variables, values, strict=True)))
        if near is None:
            return None
        everywhere = everywhere and near
    return everywhere


def _points(a: Any, b: Any, n: int) -> list[list[Any]]:
    """Values of n variables: positive, as most are lengths and times; both signs where that matters, whole numbers in
    what counts."""
    import sympy

    def has(*kinds: Any) -> bool:
        return bool(a.has(*kinds) or b.has(*kinds))

    if not n:
        return [[]]
    initials = {name[0] for name in _names(a) | _names(b)}
    if has(sympy.floor, sympy.ceiling, sympy.Mod, sympy.Sum, sympy.Product) and initials <= set("ijklmnpqKMN"):
        return _whole_points(n)
    points = []
    for p, q, r in POINTS:
        first = sympy.Rational(p, q)
        points.append([sympy.Float(first + sympy.Rational(i, r), DIGITS_OF_VARIABLES) for i in range(n)])
    if has(sympy.Abs, sympy.Max, sympy.Min, sympy.sign, sympy.floor, sympy.ceiling):
        points += _points_of_both_signs(points)
    return points


def _whole_points(n: int) -> list[list[Any]]:
    import sympy

    points = []
    for start in range(1, 25):
        for step in (1, 5):
            points.append([sympy.Integer(start + step * i) for i in range(n)])
    return points


def _points_of_both_signs(points: list[list[Any]]) -> list[list[Any]]:
    """Each point with every first, second or third value negative, and the others larger."""
    found = []
    for values in points:
        for k in (1, 2, 3):
            found.append([-x if i % k == 0 else x * k for i, x in enumerate(values)])
    return found


def _near(a: Any, b: Any, at: dict[Any, Any]) -> bool | None:
    import sympy
    from sympy.concrete.expr_with_limits import ExprWithLimits

    try:
        x, y = a.subs(at), b.subs(at)
        digits = DIGITS_OF_VARIABLES if x.has(sympy.Float) or y.has(sympy.Float) else DIGITS
        if x.has(ExprWithLimits) or y.has(ExprWithLimits):
            digits = DIGITS_OF_SUMS
        else:
            x, y = x.doit(), y.doit()
        size, other = _size(x), _size(y)
        if not (size.is_finite and other.is_finite):
            return None
        return bool(_size(x - y, digits) <= max(size, other) * sympy.Float(10) ** (-0.9 * digits))
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return None


def _size(number: Any, digits: int = DIGITS) -> Any:
    """The larger of its real and imaginary part, without sign; `digits` is how far a small difference is looked for."""
    import sympy

    return max(abs(part) for part in sympy.N(number, 15, maxn=digits).as_real_imag())


def _same_equation(ours: list[str], wanted: list[str]) -> bool:
    """Equations are equal if their sides are, or if one difference of sides is a constant multiple of the other."""
    import sympy

    sides = [_parse(side) for side in (*ours, *wanted)]
    if not all(isinstance(side, sympy.Expr) for side in sides):
        return False
    left, right, wanted_left, wanted_right = sides
    if _close(left, wanted_left) and _close(right, wanted_right):
        return True
    first, second = _renamed(left - right, wanted_left - wanted_right)
    if not first.free_symbols or first.free_symbols != second.free_symbols:
        return False
    at = dict(zip(sorted(first.free_symbols, key=str), _points(first, second, len(first.free_symbols))[0], strict=True))
    scale, wanted_scale = first.subs(at), second.subs(at)
    return scale != 0 and wanted_scale != 0 and _close(first * wanted_scale, second * scale) is True
