"""Answers that are words, and the letter of a choice: \\text{(C) Plane}, Option B."""

from __future__ import annotations

import re

from rethink.grading.formulas.tree import Name, Node, Number, Tree, Words

_INTRODUCTION = re.compile(
    r"(?:the )?(?:correct |final |right )?(?:answer|result|option|choice)(?: is)?\b[ :]*", re.IGNORECASE
)
_CHOICE = re.compile(r"(?:option |choice )?(\(?)([A-Za-z])(?:(\)|[.:](?!\w))(.*))?", re.DOTALL | re.IGNORECASE)
_OTHER_CHOICE = re.compile(r"\([A-Z]\)|(?<!\w)[A-Z][.)](?!\w)|^\W*(?:and|or|nor|not|is|isn't)\b|^\W*[A-Z],")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_TIME = re.compile(r"(\d\d?)(?::(\d\d))?(?: ([ap]m))?")
_SAME = {
    "dne": "doesnotexist",
    "limitdoesnotexist": "doesnotexist",
    "divergent": "diverges",
    "seriesdiverges": "diverges",
    "convergent": "converges",
    "seriesconverges": "converges",
    "conditionallyconvergent": "convergesconditionally",
    "absolutelyconvergent": "convergesabsolutely",
    "infinitelymanysolutions": "infinitelymany",
}
_ARTICLES = frozenset(("a", "an", "the"))


def equal_words(a: Tree, b: Tree) -> bool:
    """Return whether two answers have the same words (but for case, articles and punctuation) or name the same choice."""
    ours, theirs = plain_text(a), plain_text(b)
    if ours is None or theirs is None:
        return False
    if _spelled(ours) == _spelled(theirs) or _same_time(ours, theirs):
        return True
    items, others = _items(ours), _items(theirs)
    if len(items) > 1 and sorted(map(_spelled, items)) == sorted(map(_spelled, others)):
        return True
    (letter, content), (wanted, wanted_content) = choice(ours), choice(theirs)
    if not letter or letter != wanted:
        return False
    return not content or not wanted_content or _spelled(content) == _spelled(wanted_content)


def _same_time(ours: str, theirs: str) -> bool:
    """Return whether texts are the same time of day. One of them may lack p.m."""
    a, b = _TIME.fullmatch(ours), _TIME.fullmatch(theirs)
    if a is None or b is None or int(a[1]) != int(b[1]):
        return False
    if not (a[3] or b[3]) or (a[2] or "00") != (b[2] or "00"):
        return False
    return not a[3] or not b[3] or a[3] == b[3]


def choice(text: str) -> tuple[str, str]:
    """Return the letter of a choice and what stands behind it; "" and "" if the text names none, or several.

    >>> choice("(C) Plane"), choice("The answer is B"), choice("(C) or (D)")
    (('C', 'Plane'), ('B', ''), ('', ''))
    """
    introduced = _INTRODUCTION.match(text)
    rest = text[introduced.end() :] if introduced else text
    found = _CHOICE.fullmatch(rest.strip(" ."))
    if found is None or (found[1] and found[3] != ")") or _OTHER_CHOICE.search(found[4] or ""):
        return "", ""
    return found[2].upper(), (found[4] or "").strip()


def plain_text(tree: Tree) -> str | None:
    """Return the text of words, names, numbers and lists and products of them; None for other formulas."""
    if isinstance(tree, Words):
        return tree.text
    if isinstance(tree, Name):
        return tree.name
    if isinstance(tree, Number):
        return str(tree.value) if tree.places == 0 and tree.value.denominator == 1 else None
    if isinstance(tree, Node) and tree.operator == ":":
        hour, minute = map(plain_text, tree.operands)
        return f"{hour}:{minute:0>2}" if hour and minute else None
    if isinstance(tree, Node) and tree.operator in ("*", ","):
        parts = [plain_text(part) for part in tree.operands]
        known = [part for part in parts if part is not None]
        return ("" if tree.operator == "*" else ", ").join(known) if len(known) == len(parts) else None
    return None


def listed(tree: Tree, other: Tree) -> Tree:
    """Return words with commas, and the letters of several choices, as a list, if the other answer is one."""
    if isinstance(other, Node) and other.operator in (",", "and", "{}"):
        letters = [part.name for part in other.operands if isinstance(part, Name) and part.name in "ABCDEFGH"]
        if len(letters) == len(other.operands) and "".join(sorted(letters)) == plain_text(tree):
            return Node(",", tuple(map(Name, sorted(letters))))
    if not isinstance(tree, Words) or not isinstance(other, Node) or other.operator not in (",", "and", "or", "{}"):
        return tree
    items = _items(tree.text)
    return Node(",", tuple(map(Words, items))) if len(items) > 1 else tree


def _items(text: str) -> list[str]:
    """Return the items of a list in words: Ann, Bob, and Cy."""
    return [item for item in re.split(r"\s*,\s*(?:and |or )?|\s+(?:and|or)\s+", text) if item]


def _spelled(text: str) -> str:
    """Return the letters and digits of a text, in lower case. A sign before a digit and a space between digits stay."""
    introduced = _INTRODUCTION.match(text)
    if introduced and introduced.end() < len(text) and " is" in introduced[0]:
        text = text[introduced.end() :]
    pieces = re.findall(r"-?\d+(?:\.\d+)?|[^\W\d_]+|[=<>+*/^%]|(?<![\w.,!?-])[-!](?=[^\W\d_])", text.casefold())
    kept: list[str] = []
    for piece in pieces:
        if piece not in _ARTICLES:
            kept.append(str(_NUMBERS.index(piece)) if piece in _NUMBERS else piece)
    kept = kept or pieces
    spelled = re.sub(r"(?<!\d) | (?![-\d])", "", " ".join(kept))
    return _SAME.get(spelled, spelled)
