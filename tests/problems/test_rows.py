"""Rows of files and of the hub, and their columns; every fault names the place."""

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
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from rethink.errors import UserError
from rethink.problems.rows import Row, hub_rows, joined_rows, read_rows
from support.suite_rows import Hub, rows_of

BROKEN = {
    b'{"a": ': "not valid JSON",
    b'{"a": 1} {"a": 2}': "not valid JSON",
    b'{"a": "\xff\xfe"}': "not valid JSON",
    b'{"a": "\\ud83d"}': "not valid JSON",
    b'{"\\uDE00": 1}': "not valid JSON",
    b'{"a": ' + b"9" * 5000 + b"}": "not valid JSON",
    b"[" * 200_000: "not valid JSON",
    b"[1, 2]": "not a JSON object",
    b"7": "not a JSON object",
    b"null": "not a JSON object",
}


def jsonl(folder: Path, *lines: bytes) -> Path:
    file = folder / "rows.jsonl"
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    return file


def refused(rows: Iterator[Row]) -> str:
    with pytest.raises(UserError) as caught:
        list(rows)
    return str(caught.value)


def test_jsonl_rows_say_where_they_stand(tmp_path: Path) -> None:
    """Guards against line numbers that do not lead to the line in an editor, and against blank lines that count as rows;
    a byte order mark, foreign line ends and separators of lines within a text are no faults."""
    file = jsonl(
        tmp_path, b'\xef\xbb\xbf{"a": 1}\r', b"", b" \t", '{"a": "x\u2028y\x85z"}'.encode(), b'{"a": "\\ud83d\\ude00"}'
    )
    assert list(read_rows(file)) == [
        Row(f"{file}, line 1", {"a": 1}, 0),
        Row(f"{file}, line 4", {"a": "x\u2028y\x85z"}, 1),
        Row(f"{file}, line 5", {"a": "\N{GRINNING FACE}"}, 2),
    ]


@pytest.mark.parametrize(("line", "fault"), BROKEN.items(), ids=lambda x: str(x[:20]))
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, fault: str) -> None:
    """Guards against tracebacks for bad JSON, for bytes that are not UTF-8 and for text that could not be written again;
    where rows are only graded, the others are still read."""
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


@given(st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=3), max_size=5), st.booleans())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[Any], ascii_only: bool) -> None:
    """Guards against any text that is read as another, escaped or not."""
    lines = [json.dumps(row, ensure_ascii=ascii_only).encode() for row in rows]
    file = jsonl(tmp_path_factory.mktemp("rows"), *lines)
    assert [row.values for row in read_rows(file)] == rows


def test_parquet_rows(tmp_path: Path) -> None:
    """Guards against rows that are lost between batches; nested columns come as lists and records."""
    values = [{"n": n, "prompt": [{"role": "user", "content": str(n)}], "gold": {"x": None}} for n in range(2503)]
    file = tmp_path / "rows.parquet"
    parquet.write_table(pa.Table.from_pylist(values), file, row_group_size=997)
    found = list(read_rows(file))
    assert [row.values for row in found] == values
    assert [row.n for row in found] == list(range(2503))
    assert found[1024].location == f"{file}, row 1024"


def test_parquet_files_are_streamed(tmp_path: Path) -> None:
    """Guards against a whole file in memory for its first rows: what is damaged behind them goes unseen until then."""
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


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """Guards against tracebacks of pyarrow's own, and against a CSV file that is read as JSON lines."""
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
    """Guards against numbers, and so ids, that begin anew with each subset."""
    hub = Hub({("o/d", subset, "test", None): [{"q": f"{subset}{n}"} for n in range(2)] for subset in ("a", "b")})
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    assert list(hub_rows("o/d", ("a", "b"), "test")) == [
        Row("o/d/a, row 0", {"q": "a0"}, 0),
        Row("o/d/a, row 1", {"q": "a1"}, 1),
        Row("o/d/b, row 2", {"q": "b0"}, 2),
        Row("o/d/b, row 3", {"q": "b1"}, 3),
    ]


@pytest.mark.parametrize("error", [ConnectionError("offline"), ValueError("Unknown split"), KeyError("x")])
def test_a_failing_hub_is_a_user_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Guards against the hub client's tracebacks, of which there are many kinds."""

    def fail(path: str, name: str | None = None, *, split: str | None = None) -> Any:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert refused(hub_rows("a/b", (), "train")) == f"cannot load hub:a/b (split train): {error}"


def test_a_question_without_possible_answers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against questions that are left out, and against the answers of others."""
    hub = Hub({("o/d", None, "train", "q"): [{"id": "x7"}], ("o/d", None, "train", "a"): [{"id": "x1"}]})
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    assert refused(joined_rows("o/d", "q", "a")) == "o/d: a has no row with the id 'x7'"


def test_two_files_are_joined_as_the_hubs_client_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against schemas that get the parameters of all others, as nulls, when the client makes a table of them."""
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
        "x|c": "text",
        "a|c": "text",
        "b|nan|c|d.e": "text",
        "c|d.e": "text",
        "zero": "0",
        "no": "false",
        "none": "[]",
        "day": "2024-02-29",
        "days": '["2024-02-29"]',
        "cents": "12.50",
    }.items(),
)
def test_columns_as_text(names: str, text: str) -> None:
    """Guards against a 0 that counts as missing, str() of lists, a null before what a row has, and quotes around days."""
    assert ROW.text(names) == text
    assert ROW.has(names)


@pytest.mark.parametrize("names", ["a", "b", "nan", "a|b", "x|a"])
def test_empty_columns_are_named(names: str) -> None:
    """Guards against the gold answers "None" and "NaN"."""
    assert not ROW.has(names)
    with pytest.raises(UserError, match="f, line 3: the column") as caught:
        ROW.text(names)
    assert str(caught.value) == f"f, line 3: the column {names!r} is empty"


@pytest.mark.parametrize("names", ["x", "d.x", "d.list.2.x", "d.list.-1", "d.list.x", "c.0", "x|y.z", ""])
def test_missing_columns_are_named_with_those_there_are(names: str) -> None:
    """Guards against a KeyError or IndexError that names neither file nor row."""
    assert not ROW.has(names)
    for ask in (ROW.value, ROW.text):
        with pytest.raises(UserError) as caught:
            ask(names)
        assert str(caught.value).startswith(f"f, line 3: no column {names!r}; there are a, b, c, d.e, d, nan, ")


def test_bytes_are_no_text() -> None:
    """Guards against questions such as b'12', with quotes and all."""
    with pytest.raises(UserError, match="f, line 3: the column 'bytes' holds bytes, not text"):
        ROW.text("bytes")
