"""Whether two answers are equal: True or False if text and exact numbers decide it, None if algebra is needed.

Rules: bare comma lists and {sets} are unordered; (tuples) and [intervals] are ordered, and their brackets count. A list
never equals one number. `x = 5`, `x \\in [1, 2]` and `f(x) = 2x` equal their right sides. Numbers are exact: 0.33 is not
1/3. A unit may be missing on one side. 50% equals 0.5, and also 50, because questions often ask "what percent".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from rethink.grading.normalize import normalize, number, unit, words

Leaf = Callable[[str, str], bool | None]
"""(answer, gold), both normalized and not lists -> True, False, or None if undecided."""

MAX_ITEMS = 32
_NAME = r"(?:\\?[A-Za-z]+(?:_\{[^{}]*\}|')*(?:\^\{\*+\})?|\\(?:text|vec)\{[^{}]*\}|\\angle ?[A-Z]+)"
_ARGUMENT = r"(?:\([^()=<>+*/]{1,20}\))?"
_ASSIGNED = re.compile(rf"^{_NAME}{_ARGUMENT}(?:=|:=|\\in)(?!=)(.+)$")
_OPEN, _CLOSE = ("(", "[", "\\{", "{", "\\langle"), (")", "]", "\\}", "}", "\\rangle")
_BRACKET = re.compile(r"\\[{}]|\\[lr]angle(?![a-zA-Z])|[()\[\]{}]|\\begin|\\end|[,;]|\\cup(?![a-zA-Z])")
_MATRIX = re.compile(rf"^(?:{_NAME}=)?\\begin\{{[pbB]?matrix\}}(.*)\\end\{{[pbB]?matrix\}}$", re.DOTALL)
_FLIPPED = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}
EQUALS = re.compile(r"(?<![<>=!:])=(?!=)(?![^{}]*\})")
"""An equals sign that separates the sides of an equation; not the one in \\sum_{k=1}."""
_ORDER = re.compile(r"<|>|\\leq|\\geq")
_BASED = re.compile(r"((?=[A-Z]*\d)[0-9A-Z]+)_\{(\d+)\}")
_RELATION = re.compile(r"<|>|\\leq|\\geq|\\neq|\\in(?![a-zA-Z])|\\begin|\\mid|\|")


def equal(answer: str, gold: str, leaf: Leaf | None = None) -> bool | None:
    """Return whether an answer equals the gold answer; None if neither this module nor `leaf` can decide it."""
    try:
        return _equal_answers(answer, gold, leaf or (lambda a, b: None))
    except RecursionError:
        return None


def _equal_answers(answer: str, gold: str, leaf: Leaf) -> bool | None:
    as_words = _equal_as_words(answer, gold)
    if as_words is not None:
        return as_words
    if not _compatible_units(unit(answer), unit(gold)):
        return False
    a, b = normalize(answer), normalize(gold)
    settled = _equal_parts(a, b, leaf)
    if settled is False and "," in a + b and not re.search(r",0\d", answer + gold):
        # Next to 100, 200 even 100,200 is a list.
        return _equal_parts(normalize(answer, grouped=False), normalize(gold, grouped=False), leaf)
    return settled


def scalar(answer: str, gold: str) -> bool | None:
    """Return True for equal text or equal numbers, False for different numbers, None if undecided."""
    if _without_text_commands(answer) == _without_text_commands(gold):
        return True
    (digits, base), (gold_digits, gold_base) = _digits_and_base(answer), _digits_and_base(gold)
    if base or gold_base:  # one may be missing, because the question often names it
        return digits == gold_digits and (not base or not gold_base or base == gold_base)
    a, b = number(answer), number(gold)
    if a is None or b is None:
        return None
    if answer.endswith("%") != gold.endswith("%"):
        return b in (a, a / 100) if answer.endswith("%") else a in (b, b / 100)
    return a == b


def _digits_and_base(text: str) -> tuple[str, str]:
    """Return the digits and the base of 2516_{8}; the text and "" if it has no base."""
    found = _BASED.fullmatch(text)
    return (found[1], found[2]) if found else (text, "")


def _without_text_commands(text: str) -> str:
    return re.sub(r"\\text ?\{([^{}]*)\}", r"\1", text)


def _compatible_units(a: str, b: str) -> bool:
    """Return whether two units agree; one may be missing."""
    return not a or not b or a == b


def _equal_as_words(answer: str, gold: str) -> bool | None:
    """Return whether text answers have the same words; None unless the gold answer is text."""
    wanted = words(gold)
    if wanted is None or ("\\text" not in gold and len(wanted) < 3):
        return None
    as_words = words(answer)
    if as_words is None:
        return None
    return as_words == wanted


def _equal_parts(a: str, b: str, leaf: Leaf) -> bool | None:
    if a == b:
        return True
    matrices = _matrix_rows(a), _matrix_rows(b)
    if all(matrices):
        return _equal_matrices(*matrices, leaf)
    unions = _split_outside_brackets(a, "\\cup"), _split_outside_brackets(b, "\\cup")
    if max(map(len, unions)) > 1:
        return _equal_unordered(*unions, leaf)
    (left, a_items, right), (open_, b_items, close) = _split_list(_as_interval(a, b)), _split_list(_as_interval(b, a))
    if len(a_items) == 1 and len(b_items) == 1:
        return _equal_single(a_items[0], b_items[0], leaf) if (left, right) == (open_, close) else leaf(a, b)
    if len(a_items) != len(b_items):
        short = a_items if len(a_items) == 1 else b_items
        return leaf(a, b) if len(short) == 1 and _RELATION.search(short[0]) else False
    if len(b_items) > MAX_ITEMS:
        return False
    kinds = {left + right, open_ + close}
    if kinds <= {"", "\\{\\}"}:
        return _equal_unordered(a_items, b_items, leaf)
    if len(kinds) == 1 or kinds <= {"", "()"}:
        return _all_equal(_equal_parts(x, y, leaf) for x, y in zip(a_items, b_items, strict=True))
    return False


def _equal_single(a: str, b: str, leaf: Leaf) -> bool | None:
    """Return whether two answers that are not lists are equal, with or without `x =` in front."""
    if a == b:
        return True
    plain_a, plain_b = _right_side(a), _right_side(b)
    ours, wanted = EQUALS.split(a), EQUALS.split(b)
    if (plain_a != a and "=" not in b) or (plain_b != b and "=" not in a) or _left_side(a) == _left_side(b) != "":
        return _equal_parts(plain_a, plain_b, leaf)
    if len(ours) == len(wanted) == 2 and ours[0] == wanted[0]:
        return _equal_parts(ours[1], wanted[1], leaf)
    if len(ours) > 1 and len(wanted) == 1:  # a chain like 10/4 = 2.5: every link must be right
        return _all_equal(_equal_single(side, b, leaf) for side in ours)
    settled = scalar(a, b)
    return leaf(a, b) if settled is None else settled


def _right_side(text: str) -> str:
    found = _ASSIGNED.match(text)
    return found[1] if found else text


def _left_side(text: str) -> str:
    return text.removesuffix(_right_side(text))


def _matrix_rows(text: str) -> list[list[str]]:
    found = _MATRIX.match(text)
    if found is None:
        return []
    rows = re.split(r"\\newrow ?", found[1])
    return [row.split("&") for row in (rows if rows[-1].strip() else rows[:-1])]


def _equal_matrices(a: list[list[str]], b: list[list[str]], leaf: Leaf) -> bool | None:
    if list(map(len, a)) != list(map(len, b)) or sum(map(len, a)) > MAX_ITEMS:
        return False
    verdicts = []
    for ours, theirs in zip(a, b, strict=True):
        for x, y in zip(ours, theirs, strict=True):
            verdicts.append(_equal_parts(x.strip(), y.strip(), leaf))
    return _all_equal(verdicts)


def _as_interval(text: str, other: str) -> str:
    """Return an inequality in one variable as its interval, if the other side is an interval, or an inequality in the same
    variable.
    """
    if not (_RELATION.search(other) or _outer_brackets(other)[0] in ("(", "[")):
        return text
    parts = re.split(r"(>|\\geq) ?", text)
    if len(parts) == 5:  # 2 > x > 1
        text = "".join([parts[4], _FLIPPED[parts[3]], parts[2], _FLIPPED[parts[1]], parts[0]])
    two = re.fullmatch(rf"([^<>\\]*(?:\\(?!leq|geq)[^<>\\]*)*)(<|\\leq) ?({_NAME})(<|\\leq) ?([^<>]+)", text)
    if two and _is_variable_of(two[3], other):
        return f"{'(['[two[2] != '<']}{two[1]},{two[5]}{')]'[two[4] != '<']}"
    text = re.sub(r"^([^<>=\\A-Za-z]+)(<|>|\\leq|\\geq) ?([A-Za-z])$", lambda m: f"{m[3]}{_FLIPPED[m[2]]}{m[1]}", text)
    one = re.fullmatch(r"([A-Za-z])(<|>|\\leq|\\geq) ?([^<>=]+)", text)
    if one is None or "\\leq" in one[3] or "\\geq" in one[3] or not _is_variable_of(one[1], other):
        return text
    bracket = one[2] not in "<>"
    if one[2] in ("<", "\\leq"):
        return f"(-\\infty,{one[3]}{')]'[bracket]}"
    return f"{'(['[bracket]}{one[3]},\\infty)"


def _is_variable_of(name: str, other: str) -> bool:
    return name in other or not _ORDER.search(other)


def _all_equal(verdicts: Iterable[bool | None]) -> bool | None:
    found = list(verdicts)
    if False in found:
        return False
    return None if None in found else True


def _equal_unordered(a_items: Sequence[str], b_items: Sequence[str], leaf: Leaf) -> bool | None:
    """Return whether the items match one to one in some order; each is matched to the first that equals it."""
    if len(a_items) != len(b_items) or len(b_items) > MAX_ITEMS:
        return False
    left, unsettled = list(b_items), False
    for item in a_items:
        verdicts = [_equal_parts(item, other, leaf) for other in left]
        if True in verdicts:
            del left[verdicts.index(True)]
        elif None in verdicts:
            unsettled = True
        else:
            return False
    return None if unsettled else True


def _split_list(text: str) -> tuple[str, list[str], str]:
    """Return the brackets around a list and its items. Round brackets around a single item are dropped."""
    left, inner, right = _outer_brackets(text)
    items = _expand_plus_minus(_split_outside_brackets(inner, ","))
    if len(items) == 1 and left + right in ("()", "{}", "\\{\\}"):
        return _split_list(inner) if inner != text else ("", items, "")
    if left and (len(items) > 1 or left + right != "()"):
        return left, items, right
    return "", _expand_plus_minus(_split_outside_brackets(text, ",")), ""


def _expand_plus_minus(items: list[str]) -> list[str]:
    """Return the items with each `a \\pm b` as its two values."""
    found: list[str] = []
    for item in items:
        if item.count("\\pm") == 1 and len(_split_outside_brackets(item, "\\pm")) == 2:
            found += [re.sub(r"\\pm ?", sign, item).removeprefix("+") for sign in "+-"]
        else:
            found.append(item)
    return found


def _outer_brackets(text: str) -> tuple[str, str, str]:
    """Return the outermost brackets, if they enclose all of the text, and what is inside."""
    depth = 0
    first = _BRACKET.match(text)
    if first is None or first[0] not in _OPEN:
        return "", text, ""
    for mark in _BRACKET.finditer(text):
        depth += (mark[0] in _OPEN) - (mark[0] in _CLOSE)
        if depth == 0:
            whole = mark.end() == len(text)
            return (first[0], text[first.end() : mark.start()], mark[0]) if whole else ("", text, "")
    return "", text, ""


def _split_outside_brackets(text: str, separator: str) -> list[str]:
    """Split where no bracket is open; `;` counts as a comma. Matrices are not split."""
    if separator not in text and not (separator == "," and ";" in text):
        return [text]
    marks = ("\\pm",) if separator == "\\pm" else (",", ";") if separator == "," else (separator,)
    pattern = _BRACKET if separator != "\\pm" else re.compile(_BRACKET.pattern + r"|\\pm(?![a-zA-Z])")
    parts, depth, start = [], 0, 0
    for mark in pattern.finditer(text):
        depth += (mark[0] in (*_OPEN, "\\begin")) - (mark[0] in (*_CLOSE, "\\end"))
        if depth == 0 and mark[0] in marks:
            parts.append(text[start : mark.start()])
            start = mark.end()
    return [part.strip() for part in (*parts, text[start:])]
