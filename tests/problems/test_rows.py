"""Rows of the hub, and the columns of rows; every error names the place."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pytest

from rethink.errors import UserError
from rethink.problems.rows import Row, hub_rows, joined_rows
from support.suite_rows import Hub, rows_of


def refused(rows: Iterator[Row]) -> str:
    with pytest.raises(UserError) as caught:
        list(rows)
    return str(caught.value)


def test_rows_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against row numbers, and so ids, that restart with each subset, and questions joined with others' answers."""
    data: dict[Any, Any] = {("o/d", name, "test", None): [{"q": f"{name}{n}"} for n in (0, 1)] for name in "ab"}
    data |= {("o/d", None, "train", "q"): [{"id": "x7"}], ("o/d", None, "train", "a"): [{"id": "x1"}]}
    monkeypatch.setattr(datasets, "load_dataset", Hub(data).load_dataset)
    found = list(hub_rows("o/d", ("a", "b"), "test"))
    assert [(row.n, row.values["q"]) for row in found] == [(0, "a0"), (1, "a1"), (2, "b0"), (3, "b1")]
    assert found[2].location == "o/d/b, row 2"
    assert refused(joined_rows("o/d", "q", "a")) == "o/d: a has no row with the id 'x7'"


@pytest.mark.slow
def test_joined_rows_with_the_real_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against schemas that get the parameters of all others, as nulls, in the client's table."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    one = rows_of("bfcl")[0]
    other_function = {"name": "sum", "parameters": {"type": "dict", "properties": {"xs": {"type": "array"}}}}
    other = {"id": "simple_1", "question": one["question"], "function": [other_function]}
    data = tmp_path / "data"
    data.mkdir()
    questions = [{key: one[key] for key in ("id", "question", "function")}, other]
    truths = [{"id": "simple_1", "ground_truth": [{"sum": {"xs": [[1, 2.5], ""]}}]}]
    truths += [{"id": "simple_0", "ground_truth": one["ground_truth"]}]
    for name, rows in (("q.json", questions), ("a.json", truths)):
        (data / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(joined_rows(str(data), "q.json", "a.json"))
    assert [row.values for row in found] == [one, {**other, "ground_truth": truths[0]["ground_truth"]}]
    assert [row.n for row in found] == [0, 1]


ROW = Row(
    "f, line 3",
    {
        "a": None,
        "b": " ",
        "c": "text",
        "d.e": "dotted",
        "d": {"e": "nested", "list": [{"x": 5}, {"x": 7}]},
        "nan": float("nan"),
        "zero": 0,
        "no": False,
        "day": datetime.date(2024, 2, 29),
        "days": [datetime.date(2024, 2, 29)],
        "cents": Decimal("12.50"),
        "bytes": b"12",
    },
)


COLUMNS = {
    "d.e": "dotted", "d.list.1.x": "7", "d.list": '[{"x": 5}, {"x": 7}]', "b|nan|c|d.e": "text", "zero": "0",
    "day": "2024-02-29", "days": '["2024-02-29"]', "cents": "12.50",
}  # fmt: skip


def test_columns_as_text() -> None:
    """Guards against a 0 that counts as missing, str() of lists, a null before a value, and quotes around dates."""
    assert {names: ROW.text(names) for names in COLUMNS} == COLUMNS
    assert all(ROW.has(names) for names in COLUMNS)
    with pytest.raises(UserError, match="f, line 3: the column 'bytes' holds bytes, not text"):
        ROW.text("bytes")


def test_empty_and_missing_columns_are_refused() -> None:
    """Guards against the gold answers "None" and "NaN", and a KeyError or IndexError that names neither file nor row."""
    for names in ("a", "b", "nan", "x|a"):
        assert not ROW.has(names)
        with pytest.raises(UserError, match=re.escape(f"f, line 3: the column {names!r} is empty")):
            ROW.text(names)
    for names in ("d.x", "d.list.2.x", "d.list.-1", "d.list.x", "c.0", "x|y.z", ""):
        assert not ROW.has(names)
        for read in (ROW.value, ROW.text):
            with pytest.raises(UserError, match=re.escape(f"f, line 3: no column {names!r}; there are a, b, c, ")):
                read(names)
