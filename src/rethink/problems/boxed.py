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

NOISE = re.compile(r"\\left|\\right|\\!|\\,|\\;|\\:|\\ |\\displaystyle|\s+|(?<=\d),(?=\d{3}(?!\d))|\\\$|\$|\.$")
FRACTION = re.compile(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")
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
    """The content of the last `\\boxed{...}` whose braces balance, without the box; None where there is none."""
    start = len(text)
    while (start := text.rfind("\\boxed", 0, start)) >= 0:
        content = _braced(text, start + len("\\boxed"))
        if content is not None:
            return content
    return None


def _braced(text: str, i: int) -> str | None:
    while i < len(text) and text[i] == " ":
        i += 1
    if i >= len(text) or text[i] != "{":
        return None
    depth = 0
    for end in range(i, min(len(text), i + 10_000)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[i + 1 : end].strip()
    return None


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
