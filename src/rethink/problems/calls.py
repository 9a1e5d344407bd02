"""Function calling: a request and functions, answered by a JSON list of calls.

The rows are those of xLAM's function-calling-60k (APIGen, arXiv 2406.18518): `query`, `tools` and `answers`, the latter
two as JSON text or as lists. Prefer text: a parquet column of structs gives every call the arguments of all the others,
as null. Right is the same multiset of calls: order and the order of keys are free, everything else is exact. `true` is
not 1, "5" is not 5; 5 and 5.0 are the same number, since JSON has one kind only.

Strict extraction reads a reply that is, after the thinking, nothing but JSON (a list of calls, or one call), be it in one
Markdown fence, or nothing but `<tool_call>{...}</tool_call>` blocks, as Qwen and Hermes write them. Lenient extraction
also finds such blocks in running text, else the last fenced block, else the last list or object whose brackets balance
and that holds calls; and it reads OpenAI's {"function": {"name": ..., "arguments": "<JSON text>"}}.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from rethink.errors import UserError
from rethink.grading.extract import MAX_JSON, after_thinking, json_value
from rethink.problems.answer_format import AnswerFormat, Columns, Row
from rethink.types import Verdict

SOLVE = (
    "{question}\n\nWhich function calls carry out this request? Answer with a JSON list of the calls and nothing else. "
    'Write each call as {"name": "function name", "arguments": {"parameter": value}}, and answer [] if no function fits.'
)

MAX_SPANS = 20
"""Lenient extraction looks at so many of the last balanced spans; calls of real replies are the last or next to last."""

LISTED = "Functions:"
"""The first line of a question; a line for each function follows."""

OPENED, CLOSED = "<tool_call>", "</tool_call>"
_BETWEEN = re.compile(rf"{CLOSED}\s*{OPENED}")
_TOKEN = re.compile(r'\\.|["\n\[\]{}]', re.DOTALL)
_AROUND_A_FUNCTION = {"function", "id", "type", "index"}

Call = dict[str, Any]
"""{"name": text, "arguments": object}, and no other key."""

Compare = Callable[[list[Call], str], str]
"""(the calls of a reply, the gold answer) -> why they are wrong, without the gold answer; "" where they are right."""


def read(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """The functions, one per line, and the request; the calls as canonical JSON. A row without functions whose question
    begins with them, as `rethink prepare` writes it, is asked as it is."""
    request, answers = row.text(columns.question), json_column(row, columns.answer)
    try:
        gold = canonical(_calls(answers))
    except (ValueError, TypeError) as err:  # TypeError: a date or another value that JSON does not have
        raise UserError(f"{row.where}: the column {columns.answer!r} is no list of calls ({err})") from err
    listed = request.startswith(LISTED) and not row.has(columns.tools)
    return request if listed else ask(functions(row, columns), request), gold


def verify(reply: str, gold: str) -> Verdict:
    """Right if the reply is nothing but the gold answer's calls, in any order."""
    return grade(reply, gold, _compare)


def lenient(reply: str, gold: str) -> Verdict:
    """As `verify`, with calls also found in running text."""
    return grade(reply, gold, _compare, lenient=True)


def grade(reply: str, gold: str, compare: Compare, lenient: bool = False) -> Verdict:
    """The verdict on the calls in a reply; wrong, with nothing extracted, where there are none to read."""
    try:
        calls, extracted, loosely = _extract(reply, lenient)
    except ValueError as err:
        return Verdict(False, f"no calls: {err}", None)
    reason = compare(calls, gold)
    return Verdict(not reason, reason, extracted, loosely)


def answer(reply: str, lenient: bool, question: str = "") -> str | None:
    """The calls that `grade` compares, as canonical JSON that does not tell their order; [] is an answer."""
    try:
        calls, _, _ = _extract(reply, lenient)
        return canonical(sorted(calls, key=canonical))
    except ValueError:
        return None


def _extract(reply: str, lenient: bool) -> tuple[list[Call], str, bool]:
    """The calls in a reply, as they are and as canonical JSON, and whether it took lenient extraction. Raises ValueError
    where there are none, or such that no JSON can hold."""
    calls, loosely = _find(after_thinking(reply).strip(), lenient)
    return calls, canonical(calls), loosely


def _compare(calls: list[Call], gold: str) -> str:
    wanted = json.loads(gold)
    if Counter(map(canonical, calls)) == Counter(map(canonical, wanted)):
        return ""
    if len(calls) != len(wanted):
        return "another number of calls is right"
    if Counter(call["name"] for call in calls) != Counter(call["name"] for call in wanted):
        return "other functions are right"
    return "other arguments are right"


def functions(row: Row, columns: Columns) -> list[dict[str, Any]]:
    """The schemas in the column of tools, which holds one or a list of them."""
    tools = json_column(row, columns.tools)
    listed = [tools] if isinstance(tools, dict) else tools
    if not isinstance(listed, list) or not all(isinstance(tool, dict) for tool in listed):
        raise UserError(f"{row.where}: the column {columns.tools!r} is no list of functions")
    return listed


def ask(tools: list[dict[str, Any]], request: str) -> str:
    """The question: the functions as compact JSON, one per line, and the request."""
    lines = [LISTED]
    for tool in tools:
        lines.append(json.dumps(tool, ensure_ascii=False, separators=(",", ":"), default=str))
    return "\n".join([*lines, "", f"Request: {request.strip()}"])


def names(question: str) -> tuple[str, ...]:
    """The names of a question's functions, sorted."""
    found = []
    for line in question.partition("\n\nRequest: ")[0].splitlines()[1:]:
        found.append(str(json.loads(line).get("name")))
    return tuple(sorted(found))


def json_column(row: Row, names: str) -> Any:
    """A column's value, parsed where it is JSON text."""
    value = row.value(names)
    if not isinstance(value, str):
        return value
    try:
        return json_value(value)
    except ValueError as err:
        raise UserError(f"{row.where}: the column {names!r} is not valid JSON ({err})") from err


def canonical(value: Any) -> str:
    """JSON text that is the same for equal values: sorted keys, no blanks, 5 for 5.0. Raises ValueError for infinities
    (1e999), for halves of surrogate pairs, which no file could hold, and for what is nested too deeply."""
    try:
        plain = _plain(value)
        text = json.dumps(plain, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except RecursionError as err:
        raise ValueError("JSON that is nested too deeply") from err
    text.encode()
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(x) for x in value]
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    return value


def _find(text: str, lenient: bool) -> tuple[list[Call], bool]:
    """The calls in a text, and whether it took lenient extraction. Raises ValueError where there are none."""
    try:
        return _strict(text), False
    except ValueError:
        if not lenient:
            raise
    for parts in _candidates(text[-2 * MAX_JSON :]):
        try:
            calls = []
            for part in parts:
                calls += _calls(json_value(part), _unwrapped)
            return calls, True
        except ValueError:
            continue
    raise ValueError("none in JSON")


def _strict(text: str) -> list[Call]:
    if len(text) > MAX_JSON:
        raise ValueError(f"{len(text)} characters are too many")
    if text.startswith(OPENED) and text.endswith(CLOSED):
        return [_call(json_value(part)) for part in _BETWEEN.split(text[len(OPENED) : -len(CLOSED)])]
    if text.startswith("```") and text.endswith("```"):
        text = _without_language(text[3:-3])
    return _calls(json_value(text))


def _calls(value: Any, unwrap: Callable[[Any], Any] = lambda value: value) -> list[Call]:
    listed = [value] if isinstance(value, dict) else value
    if not isinstance(listed, list):
        raise ValueError("neither a list nor an object")
    return [_call(unwrap(call)) for call in listed]


def _call(value: Any) -> Call:
    if not isinstance(value, dict) or value.keys() != {"name", "arguments"}:
        raise ValueError('a call has "name" and "arguments", and nothing else')
    if not isinstance(value["name"], str) or not isinstance(value["arguments"], dict):
        raise ValueError("a call's name is text, and its arguments are an object")
    return value


def _unwrapped(value: Any) -> Any:
    """A call in OpenAI's form as one in ours; anything else as it is. Raises ValueError for arguments that are no JSON."""
    if not isinstance(value, dict) or not isinstance(value.get("function"), dict) or value.keys() - _AROUND_A_FUNCTION:
        return value
    call = dict(value["function"])
    if isinstance(call.get("arguments"), str):
        call["arguments"] = json_value(call["arguments"])
    return call


def _candidates(text: str) -> Iterator[list[str]]:
    """Texts that may be calls, the likeliest first; several where each block is one call."""
    blocks = [part.partition(CLOSED)[0] for part in text.split(OPENED)[1:] if CLOSED in part]
    if blocks:
        yield blocks
    fenced = text.split("```")[1:-1][::2]
    if fenced:
        yield [_without_language(fenced[-1])]
    for start, end in reversed(_balanced(text)[-MAX_SPANS:]):
        yield [text[start:end]]


def _without_language(block: str) -> str:
    return block.strip().removeprefix("json")


def _balanced(text: str) -> list[tuple[int, int]]:
    """Where the outermost [...] and {...} start and end, in one pass.

    Brackets in quotes do not count; quotes do within brackets only, and end with the line, as in JSON. A bracket that
    closes none of its kind makes prose of all that is open.
    """
    opened: list[int] = []
    found: list[tuple[int, int]] = []
    quoted = False
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in ('"', "\n"):
            quoted = mark == '"' and bool(opened) and not quoted
        elif quoted or len(mark) > 1:
            continue
        elif mark in "[{":
            opened.append(token.start())
        elif opened and text[opened[-1]] + mark in ("[]", "{}"):
            start = opened.pop()
            while found and found[-1][0] > start:
                found.pop()
            found.append((start, token.end()))
        else:
            opened.clear()
    return found


def gold_reply(gold: str) -> str:
    """The calls as they are."""
    return gold


FORMAT = AnswerFormat(SOLVE, read, verify, lenient, gold_reply, extract_answer=answer)
