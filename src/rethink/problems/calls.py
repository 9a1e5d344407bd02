"""Function calling: a request and functions, answered by a JSON list of calls.

Rows have the columns of xLAM's function-calling-60k (APIGen, arXiv 2406.18518): `query`, `tools` and `answers`. The last
two are JSON text or lists. Prefer text: a parquet column of structs gives every call the arguments of all the others, as
null.

A reply is right if it has the same multiset of calls. The order of calls and of keys does not matter; everything else is
exact. `true` is not 1, "5" is not 5; but 5 and 5.0 are the same number, because JSON has only one kind.

Strict extraction reads a reply that, after the thinking, is nothing but JSON (a list of calls, or one call; it may be in a
Markdown fence), or nothing but `<tool_call>{...}</tool_call>` blocks, as Qwen and Hermes write them. Lenient extraction
also finds such blocks in running text, else the last fenced block, else the last list or object with balanced brackets
that holds calls. It also reads OpenAI's {"function": {"name": ..., "arguments": "<JSON text>"}}.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from rethink.errors import UserError
from rethink.grading.extract import MAX_JSON, json_value
from rethink.problems.answer_format import AnswerFormat
from rethink.problems.rows import Columns, Row
from rethink.thinking import after_thinking
from rethink.types import Verdict

SOLVE = (
    "{question}\n\nWhich function calls carry out this request? Answer with a JSON list of the calls and nothing else. "
    'Write each call as {"name": "function name", "arguments": {"parameter": value}}, and answer [] if no function fits.'
)

MAX_SPANS = 20
"""Lenient extraction tries this many balanced spans from the end; in real replies calls are the last or next to last."""

HEADER = "Functions:"
"""The first line of a question; one line per function follows."""

OPENING_TAG, CLOSING_TAG = "<tool_call>", "</tool_call>"
_BETWEEN = re.compile(rf"{CLOSING_TAG}\s*{OPENING_TAG}")
_TOKEN = re.compile(r'\\.|["\n\[\]{}]', re.DOTALL)
_OPENAI_KEYS = {"function", "id", "type", "index"}

Call = dict[str, Any]
"""{"name": text, "arguments": object}, and no other key."""

Compare = Callable[[list[Call], str], str]
"""(the calls of a reply, the gold answer) -> why they are wrong, or "" if right. The reason never shows the gold answer."""


def read_row(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """Return the question (functions, one per line, and the request) and the gold calls as canonical JSON.

    `rethink prepare` writes questions that already begin with the functions; these are returned unchanged.
    """
    request, answers = row.text(columns.question), json_column(row, columns.answer)
    try:
        gold = canonical(_parse_calls(answers))
    except (ValueError, TypeError) as err:  # TypeError: a value that JSON does not have, such as a date
        raise UserError(f"{row.location}: the column {columns.answer!r} is not a list of calls ({err})") from err
    is_prepared = request.startswith(HEADER) and not row.has(columns.tools)
    return request if is_prepared else question_text(read_functions(row, columns), request), gold


def parse_gold(text: str) -> str:
    """Return the calls in a text as canonical JSON. Raise ValueError if it is not a list of calls."""
    try:
        return canonical(_parse_calls(json_value(text)))
    except ValueError as err:
        example = '[{"name": "add", "arguments": {"a": 1}}]'
        raise ValueError(f"must be a JSON list of calls, such as {example}, not {text[:80]!r} ({err})") from err


def verify(reply: str, gold: str) -> Verdict:
    """Return right if the reply is nothing but the gold calls, in any order."""
    return grade_calls(reply, gold, _compare)


def verify_lenient(reply: str, gold: str) -> Verdict:
    """Grade as `verify` does, but also find calls in running text."""
    return grade_calls(reply, gold, _compare, lenient=True)


def grade_calls(reply: str, gold: str, compare: Compare, lenient: bool = False) -> Verdict:
    """Return the verdict of `compare` on the calls in a reply; wrong, with nothing extracted, if there are none."""
    try:
        calls, extracted, is_lenient = _extract(reply, lenient)
    except ValueError as err:
        return Verdict(False, f"no calls: {err}", None)
    reason = compare(calls, gold)
    return Verdict(not reason, reason, extracted, is_lenient)


def extract_answer(reply: str, lenient: bool, question: str = "") -> str | None:
    """Return the calls that the verifiers grade as canonical JSON, in a fixed order; [] is an answer too."""
    try:
        calls, _, _ = _extract(reply, lenient)
        return canonical(sorted(calls, key=canonical))
    except ValueError:
        return None


def read_refinement(reply: str) -> list[str]:
    """Return the reply, and what follows the `<tool_call>` blocks that other text separates from the last ones.

    Only lenient extraction reads blocks in running text.
    """
    blocks = after_thinking(reply).split(OPENING_TAG)[1:]
    for n in range(len(blocks) - 1, 0, -1):
        between = blocks[n - 1].partition(CLOSING_TAG)[2]
        if between.strip():
            return [reply, OPENING_TAG.join([between, *blocks[n:]])]
    return [reply]


def _extract(reply: str, lenient: bool) -> tuple[list[Call], str, bool]:
    """Return the calls in a reply, their canonical JSON, and whether lenient extraction was needed.

    Raise ValueError if there are none, or if JSON cannot hold them.
    """
    calls, is_lenient = _find_calls(after_thinking(reply).strip(), lenient)
    return calls, canonical(calls), is_lenient


def _compare(calls: list[Call], gold: str) -> str:
    wanted = json.loads(gold)
    if Counter(map(canonical, calls)) == Counter(map(canonical, wanted)):
        return ""
    if len(calls) != len(wanted):
        return "wrong number of calls"
    if Counter(call["name"] for call in calls) != Counter(call["name"] for call in wanted):
        return "wrong functions"
    return "wrong arguments"


def read_functions(row: Row, columns: Columns) -> list[dict[str, Any]]:
    """Return the schemas in the column of tools, which holds one or a list of them."""
    tools = json_column(row, columns.tools)
    listed = [tools] if isinstance(tools, dict) else tools
    if not isinstance(listed, list) or not all(isinstance(tool, dict) for tool in listed):
        raise UserError(f"{row.location}: the column {columns.tools!r} is not a list of functions")
    return listed


def question_text(tools: list[dict[str, Any]], request: str) -> str:
    """Return the question: the functions as compact JSON, one per line, and the request."""
    lines = [HEADER]
    for tool in tools:
        lines.append(json.dumps(tool, ensure_ascii=False, separators=(",", ":"), default=str))
    return "\n".join([*lines, "", f"Request: {request.strip()}"])


def function_names(question: str) -> tuple[str, ...]:
    """Return the names of the functions in a question, sorted."""
    found = []
    for line in question.partition("\n\nRequest: ")[0].splitlines()[1:]:
        found.append(str(json.loads(line).get("name")))
    return tuple(sorted(found))


def json_column(row: Row, names: str) -> Any:
    """Return the value of a column, parsed if it is JSON text."""
    value = row.value(names)
    if not isinstance(value, str):
        return value
    try:
        return json_value(value)
    except ValueError as err:
        raise UserError(f"{row.location}: the column {names!r} is not valid JSON ({err})") from err


def canonical(value: Any) -> str:
    """Return JSON text that is the same for equal values: sorted keys, no spaces, 5 for 5.0.

    Raise ValueError for infinities (1e999), for lone surrogates, which no file can hold, and for JSON nested too deeply.
    """
    try:
        normalized = _normalize(value)
        text = json.dumps(normalized, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except RecursionError as err:
        raise ValueError("JSON that is nested too deeply") from err
    text.encode()
    return text


def _normalize(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_normalize(x) for x in value]
    if isinstance(value, dict):
        return {key: _normalize(x) for key, x in value.items()}
    return value


def _find_calls(text: str, lenient: bool) -> tuple[list[Call], bool]:
    """Return the calls in a text, and whether lenient extraction was needed. Raise ValueError if there are none."""
    try:
        return _parse_strictly(text), False
    except ValueError:
        if not lenient:
            raise
    for parts in _candidates(text[-2 * MAX_JSON :]):
        try:
            calls = []
            for part in parts:
                calls += _parse_calls(json_value(part), _unwrap_openai)
            return calls, True
        except ValueError:
            continue
    raise ValueError("none in JSON")


def _parse_strictly(text: str) -> list[Call]:
    if len(text) > MAX_JSON:
        raise ValueError(f"{len(text)} characters are too many")
    if text.startswith(OPENING_TAG) and text.endswith(CLOSING_TAG):
        return [_parse_call(json_value(part)) for part in _BETWEEN.split(text[len(OPENING_TAG) : -len(CLOSING_TAG)])]
    if text.startswith("```") and text.endswith("```"):
        text = _strip_language(text[3:-3])
    return _parse_calls(json_value(text))


def _parse_calls(value: Any, unwrap: Callable[[Any], Any] = lambda value: value) -> list[Call]:
    listed = [value] if isinstance(value, dict) else value
    if not isinstance(listed, list):
        raise ValueError("neither a list nor an object")
    return [_parse_call(unwrap(call)) for call in listed]


def _parse_call(value: Any) -> Call:
    if not isinstance(value, dict) or value.keys() != {"name", "arguments"}:
        raise ValueError('a call has "name" and "arguments", and nothing else')
    if not isinstance(value["name"], str) or not isinstance(value["arguments"], dict):
        raise ValueError("a call's name is text, and its arguments are an object")
    return value


def _unwrap_openai(value: Any) -> Any:
    """Convert a call from OpenAI's format; return anything else unchanged. Raise ValueError if arguments are not JSON."""
    if not isinstance(value, dict) or not isinstance(value.get("function"), dict) or value.keys() - _OPENAI_KEYS:
        return value
    call = dict(value["function"])
    if isinstance(call.get("arguments"), str):
        call["arguments"] = json_value(call["arguments"])
    return call


def _candidates(text: str) -> Iterator[list[str]]:
    """Yield texts that may be calls, the likeliest first; several texts if each block is one call."""
    blocks = [part.partition(CLOSING_TAG)[0] for part in text.split(OPENING_TAG)[1:] if CLOSING_TAG in part]
    if blocks:
        yield blocks
    fenced = text.split("```")[1:-1][::2]
    if fenced:
        yield [_strip_language(fenced[-1])]
    for start, end in reversed(_balanced_spans(text)[-MAX_SPANS:]):
        yield [text[start:end]]


def _strip_language(block: str) -> str:
    return block.strip().removeprefix("json")


def _balanced_spans(text: str) -> list[tuple[int, int]]:
    """Return where the outermost [...] and {...} start and end, in one pass.

    Brackets in quotes do not count. Quotes count only within brackets, and end with the line, as in JSON. A closing
    bracket that does not match the last open one discards all open ones.
    """
    opened: list[int] = []
    found: list[tuple[int, int]] = []
    quoted = False
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign in ('"', "\n"):
            quoted = sign == '"' and bool(opened) and not quoted
        elif quoted or len(sign) > 1:
            continue
        elif sign in "[{":
            opened.append(token.start())
        elif opened and text[opened[-1]] + sign in ("[]", "{}"):
            start = opened.pop()
            while found and found[-1][0] > start:
                found.pop()
            found.append((start, token.end()))
        else:
            opened.clear()
    return found


def gold_reply(gold: str) -> str:
    """Return the calls unchanged."""
    return gold


FORMAT = AnswerFormat(
    SOLVE,
    read_row,
    verify,
    verify_lenient,
    gold_reply,
    parse_gold,
    extract_answer=extract_answer,
    read_refinement=read_refinement,
)
