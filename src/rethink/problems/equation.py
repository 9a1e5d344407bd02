"""Countdown as in the papers: make a target from given numbers with + - * / and brackets, in an answer tag.

This is the task of TinyZero's data set (Jiayi-Pan/Countdown-Tasks-3to4) and of arXiv 2505.24726: use every number exactly
once and no other number; intermediate values may be fractions and negative. The words of question and instruction are ours.

    question  Make 26 from the numbers 3, 7 and 5.
    gold      {"numbers":[3,7,5],"target":26}
    reply     <answer>3 * 7 + 5</answer>

A small parser reads the expression and computes exact fractions. TinyZero's grader instead evaluates it with Python and
looks for the numbers separately: there, `**` and `//` pass, and so does a value within 1e-5 of the target. Here they are
wrong. A minus may start an expression or a bracket (`-3 + 10`), but not follow another sign. That adds no positive target
to those that can be made.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from rethink.errors import UserError
from rethink.grading.extract import answer_tag, json_value, last_boxes
from rethink.problems.answer_format import AnswerFormat
from rethink.problems.expression import MAX_EXPRESSION, evaluate, is_expression, normalize
from rethink.problems.rows import Columns, Row
from rethink.thinking import after_thinking
from rethink.types import Verdict

SOLVE = (
    "{question} Use each number exactly once, with the operations +, -, * and / and brackets as you need them, and no "
    "other number. Think step by step, then give the expression alone, without an equals sign, between answer tags, "
    "for example <answer>(1 + 2) / 3</answer>."
)

MAX_NUMBERS = 8

_RUN = re.compile(r"[-+*/()=0-9\s]+")
_TARGET = re.compile(r"Make (-?[0-9]+) from the numbers ")
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_NOTATION = (
    (re.compile(r"[\u00d7\u2715\u2217\u22c5\u00b7]|\\times(?![a-z])|\\cdot(?![a-z])"), "*"),
    (re.compile(r"[\u00f7\u2215]|\\div(?![a-z])"), "/"),
    (re.compile(r"[\u2212\u2013]"), "-"),
    # Replaced by a space, because two numbers must not become one.
    (re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[()\[\],;!]|\$|`|\*\*"), " "),
    (re.compile(r"\\boxed *\{([^{}]*)\}"), r" \1 "),
)


def read_row(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """Return question and gold of a row with {"numbers": [...], "target": N} as its answer, or with `nums` and `target`.

    Raise UserError unless the numbers are non-negative integers and the target is an integer.
    """
    value = row.value(f"{columns.answer}|nums")
    if isinstance(value, str):
        try:
            value = json_value(value)
        except ValueError as err:
            raise UserError(f"{row.location}: {value[:60]!r} is not JSON with numbers and a target") from err
    if isinstance(value, dict):
        numbers, target = value.get("numbers"), value.get("target")
    else:
        numbers, target = value, row.value("target")
    try:
        gold = _as_gold(numbers, target)
    except ValueError as err:
        raise UserError(f"{row.location}: {err}") from err
    *first, last = json.loads(gold)["numbers"]
    listed = f"{', '.join(map(str, first))} and {last}"
    return f"Make {target} from the numbers {listed}.", gold


def parse_gold(text: str) -> str:
    """Return the numbers and the target as JSON. Raise ValueError for a text without them."""
    try:
        task = json_value(text)
        return _as_gold(task["numbers"], task["target"])
    except (ValueError, TypeError, LookupError) as err:
        raise ValueError(f'must be like {{"numbers": [3, 7, 5], "target": 26}}, not {text[:80]!r}') from err


def _as_gold(numbers: Any, target: Any) -> str:
    if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers) or type(target) is not int:
        raise ValueError(f"needs non-negative integers and an integer target, not {numbers!r} and {target!r}")
    if not 2 <= len(numbers) <= MAX_NUMBERS:
        raise ValueError(f"{len(numbers)} numbers; 2 to {MAX_NUMBERS} are allowed")
    return json.dumps({"numbers": numbers, "target": target}, separators=(",", ":"))


def verify(reply: str, gold: str) -> Verdict:
    """Return right if the last answer tag after the thinking holds an expression that makes the target from the numbers."""
    tag = answer_tag(after_thinking(reply))
    return Verdict(False, "no answer tag", None) if tag is None else _grade(tag, gold)


def verify_lenient(reply: str, gold: str) -> Verdict:
    """Grade as `verify` does; if that finds no expression, accept typeset signs (×, ÷, \\frac) and equations.

    One side of an equation must be the target. Without an answer tag, the expression may be in the last box or on the last
    line.
    """
    found = _extract_lenient(after_thinking(reply), str(json.loads(gold)["target"]))
    if found is None:
        return verify(reply, gold)
    shown, expression = found
    verdict = _grade(expression, gold)
    return Verdict(verdict.right, verdict.reason, shown.strip()[:MAX_EXPRESSION], lenient=True)


def extract_answer(reply: str, lenient: bool, question: str = "") -> str | None:
    """Return the expression that the verifiers grade, in the normal form of `normalize`; None if there is none.

    One that divides by zero only loses its spaces, because its normal form may have a value: 5 / (1 / 0) becomes 5*0/1.
    """
    text = after_thinking(reply)
    target = _TARGET.match(question)
    found_leniently = _extract_lenient(text, target[1] if target else None) if lenient else None
    found = answer_tag(text) if found_leniently is None else found_leniently[1]
    if found is None:
        return None
    try:
        evaluate(found)
        return normalize(found)
    except ZeroDivisionError:
        return "".join(found.split())
    except ValueError:
        return None


def equal_answers(a: str, b: str) -> bool:
    """Return whether two extracted expressions have the same value and use the same numbers.

    The verdicts on two such expressions are the same for every gold answer. One that divides by zero equals only itself.
    """
    if a == b:
        return True
    try:
        return _result(a) == _result(b)
    except ZeroDivisionError:
        return False


def _result(expression: str) -> tuple[Fraction, list[int]]:
    """Return the value and the sorted numbers of an expression. Raise ValueError or ZeroDivisionError if it has none."""
    value, used = evaluate(expression)
    return value, sorted(used)


def _extract_lenient(text: str, target: str | None) -> tuple[str, str] | None:
    """Return the text that only lenient extraction takes as the answer, and the expression in it."""
    tag = answer_tag(text)
    if tag is not None and is_expression(tag):
        return None
    for candidate in _untagged(text) if tag is None else [tag]:
        expression = _without_target(_to_ascii(candidate), target)
        if is_expression(expression) and re.search(r"[-+*/]", expression):
            return candidate, expression
    return None


def gold_reply(gold: str) -> str:
    """Return a right reply, found by search. Raise ValueError if no expression makes the target."""
    numbers, target = numbers_and_target(gold)
    found = _search(tuple((n, 1, str(n)) for n in numbers), target, set())
    if found is None:
        raise ValueError(f"no expression makes {target} from {', '.join(map(str, numbers))}")
    return f"<answer>{found}</answer>"


def numbers_and_target(gold: str) -> tuple[tuple[int, ...], int]:
    """Return the sorted numbers and the target: equal for problems that differ only in the order of the numbers."""
    task = json.loads(gold)
    return tuple(sorted(task["numbers"])), task["target"]


FORMAT = AnswerFormat(
    SOLVE,
    read_row,
    verify,
    verify_lenient,
    gold_reply,
    parse_gold,
    extract_answer=extract_answer,
    equal_answers=equal_answers,
)


def _grade(text: str, gold: str) -> Verdict:
    numbers, target = numbers_and_target(gold)
    shown = text[:MAX_EXPRESSION]
    try:
        value, used = evaluate(text)
    except ZeroDivisionError:
        return Verdict(False, "divides by zero", shown)
    except ValueError as err:
        return Verdict(False, f"not an expression: {err}", shown)
    if sorted(used) != list(numbers):
        return Verdict(False, "does not use exactly the given numbers", shown)
    if value != target:
        return Verdict(False, f"makes {value}, which is not the target", shown)
    return Verdict(True, "makes the target", shown)


def _untagged(text: str) -> list[str]:
    """Return the last box, and what looks like an expression on the last line if there is only one."""
    line = _to_ascii(next((x for x in reversed(text.split("\n")) if x.strip()), "")[-1000:])
    runs = [x for x in _RUN.findall(line) if re.search(r"[0-9]\s*\)*\s*[-+*/]", x)]
    return last_boxes(text)[-1:] + (runs if len(runs) == 1 else [])


def _to_ascii(text: str) -> str:
    """Replace typeset signs by those of the keyboard, and remove markup."""
    text = text[:1000]
    n_found = 1
    while n_found:
        text, n_found = _FRACTION.subn(r"((\1)/(\2))", text)
    for sign, replacement in _NOTATION:
        text = sign.sub(replacement, text)
    return text.strip().removesuffix(".")


def _without_target(text: str, target: str | None) -> str:
    """Return the other side of an equation if one side is the target; return any other text unchanged."""
    left, equals, right = text.partition("=")
    if not equals:
        return text
    sides = [left.strip(), right.strip()]
    return next((sides[1 - i] for i, side in enumerate(sides) if side == target), text)


Term = tuple[int, int, str]
"""A value as numerator and denominator in lowest terms, the denominator above 0, and an expression that makes it.
`Fraction` is ten times slower."""


def _search(terms: tuple[Term, ...], target: int, seen: set[tuple[tuple[int, int], ...]]) -> str | None:
    """Return an expression of all terms (two or more) that makes the target, or None. `seen`: sets of values that fail."""
    if len(terms) == 2:
        return _combine_last(*terms, target)
    values = tuple(sorted((n, d) for n, d, _ in terms))
    if values in seen:
        return None
    seen.add(values)
    for i in range(1, len(terms)):
        for j in range(i):
            rest = terms[:j] + terms[j + 1 : i] + terms[i + 1 :]
            for combined in _combine(terms[i], terms[j]):
                found = _search((*rest, combined), target, seen)
                if found:
                    return found
    return None


def _combine_last(a: Term, b: Term, target: int) -> str | None:
    """Return an expression of two terms that makes the target, or None.

    It computes with integers only, because searches spend most of their time here.
    """
    x, y, common = a[0] * b[1], b[0] * a[1], a[1] * b[1]  # the values are x / common and y / common
    wanted = target * common
    if x + y == wanted:
        return f"({a[2]} + {b[2]})"
    if x - y == wanted:
        return f"({a[2]} - {b[2]})"
    if y - x == wanted:
        return f"({b[2]} - {a[2]})"
    if a[0] * b[0] == wanted:
        return f"({a[2]} * {b[2]})"
    if y and x == target * y:
        return f"({a[2]} / {b[2]})"
    if x and y == target * x:
        return f"({b[2]} / {a[2]})"
    return None


def _combine(a: Term, b: Term) -> Iterator[Term]:
    (n, d, left), (m, e, right) = a, b
    yield _term(n * e + m * d, d * e, f"({left} + {right})")
    yield _term(n * e - m * d, d * e, f"({left} - {right})")
    yield _term(m * d - n * e, d * e, f"({right} - {left})")
    yield _term(n * m, d * e, f"({left} * {right})")
    if m:
        yield _term(n * e, d * m, f"({left} / {right})")
    if n:
        yield _term(m * d, e * n, f"({right} / {left})")


def _term(numerator: int, denominator: int, text: str) -> Term:
    common = math.gcd(numerator, denominator) * (-1 if denominator < 0 else 1)
    return numerator // common, denominator // common, text
