"""Rows of files and of the hub, and their columns; every error names the place."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
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
        with pytest.raises(UserError, match=f"there is no file .*{missing}"):
            read_rows(tmp_path / missing)


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
