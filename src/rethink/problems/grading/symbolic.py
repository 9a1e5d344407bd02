"""Equality by algebra, with math-verify; runs in a worker process only (`pool.judge_apart`).

math-verify alone calls 1/2004! = 1/2006!, 3=3 and 4=4, or n=2,3,4 and n=1,2,3 equal (its issues 14 and 60). So lists and
equations are taken apart here (`compare`), and an equality of numbers must survive an evaluation to 30 digits.
"""

from __future__ import annotations

import cmath
import re
from typing import Any

from rethink.problems.grading.compare import equal

_TOWER = re.compile(r"(\d+|!)[)}]*\^[{(]*(\d+)[)}]*\^[{(]*(\d+)")
_HUGE_POWER = re.compile(r"\d[)}]*\^[{(]*-?\d{5,}|\d{5,}!|!!!|\d{8,}\^")
_TWO_NUMBERS = re.compile(r"\d (?=\d)")
_SUBSCRIPT = re.compile(r"_\{((?:[^{}]|\{[^{}]*\})*)\}")
"""Subscripts are parts of names; signs and commands in them keep math-verify from reading the rest."""
DIGITS = 30
POINTS = ((0.7390851, 1.6180339), (1.3247179, 0.5671432), (2.5029078, 0.9159655))


class Unsettled(Exception):
    """No verdict; the message says why."""


def prepare() -> None:
    """Import what takes seconds, and compare once: the first comparison builds parsers."""
    judge("x+1", "1+x")


def judge(answer: str, gold: str) -> tuple[bool | None, str]:
    """Right or wrong with the reason; None where the comparison fails."""
    try:
        return bool(equal(answer, gold, _algebra)), "compared by algebra"
    except Unsettled as err:
        return None, str(err)


def _algebra(answer: str, gold: str) -> bool:
    for text in (answer, gold):
        _refuse_huge(text)
    if _TWO_NUMBERS.search(answer) and not _TWO_NUMBERS.search(gold):
        return False  # "5 6" would be read as 5, or as 30
    sides = [text.split("=") for text in (answer, gold)]
    if all(len(s) == 2 for s in sides):
        return _same_equation(*sides)
    if "=" in answer or "=" in gold:
        return False
    return _verify(answer, gold)


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
    from math_verify import verify

    ours, wanted = _parse(answer), _parse(gold)
    if not wanted:
        raise Unsettled("the gold answer cannot be read as mathematics")
    if not ours:
        return False
    right = bool(verify(wanted, ours, timeout_seconds=None))
    a, b = ours[0], wanted[0]
    close = _close(a, b)
    return close if close is not None else right


def _parse(text: str) -> list[Any]:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # No units: it would read 6m as six metres, and equal to 6.
    config = LatexExtractionConfig(normalization_config=NormalizationConfig(units=False, boxed="all"))
    plain = _SUBSCRIPT.sub(lambda found: f"_{{{re.sub('[^A-Za-z0-9]', '', found[1])}}}", text)
    return parse(f"\\boxed{{{plain}}}", extraction_config=[config], parsing_timeout=None)


def _close(a: Any, b: Any) -> bool | None:
    """Whether two expressions agree numerically at three points of all their variables; None where that says nothing."""
    import sympy

    if not (isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr)):
        return None
    a, b = (sympy.nsimplify(e, rational=True) if e.has(sympy.Float) else e for e in (a, b))
    # One symbol per name: the parser gives the same name different assumptions in different places.
    a, b = (e.subs({s: sympy.Symbol(s.name) for s in e.free_symbols}) for e in (a, b))
    unit = {sympy.Symbol("i"): sympy.I}  # read as a name, but mostly meant as the imaginary unit
    return _agree(a, b) or _agree(a.subs(unit), b.subs(unit))


def _agree(a: Any, b: Any) -> bool | None:
    variables = sorted(a.free_symbols | b.free_symbols, key=str)
    agree = [_near(a, b, dict(zip(variables, _values(point, len(variables)), strict=True))) for point in POINTS]
    return None if None in agree else all(agree)


def _values(point: tuple[float, float], n: int) -> list[Any]:
    import sympy

    return [sympy.Float(point[0], DIGITS) + sympy.Float(point[1], DIGITS) * i for i in range(n)]


def _near(a: Any, b: Any, at: dict[Any, Any]) -> bool | None:
    import sympy

    try:
        x, y = (sympy.N(e.subs(at), DIGITS) for e in (a, b))
        if not (cmath.isfinite(complex(x)) and cmath.isfinite(complex(y))):
            return None
        return bool(abs(x - y) <= max(abs(x), abs(y)) * sympy.Float("1e-15"))
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return None


def _same_equation(ours: list[str], wanted: list[str]) -> bool:
    """Equations are equal if their sides are, or if one difference of sides is a constant multiple of the other."""
    import sympy

    a, b = ([_parse(side) for side in sides] for sides in (ours, wanted))
    if not all(side and isinstance(side[0], sympy.Expr) for side in (*a, *b)):
        return False
    if _close(a[0][0], b[0][0]) and _close(a[1][0], b[1][0]):
        return True
    first, second = a[0][0] - a[1][0], b[0][0] - b[1][0]
    if not first.free_symbols or first.free_symbols != second.free_symbols:
        return False
    ratio = sympy.simplify(first / second)
    return not ratio.free_symbols and ratio != 0 and bool(ratio.is_finite)
