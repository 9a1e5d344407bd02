"""The verdict on an answer: right, wrong, or not graded, and why."""

from __future__ import annotations

import re
from fractions import Fraction

from rethink.grading.formulas.approximations import real_number
from rethink.grading.formulas.compare import equal, has_list
from rethink.grading.formulas.parse import parse
from rethink.grading.formulas.spelling import spell
from rethink.grading.formulas.tokens import MAX_TEXT, Token, Unreadable, tokenize
from rethink.grading.formulas.tree import Name, Tree, Words
from rethink.grading.formulas.verdicts import NotJudged
from rethink.grading.formulas.words import choice

EQUAL_NUMBERS = "compared as numbers"
ROUNDED = "≈"
"""In front of a number, it makes a gold answer that every value which rounds to it equals."""
_CHOICE = re.compile(r"\s*\(?([A-J])[).]\s+(\S.*)", re.DOTALL)
_SAME_SIGN = {"cdots": "dots", "ldots": "dots", "dotsc": "dots", "dotsb": "dots", "dfrac": "frac", "tfrac": "frac"}
_ROUNDED_GOLD = re.compile(rf"\s*{ROUNDED}\s*([-+]?\d{{1,400}}(?:\.\d{{1,400}})?)\s*")
_PLAIN_NUMBER = re.compile(r"([-+]?)(\d{1,400})(?:\.(\d{1,400})|/(\d{1,400}))?")


def prepare() -> None:
    """Compare once, because the first comparison imports what others need."""
    judge(r"\sqrt{x^2 + 1} \text{ cm}", r"\sin x")
    judge(r"x \le 3", r"(-\infty, 3]")


def judge(answer: str, gold: str, seed: str = "") -> tuple[bool | None, str]:
    """Return whether an answer is right (None: not graded), and the reason.

    >>> judge("0.5", "1/2"), judge("x = 5", "6")
    ((True, 'compared as formulas'), (False, 'compared as formulas'))
    """
    settled = quick(answer, gold)
    if settled is not None:
        return settled
    try:
        return _judge(answer, gold, seed)
    except RecursionError:
        return None, "nested too deeply to compare"


def quick(answer: str, gold: str) -> tuple[bool | None, str] | None:
    """Return the verdict that texts and plain numbers decide at once; None if they do not."""
    if max(len(answer), len(gold)) > MAX_TEXT:
        return None, f"more than {MAX_TEXT} characters"
    if _bare(answer) == _bare(gold):
        return True, "same text"
    a, b, near = _plain_number(answer), _plain_number(gold), _ROUNDED_GOLD.fullmatch(gold)
    if a is not None and near is not None:
        return _rounds_to(a, near[1]), "compared as rounded numbers"
    if a is None or b is None:
        return None
    return a == b, EQUAL_NUMBERS


def _bare(text: str) -> str:
    """Return the text in one spelling of its signs, with single spaces."""
    return " ".join(spell(text).split())


def _plain_number(text: str) -> Fraction | None:
    """Return the value of an integer, a decimal or a fraction of integers."""
    found = _PLAIN_NUMBER.fullmatch(text.strip()) if text.isascii() else None
    if found is None:
        return None
    sign, whole, places, below = found.groups()
    if below and not int(below):
        return None
    value = Fraction(f"{whole}.{places}") if places else Fraction(int(whole), int(below or "1"))
    return -value if sign == "-" else value


def _rounds_to(value: Fraction, number: str) -> bool:
    """Return whether a value, rounded to the decimal places of a number, is this number; ties may go either way."""
    places = len(number.partition(".")[2])
    return abs(value - Fraction(number)) * 2 * 10**places <= 1


def _judge_rounded(answer: str, number: str, seed: str) -> tuple[bool | None, str]:
    """Return the verdict where the gold answer is a rounded number."""
    exact = _judge(answer, number, seed)
    ours = _read(answer)
    if exact[0] or isinstance(ours, str):
        return exact
    value = real_number(ours)
    right = value is not None and _rounds_to(Fraction(value).limit_denominator(10**15), number)
    return right, "compared as rounded numbers"


def _judge(answer: str, gold: str, seed: str) -> tuple[bool | None, str]:
    near = _ROUNDED_GOLD.fullmatch(gold)
    if near is not None:
        return _judge_rounded(answer, near[1], seed)
    wanted = _read(gold)
    if isinstance(wanted, str) and _same_tokens(answer, gold):
        return True, "same text"
    if isinstance(wanted, str):
        return None, f"the gold answer cannot be read: {wanted}"
    ours = _read(answer)
    if isinstance(ours, str):
        return None, f"the answer cannot be read: {ours}"
    ours, wanted = _content(ours, wanted), _content(wanted, ours)
    try:
        if equal(ours, wanted, seed):
            return True, "compared as formulas"
        if (has_list(ours) or has_list(wanted)) and _as_list(answer, gold, seed):
            return True, "compared as lists"
    except NotJudged as err:
        return None, str(err)
    return False, "compared as formulas"


def _same_tokens(answer: str, gold: str) -> bool:
    """Return whether two texts differ only in spaces, dress and the names of one sign."""
    try:
        ours, theirs = tokenize(answer), tokenize(gold)
    except Unreadable:
        return False
    return list(map(_sign, ours)) == list(map(_sign, theirs))


def _sign(token: Token) -> tuple[str, str]:
    return token.kind, _SAME_SIGN.get(token.text, token.text) if token.kind == "command" else token.text


def _read(text: str, grouped: bool = True) -> Tree | str:
    """Return the tree of a text, or why it cannot be read."""
    try:
        return parse(text, grouped)
    except Unreadable as err:
        found = _CHOICE.fullmatch(text)
        return Words(f"({found[1]}) {found[2]}") if found else str(err)


def _content(tree: Tree, other: Tree) -> Tree:
    """Return the value behind the letter of a choice, as in (B) 26, if the other answer is no choice; a bold letter as a
    choice, if the other answer is one."""
    bold = re.fullmatch(r"\\vec\{([A-J])\}", tree.name) if isinstance(tree, Name) else None
    if bold and other in (Name(bold[1]), Words(bold[1])):
        return Name(bold[1])
    if not isinstance(tree, Words) or isinstance(other, (Words, Name)):
        return tree
    content = _read(choice(tree.text)[1])
    return tree if isinstance(content, str) else content


def _as_list(answer: str, gold: str, seed: str) -> bool:
    """Return whether two answers are equal if the commas in 100,200 separate items, as they do in 200, 100."""
    if not (re.search(r"\d,[1-9]\d\d(?!\d)", answer) or re.search(r"\d,[1-9]\d\d(?!\d)", gold)):
        return False
    ours, wanted = _read(answer, grouped=False), _read(gold, grouped=False)
    return not isinstance(ours, str) and not isinstance(wanted, str) and equal(ours, wanted, seed)
