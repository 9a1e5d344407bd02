"""Find the answer in a reply, in the format that was asked for: in boxes, in an answer tag, as JSON.

`stated` reads what a reply states without this format. Every function reads a text only once, because replies can be long
and hostile.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from rethink.grading.damage import broken_reply, restore
from rethink.thinking import after_thinking

MAX_BOXES = 8
"""A reply with more different boxes than this guesses and does not answer. Right replies of real models have at most six.
"""

MAX_JSON = 100_000
"""Longer texts (in characters) are not read as JSON."""

_BARE = r"[-+]?\d[\d,.]{0,600}+|\\[a-zA-Z]{2,20}(?:\{[^{}\n]{0,99}\})+|[a-zA-Z]"
_NO_MORE = r"(?!\w|\s{0,20}(?:\\(?![])\\,;.! ])|[(\[{^_/*+=!-]))"
"""What `\\boxed` takes without braces: a number, a command with its braces, or a letter, if this is the whole formula."""
_BRACE = re.compile(
    rf"\\(?:boxed|fbox)\s{{0,20}}(?:(?P<open>\{{)|(?P<bare>{_BARE}){_NO_MORE})|(?<![\w\\])oxed(?P<cut>\{{)|\\[\\{{}}]|[{{}}]"
)
_NOTHING = re.compile(
    r"(?:\\(?:[,;:!> ]|(?:q?quad|[lc]?dots|hspace|phantom|text|textbf|mathrm)(?![a-zA-Z]))|[\s{}~._…?$])*"
)
"""The content of a box that the text only speaks of: `\\boxed{}`, `\\boxed{...}`."""
_DOUBLED_BOX = re.compile(r"(?<!\\)(?:\\\\)+(?:boxed|fbox)\b")
_DOUBLED_COMMAND = re.compile(
    r"(?<!\\)(?:\\\\)+(?:[dt]?frac|sqrt|text|math[a-z]+|operatorname|left|right|begin|pi|theta|alpha|beta|infty|[ct]dot|times"
    r"|pm|[lg]eq?|neq?|in|cup|cap|d?binom|overline|vec|angle|circ|degree|log|ln|sin|cos|tan|sum|int|prod|lim)(?![a-zA-Z])"
)
_BACKSLASHES = re.compile(r"\\+")
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)


class Box(NamedTuple):
    r"""A `\boxed{...}` in a text: where it begins, where its content begins, where it ends, and the content."""

    start: int
    inside: int
    end: int
    content: str


def readable(reply: str) -> str:
    """Return what a reader takes for the answer: the text after the thinking ("" if that never ends), without comments of
    HTML. Backslashes that an escape lost or doubled are restored.
    """
    text = _COMMENT.sub("", after_thinking(reply))
    if broken_reply(text):
        text = restore(text)
    for _ in range(3):  # JSON in JSON doubles them twice
        if not _DOUBLED_BOX.search(text):
            break
        text = _halve(text)
    return text


def undouble(formula: str) -> str:
    r"""Return a formula that has all its backslashes doubled, as in JSON, with single ones; any other text as it is.

    >>> print(undouble(r"\\frac{1}{2}"), undouble(r"\sqrt{2} \\ 3"))
    \frac{1}{2} \sqrt{2} \\ 3
    """
    if _DOUBLED_COMMAND.search(formula) and all(len(run) % 2 == 0 for run in _BACKSLASHES.findall(formula)):
        return _halve(formula)
    return formula


def _halve(text: str) -> str:
    return _BACKSLASHES.sub(lambda run: "\\" * ((len(run[0]) + 1) // 2), text)


def boxes(text: str) -> list[tuple[int, str]]:
    r"""Return the start and the content of each `\boxed{...}` with balanced braces; only the inner one of nested boxes.

    `\boxed 5` is a box, too. The content is "" if it is nothing but spaces or dots.
    """
    return [(box.inside, box.content) for box in find_boxes(text)]


def find_boxes(text: str) -> list[Box]:
    """Return the boxes of a text; those with nothing in them have the content ""."""
    opened: list[tuple[int, int]] = []
    found: list[Box] = []
    for brace in _BRACE.finditer(text):
        if brace["bare"]:
            content = brace["bare"].rstrip(".,")
            found.append(Box(brace.start(), brace.start("bare"), brace.start("bare") + len(content), content))
        elif brace[0] == "{":
            opened.append((0, 0))
        elif brace[0] == "}":
            command, begun = opened.pop() if opened else (0, 0)
            if begun and not (found and found[-1].inside > begun):
                found.append(Box(command, begun, brace.end(), _content(text[begun : brace.start()])))
        elif brace["open"] or brace["cut"]:
            opened.append((brace.start(), brace.end()))
    return found


def _content(text: str) -> str:
    r"""Return the content of a box without spaces and line breaks (`\\`) at its end."""
    content = undouble(text.strip()).rstrip("\\ \t\n")
    for opening, closing in (("**", "**"), (r"\(", r"\)")):
        bare = content[2:-2]
        if bare and content.startswith(opening) and content.endswith(closing) and opening not in bare:
            content = bare.strip()
    return "" if len(content) < 60 and _NOTHING.fullmatch(content) else content


def last_boxes(text: str) -> list[str]:
    """Return the contents of all boxes on the last line that has one: mostly one, several for "\\boxed{1} and
    \\boxed{-2}". Empty boxes do not count.
    """
    return on_last_line(text, find_boxes(text))


def on_last_line(text: str, found: list[Box]) -> list[str]:
    """Return the contents of those boxes that are on the last line with one."""
    found = [box for box in found if box.content]
    if not found:
        return []
    line = text.rfind("\n", 0, found[-1].start)
    return [box.content for box in found if box.start > line]


def answer_tag(text: str) -> str | None:
    """Return the content of the last `<answer>...</answer>`, the inner one if they are nested; None if none is closed."""
    start, found = -1, None
    for tag in _TAG.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start >= 0:
            found, start = text[start : tag.start()].strip(), -1
    return found


def json_value(text: str) -> Any:
    """Return the text parsed as one JSON value. Raise ValueError for anything else: repeated keys, NaN, too deep, too
    long.
    """
    if len(text) > MAX_JSON:
        raise ValueError(f"{len(text)} characters are too many for an answer in JSON")
    try:
        return json.loads(text, object_pairs_hook=_refuse_repeated_keys, parse_constant=_refuse_constant)
    except RecursionError as err:
        raise ValueError("JSON is nested too deeply") from err


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a JSON object repeats a key")
    return table


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
