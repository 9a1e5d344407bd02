"""The demo on images with four updates: what it trains, writes and refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rethink.commands.demo_vision import METHODS, Row, Shown, mean, run_vision_demo
from rethink.errors import UserError
from rethink.evaluation.intervals import Estimate
from rethink.recipe import Recipe, load_recipe
from support.command_line import Rethink, assert_one_message

COLUMNS = {"before", "after", "useful", "replayed", "seconds"}


def load_small(name: str, settings: Sequence[str] = ()) -> Recipe:
    return load_recipe(name, [*settings, "evaluation.problems.limit=8", "evaluation.n=1"])


@pytest.mark.slow
def test_it_trains_all_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against numbers of another method: they are counted again from the files of the runs."""
    monkeypatch.setattr("rethink.commands.demo_vision.load_recipe", load_small)
    run_vision_demo([3], tmp_path / "d", 4)
    summary = json.loads((tmp_path / "d" / "summary.json").read_text())
    assert {*summary} == {*METHODS, "seeds", "problems", "search"}
    assert (summary["seeds"], summary["problems"]) == ([3], 8)
    assert {"solve", "socratic:4"} <= {*summary["search"]["strategies"]}
    for name in METHODS:
        assert {*summary[name]} == COLUMNS
        *_, file = sorted((tmp_path / "d" / name).glob("eval/*.jsonl"))
        answers = [json.loads(line) for line in file.read_text().splitlines()]
        steps = [answer["steps"][0] for answer in answers]
        right = sum(step["verdict"] == "right" for step in steps)
        assert summary[name]["after"]["accuracy"]["value"] == pytest.approx(right / len(steps))
        n_tokens = sum(step["n_tokens"] for step in steps)
        assert summary[name]["after"]["tokens"]["value"] == pytest.approx(n_tokens / len(steps))
        records = [json.loads(line) for line in (tmp_path / "d" / name / "metrics.jsonl").read_text().splitlines()]
        updates = [r for r in records if r["phase"] != "evaluation"]
        assert [r["update"] for r in updates] == [1, 2, 3, 4]
    assert summary["grpo"]["replayed"] == summary["ton"]["replayed"] == 0 < summary["vl_rethinker"]["replayed"]
    assert summary["grpo"]["before"] == summary["vl_rethinker"]["before"] != summary["ton"]["before"]
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*METHODS, "socratic:4"))
    with pytest.raises(UserError, match="holds a finished demo"):
        run_vision_demo([3], tmp_path / "d", 4)


def test_means_over_seeds() -> None:
    """Guards against intervals over problems in the table of several seeds: Student's is 0.5 -+ 12.706 * 0.02."""
    half = Estimate(0.48, 0.4, 0.6, 9)
    tokens = Estimate(20.0, 19.0, 21.0, 9)
    one = Row(Shown(half, half, tokens), Shown(half, half, tokens), 0.4, 0.0, 10.0)
    more = Shown(replace(half, value=0.52), half, replace(tokens, value=22.0))
    found = mean([one, Row(one.before, more, 0.6, 0.2, 30.0)])
    accuracy = found.after.accuracy
    assert (accuracy.value, accuracy.low, accuracy.high) == pytest.approx((0.5, 0.245876, 0.754124), abs=1e-5)
    assert found.after.tokens.value == pytest.approx(21.0)
    assert (found.useful, found.replayed, found.seconds) == pytest.approx((0.5, 0.1, 20.0))


def test_methods_are_fixed(rethink: Rethink) -> None:
    """Guards against a method that is named and not trained."""
    assert_one_message(rethink("demo", "--vision", "--method", "pag"), "leave out --method")
