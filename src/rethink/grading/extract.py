"""Find the answer in a reply: in boxes, in an answer tag, as a final number, as JSON.

Strict extraction reads only the format that was asked for. Lenient extraction, for evaluation, also reads what people would
take for the answer. Every function reads a text only once, because replies can be long and hostile.
"""

from __future__ import annotations

import json
import re
from typing import Any

MAX_BOXES = 8
"""A reply with more different boxes than this guesses and does not answer. Right replies of real models have at most six.
"""

MAX_JSON = 100_000
"""Longer texts (in characters) are not read as JSON."""

_BRACE = re.compile(r"\\boxed *\{|\\fbox *\{|\\[{}]|[{}]")
_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_NUMBER = r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+−]?\.\d+"
_ANSWER_IS = re.compile(r"\b(?:answer|result)\b\**(?:\s+is\b|\s*[:=]|\s*\n|(?<=\*\*))\s*[:=]?", re.IGNORECASE)
_BOLD = re.compile(r"\*\*(?![\w(])|(?<![\w)])\*\*")
"""Markdown's bold marks, not a power: `**73** apples`, but 2**10."""
_HEDGE = re.compile(r"\b(?:or|either|between)\b", re.IGNORECASE)


def after_thinking(reply: str) -> str:
    """Return the text after the closing thinking marker; "" if the thinking never ends.

    gpt-oss marks its final answer instead, where special tokens were kept.
    """
    if "<|channel|>" in reply:
        return reply.rpartition("<|channel|>final<|message|>")[2] if "<|channel|>final<|message|>" in reply else ""
    _, closed, answer = reply.rpartition("</think>")
    if closed:
        return answer
    return "" if "<think>" in reply else reply


def boxes(text: str) -> list[tuple[int, str]]:
    """Return the start and the content of each `\\boxed{...}` with balanced braces; only the inner one of nested boxes."""
    opened: list[int] = []
    found: list[tuple[int, str]] = []
    for brace in _BRACE.finditer(text):
        if brace[0] == "}":
            begun = opened.pop() if opened else 0
            if begun and not (found and found[-1][0] > begun):
                found.append((begun, text[begun : brace.start()].strip()))
        elif brace[0] not in ("\\{", "\\}"):
            opened.append(brace.end() if brace[0] != "{" else 0)
    return found


def last_boxes(text: str) -> list[str]:
    """Return the contents of all boxes on the last line that has one: mostly one, several for "\\boxed{1} and
    \\boxed{-2}".
    """
    found = boxes(text)
    if not found:
        return []
    line = text.rfind("\n", 0, found[-1][0] - len(r"\boxed{"))
    return [content for start, content in found if start > line]


def answer_tag(text: str) -> str | None:
    """Return the content of the last `<answer>...</answer>`, the inner one if they are nested; None if none is closed."""
    start, found = -1, None
    for tag in _TAG.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start >= 0:
            found, start = text[start : tag.start()].strip(), -1
    return found


def final_number(text: str) -> str | None:
    """Return the number after the last `####` or "answer is"; otherwise the last number of the text."""
    tail = text[-20_000:]
    _, marked, rest = tail.rpartition("####")
    if marked:
        number = re.search(_NUMBER, rest.split("\n", 1)[0])
        if number:
            return number[0].replace("−", "-")
    numbers = re.findall(_NUMBER, stated_answer(tail) or "") or re.findall(_NUMBER, tail)
    return numbers[-1].replace("−", "-") if numbers else None


def stated_answer(text: str) -> str | None:
    """Return the rest of the line after the last "answer is", "answer:" or "result is", without bold marks."""
    *_, last = [None, *_ANSWER_IS.finditer(text)]
    if last is None:
        return None
    line = next((x for x in text[last.end() :].split("\n") if x.strip(" *:$")), "")
    return _BOLD.sub("", line).strip().strip("*").strip() or None


def last_formula(text: str) -> str | None:
    """Return the content of the last `$...$`, `$$...$$`, `\\(...\\)` or `\\[...\\]` in the text."""
    found = re.findall(
        r"\$\$([^$]{1,500})\$\$|\$([^$]{1,500})\$|\\\(([^$]{1,500}?)\\\)|\\\[([^$]{1,500}?)\\\]", text[-20_000:]
    )
    return next((x for x in found[-1] if x), "").strip() if found else None


def final_answer(text: str) -> str | None:
    """Return what people would read as the answer of a text without a box.

    That is the number after `####`; otherwise what the text states as its answer (the formula or number in it, if there is
    one), the formula that ends its last line, or its last number.
    """
    tail = text[-20_000:]
    said = stated_answer(tail)
    if said is not None and "####" not in tail:
        if _HEDGE.search(said):
            return said  # all of it: neither of "5 or 6" is the answer
        return last_formula(said) or (said if len(said.split()) <= 3 else final_number(said)) or said
    last_line = next((line for line in reversed(tail.split("\n")) if line.strip()), "")
    return last_formula(last_line) or final_number(tail)


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
