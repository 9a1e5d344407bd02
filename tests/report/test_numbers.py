"""Tables and figures from the folders alone: the numbers are those of the page, and figures show all of them."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.evaluation.summary import summarize
from rethink.jsonl import append
from rethink.report.document import read_document
from rethink.report.figures import draw
from rethink.report.folders import find_sources
from rethink.report.numbers import number_rows, to_csv
from support.command_line import assert_one_message, in_process
from support.evaluations import answer, answers
from support.report_runs import held_out, training_folder

R, W, N = True, False, None


def training(folder: Path) -> Path:
    run = training_folder(folder)
    empty = {"value": None, "low": None, "high": None, "n": 0}
    append(run.metrics, [held_out(8, 0.625, damage=empty)])
    return folder


def evaluation(folder: Path) -> Path:
    some = [*answers([(R, R), (W, R), (W, W), (R, W), (W, N)]), *answers([(W, R)] * 3, suite="$t")]
    folder.mkdir(parents=True)
    append(folder / "answers.jsonl", [asdict(one) for one in [*some, answer("p0", W), answer("p1", R)]])
    return folder


def table_of(*folders: Path) -> list[dict[str, str]]:
    rows = number_rows(read_document(find_sources(folders))["runs"])
    return list(csv.DictReader(io.StringIO(to_csv(rows))))


@pytest.mark.parametrize("damage", [{"refined": 3}, {"solve": {"value": "0.5", "n": 3}}])
def test_a_damaged_record_is_named(tmp_path: Path, damage: dict[str, object]) -> None:
    """Guards against a traceback in place of a message that names the run."""
    append(training_folder(tmp_path / "run").metrics, [held_out(8, 0.625, **damage)])
    with pytest.raises(UserError, match=r"^run: the record of an evaluation is damaged, or of another version"):
        table_of(tmp_path / "run")


def test_the_table_of_a_run_has_its_evaluations(tmp_path: Path) -> None:
    """Guards against rates of another evaluation, and against 0 for what is undefined."""
    first, last = table_of(training(tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line["phase"] == "evaluation"]
    assert [first["update"], last["update"]] == ["6", "8"]
    for row, line in zip((first, last), kept, strict=True):
        for name in ("solve", "refined", "gain", "fix", "fix_fresh"):
            found = [float(row[column]) for column in (name, f"{name}_low", f"{name}_high", f"{name}_n")]
            assert found == [line[name][key] for key in ("value", "low", "high", "n")]
    assert (last["damage"], last["damage_low"], last["damage_n"]) == ("", "", "0")
    assert (first["wrong_right"], first["accuracy"]) == ("15", "")


def test_the_table_of_an_evaluation_has_its_summaries(tmp_path: Path) -> None:
    """Guards against rows of another suite or strategy."""
    rows = table_of(evaluation(tmp_path / "e"))
    assert [(row["suite"], row["strategy"]) for row in rows] == [("s", "refine"), ("s", "solve"), ("$t", "refine")]
    wanted = summarize(answers([(R, R), (W, R), (W, W), (R, W), (W, N)]))
    assert wanted.fix is not None
    assert float(rows[0]["fix"]) == wanted.fix.value
    assert float(rows[0]["fix_low"]) == wanted.fix.low
    assert [rows[0][name] for name in ("right_right", "right_wrong", "wrong_right", "wrong_wrong")] == ["1"] * 4
    assert (rows[0]["n_not_graded"], rows[1]["fix"], rows[1]["refined"], rows[2]["fix"]) == ("1", "", "", "1.0")


def test_figures_show_every_rate(tmp_path: Path) -> None:
    """Guards against a figure without a rate, with another text than the name, or that changes from call to call."""
    pytest.importorskip("matplotlib")
    training(tmp_path / "runs" / "a")
    training(tmp_path / "runs" / "b")
    evaluation(tmp_path / "e")
    for folders, labels in (
        (
            [tmp_path / "runs" / "a"],
            ["before", "after refinement", "wrong ones fixed", "right ones damaged, by fresh answers"],
        ),
        ([tmp_path / "runs"], ["a: before", "b: after refinement", "b: wrong ones fixed", "updates"]),
        ([tmp_path / "e"], ["s, refine", "s, solve", "$t, refine", "before", "right ones damaged", "accuracy, %"]),
    ):
        rows = number_rows(read_document(find_sources(folders))["runs"])
        svg = draw(rows, "svg")
        assert svg == draw(rows, "svg")
        shown = re.findall(
            r"<!-- (.*?) -->", svg.decode()
        )  # matplotlib draws letters as shapes, with the text beside it
        assert [label for label in labels if label not in shown] == []
    assert draw(rows, "png").startswith(b"\x89PNG\r\n")


def test_an_end_that_rounding_moved_is_drawn(tmp_path: Path) -> None:
    """Guards against an error of the library for a rate of 0 or 1 that lies a last bit outside its interval."""
    pytest.importorskip("matplotlib")
    (row, *_) = number_rows(read_document(find_sources([evaluation(tmp_path / "e")]))["runs"])
    for value, end in ((1.0, "high"), (0.0, "low")):
        moved = {**row, "solve": value, "solve_low": 0.2, "solve_high": 0.8, f"solve_{end}": abs(value - 1e-16)}
        assert draw([moved], "svg") == draw([{**moved, f"solve_{end}": value}], "svg")


def test_the_command_writes_what_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a page nobody asked for, and tracebacks for folders without numbers or of two kinds."""
    pytest.importorskip("matplotlib")
    rethink = in_process(capsys, monkeypatch, tmp_path)
    training(tmp_path / "run")
    evaluation(tmp_path / "e")
    before = sorted((tmp_path / "run").iterdir())
    done = rethink("report", "run", "--csv", "out/t.csv", "--svg", "out/f.svg", "--png", "out/f.png")
    assert done.code == 0, done.err
    assert [file.name for file in sorted((tmp_path / "out").iterdir())] == ["f.png", "f.svg", "t.csv"]
    assert len((tmp_path / "out" / "t.csv").read_text().splitlines()) == 3
    assert sorted((tmp_path / "run").iterdir()) == before
    assert_one_message(rethink("report", "run", "e", "--csv", "t.csv"), "training runs or evaluations, not both")
    training_folder(tmp_path / "young").metrics.write_text("")
    assert_one_message(rethink("report", "young", "--csv", "t.csv"), "there is no held-out evaluation yet in young")


def test_a_missing_matplotlib_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an ImportError for an optional package."""
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    rows = number_rows(read_document(find_sources([training(tmp_path / "run")]))["runs"])
    with pytest.raises(UserError, match=r"--png needs matplotlib: pip install 'rethink-rl\[figures\]'"):
        draw(rows, "png")
