"""Result files of the benchmarks with real models: rows survive crashes, and the processor has a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from real.result_files import append_row, markdown, processor, read_rows, replace_rows

CPUINFO = """processor\t: 0
model name\t: Some CPU @ 2.80GHz
flags\t\t: fpu avx2 avx512f avx512_bf16x amx_bf16

processor\t: 1
model name\t: Another
flags\t\t: bf16
"""


def test_rows_come_back(tmp_path: Path) -> None:
    """Guards against rows that are lost, doubled, or split at a comma."""
    file = tmp_path / "new" / "rows.csv"
    assert read_rows(file) == []
    for n in range(3):
        append_row(file, {"name": 'a, "b"', "n": n})
    assert read_rows(file) == [{"name": 'a, "b"', "n": str(n)} for n in range(3)]
    assert len(file.read_text().splitlines()) == 4


def test_a_line_that_was_cut_short_is_dropped(tmp_path: Path) -> None:
    """Guards against half a row that counts, and against the next one being glued to it."""
    file = tmp_path / "rows.csv"
    for n in (123, 456):
        append_row(file, {"name": "a", "n": n})
    file.write_text(file.read_text()[:-2])  # "a,45"
    assert [row["n"] for row in read_rows(file)] == ["123"]
    append_row(file, {"name": "a", "n": 789})
    assert [row["n"] for row in read_rows(file)] == ["123", "789"]


def test_other_columns_are_refused(tmp_path: Path) -> None:
    """Guards against values below the wrong header, after a column was added."""
    file = tmp_path / "rows.csv"
    append_row(file, {"name": "a", "n": 1})
    before = file.read_bytes()
    with pytest.raises(SystemExit, match="other columns"):
        append_row(file, {"n": 1, "name": "a"})
    with pytest.raises(SystemExit, match="other columns"):
        replace_rows(file, [{"name": "a"}], ["name"])
    assert file.read_bytes() == before


def test_rows_with_the_same_key_are_replaced(tmp_path: Path) -> None:
    """Guards against two rows for the same thing, and against losing those of others."""
    file = tmp_path / "rows.csv"
    old = [{"model": model, "strategy": name, "value": 1} for model in "xy" for name in ("solve", "refine")]
    replace_rows(file, old, ["model", "strategy"])
    replace_rows(file, [{"model": "x", "strategy": "refine", "value": 2}], ["model", "strategy"])
    found = [(row["model"], row["strategy"], row["value"]) for row in read_rows(file)]
    assert found == [("x", "solve", "1"), ("y", "solve", "1"), ("y", "refine", "1"), ("x", "refine", "2")]


def test_the_table_has_a_header() -> None:
    """Guards against lines that markdown does not show as a table."""
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_the_processor_is_named_with_its_features() -> None:
    """Guards against flags that only begin like another one, and against those of a second processor."""
    assert processor(CPUINFO) == "Some CPU @ 2.80GHz (AVX2 AVX512F AMX_BF16)"
