"""Function calls: which replies are read, which calls are equal, and that no reply is too hostile to grade."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.errors import UserError
from rethink.problems import calls
from rethink.problems.rows import Columns, Row
from rethink.types import Verdict

XLAM = Columns(question="query", answer="answers")

GOLD = '[{"arguments":{"city":"Oslo","days":5},"name":"forecast"},{"arguments":{},"name":"now"}]'
CALLS = '[{"name": "forecast", "arguments": {"city": "Oslo", "days": 5}}, {"name": "now", "arguments": {}}]'
FIRST, SECOND = '{"name": "forecast", "arguments": {"days": 5, "city": "Oslo"}}', '{"name": "now", "arguments": {}}'
TOOLS = '[{"name": "forecast", "description": "…", "parameters": {"city": {"type": "str"}}}, {"name": "now"}]'

STRICTLY_RIGHT = [
    CALLS,
    GOLD,
    f"  \n{CALLS}\n ",
    f"[{SECOND}, {FIRST}]",
    CALLS.replace("5", "5.0"),
    CALLS.replace("5", "0.5e1"),
    CALLS.replace("Oslo", "\\u004fslo"),
    json.dumps(json.loads(CALLS), indent=4),
    f"```json\n{CALLS}\n```",
    f"```\n{CALLS}\n```",
    f"<think>Perhaps [] or {SECOND}?</think>\n\n{CALLS}",
    f"<tool_call>\n{FIRST}\n</tool_call>\n<tool_call>\n{SECOND}\n</tool_call>",
    f"<tool_call>{SECOND}</tool_call><tool_call>{FIRST}</tool_call>",
]

LENIENTLY_RIGHT = [
    f"Here you go: {CALLS}",
    f"{CALLS}\n\nI left nothing out.",
    f"First `[]`, but then:\n```json\n{CALLS}\n```\nThe default would be {{}} or [].",
    f"```json\n[]\n```\nNo, rather\n```json\n{CALLS}\n```",
    f'Maybe {FIRST} alone? The list ["a", "b"] is no call. {CALLS} Here {{x}} stays open: [',
    f"[see (the {{docs\n{CALLS}",
    f"[see}} {CALLS} ]",
    f'5" of snow: {CALLS}',
    f'5" of snow [sic: {{"}} ]\n{CALLS}',
    f"{CALLS}]",
    f"```python\nprint({CALLS}",
    f"I call both.\n<tool_call>\n{FIRST}\n</tool_call>\nand\n<tool_call>\n{SECOND}\n</tool_call>",
    f'[{{"function": {FIRST}}}, {{"id": "1", "type": "function", "function": {SECOND}}}]',
    '[{"function": {"name": "forecast", "arguments": "{\\"city\\": \\"Oslo\\", \\"days\\": 5}"}},'
    ' {"function": {"name": "now", "arguments": "{}"}}]',
]

READ_AND_WRONG = {
    "[]": "another number of calls is right",
    FIRST: "another number of calls is right",
    f"[{FIRST}, {SECOND}, {SECOND}]": "another number of calls is right",
    f"[{FIRST}, {SECOND}" + f", {FIRST}" * 9 + "]": "another number of calls is right",
    f"[{FIRST}, {FIRST}]": "other functions are right",
    CALLS.replace("now", "Now"): "other functions are right",
    CALLS.replace("now", "now "): "other functions are right",
    CALLS.replace("5", '"5"'): "other arguments are right",
    CALLS.replace("5", "[5]"): "other arguments are right",
    CALLS.replace("5", "5.000001"): "other arguments are right",
    CALLS.replace("5", "true"): "other arguments are right",
    CALLS.replace("5", "null"): "other arguments are right",
    CALLS.replace("Oslo", "oslo"): "other arguments are right",
    CALLS.replace("Oslo", " Oslo"): "other arguments are right",
    CALLS.replace('"days": 5', '"days": 5, "unit": "C"'): "other arguments are right",
    CALLS.replace(', "days": 5', ""): "other arguments are right",
    CALLS.replace("{}", '{"x": null}'): "other arguments are right",
}

UNREADABLE = [
    "",
    "Oslo",
    "5",
    "null",
    '"forecast"',
    "{}",
    "[{}]",
    "[[]]",
    TOOLS,
    f"{TOOLS}\n{TOOLS}",
    f"{CALLS[:-1]}",
    f"[{FIRST},]",
    CALLS.replace('"', "'"),
    CALLS.replace("5", "NaN"),
    CALLS.replace("5", "-Infinity"),
    CALLS.replace("5", "1e999"),
    CALLS.replace("5", "5" * 5000),
    CALLS.replace("Oslo", "\\ud800"),
    CALLS.replace('"days": 5', '"days": 4, "days": 5'),
    CALLS.replace('"arguments": {}', '"arguments": "{}"'),
    CALLS.replace('"arguments": {}', '"parameters": {}'),
    CALLS.replace('"arguments": {}', '"arguments": {}, "id": 1'),
    CALLS.replace('"arguments": {}', '"arguments": []'),
    CALLS.replace('"now"', "7"),
    f"<think>{CALLS}",
    f"{CALLS}</think>",
    f"<tool_call>{FIRST}</tool_call> and <tool_call>{SECOND}",
    f'So: {{"tried": {CALLS}}}',
    "<tool_call></tool_call>",
    "<tool_call>",
    "```",
    "``````",
]


@pytest.mark.parametrize("reply", STRICTLY_RIGHT, ids=lambda text: repr(text)[:30])
def test_replies_that_are_nothing_but_the_right_calls(reply: str) -> None:
    """Guards against right calls graded wrong for their order, their numbers' spelling or a wrapping we asked for."""
    expected = [True, False]
    for verdict in (calls.verify(reply, GOLD), calls.verify_lenient(reply, GOLD)):
        assert [verdict.right, verdict.lenient] == expected
        assert sorted(json.loads(verdict.extracted or ""), key=str) == sorted(json.loads(GOLD), key=str)


@pytest.mark.parametrize("reply", LENIENTLY_RIGHT, ids=lambda text: repr(text)[:30])
def test_calls_in_running_text_are_found_leniently_only(reply: str) -> None:
    """Guards against training on replies that merely contain the calls, and against evaluations that overlook them."""
    strict, lenient = calls.verify(reply, GOLD), calls.verify_lenient(reply, GOLD)
    assert (strict.right, strict.extracted, strict.lenient) == (False, None, False)
    assert (lenient.right, lenient.lenient) == (True, True)


@pytest.mark.parametrize(("reply", "reason"), READ_AND_WRONG.items(), ids=lambda text: repr(text)[-40:])
def test_other_calls_are_wrong(reply: str, reason: str) -> None:
    """Guards against near misses that pass: types that Python mixes up, further calls beside the right ones."""
    for verdict in (calls.verify(reply, GOLD), calls.verify_lenient(reply, GOLD)):
        assert (verdict.right, verdict.reason, verdict.lenient) == (False, reason, False)
        assert verdict.extracted == calls.canonical(json.loads(reply) if reply.startswith("[") else [json.loads(reply)])


@pytest.mark.parametrize("reply", UNREADABLE, ids=lambda text: repr(text)[-40:])
def test_what_is_not_a_list_of_calls_is_no_answer(reply: str) -> None:
    """Guards against guesses at broken JSON, and against answers within thinking that was never closed."""
    verdict = calls.verify(reply, GOLD)
    assert (verdict.right, verdict.extracted) == (False, None)
    assert verdict.reason.startswith("no calls: ")
    assert calls.verify_lenient(reply, GOLD).right is False


@pytest.mark.parametrize(
    ("reply", "gold", "right"),
    [
        ('[{"name": "f", "arguments": {"a": true}}]', '[{"arguments":{"a":1},"name":"f"}]', False),
        ('[{"name": "f", "arguments": {"a": 0}}]', '[{"arguments":{"a":false},"name":"f"}]', False),
        ('[{"name": "f", "arguments": {"a": [1, 2]}}]', '[{"arguments":{"a":[2,1]},"name":"f"}]', False),
        (
            '[{"name": "f", "arguments": {"a": [1.0, {"b": -0.0}]}}]',
            '[{"arguments":{"a":[1,{"b":0}]},"name":"f"}]',
            True,
        ),
        (
            '[{"name": "f", "arguments": {"a": 9007199254740993}}]',
            '[{"arguments":{"a":9007199254740992},"name":"f"}]',
            False,
        ),
        ("[]", "[]", True),
        ("```json\n[]\n```", "[]", True),
        ("There is no such function.", "[]", False),
        ('[{"name": "f", "arguments": {}}]', "[]", False),
    ],
)
def test_values_are_compared_as_json(reply: str, gold: str, right: bool) -> None:
    """Guards against Python's 1 == True and 0 == False, against numbers compared as floats, and free order of lists."""
    assert calls.verify(reply, gold).right is right


def test_brackets_within_texts_do_not_count() -> None:
    """Guards against arguments cut short by a bracket that they contain."""
    call = '{"name": "f", "arguments": {"a": "]} \\" {[", "b": "["}}'
    gold = calls.canonical([json.loads(call)])
    assert calls.verify_lenient(f"So: {call} That is all.", gold).right is True


HOSTILE = {
    "brackets": "[" * 10**6,
    "braces": "{" * 10**6,
    "both": "[{" * 500_000,
    "pairs": "{}" * 500_000,
    "closing": "]}" * 500_000,
    "nested pairs": "[]]" * 300_000,
    "digits": "7" * 10**6,
    "digits in a list": f"[{'7' * 90_000}]",
    "quotes": '["' + '\\"' * 500_000,
    "deep": f'[{{"name": "f", "arguments": {{"a": {"[" * 20_000}{"]" * 20_000}}}}}]',
    "less deep": f'[{{"name": "f", "arguments": {{"a": {"[" * 700}{"]" * 700}}}}}]',
    "fences": "```" * 300_000,
    "lines in a fence": f"```{chr(10) * 10**6}```",
    "tags": "<tool_call>" * 90_000,
    "empty tags": "<tool_call></tool_call>" * 40_000,
    "tags far apart": f"<tool_call>{{}}</tool_call>{' ' * 10**6}",
    "many calls": f"[{FIRST}" + f",{FIRST}" * 20_000 + "]",
}


@pytest.mark.parametrize("reply", HOSTILE.values(), ids=HOSTILE)
def test_hostile_replies_are_wrong(reply: str) -> None:
    """Guards against exceptions (of recursion, of Python's limit on digits) and against searches that start over at each
    bracket, for which a megabyte would take hours."""
    assert calls.verify(reply, GOLD).right is False
    assert calls.verify_lenient(reply, GOLD).right is False


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
NAMES = st.text(st.characters(codec="utf-8"), max_size=5)
VALUES = st.recursive(LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(NAMES, x, max_size=3), max_leaves=5)
SOME_CALLS = st.lists(
    st.fixed_dictionaries({"name": NAMES, "arguments": st.dictionaries(NAMES, VALUES, max_size=3)}), max_size=3
)


def gold_of(answers: Any) -> str:
    return calls.read_row(Row("here", {"query": "q", "tools": "[]", "answers": answers}), XLAM, 0)[1]


def shuffled(value: Any, draw: random.Random) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(x, draw) for key, x in draw.sample(list(value.items()), len(value))}
    return [shuffled(x, draw) for x in value] if isinstance(value, list) else value


@given(SOME_CALLS, st.randoms(use_true_random=False))
def test_order_of_calls_and_keys_is_free(answers: list[dict[str, Any]], draw: random.Random) -> None:
    """Guards against calls compared by position or as text."""
    gold = gold_of(answers)
    reply = json.dumps(shuffled(draw.sample(answers, len(answers)), draw), ensure_ascii=draw.random() < 0.5)
    assert calls.verify(reply, gold).right is True
    assert gold == gold_of(json.dumps(answers))


def replaced(value: Any, n: int, new: Any) -> tuple[Any, int]:
    """The value with its n-th leaf (also an empty list or object) replaced, and how many leaves are still to pass."""
    if not isinstance(value, dict | list) or not value:
        return (new if n == 0 else value), n - 1
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    for key, x in items:
        changed, n = replaced(x, n, new)
        if n < 0:
            return (
                {**value, key: changed} if isinstance(value, dict) else [*value[:key], changed, *value[key + 1 :]]
            ), n
    return value, n


@given(SOME_CALLS.filter(lambda x: any(call["arguments"] for call in x)), st.integers(0, 20), LEAVES)
def test_one_other_leaf_is_wrong(answers: list[dict[str, Any]], n: int, new: Any) -> None:
    """Guards against arguments that are not compared, at whatever depth: equal verdicts need equal values."""
    arguments, _ = replaced([call["arguments"] for call in answers], n, new)
    if all(isinstance(x, dict) for x in arguments):
        other = [{**call, "arguments": x} for call, x in zip(answers, arguments, strict=True)]
        by_hand = sorted(map(exactly, other)) == sorted(map(exactly, answers))
        assert calls.verify(json.dumps(other), gold_of(answers)).right is by_hand


def exactly(value: Any) -> str:
    """A second spelling of values, with types; numbers as exact ratios."""
    if isinstance(value, dict):
        return f"dict{sorted((key, exactly(x)) for key, x in value.items())}"
    if isinstance(value, list):
        return f"list{[exactly(x) for x in value]}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"number{value.as_integer_ratio()}"
    return f"{type(value).__name__}:{value!r}"


@given(st.text(alphabet='[]{}"\\:,1.eE-`\n <>/tool_call name arguments', max_size=60))
def test_no_reply_raises_and_lenient_reads_what_strict_reads(reply: str) -> None:
    """Guards against exceptions, and against a lenient verdict that overrules a strict one."""
    strict, lenient = calls.verify(reply, GOLD), calls.verify_lenient(reply, GOLD)
    assert strict.right is False
    assert lenient == strict if strict.extracted is not None else lenient.right is False


@given(SOME_CALLS, SOME_CALLS)
def test_reasons_come_from_a_fixed_list(answers: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """Guards against reasons that tell the gold answer to a policy that reads them."""
    verdict: Verdict = calls.verify(json.dumps(other), gold_of(answers))
    assert verdict.reason in {"", *READ_AND_WRONG.values()}


@given(SOME_CALLS)
def test_a_stated_gold_is_strictly_right(answers: list[dict[str, Any]]) -> None:
    """Guards against golds that the verifier itself cannot read."""
    gold = gold_of(answers)
    verdict = calls.verify(calls.FORMAT.gold_reply(gold), gold)
    assert (verdict.right, verdict.extracted, verdict.lenient) == (True, gold, False)


def test_a_row_of_xlam() -> None:
    """Guards the layout of the question, and the columns as the data set has them: JSON in text, and lists alike."""
    values = {"query": " Weather in Oslo? ", "tools": TOOLS, "answers": CALLS}
    shown = (
        'Functions:\n{"name":"forecast","description":"…","parameters":{"city":{"type":"str"}}}\n{"name":"now"}\n\n'
        "Request: Weather in Oslo?"
    )
    assert calls.FORMAT.read_row(Row("here", values), XLAM, 3) == (shown, GOLD)
    parsed = {**values, "tools": json.loads(TOOLS), "answers": json.loads(CALLS)}
    assert calls.FORMAT.read_row(Row("here", parsed), XLAM, 3) == (shown, GOLD)
    assert "{question}" in calls.FORMAT.solve


BAD_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"answers": "[{"}, "the column 'answers' is not valid JSON"),
    ({"answers": None}, "not a list of calls"),
    ({"answers": '[{"name": "f"}]'}, "not a list of calls"),
    ({"answers": [{"name": "f", "arguments": {"a": float("nan")}}]}, "not a list of calls"),
    ({"answers": [{"name": "f", "arguments": {"a": object()}}]}, "not a list of calls"),
    ({"tools": "f(x)"}, "the column 'tools' is not valid JSON"),
    ({"tools": [1]}, "not a list of functions"),
    ({"query": " "}, "the column 'query' is empty"),
]


@pytest.mark.parametrize(("change", "message"), BAD_ROWS)
def test_a_bad_row_is_named(change: dict[str, Any], message: str) -> None:
    """Guards against tracebacks, and against golds that no reply could meet."""
    row = Row("file.jsonl, row 7", {"query": "q", "tools": "[]", "answers": "[]", **change})
    with pytest.raises(UserError, match=r"^file\.jsonl, row 7: ") as caught:
        calls.read_row(row, XLAM, 0)
    assert message in str(caught.value)
