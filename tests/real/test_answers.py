"""Answers of a real model, with the shipped tiny model: rows agree with the verdicts, and commands continue."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from real import answers
from real.answer_rows import KEY, describe_sampling, markdown_table, percent
from real.result_files import Row, read_rows
from rethink.errors import UserError
from rethink.types import Sampling

MORE = ["prompts.refine=again", "seed=3", "evaluation.problems.split=test"]


def evaluate(folder: Path, *options: str) -> None:
    files = ["--out", str(folder / "out"), "--csv", str(folder / "real.csv")]
    answers.main(["tiny", *MORE, "--on", "countdown", "--max-tokens", "24", "--batch", "5", *files, *options])


def rows(folder: Path) -> dict[str, Row]:
    return {row["strategy"]: row for row in read_rows(folder / "real.csv")}


def test_rows_agree_with_the_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against rates of other answers, counts in the wrong column, and intervals that miss their rate: everything is
    counted again from the verdicts in answers.jsonl."""
    evaluate(tmp_path, "--limit", "20")
    found = rows(tmp_path)
    assert list(found) == ["solve", "refine", "vote:2", "vote:3"]
    changes: Counter[tuple[str, str]] = Counter()
    n_tokens = 0
    for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["strategy"] == "refine":
            draft, final = record["steps"]
            changes[draft["verdict"], final["verdict"]] += 1
            n_tokens += draft["n_tokens"] + final["n_tokens"]
    refine = found["refine"]
    assert changes.total() == 20 == int(refine["n_problems"])
    for name in ("right_right", "right_wrong", "wrong_right", "wrong_wrong"):
        before, after = name.split("_")
        assert int(refine[name]) == changes[before, after], name
    n_right, n_wrong = (sum(n for (before, _), n in changes.items() if before == this) for this in ("right", "wrong"))
    assert min(n_right, n_wrong) > 0, "the problems do not tell right from wrong"
    assert float(refine["solve"]) == pytest.approx(n_right / 20)
    assert float(found["solve"]["accuracy"]) == pytest.approx(n_right / 20)
    assert float(refine["fix"]) == pytest.approx(changes["wrong", "right"] / n_wrong)
    assert float(refine["damage"]) == pytest.approx(changes["right", "wrong"] / n_right)
    assert float(refine["gain"]) == pytest.approx(
        (changes["wrong", "right"] - changes["right", "wrong"]) / 20, abs=1e-6
    )
    assert float(refine["sampled_tokens"]) == pytest.approx(n_tokens / 20)
    for one in found.values():
        assert float(one["accuracy_low"]) < float(one["accuracy"]) < float(one["accuracy_high"])
        assert (float(one["fix"]) >= 0) == (one["strategy"] == "refine")  # the others are nan
    assert refine["baseline"] == "one answer" or refine["baseline"].startswith("vote of")
    assert not math.isnan(float(refine["baseline_gain"]))
    assert (
        refine["sampling"]
        == "temperature 0.7, top-p 0.8, top-k 20, at most 24 tokens; refinements greedy, at most 24 tokens"
    )
    assert markdown_table(list(found.values())) in capsys.readouterr().out


def test_a_stopped_command_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against answers that are drawn again, against a time limit that loses a batch or its rows, and against rows of
    an earlier state that stay."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    evaluate(whole, "--limit", "15")
    evaluate(parts, "--limit", "10", "--minutes", "0")
    assert rows(parts)["refine"]["n_problems"] == "5"
    assert "5 of 10 problems are done" in capsys.readouterr().out
    evaluate(parts, "--limit", "15")
    file = Path("out") / "answers.jsonl"
    assert (parts / file).read_bytes() == (whole / file).read_bytes()
    assert rows(parts) == rows(whole)
    assert len(read_rows(parts / "real.csv")) == 4


def test_other_settings_are_refused(tmp_path: Path) -> None:
    """Guards against one table over answers of two kinds."""
    evaluate(tmp_path, "--limit", "5")
    before = (tmp_path / "real.csv").read_bytes()
    with pytest.raises(UserError, match="max_tokens was 24, now 32"):
        evaluate(tmp_path, "--limit", "10", "--max-tokens", "32")
    assert (tmp_path / "real.csv").read_bytes() == before


def test_two_attempts_have_a_control(tmp_path: Path) -> None:
    """Guards against `evaluation.n` that is read but not done: with two drafts of each problem, fresh answers are known."""
    evaluate(tmp_path, "evaluation.n=2", "--limit", "5", "--strategies", "refine")
    lines = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    assert Counter(json.loads(line)["repeat"] for line in lines) == {0: 5, 1: 5}
    assert 0 <= float(rows(tmp_path)["refine"]["fix_fresh"]) <= 1


def test_percent_and_words() -> None:
    """Guards against shares in place of percent, and undefined rates that look like 0."""
    one = {"fix": "0.6123", "fix_low": "0.5", "fix_high": "0.7", "gain": "nan", "gain_low": "nan", "gain_high": "nan"}
    assert percent(one, "fix", "+") == "+61.2 [+50.0, +70.0]"
    assert percent(one, "gain") == "-"
    both = describe_sampling(Sampling(max_tokens=7), None)
    assert both == "temperature 1, at most 7 tokens; refinements temperature 1, at most 7 tokens"
    assert set(KEY) >= {"model", "problems", "strategy"}
