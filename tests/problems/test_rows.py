"""Rows of files and of the hub, and their columns; every error names the place."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from rethink.errors import UserError
from rethink.problems.rows import Row, hub_rows, joined_rows, read_rows
from support.suite_rows import Hub, rows_of

BROKEN = {
    b'{"a": ': "not valid JSON",
    b'{"a": "\xff\xfe"}': "not valid JSON",
    b'{"a": "\\ud83d"}': "not valid JSON",
    b'{"a": ' + b"9" * 5000 + b"}": "not valid JSON",
    b"[" * 200_000: "not valid JSON",
    b"[1, 2]": "not a JSON object",
}


def jsonl(folder: Path, *lines: bytes) -> Path:
    file = folder / "rows.jsonl"
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    return file


def refused(rows: Iterator[Row]) -> str:
    with pytest.raises(UserError) as caught:
        list(rows)
    return str(caught.value)


def test_jsonl_rows_have_their_line_number(tmp_path: Path) -> None:
    """Guards against wrong line numbers, blank lines that count as rows, and texts split at other line separators."""
    file = jsonl(
        tmp_path, b'\xef\xbb\xbf{"a": 1}\r', b"", b" \t", '{"a": "x\u2028y\x85z"}'.encode(), b'{"a": "\\ud83d\\ude00"}'
    )
    assert list(read_rows(file)) == [
        Row(f"{file}, line 1", {"a": 1}, 0),
        Row(f"{file}, line 4", {"a": "x\u2028y\x85z"}, 1),
        Row(f"{file}, line 5", {"a": "\N{GRINNING FACE}"}, 2),
    ]


@pytest.mark.parametrize(("line", "fault"), BROKEN.items(), ids=lambda x: str(x[:20]))
def test_bad_lines(tmp_path: Path, line: bytes, fault: str) -> None:
    """Guards against tracebacks for bad JSON, bad UTF-8 and lone surrogates; without `strict` the other rows are read."""
    file = jsonl(tmp_path, b'{"a": 1}', line, b'{"a": 2}')
    assert refused(read_rows(file)).startswith(f"{file}, line 2: {fault}")
    first, bad, last = read_rows(file, strict=False)
    assert (first.n, bad.n, last.n) == (0, 1, 2)
    assert (first.broken, last.broken) == ("", "")
    assert bad.broken.startswith(f"{file}, line 2: {fault}")
    assert bad.values == {}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=7,
)


@settings(max_examples=30)
@given(st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=3), max_size=5), st.booleans())
def test_json_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[Any], ascii_only: bool) -> None:
    """Guards against text that changes when it is read, escaped or not."""
    lines = [json.dumps(row, ensure_ascii=ascii_only).encode() for row in rows]
    file = jsonl(tmp_path_factory.mktemp("rows"), *lines)
    assert [row.values for row in read_rows(file)] == rows


def test_parquet_rows(tmp_path: Path) -> None:
    """Guards against rows that are lost between batches, and nested columns."""
    values = [{"n": n, "prompt": [{"role": "user", "content": str(n)}], "gold": {"x": None}} for n in range(2503)]
    file = tmp_path / "rows.parquet"
    parquet.write_table(pa.Table.from_pylist(values), file, row_group_size=997)
    found = list(read_rows(file))
    assert [row.values for row in found] == values
    assert [row.n for row in found] == list(range(2503))
    assert found[1024].location == f"{file}, row 1024"


def test_parquet_files_are_streamed(tmp_path: Path) -> None:
    """Guards against reading a whole file for its first rows: damage later in the file shows only when it is reached."""
    file = tmp_path / "rows.parquet"
    table = pa.table({"text": [f"text number {n}" for n in range(6007)]})
    parquet.write_table(table, file, row_group_size=2003, use_dictionary=False, compression="gzip")
    with parquet.ParquetFile(file) as whole:
        start = whole.metadata.row_group(2).column(0).data_page_offset
    data = bytearray(file.read_bytes())
    data[start + 60 : start + 2000] = bytes(1940)
    file.write_bytes(data)
    assert [row.values["text"] for row in islice(read_rows(file), 1500)][-1] == "text number 1499"
    assert refused(read_rows(file)).startswith(f"{file} is not a readable parquet file: ")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    """Guards against tracebacks of pyarrow, and a CSV file that is read as JSON lines."""
    (tmp_path / "p.parquet").write_bytes(b"PAR1 is all there is")
    assert "p.parquet is not a readable parquet file" in refused(read_rows(tmp_path / "p.parquet"))
    (tmp_path / "p.csv").write_text("question,answer\n")
    with pytest.raises(UserError, match=r"p\.csv: rows are read from \.jsonl and \.parquet files"):
        read_rows(tmp_path / "p.csv")
    (tmp_path / "folder.jsonl").mkdir()
    for missing in ("none.jsonl", "none.parquet", "folder.jsonl"):
        with pytest.raises(UserError, match=f"no file .*{missing}"):
            read_rows(tmp_path / missing)


def test_hub_rows_count_through_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against row numbers, and so ids, that restart with each subset."""
    hub = Hub({("o/d", subset, "test", None): [{"q": f"{subset}{n}"} for n in range(2)] for subset in ("a", "b")})
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    assert list(hub_rows("o/d", ("a", "b"), "test")) == [
        Row("o/d/a, row 0", {"q": "a0"}, 0),
        Row("o/d/a, row 1", {"q": "a1"}, 1),
        Row("o/d/b, row 2", {"q": "b0"}, 2),
        Row("o/d/b, row 3", {"q": "b1"}, 3),
    ]


def test_hub_errors_are_user_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against tracebacks of the hub's client, which raises many types."""

    def fail(path: str, name: str | None = None, *, split: str | None = None) -> Any:
        raise KeyError("x")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert refused(hub_rows("a/b", (), "train")) == "cannot load hub:a/b (split train): 'x'"


def test_joined_rows_refuse_questions_without_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against questions that are dropped, or get the answers of others."""
    hub = Hub({("o/d", None, "train", "q"): [{"id": "x7"}], ("o/d", None, "train", "a"): [{"id": "x1"}]})
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
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
        "none": [],
        "day": datetime.date(2024, 2, 29),
        "days": [datetime.date(2024, 2, 29)],
        "cents": Decimal("12.50"),
        "bytes": b"12",
    },
)


@pytest.mark.parametrize(
    ("names", "text"),
    {
        "c": "text",
        "d.e": "dotted",
        "d.list.1.x": "7",
        "d.list": '[{"x": 5}, {"x": 7}]',
        "b|nan|c|d.e": "text",
        "c|d.e": "text",
        "zero": "0",
        "day": "2024-02-29",
        "days": '["2024-02-29"]',
        "cents": "12.50",
    }.items(),
)
def test_columns_as_text(names: str, text: str) -> None:
    """Guards against a 0 that counts as missing, str() of lists, a null before a value, and quotes around dates."""
    assert ROW.text(names) == text
    assert ROW.has(names)


@pytest.mark.parametrize("names", ["a", "b", "nan", "x|a"])
def test_empty_columns_are_refused(names: str) -> None:
    """Guards against the gold answers "None" and "NaN"."""
    assert not ROW.has(names)
    with pytest.raises(UserError) as caught:
        ROW.text(names)
    assert str(caught.value) == f"f, line 3: the column {names!r} is empty"


@pytest.mark.parametrize("names", ["x", "d.x", "d.list.2.x", "d.list.-1", "d.list.x", "c.0", "x|y.z", ""])
def test_missing_columns_are_refused(names: str) -> None:
    """Guards against a KeyError or IndexError that names neither file nor row."""
    assert not ROW.has(names)
    for read in (ROW.value, ROW.text):
        with pytest.raises(UserError) as caught:
            read(names)
        assert str(caught.value).startswith(f"f, line 3: no column {names!r}; there are a, b, c, d.e, d, nan, ")


def test_bytes_are_not_text() -> None:
    """Guards against questions such as b'12', with quotes."""
    with pytest.raises(UserError, match="f, line 3: the column 'bytes' holds bytes, not text"):
        ROW.text("bytes")
