"""BFCL: acceptable values by type, equality for votes, and the join of the two files. The rows are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.problems import bfcl, calls
from rethink.problems.rows import Columns, Row

BFCL = Columns(answer="ground_truth", tools="function")

FUNCTION = {
    "name": "ferry.book",
    "description": "Books a ferry.",
    "parameters": {
        "type": "dict",
        "properties": {
            "port": {"type": "string"},
            "cars": {"type": "integer"},
            "length": {"type": "float"},
            "cabin": {"type": "boolean"},
            "names": {"type": "array", "items": {"type": "string"}},
            "weights": {"type": "array", "items": {"type": "float"}},
            "decks": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
            "pets": {"type": "dict", "properties": {"dogs": {"type": "integer"}}},
            "crew": {"type": "array", "items": {"type": "dict"}},
        },
        "required": ["port"],
    },
}

ONE_PARAMETER: list[tuple[str, list[Any], list[Any], list[Any]]] = [
    # parameter, acceptable values, values that are right, values that are wrong
    ("port", ["Bodø, Norway"], ["bodø norway", "BODØ - NORWAY.", "Bodø/Norway"], ["Bodø", "", None, ["Bodø, Norway"]]),
    ("port", ["it's", "a_b*c^d"], ['it"s', "it's", "abcd"], ["its"]),
    ("cars", [5, 7], [5, 7], [5.0, "5", 6, True, None, [5]]),
    ("cars", ["n_cars"], ["n_cars"], ["N_cars", "ncars", 1]),
    ("cars", [None], [None], [0, "", "null", False]),
    ("length", [5.0, 7.5], [5, 5.0, 7.5], ["5", 6, True]),
    ("cabin", [True], [True], [1, "true", "True", False, None]),
    ("names", [["Ann", "Bo"], ["Bo"]], [["ann", "bo."], ["BO"]], [["Bo", "Ann"], ["Ann"], "Bo", [], ["Ann", "Bo", ""]]),
    ("names", [], [[]], [["Ann"], None, ""]),
    ("weights", [[1.0, 2.5]], [[1.0, 2.5], [1, 2.5]], [[1, 2], [2.5, 1.0], [True, 2.5], ["1", 2.5]]),
    ("decks", [[[1, 2], [3]]], [[[1, 2], [3]]], [[[1, 2], [3.0]], [[1, 2], 3], [[2, 1], [3]], [1, 2, 3]]),
    (
        "pets",
        [{"dogs": [2, 3], "food": ["Dry-food", ""], "chip": [True, ""]}],
        [{"dogs": 2}, {"dogs": 3.0, "food": "dry food"}, {"dogs": 2, "chip": True}],
        [{}, {"dogs": 4}, {"dogs": "2"}, {"dogs": True}, {"dogs": 2, "cats": 1}, {"dogs": 2, "chip": 1}, [2], None],
    ),
    ("pets", [{"at": [{"x": 1, "y": [2]}]}], [{"at": {"x": 1, "y": [2]}}], [{"at": {"x": 1}}, {"at": {"x": 1, "y": 2}}]),
    (
        "crew",
        [[{"name": ["Ann"], "age": [30]}, {"name": ["Bo"]}]],
        [[{"age": 30, "name": "ann"}, {"name": "Bo"}]],
        [[{"name": "Bo"}, {"age": 30, "name": "Ann"}], [{"age": 30, "name": "Ann"}], [{"name": "Ann"}, {"name": "Bo"}]],
    ),
]  # fmt: skip


def gold_for(*truth: dict[str, Any]) -> str:
    values = {"question": "q", "function": [FUNCTION], "ground_truth": list(truth)}
    return bfcl.read_row(Row("file.jsonl, row 7", values), BFCL, 0)[1]


def reply(*arguments: dict[str, Any], name: str = "ferry.book") -> str:
    return json.dumps([{"name": name, "arguments": given} for given in arguments])


@pytest.mark.parametrize(("parameter", "accepted", "right", "wrong"), ONE_PARAMETER)
def test_values_are_compared_by_type(parameter: str, accepted: list[Any], right: list[Any], wrong: list[Any]) -> None:
    """Guards against values of another type or outside the list, and against texts compared literally."""
    gold = gold_for({"ferry.book": {"port": ["here"], parameter: accepted}})
    for value in right:
        assert bfcl.verify(reply({"port": "here", parameter: value}), gold).right is True, value
    for value in wrong:
        verdict = bfcl.verify(reply({"port": "here", parameter: value}), gold)
        assert (verdict.right, verdict.reason) == (False, "a value is wrong"), value


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"port": "x"}, "a parameter is missing"),
        ({"port": "x", "cars": 2}, ""),
        ({"cars": 2, "length": 3}, "a parameter is missing"),
        ({"port": "x", "cars": 2, "length": ""}, "a value is wrong"),
        ({"port": "x", "cars": 2, "cabin": True}, "a parameter does not belong there"),
        ({"port": "x", "cars": 2, "ship": 1}, "a parameter does not belong there"),
    ],
)
def test_required_and_optional_parameters(given: dict[str, Any], reason: str) -> None:
    """Guards against "" that makes a required parameter (port) optional, and parameters without an acceptable value."""
    gold = gold_for({"ferry.book": {"port": ["x", ""], "cars": [2], "length": ["", 3.0]}})
    verdict = bfcl.verify(reply(given), gold)
    assert (verdict.right, verdict.reason) == (not reason, reason)


def test_names_and_number_of_calls() -> None:
    """Guards against names that are nearly right, and against a right call among others."""
    gold = gold_for({"ferry.book": {"port": ["x"]}})
    assert bfcl.verify(reply({"port": "x"}), gold).right is True
    assert bfcl.verify(reply({"port": "x"}, name="ferry_book"), gold).reason == "wrong function"
    for n in (0, 2, 10):
        assert bfcl.verify(reply(*[{"port": "x"}] * n), gold).reason == "wrong number of calls"


def test_parallel_calls_are_matched_in_the_best_way() -> None:
    """Guards against greedy pairing: the first acceptable call fits x, which is all that the second accepts."""
    gold = gold_for(
        {"ferry.book": {"port": ["x", "y"]}}, {"ferry.book": {"port": ["x"]}}, {"ferry.book": {"port": ["z"]}}
    )
    x, y, z = ({"port": port} for port in "xyz")
    for right in ([x, y, z], [y, x, z], [z, x, y], [x, x, z]):
        assert bfcl.verify(reply(*right), gold).right is True
    for wrong in ([y, y, z], [x, y, y], [x, z, z]):
        assert bfcl.verify(reply(*wrong), gold).reason == "not all calls are right"


def test_extraction_is_that_of_calls() -> None:
    """Guards against extraction that differs from the format "calls"."""
    gold = gold_for({"ferry.book": {"port": ["x"]}})
    call = reply({"port": "x"})
    assert bfcl.verify(f"<think>{call}</think>\n```json\n{call}\n```", gold).right is True
    strict, lenient = bfcl.verify(f"So: {call}", gold), bfcl.verify_lenient(f"So: {call}", gold)
    assert (strict.right, strict.extracted) == (False, None)
    assert (lenient.right, lenient.lenient) == (True, True)


def test_gold_reply_is_right() -> None:
    """Guards against gold replies that the verifier rejects, for every type, with and without "" as a choice."""
    for parameter, accepted, _, _ in ONE_PARAMETER:
        for first in ([], [""]):
            gold = gold_for({"ferry.book": {"port": ["x"], parameter: [*first, *accepted]}})
            assert bfcl.verify(bfcl.FORMAT.gold_reply(gold), gold).right is True
    gold = gold_for({"ferry.book": {"port": ["Bodø", "x"], "cars": ["", 2], "pets": [{"dogs": ["", 3], "food": [""]}]}})
    expected = '[{"arguments":{"cars":2,"pets":{"dogs":3},"port":"Bodø"},"name":"ferry.book"}]'
    assert bfcl.FORMAT.gold_reply(gold) == expected
    gold = gold_for({"ferry.book": {"port": [""], "names": [""]}})
    assert bfcl.FORMAT.gold_reply(gold) == '[{"arguments":{"port":""},"name":"ferry.book"}]'


def test_read_row() -> None:
    """Guards the layout of the question: schemas, then the messages of all turns."""
    turns = [[{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "A ferry, please."}]]
    values = {"question": turns, "function": [{"name": "f", "parameters": {}}], "ground_truth": [{"f": {}}]}
    question, gold = bfcl.FORMAT.read_row(Row("here", values), BFCL, 3)
    assert question == 'Functions:\n{"name":"f","parameters":{}}\n\nRequest: Be brief.\n\nA ferry, please.'
    assert gold == '[{"name":"f","parameters":{}}]'
    as_text = {key: json.dumps(value) for key, value in values.items() if key != "question"}
    assert bfcl.read_row(Row("here", {"question": "A ferry, please.", **as_text}), BFCL, 3)[1] == gold


JAVA = {"name": "f", "parameters": {"properties": {"a": {"type": "HashMap"}}, "required": []}}

BAD_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"ground_truth": {"f": {}}}, "not a list"),
    ({"ground_truth": [{"f": {}, "g": {}}]}, "is one {function"),
    ({"ground_truth": [{"ferry": {}}]}, "no function 'ferry'"),
    ({"ground_truth": [{"ferry.book": {"port": "x"}}]}, "lists of acceptable values"),
    ({"ground_truth": [{"ferry.book": {"cars": [1]}}]}, "no value for 'port', which 'ferry.book' requires"),
    ({"ground_truth": [{"ferry.book": {"port": ["x"], "ship": [1]}}]}, "no parameter 'ship'"),
    ({"ground_truth": [{"f": {"a": ["x"]}}], "function": [JAVA]}, "unknown type 'HashMap'"),
    ({"question": [[]]}, "the column 'question'"),
    ({"question": [[{"role": "user"}]]}, "the column 'question'"),
]


@pytest.mark.parametrize(("values", "message"), BAD_ROWS)
def test_read_row_refuses_impossible_rows(values: dict[str, Any], message: str) -> None:
    """Guards against problems that no reply can solve, and BFCL's Java rows, whose values are source text."""
    right = {"question": "q", "function": [FUNCTION], "ground_truth": [{"ferry.book": {"port": ["x"]}}]}
    with pytest.raises(UserError, match=r"^file\.jsonl, row 7: ") as caught:
        bfcl.read_row(Row("file.jsonl, row 7", right | values), BFCL, 0)
    assert message in str(caught.value)


def test_join_files(tmp_path: Path) -> None:
    """Guards against rows joined by position (the files differ in order), and rows that are dropped silently."""
    asked, answered, joined = (tmp_path / name for name in ("q.json", "a.json", "joined.jsonl"))
    asked.write_text('{"id": "s_0", "question": "ø"}\n\n{"id": "s_1", "question": "b"}\n', encoding="utf-8")
    answered.write_text('{"id": "s_1", "ground_truth": [1]}\n{"id": "s_0", "ground_truth": [0]}\n', encoding="utf-8")
    assert bfcl.join_files(asked, str(answered), joined) == 2
    assert [json.loads(line) for line in joined.read_text(encoding="utf-8").splitlines()] == [
        {"id": "s_0", "question": "ø", "ground_truth": [0]},
        {"id": "s_1", "question": "b", "ground_truth": [1]},
    ]
    for answers, message in {
        '{"id": "s_0"}\n{"id": "s_1"}\n{"id": "s_2"}': "'s_2' is in only one of",
        '{"id": "s_0"}\n{"id": "s_0"}': "row 2: the id 's_0' occurs twice",
        '{"id": "s_0"': "row 1: not a JSON object with an id",
    }.items():
        answered.write_text(answers)
        with pytest.raises(UserError, match=message):
            bfcl.join_files(asked, answered, joined)


def flight(**arguments: Any) -> str:
    return calls.canonical([{"name": "fly", "arguments": arguments}])


TWO = '[{"arguments":{},"name":"ferry"},{"arguments":{"port":"Oban"},"name":"tide"}]'


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (flight(to="St. John's", via=["LA", {"on": "5/7"}]), flight(via=["la", {"on": "5-7"}], to="st john's"), True),
        (flight(seats=2), flight(seats=2.0), True),
        (flight(to="New York"), flight(to="Newark"), False),
        (flight(to="New York"), flight(to="New York", via=None), False),
        (flight(seats=1), flight(seats=True), False),
        (flight(to=["a", "b"]), flight(to=["b", "a"]), False),
        (TWO, json.dumps(json.loads(TWO.replace("Oban", "OBAN"))[::-1]), True),
        (TWO, TWO.replace("tide", "ferry"), False),
        (flight(), "[]", False),
    ],
)
def test_equal_answers(a: str, b: str, equal: bool) -> None:
    """Guards against votes split over "New York" and "new york", which the verifier takes as equal."""
    assert (bfcl.equal_answers(a, b), bfcl.equal_answers(b, a)) == (equal, equal)
    assert bfcl.FORMAT.equal_answers is bfcl.equal_answers
