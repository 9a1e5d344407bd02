"""The strategies at equal cost: from answers to a table."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import zoo_strategies
from rethink.strategies import parse_all
from zoo_strategies import Row, cell, main, read_rows, strategy_table, write_rows

ROW = Row("grpo", "refine", 3, 0.52, 0.031, 0.012, 0.05, "vote of 2.0", 60.4, 2.0)
ALONE = replace(ROW, model="start", gain_low=math.nan, gain_high=math.nan)
FIRST = replace(ROW, strategy="solve", accuracy=0.4, gain=math.nan, baseline="", tokens=30.0)
DEAR = replace(FIRST, strategy="rsa:4,2,2", accuracy=0.52)


@pytest.mark.parametrize(
    ("row", "text"), [(ROW, "52.0 (+3.1 [+1.2, +5.0])"), (ALONE, "52.0 (+3.1)"), (FIRST, "40.0"), (DEAR, "52.0")]
)
def test_cells(row: Row, text: str) -> None:
    """Guards against "nan" where there is no baseline or one seed."""
    assert cell(row) == text


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", [ROW, DEAR])
    first, second = read_rows(tmp_path / "rows.csv")
    assert first == ROW
    assert math.isnan(second.gain)
    assert replace(second, gain=0.0) == replace(DEAR, gain=0.0)


def test_models_are_columns() -> None:
    """Guards against cells of another model, and tokens of another strategy."""
    better = replace(FIRST, model="think-twice", accuracy=0.5), replace(ROW, model="think-twice", accuracy=0.6)
    lines = strategy_table([FIRST, ROW, *better]).split("\n")
    assert lines[0] == "|  | tokens (GRPO) | GRPO | ThinkTwice |"
    assert lines[2] == "| `solve` | 30 | 40.0 | 50.0 |"
    assert lines[3].startswith("| `refine` | 60 | 52.0 (+3.1 [+1.2, +5.0]) | 60.0 (")


@pytest.mark.slow
def test_from_a_model_to_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against strategies without their baseline, and answers that are sampled again."""
    monkeypatch.setattr(zoo_strategies, "STRATEGIES", parse_all("solve,refine"))
    monkeypatch.setattr(zoo_strategies, "BASELINES", parse_all("vote:2,vote:3"))
    for seed in (1, 2):
        zoo_strategies.run(tmp_path, 3, ("start", seed))
    file = tmp_path / "rows.csv"
    monkeypatch.setattr(
        sys, "argv", ["zoo_strategies.py", str(tmp_path), "--seeds", "1,2", "--models", "start", "--results", str(file)]
    )
    before = (tmp_path / "strategies" / "start-1.jsonl").read_text()
    main()
    solve, refine = read_rows(file)
    assert (tmp_path / "strategies" / "start-1.jsonl").read_text() == before
    assert (solve.baseline, math.isnan(solve.gain)) == ("", True)
    assert refine.baseline.startswith("vote of ")
    assert refine.tokens > solve.tokens
    assert refine.calls == 2
