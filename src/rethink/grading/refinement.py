r"""The boxes of a refinement: a reply with earlier answers in view, which it may quote beside its own.

    The earlier answer \boxed{3} is wrong, so it is \boxed{4}.    4
    Refined answer: \boxed{4} (previously \boxed{3})              4
    The answer is \boxed{4}, not \boxed{3}.                       4
    The solutions are \boxed{1} and \boxed{-2}.                   1, -2

The last box is the answer, with the boxes that are listed before it, if any. A box is set aside if a word such as "not" or
"previously" comes right before it, or if it is in round brackets and another one on its line is not.
"""

from __future__ import annotations

import re

from rethink.grading.extract import MAX_BOXES, Box, find_boxes, readable

_NOUN = r"(?:answer|result|value|solution|draft)"
_EARLIER = r"(?:earlier|previous|original|initial|old|former)"
_SET_ASIDE = re.compile(
    r"\b(?:(?:not|\w+n['’]t|no\s+longer|instead\s+of|rather\s+than|in\s+place\s+of|from|replac(?:es|ing)|correct(?:s|ing))"
    rf"(?:\s+(?:the|my|our|an?))?(?:\s+{_EARLIER})?(?:\s+{_NOUN})?(?:\s+of)?"
    rf"|previously|formerly|originally|initially|(?:{_EARLIER}\s+{_NOUN}|draft)(?:\s+(?:was|gave|said|had))?)"
    r"(?:[\s:$*_]|\\[(\[])*\Z",
    re.IGNORECASE,
)
"""What comes right before a box that is not the answer."""
_BEFORE = 100
"""The number of characters before a box that are looked at."""
_LISTED = re.compile(
    r"(?:[\s$,;&*=]|\\[()\[\],;:! ]|\\q?quad(?![a-z])|\b(?:and|or)\b|\\text\{\s*(?:and|or)[,\s]*\}"
    r"|\b[a-zA-Z](?:_\{?\w{1,3}\}?)?(?:\(\w\))?\s*=)*"
)
"""What comes between two boxes that are one answer together."""
_BRACKET = re.compile(r"\\[()]|[()]")


def read_boxes(reply: str) -> list[str]:
    """Return the texts to grade in place of a refinement: it is right if one of them is, and the last one has its answer.

    The first one has all boxes of the line with the answer.

    >>> read_boxes("It is 4."), read_boxes("From \\\\boxed{3} to \\\\boxed{4}.")[1:]
    (['It is 4.'], ['\\\\boxed{4}'])
    """
    text = readable(reply)
    boxes = [box for box in find_boxes(text) if box.content]
    if len({box.content for box in boxes}) not in range(2, MAX_BOXES + 1):
        return [reply]
    kept = _not_set_aside(text, boxes)
    line = _line_of(text, boxes, kept[-1])
    candidates = {*kept} & {*_outside_brackets(text, line)} or {kept[-1]}
    answer = _listed(text, sorted(candidates))
    together = reply if line[-1] is boxes[-1] else _join(line)
    return [together] if answer == line else [together, _join(answer)]


def _not_set_aside(text: str, boxes: list[Box]) -> list[Box]:
    """Return the boxes that no word before them on their line sets aside; all of them if all are."""
    found: list[Box] = []
    for box in boxes:
        before = text[max(box.start - _BEFORE, 0) : box.start].rpartition("\n")[2]
        if not _SET_ASIDE.search(before):
            found.append(box)
    return found or boxes


def _line_of(text: str, boxes: list[Box], box: Box) -> list[Box]:
    """Return the boxes on the line of a box."""
    start, end = text.rfind("\n", 0, box.start), text.find("\n", box.end)
    return [other for other in boxes if start < other.start and (end < 0 or other.start < end)]


def _outside_brackets(text: str, line: list[Box]) -> list[Box]:
    """Return the boxes of a line that are not in round brackets; all of them if all are."""
    depth, position = 0, text.rfind("\n", 0, line[0].start) + 1
    found: list[Box] = []
    for box in line:
        for bracket in _BRACKET.findall(text[position : box.start]):
            depth = max(0, depth + {"(": 1, ")": -1}.get(bracket, 0))
        if not depth:
            found.append(box)
        position = box.end
    return found or line


def _listed(text: str, line: list[Box]) -> list[Box]:
    """Return the last box, after those that are listed before it."""
    n = len(line) - 1
    while n and line[n].start - line[n - 1].end < _BEFORE and _LISTED.fullmatch(text[line[n - 1].end : line[n].start]):
        n -= 1
    return line[n:]


def _join(boxes: list[Box]) -> str:
    return ", ".join(f"\\boxed{{{box.content}}}" for box in boxes)
