"""Countdown as the papers pose it: make a target from given numbers with + - * / and brackets, in an answer tag.

The task of TinyZero's data set (Jiayi-Pan/Countdown-Tasks-3to4) and of arXiv 2505.24726: every number exactly once, no
other number, any value in between (fractions and negative ones too). The question and the instruction are our own words.

    question  Make 26 from the numbers 3, 7 and 5.
    gold      {"numbers":[3,7,5],"target":26}
    reply     <answer>3 * 7 + 5</answer>

The expression is read by a parser of its own and computed in exact fractions. TinyZero's grader hands it to Python and
looks for the numbers separately, so there `**` and `//` pass, and a value within 1e-5 of the target counts; none of that
does here. A minus may stand in front of a whole expression or bracket (`-3 + 10`), but not behind another sign: the
numbers that are used stay those that are written, and no positive target becomes reachable that was not.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

from rethink.errors import UserError
from rethink.grading.extract import after_thinking, answer_tag, last_boxes
from rethink.problems.answer_format import AnswerFormat, Columns, Row
from rethink.problems.expression import MAX_EXPRESSION, evaluate, is_expression, normal
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
    # To a blank, not to nothing, which would make one number of two.
    (re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[()\[\],;!]|\$|`|\*\*"), " "),
    (re.compile(r"\\boxed *\{([^{}]*)\}"), r" \1 "),
)


def read(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """Question and gold of a row whose answer column holds {"numbers": [...], "target": N}, or that has the columns
    `nums` and `target`. Raises UserError for anything but whole numbers from 0 on and a whole target."""
    value = row.value(f"{columns.answer}|nums")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as err:
            raise UserError(f"{row.where}: {value[:60]!r} is not JSON with numbers and a target") from err
    if isinstance(value, dict):
        numbers, target = value.get("numbers"), value.get("target")
    else:
        numbers, target = value, row.value("target")
    if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers) or type(target) is not int:
        raise UserError(f"{row.where}: not whole numbers from 0 on and a whole target: {numbers!r}, {target!r}")
    if not 2 <= len(numbers) <= MAX_NUMBERS:
        raise UserError(f"{row.where}: {len(numbers)} numbers; 2 to {MAX_NUMBERS} are allowed")
    listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    gold = json.dumps({"numbers": numbers, "target": target}, separators=(",", ":"))
    return f"Make {target} from the numbers {listed}.", gold


def verify(reply: str, gold: str) -> Verdict:
    """Right if the last answer tag behind the thinking holds an expression that makes the target as asked."""
    tag = answer_tag(after_thinking(reply))
    return Verdict(False, "no answer tag", None) if tag is None else _grade(tag, gold)


def lenient(reply: str, gold: str) -> Verdict:
    """As `verify`; where that finds no expression, also with printed signs (×, ÷, \\frac), with the target behind or
    before an equals sign, and, if there is no tag, in the last box or on the last line."""
    found = _loose(after_thinking(reply), str(json.loads(gold)["target"]))
    if found is None:
        return verify(reply, gold)
    shown, expression = found
    verdict = _grade(expression, gold)
    return Verdict(verdict.right, verdict.reason, shown.strip()[:MAX_EXPRESSION], lenient=True)


def answer(reply: str, lenient: bool, question: str = "") -> str | None:
    """The expression that `verify` or `lenient` grades, without blanks and needless brackets, the operands of sums and
    products in a fixed order; None where it is no expression."""
    text = after_thinking(reply)
    target = _TARGET.match(question)
    loose = _loose(text, target[1] if target else None) if lenient else None
    found = answer_tag(text) if loose is None else loose[1]
    try:
        return None if found is None else normal(found)
    except ValueError:
        return None


def _loose(text: str, target: str | None) -> tuple[str, str] | None:
    """What only lenient extraction takes for an answer, as it stands in the text, and the expression in it."""
    tag = answer_tag(text)
    if tag is not None and is_expression(tag):
        return None
    for candidate in _untagged(text) if tag is None else [tag]:
        loose = _without_target(_plain(candidate), target)
        if is_expression(loose) and re.search(r"[-+*/]", loose):
            return candidate, loose
    return None


def gold_reply(gold: str) -> str:
    """A right reply, found by search. Raises ValueError where no expression makes the target."""
    numbers, target = instance(gold)
    found = _search(tuple((n, 1, str(n)) for n in numbers), target, set())
    if found is None:
        raise ValueError(f"no expression makes {target} from {', '.join(map(str, numbers))}")
    return f"<answer>{found}</answer>"


def instance(gold: str) -> tuple[tuple[int, ...], int]:
    """What two problems share when they are the same but for the order of the numbers."""
    task = json.loads(gold)
    return tuple(sorted(task["numbers"])), task["target"]


FORMAT = AnswerFormat(
    solve=SOLVE, read=read, verify=verify, lenient=lenient, gold_reply=gold_reply, extract_answer=answer
)


def _grade(text: str, gold: str) -> Verdict:
    numbers, target = instance(gold)
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
    """The last box; then, if it is alone there, what looks like an expression on the last line."""
    line = _plain(next((x for x in reversed(text.split("\n")) if x.strip()), "")[-1000:])
    runs = [x for x in _RUN.findall(line) if re.search(r"[0-9]\s*\)*\s*[-+*/]", x)]
    return last_boxes(text)[-1:] + (runs if len(runs) == 1 else [])


def _plain(text: str) -> str:
    """Printed signs as the keyboard has them, without what only sets them."""
    text = text[:1000]
    n_found = 1
    while n_found:
        text, n_found = _FRACTION.subn(r"((\1)/(\2))", text)
    for sign, plain in _NOTATION:
        text = sign.sub(plain, text)
    return text.strip().removesuffix(".")


def _without_target(text: str, target: str | None) -> str:
    """The other side of an equation one side of which is the target; any other text as it is."""
    left, equals, right = text.partition("=")
    if not equals:
        return text
    sides = [left.strip(), right.strip()]
    return next((sides[1 - i] for i, side in enumerate(sides) if side == target), text)


Term = tuple[int, int, str]
"""A value as numerator and denominator in lowest terms, the denominator above 0, and an expression that makes it.
`Fraction` would do the same, ten times slower."""


def _search(left: tuple[Term, ...], target: int, seen: set[tuple[tuple[int, int], ...]]) -> str | None:
    """An expression of all the values left, two at least, that makes the target; `seen` are sets of values that do not."""
    if len(left) == 2:
        return _last(*left, target)
    values = tuple(sorted((n, d) for n, d, _ in left))
    if values in seen:
        return None
    seen.add(values)
    for i in range(1, len(left)):
        for j in range(i):
            rest = left[:j] + left[j + 1 : i] + left[i + 1 :]
            for made in _combined(left[i], left[j]):
                found = _search((*rest, made), target, seen)
                if found:
                    return found
    return None


def _last(a: Term, b: Term, target: int) -> str | None:
    """The target made of two values. Most of the time of a search goes here, so it compares whole numbers alone."""
    x, y, both = a[0] * b[1], b[0] * a[1], a[1] * b[1]  # the values are x / both and y / both
    wanted = target * both
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


def _combined(a: Term, b: Term) -> Iterator[Term]:
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
