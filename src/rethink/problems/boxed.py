"""Mathematics with a boxed answer: the last balanced `\\boxed{...}` counts; cheap comparisons first, then symbolic.

Strict on purpose: no box is wrong, and so is a box that holds several answers where the gold is one.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rethink.problems import symbolic
from rethink.types import Verdict

MAX_ANSWER = 500
"""Longer contents of a box are wrong without a look: no gold answer of the usual sets has more than 200 characters."""

BRACE = re.compile(r"\\boxed *\{|\\[{}]|[{}]")
BLANK = r"(?:\\[!,;: ]|\s)"
NOISE = re.compile(
    r"\\left|\\right|\\displaystyle|\\\$|\$|\.$"
    rf"|(?<!\d){BLANK}|{BLANK}++(?!\d)"  # a blank between digits stays, so that 1 2 is not 12, ...
    rf"|(?<=\d)(?:,(?:\\!)?|{BLANK})(?=\d{{3}}(?!\d))"  # ... except to separate thousands
)
FRACTION = re.compile(r"(?<!\d)\\[dt]?frac\{(-?\d+)\}\{(\d+)\}(?!\d)")
"""Next to another digit it is a mixed number or a product, which must not become 11/2."""
POWER_OF_TEN = re.compile(r"(?:(?<=\d)\\(?:times|cdot)|^)10\^\{?(-?\d{1,3})\}?$")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d{1,3}|/\d+)?")


def verify(reply: str, gold: str) -> Verdict:
    """Right if the last box equals the gold answer. Not judged if the symbolic comparison fails or takes too long."""
    answer = last_box(reply)
    if answer is None:
        return Verdict(False, "no box")
    if len(answer) > MAX_ANSWER:
        return Verdict(False, f"the box holds {len(answer)} characters")
    ours, theirs = normalise(answer), normalise(gold)
    if ours == theirs:
        return Verdict(True, "same text")
    a, b = number(ours), number(theirs)
    if a is not None and b is not None:
        return Verdict(a == b, "compared as numbers")
    return symbolic.compare(answer, gold)


def gold(text: str) -> str:
    """The gold answer in a column: the content of its last box if it has one (MATH's solutions), else all of it."""
    return last_box(text) or text.strip()


def last_box(text: str) -> str | None:
    """The content of the last `\\boxed{...}` whose braces balance, without the box; None where there is none.

    One pass, whatever the text: replies can be long and full of boxes that are never closed.
    """
    opened: list[int] = []
    start, end = 0, -1
    for brace in BRACE.finditer(text):
        if brace[0] == "}":
            begun = opened.pop() if opened else 0
            if begun > start:
                start, end = begun, brace.start()
        elif brace[0] not in ("\\{", "\\}"):
            opened.append(brace.end() if brace[0] != "{" else 0)
    return text[start:end].strip() if start else None


def normalise(answer: str) -> str:
    """The answer without blanks, sizing commands, dollar signs and thousands separators; a/b for fractions, 1e-5 for
    powers of ten."""
    plain = NOISE.sub("", answer.strip()).replace("^{\\circ}", "").replace("^\\circ", "")
    return POWER_OF_TEN.sub(_e_notation, FRACTION.sub(r"\1/\2", plain))


def _e_notation(found: re.Match[str]) -> str:
    return f"{'1' if found.start() == 0 else ''}e{found[1]}"


def number(answer: str) -> Fraction | None:
    """The exact value of an integer, a decimal, 1.5e-3 or a fraction a/b; None for everything else."""
    if len(answer) > 40 or not answer.isascii() or not NUMBER.fullmatch(answer):
        return None
    top, _, bottom = answer.partition("/")
    if bottom and int(bottom) == 0:
        return None
    return Fraction(top) / int(bottom or 1)
