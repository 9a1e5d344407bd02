"""Files and folders of rows: every kind gives the same rows, and every fault names the file and the line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from rethink.errors import UserError
from rethink.problems.files import object_rows, read_rows
from rethink.problems.rows import Row

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
        Row(f"{file}, line 1", {"a": 1}, 0, folder=tmp_path),
        Row(f"{file}, line 4", {"a": "x\u2028y\x85z"}, 1, folder=tmp_path),
        Row(f"{file}, line 5", {"a": "\N{GRINNING FACE}"}, 2, folder=tmp_path),
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
    """Guards against tracebacks of pyarrow, and a text file that is read as JSON lines."""
    (tmp_path / "p.parquet").write_bytes(b"PAR1 is all there is")
    assert "p.parquet is not a readable parquet file" in refused(read_rows(tmp_path / "p.parquet"))
    (tmp_path / "p.txt").write_text("question,answer\n")
    with pytest.raises(UserError, match=r"p\.txt: rows are read from \.jsonl, \.json, \.csv"):
        read_rows(tmp_path / "p.txt")
    for missing in ("none.jsonl", "none.parquet", "x" * 300):
        with pytest.raises(UserError, match=f"(there is no file|cannot read) .*{missing}"):
            read_rows(tmp_path / missing)


ROWS = [{"question": "1+1?", "answer": "2"}, {"question": 'a,\n"b"; ü', "answer": "3"}]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV = 'question,answer\n1+1?,2\n"a,\n""b""; ü",3\n'.encode()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return sink.getvalue().to_pybytes()


def arrow(data: list[dict[str, Any]], new: Callable[..., Any]) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(data)
    with new(sink, table.schema) as out:
        out.write_table(table)
    return sink.getvalue().to_pybytes()


KINDS = {
    "a.JSONL": JSONL,
    "a.ndjson": b"\xef\xbb\xbf" + JSONL.replace(b"\n", b"\r\n\r\n"),
    "a.jsonl.gz": gzip.compress(JSONL),
    "a.jsonl.bz2": bz2.compress(JSONL),
    "a.jsonl.xz": lzma.compress(JSONL),
    "a.jsonl.zst": zstd(JSONL),
    "packed.jsonl": gzip.compress(JSONL),
    "a.json": json.dumps(ROWS, indent=2).encode(),
    "lines.json": JSONL,
    "data.json": json.dumps({"version": "1.1", "data": ROWS}).encode(),
    "splits.json": json.dumps({"train": [{"question": "?"}], "test": ROWS}).encode(),
    "a.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "a.csv": CSV,
    "bom.csv": b"\xef\xbb\xbf" + CSV.replace(b"\n1", b"\r\n\r\n1"),
    "semicolons.csv": 'question;answer\n1+1?;2\n"a,\n""b""; ü";3\n'.encode(),
    "spaces.csv": 'question, answer\n1+1?, 2\n"a,\n""b""; ü", "3"\n'.encode(),
    "a.tsv": 'question\tanswer\n1+1?\t2\n"a,\n""b""; ü"\t3\n'.encode(),
    "a.csv.gz": gzip.compress(CSV),
    "stream.arrow": arrow(ROWS, pa.ipc.new_stream),
    "file.arrow": arrow(ROWS, pa.ipc.new_file),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    """Guards against kinds of files that are refused, and cells that differ from one kind to the next."""
    (tmp_path / name).write_bytes(KINDS[name])
    found = list(read_rows(tmp_path / name, splits=("test",)))
    assert [row.values for row in found] == ROWS
    assert [row.n for row in found] == [0, 1]


def test_lines_of_a_table_are_counted_in_the_file(tmp_path: Path) -> None:
    """Guards against places that count rows where cells span several lines."""
    (tmp_path / "a.csv").write_bytes(CSV + b"\n5?,6\n")
    assert [row.location.rpartition(", ")[2] for row in read_rows(tmp_path / "a.csv")] == ["line 2", "line 3", "line 6"]


FAULTS = {
    "a.csv": (b"question,answer\n1,2\n3\n", "a.csv, line 3: 1 cells, but the header has 2"),
    "twice.csv": (b"question,answer,answer\n1,2,3\n", "the column 'answer' occurs twice in the header"),
    "quotes.csv": (b'question,answer\n1,2\n"3,4\n', "quotes.csv, line 3: not a table that can be read"),
    "windows.csv": ("question,answer\n1,2\ncaf\u00e9,3\n".encode("cp1252"), "line 3: not a table that can be read (not"),
    "windows.jsonl": ('{"a": "caf\u00e9"}'.encode("cp1252"), "iconv -f WINDOWS-1252 -t UTF-8"),
    "utf16.csv": ("question,answer\n".encode("utf-16"), "is in UTF-16; save it as UTF-8"),
    "twice.jsonl": (b'{"a": 1}\n{"a": 1, "a": 2}\n', "line 2: not valid JSON (the key 'a' occurs twice)"),
    "cut.jsonl.gz": (gzip.compress(JSONL * 100)[:-20], "cut.jsonl.gz is damaged or incomplete"),
    "cut.jsonl.xz": (lzma.compress(JSONL * 100)[:-20], "cut.jsonl.xz is damaged or incomplete"),
    "cut.jsonl.zst": (zstd(JSONL * 100)[:-20], "cut.jsonl.zst is damaged or incomplete"),
    "cut.json": (json.dumps(ROWS).encode()[:-9], "cut.json: not valid JSON"),
    "items.json": (b'[{"a": 1}, 2]', "items.json, row 1: not a JSON object"),
    "number.json": (b"7", "neither a list of rows nor an object"),
    "columns.json": (json.dumps({"question": {"0": "?"}, "answer": {"0": "2"}}).encode(), 'to_json(FILE'),
    "lists.json": (json.dumps({"question": ["?"], "answer": ["2"]}).encode(), "holds a table by columns"),
    "splits.json": (json.dumps({"train": ROWS, "test": ROWS}).encode(), "holds several splits (train, test)"),
    "pointer.parquet": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a git-lfs pointer"),
    "page.jsonl": (b"<!DOCTYPE html>\n<html>", "is a web page; download the raw file"),
    "sheet.csv": (b"PK\x03\x04 and so on", "a zip archive or a spreadsheet"),
    "b.arrow": (b"nothing", "b.arrow is not a readable arrow file"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_damaged_files_are_refused(tmp_path: Path, name: str) -> None:
    """Guards against tracebacks, and rows that are cut or shifted silently."""
    data, message = FAULTS[name]
    (tmp_path / name).write_bytes(data)
    assert message in refused(read_rows(tmp_path / name))


def test_repeated_columns_of_parquet_are_refused(tmp_path: Path) -> None:
    """Guards against the last of two columns with one name, which is silently taken."""
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["x", "x"])
    parquet.write_table(table, tmp_path / "a.parquet")
    assert "the column 'x' occurs twice" in refused(read_rows(tmp_path / "a.parquet"))


def test_folders_of_shards(tmp_path: Path) -> None:
    """Guards against shards that are left out or out of order, metadata read as rows, and a split that is not asked for."""
    (tmp_path / "data").mkdir()
    for n in range(2):
        for split in ("train", "test"):
            file = tmp_path / "data" / f"{split}-0000{n}-of-00002.parquet"
            parquet.write_table(pa.Table.from_pylist([{"q": f"{split} {n}"}]), file)
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / "README.md").write_text("# data")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.jsonl").write_text('{"q": 1}')
    found = list(read_rows(tmp_path, splits=("train",)))
    assert [(row.n, row.values["q"]) for row in found] == [(0, "train 0"), (1, "train 1")]
    assert found[1].location.endswith("train-00001-of-00002.parquet, row 0")
    assert "holds several splits (test, train)" in refused_folder(tmp_path)
    assert "holds no split 'dev', only test, train" in refused_folder(tmp_path, "dev")
    (tmp_path / "more.jsonl").write_text('{"q": 1}')
    assert "holds .jsonl and .parquet files" in refused_folder(tmp_path)


def test_folders_without_splits(tmp_path: Path) -> None:
    """Guards against a split that files without a name of one must have, and an empty folder that is no error."""
    assert refused_folder(tmp_path) == f"{tmp_path} is a folder without data files; it holds nothing"
    (tmp_path / "notes.txt").write_text("?")
    assert refused_folder(tmp_path).endswith("it holds notes.txt")
    for name in ("part-1.jsonl", "part-0.jsonl"):
        (tmp_path / name).write_text(json.dumps({"q": name}) + "\n")
    assert [row.values["q"] for row in read_rows(tmp_path, splits=("train",))] == ["part-0.jsonl", "part-1.jsonl"]
    (tmp_path / "dev.jsonl").write_text('{"q": 1}')
    assert "part-0.jsonl, which is of none" in refused_folder(tmp_path, "test")


def refused_folder(folder: Path, *splits: str) -> str:
    with pytest.raises(UserError) as caught:
        list(read_rows(folder, splits=splits))
    return str(caught.value)


def test_saved_data_sets(tmp_path: Path) -> None:
    """Guards against Arrow files that are read without the selection and order that `datasets` keeps beside them."""
    data = datasets.Dataset.from_list(ROWS).select([1])
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data, "validation": data}).save_to_disk(tmp_path / "two")
    assert [row.values for row in read_rows(tmp_path / "one", splits=("train",))] == ROWS[1:]
    assert [row.values for row in read_rows(tmp_path / "two", splits=("validation",))] == ROWS[1:]
    assert "holds several splits (train, validation)" in refused_folder(tmp_path / "two")
    assert "holds no split 'test', only train, validation" in refused_folder(tmp_path / "two", "test")


def test_rows_in_memory() -> None:
    """Guards against numpy values that no verifier and no JSON file takes, and a DatasetDict whose split is guessed."""
    data = datasets.Dataset.from_list([{"a": 1, "b": ["x"]}])
    given: list[object] = [
        data,
        datasets.DatasetDict({"test": data}),
        data.to_pandas(),
        data.data.table,
        [dict(data[0])],
    ]
    given += [({"a": np.int64(1), "b": np.array(["x"], dtype=object)},), data.to_iterable_dataset()]
    for rows in given:
        assert [row.values for row in object_rows(rows, ("test",))] == [{"a": 1, "b": ["x"]}], type(rows)
    for rows, message in (
        ("a.jsonl", "not str"),
        (7, "not int"),
        ([1], "row 0: not a mapping"),
        ({"a": [1]}, "not dict"),
    ):
        with pytest.raises(UserError, match=message):
            list(object_rows(rows, ()))


def test_missing_cells_of_pandas_are_empty() -> None:
    """Guards against pandas' NA, which is neither true nor false: `convert_dtypes` and new readers write it."""
    table = pd.DataFrame({"a": [1, None], "b": ["x", None], "c": [True, None]}).convert_dtypes()
    rows = [row.values for row in object_rows(table, ())]
    assert rows == [{"a": 1, "b": "x", "c": True}, dict.fromkeys("abc")]


TABLES = {
    "question,answer\n1?,2\n,\n , \n": [("line 2", "1?")],
    "sep=;\r\nquestion;answer\r\n1?;2\r\n": [("line 3", "1?")],
    '"sep=,"\nquestion,answer\n,\n1?,2\n': [("line 4", "1?")],
}


@pytest.mark.parametrize("text", TABLES)
def test_tables_as_spreadsheets_write_them(tmp_path: Path, text: str) -> None:
    """Guards against the empty rows at the end, and the separator in the first line, that Excel writes."""
    (tmp_path / "a.csv").write_text(text, newline="")
    rows = list(read_rows(tmp_path / "a.csv"))
    assert [(row.location.partition(", ")[2], row.values["question"]) for row in rows] == TABLES[text]


def test_short_floats_are_the_numbers_that_were_written(tmp_path: Path) -> None:
    """Guards against the gold answer 0.10000000149011612, which no reply gives."""
    table = pa.table({"answer": pa.array([0.1, None, 2.5], pa.float32()), "n": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "a.parquet")
    expected = [0.1, None, 2.5]
    assert [row.values["answer"] for row in read_rows(tmp_path / "a.parquet")] == expected
    assert [row.values["answer"] for row in object_rows(table, ())] == expected
    rows = [{"answer": np.float32(0.1)}]
    assert [row.values["answer"] for row in object_rows(rows, ())] == [0.1]
    assert [row.values["answer"] for row in object_rows(pd.DataFrame(rows).astype("float32"), ())] == [0.1]


def test_tables_in_memory_have_each_column_once() -> None:
    """Regression: of two columns of one name, as `merge` and `concat` make them, the last one was read without a word."""
    table = pd.DataFrame([["1?", "2", "3"]], columns=["question", "answer", "answer"])
    arrow = pa.table([["1?"], ["2"], ["3"]], names=["question", "answer", "answer"])
    for rows in (table, arrow):
        assert "rows: the column 'answer' occurs twice" in refused(object_rows(rows, ()))


def test_a_parquet_file_with_another_name(tmp_path: Path) -> None:
    """Guards against advice about encodings for a file that is no text."""
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="is a parquet file"):
        next(read_rows(tmp_path / "a.jsonl"))
