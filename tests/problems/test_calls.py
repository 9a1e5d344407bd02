"""Function calls: which replies are read, and which calls are equal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.errors import UserError
from rethink.problems import calls
from rethink.problems.grade import grade
from rethink.problems.rows import Columns, Row
from support.cpu_limit import cpu_limit

XLAM = Columns(question="query", answer="answers")

GOLD = '[{"arguments":{"city":"Oslo","days":5},"name":"forecast"},{"arguments":{},"name":"now"}]'
CALLS = '[{"name": "forecast", "arguments": {"city": "Oslo", "days": 5}}, {"name": "now", "arguments": {}}]'
FIRST, SECOND = '{"name": "forecast", "arguments": {"days": 5, "city": "Oslo"}}', '{"name": "now", "arguments": {}}'
TOOLS = '[{"name": "forecast", "description": "…", "parameters": {"city": {"type": "str"}}}, {"name": "now"}]'

STRICTLY_RIGHT = [
    CALLS, f"[{SECOND}, {FIRST}]", CALLS.replace("5", "5.0"), CALLS.replace("5", "0.5e1"),
    CALLS.replace("Oslo", "\\u004fslo"), json.dumps(json.loads(CALLS), indent=4), f"```json\n{CALLS}\n```",
    f"<think>Perhaps [] or {SECOND}?</think>\n\n{CALLS}",
    f"<tool_call>\n{FIRST}\n</tool_call>\n<tool_call>\n{SECOND}\n</tool_call>",
    f"<tool_call>{SECOND}</tool_call><tool_call>{FIRST}</tool_call>",
]  # fmt: skip

LENIENTLY_RIGHT = [
    f"Here you go: {CALLS}",
    f"First `[]`, but then:\n```json\n{CALLS}\n```\nThe default would be {{}} or [].",
    f'Maybe {FIRST} alone? The list ["a", "b"] is no call. {CALLS} Here {{x}} stays open: [',
    f"[see (the {{docs\n{CALLS}",
    f"[see}} {CALLS} ]",
    f"```python\nprint({CALLS}",
    f'5" of snow: {CALLS}',
    f'5" of snow [sic: {{"}} ]\n{CALLS}',
    f"I call both.\n<tool_call>\n{FIRST}\n</tool_call>\nand\n<tool_call>\n{SECOND}\n</tool_call>",
    f'[{{"function": {FIRST}}}, {{"id": "1", "type": "function", "function": {SECOND}}}]',
    '[{"function": {"name": "forecast", "arguments": "{\\"city\\": \\"Oslo\\", \\"days\\": 5}"}},'
    ' {"function": {"name": "now", "arguments": "{}"}}]',
]

READ_AND_WRONG = {
    "[]": "wrong number of calls", FIRST: "wrong number of calls",
    f"[{FIRST}, {SECOND}, {SECOND}]": "wrong number of calls",
    f"[{FIRST}, {FIRST}]": "wrong functions", CALLS.replace("now", "Now"): "wrong functions",
    CALLS.replace("5", '"5"'): "wrong arguments", CALLS.replace("5", "5.000001"): "wrong arguments",
    CALLS.replace("5", "true"): "wrong arguments", CALLS.replace("Oslo", "oslo"): "wrong arguments",
    CALLS.replace('"days": 5', '"days": 5, "unit": "C"'): "wrong arguments",
    CALLS.replace(', "days": 5', ""): "wrong arguments",
    CALLS.replace("{}", '{"x": null}'): "wrong arguments",
}  # fmt: skip

UNREADABLE = [
    "", "Oslo", "[{}]", TOOLS, f"{CALLS[:-1]}", f"[{FIRST},]", CALLS.replace('"', "'"), CALLS.replace("5", "NaN"),
    CALLS.replace("5", "1e999"), CALLS.replace("5", "5" * 5000), CALLS.replace("Oslo", "\\ud800"),
    CALLS.replace('"days": 5', '"days": 4, "days": 5'), CALLS.replace('"arguments": {}', '"arguments": "{}"'),
    CALLS.replace('"arguments": {}', '"parameters": {}'), CALLS.replace('"arguments": {}', '"arguments": {}, "id": 1'),
    CALLS.replace('"now"', "7"), f"<think>{CALLS}", f"{CALLS}</think>",
    f"<tool_call>{FIRST}</tool_call> and <tool_call>{SECOND}", f'So: {{"tried": {CALLS}}}', "<tool_call></tool_call>",
    "``````",
]  # fmt: skip


@pytest.mark.parametrize("reply", STRICTLY_RIGHT, ids=lambda text: repr(text)[:30])
def test_strictly_right_replies(reply: str) -> None:
    """Guards against right calls graded wrong for order, spelling of numbers, or a wrapping that we allow."""
    for verdict in (calls.verify(reply, GOLD), calls.verify_lenient(reply, GOLD)):
        assert (verdict.right, verdict.lenient) == (True, False)
        assert sorted(json.loads(verdict.extracted or ""), key=str) == sorted(json.loads(GOLD), key=str)


@pytest.mark.parametrize("reply", LENIENTLY_RIGHT, ids=lambda text: repr(text)[:30])
def test_calls_in_running_text_need_lenient_extraction(reply: str) -> None:
    """Guards against training on replies that merely contain the calls, and evaluations that miss them."""
    strict, lenient = calls.verify(reply, GOLD), calls.verify_lenient(reply, GOLD)
    assert (strict.right, strict.extracted, strict.lenient) == (False, None, False)
    assert (lenient.right, lenient.lenient) == (True, True)


@pytest.mark.parametrize(("reply", "reason"), READ_AND_WRONG.items(), ids=lambda text: repr(text)[-40:])
def test_wrong_calls(reply: str, reason: str) -> None:
    """Guards against near misses that pass, such as types that Python mixes up, or extra calls."""
    for verdict in (calls.verify(reply, GOLD), calls.verify_lenient(reply, GOLD)):
        assert (verdict.right, verdict.reason, verdict.lenient) == (False, reason, False)
        assert verdict.extracted == calls.canonical(json.loads(reply) if reply.startswith("[") else [json.loads(reply)])


@pytest.mark.parametrize("reply", UNREADABLE, ids=lambda text: repr(text)[-40:])
def test_unreadable_replies(reply: str) -> None:
    """Guards against repaired JSON, and against answers within unfinished thinking."""
    verdict = calls.verify(reply, GOLD)
    assert (verdict.right, verdict.extracted) == (False, None)
    assert verdict.reason.startswith("no calls: ")
    assert calls.verify_lenient(reply, GOLD).right is False


def test_blocks_that_a_refinement_quotes_do_not_count() -> None:
    """Guards against an earlier call that is counted beside the new ones, and prose that strict extraction accepts."""
    old, new = '<tool_call>{"name": "f", "arguments": {}}</tool_call>', f"<tool_call>{FIRST}</tool_call>"
    reply = f"{old} is wrong. Now:\n{new}\n<tool_call>{SECOND}</tool_call>\nThese are right."
    for lenient in (False, True):
        assert grade(reply, GOLD, "calls", lenient=lenient).right is False
        assert grade(reply, GOLD, "calls", lenient=lenient, refinement=True).right is lenient
    listed = calls.canonical([json.loads(text) for text in ('{"name": "f", "arguments": {}}', FIRST)])
    assert grade(f"First {old}, then {new}", listed, "calls", lenient=True, refinement=True).right is True


@pytest.mark.parametrize(
    ("given", "wanted", "right"),
    [
        ("true", "1", False),
        ("0", "false", False),
        ("[1, 2]", "[2,1]", False),
        ('[{"k": [1]}]', '[{"k":[2]}]', False),
        ('[1.0, {"b": -0.0}]', '[1,{"b":0}]', True),
        ("9007199254740993", "9007199254740992", False),
    ],
)
def test_values_are_compared_as_json(given: str, wanted: str, right: bool) -> None:
    """Guards against 1 == True, numbers compared as floats, and lists compared in any order."""
    reply, gold = (f'[{{"arguments":{{"a":{value}}},"name":"f"}}]' for value in (given, wanted))
    assert calls.verify(reply, gold).right is right


def test_no_call_is_an_answer() -> None:
    """Guards against a refusal in words that counts as the answer []."""
    replies = {"[]": True, "```json\n[]\n```": True, "There is no such function.": False, f"[{SECOND}]": False}
    assert {reply: calls.verify(reply, "[]").right for reply in replies} == replies


def test_brackets_in_texts_do_not_count() -> None:
    """Guards against arguments cut at a bracket that they contain."""
    call = '{"name": "f", "arguments": {"a": "]} \\" {[", "b": "["}}'
    gold = calls.canonical([json.loads(call)])
    assert calls.verify_lenient(f"So: {call} That is all.", gold).right is True


HOSTILE: dict[str, Callable[[int], str]] = {
    "brackets": lambda n: "[" * n,
    "pairs": lambda n: "{}" * (n // 2),
    "digits in a list": lambda n: f"[{'7' * (n // 11)}]",
    "quotes": lambda n: '["' + '\\"' * (n // 2),
    "deep": lambda n: f'[{{"name": "f", "arguments": {{"a": {"[" * 20_000}{"]" * 20_000}}}}}]',
    "fences": lambda n: "```" * (n // 3),
    "tags": lambda n: "<tool_call>" * (n // 11),
    "many calls": lambda n: f"[{FIRST}" + f",{FIRST}" * (n // 50) + "]",
}


@pytest.mark.parametrize("n", [10**5, pytest.param(10**6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_replies_are_wrong(name: str, n: int) -> None:
    """Guards against exceptions and against quadratic searches."""
    reply = HOSTILE[name](n)
    with cpu_limit():
        assert calls.verify(reply, GOLD).right is False
        assert calls.verify_lenient(reply, GOLD).right is False


@given(st.text(alphabet='[]{}"\\:,1.eE-`\n <>/tool_call name arguments', max_size=60))
def test_no_reply_raises_and_lenient_reads_what_strict_reads(reply: str) -> None:
    """Guards against exceptions, and against a lenient verdict that overrules a strict one."""
    strict, lenient = calls.verify(reply, GOLD), calls.verify_lenient(reply, GOLD)
    assert strict.right is False
    assert lenient == strict if strict.extracted is not None else lenient.right is False


def test_read_row_of_xlam() -> None:
    """Guards the layout of the question, with columns as JSON text and as lists."""
    values = {"query": " Weather in Oslo? ", "tools": TOOLS, "answers": CALLS}
    shown = (
        'Functions:\n{"name":"forecast","description":"…","parameters":{"city":{"type":"str"}}}\n{"name":"now"}\n\n'
        "Request: Weather in Oslo?"
    )
    assert calls.FORMAT.read_row(Row("here", values), XLAM, 3) == (shown, GOLD)
    parsed = {**values, "tools": json.loads(TOOLS), "answers": json.loads(CALLS)}
    assert calls.FORMAT.read_row(Row("here", parsed), XLAM, 3) == (shown, GOLD)
    assert calls.verify(calls.FORMAT.gold_reply(GOLD), GOLD).right is True


BAD_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"answers": "[{"}, "the column 'answers' is not valid JSON"),
    ({"answers": '[{"name": "f"}]'}, "not a list of calls"),
    ({"answers": [{"name": "f", "arguments": {"a": float("nan")}}]}, "not a list of calls"),
    ({"tools": "f(x)"}, "the column 'tools' is not valid JSON"),
    ({"tools": [1]}, "not a list of functions"),
]


@pytest.mark.parametrize(("change", "message"), BAD_ROWS)
def test_read_row_refuses_bad_rows(change: dict[str, Any], message: str) -> None:
    """Guards against tracebacks, and gold answers that no reply can match."""
    row = Row("file.jsonl, row 7", {"query": "q", "tools": "[]", "answers": "[]", **change})
    with pytest.raises(UserError, match=r"^file\.jsonl, row 7: ") as caught:
        calls.read_row(row, XLAM, 0)
    assert message in str(caught.value)
