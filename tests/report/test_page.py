"""The page of a run, made from its folder alone."""

from __future__ import annotations

import re
from pathlib import Path

from rethink.evaluation.fresh import NO_CONTROL
from rethink.jsonl import append
from rethink.report.chart import Point, chart
from rethink.report.page import write_report
from rethink.run_folder import RunFolder

ESTIMATE = {"value": 0.61, "low": 0.55, "high": 0.67, "n": 100}


def run_folder(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.create('out = "runs/<x>"\n')
    alarms = ["nothing was trained: all <b>"]
    update = {"batch": 0, "phase": "solve", "reward": 0.25, "entropy_nats": float("nan"), "optimizer_steps": 4}
    update["alarms"] = alarms
    append(folder.metrics, [{**update, "update": 1}, {**update, "update": 3, "reward": 0.5}])
    append(folder.metrics, [{"batch": 0, "update": 3, "phase": "evaluation"} | dict.fromkeys(RATES, ESTIMATE)])
    sample = {"prompt": [["user", "<script>1</script>"]], "reply": "a & b", "verdict": "wrong", "reason": ""}
    append(folder.samples, [{**sample, "batch": 0, "reward": 0.0}])
    return folder


RATES = ("solve", "refined", "fix", "damage", "fix_fresh", "damage_fresh")


def test_points_of_a_chart_lie_where_arithmetic_puts_them() -> None:
    """An axis that is upside down or a scale that is off. The last point is at the right end and at the top; the first,
    at half of both ranges (0 to 4, 0 to 10), in the middle."""
    drawn = chart("reward", {"solve": [Point(2.0, 5.0), Point(4.0, 10.0)]})
    (points,) = re.findall(r'points="([^"]+)"', drawn)
    # From 64 to 462 across, from 176 to 26 up.
    assert points == "263.0,101.0 462.0,26.0"


def test_a_chart_without_points_is_empty_and_a_constant_series_is_drawn() -> None:
    """A division by a range of zero."""
    assert chart("reward", {"solve": []}) == ""
    assert "polyline" in chart("reward", {"solve": [Point(1.0, 0.0), Point(2.0, 0.0)]})


def test_the_page_shows_results_curves_and_samples_and_escapes_what_the_model_wrote(tmp_path: Path) -> None:
    """A reply that holds HTML must not become part of the page; an undefined value (null) must not be drawn."""
    page = write_report(run_folder(tmp_path / "run")).read_text()
    assert page.count("61.0 [55.0, 67.0]") == 6
    assert page.count("<polyline") == 1  # reward; entropy is undefined throughout
    assert "&lt;script&gt;1&lt;/script&gt;" in page
    assert "<script>" not in page
    assert "a &amp; b" in page
    assert "runs/&lt;x&gt;" in page
    assert "trained: 2 updates, 4 optimizer steps" in page
    assert "alarm in 2 of 2 updates, first in update 1: nothing was trained: all &lt;b&gt;" in page


def test_the_page_shows_fresh_answers_or_why_there_are_none(tmp_path: Path) -> None:
    """Guards against fix and damage rates without their control, and against columns in another order than the heads."""
    heads = ["update", "solve", "refined", "fix rate", "fresh", "damage rate", "fresh"]
    folder = run_folder(tmp_path / "run")
    fresh = {"fix_fresh": {**ESTIMATE, "value": 0.6}, "damage_fresh": {**ESTIMATE, "value": 0.59}}
    append(folder.metrics, [{"batch": 0, "update": 5, "phase": "evaluation"} | dict.fromkeys(RATES, ESTIMATE) | fresh])
    page = write_report(folder).read_text()
    assert re.findall("<th>([^<]*)</th>", page) == heads
    limits = "[55.0, 67.0]"
    wanted = [f"61.0 {limits}"] * 3 + [f"60.0 {limits}", f"61.0 {limits}", f"59.0 {limits}"]
    assert re.findall("<td>([^<]*)</td>", page)[-6:] == wanted
    assert NO_CONTROL not in page
    folder = RunFolder(tmp_path / "once")
    folder.create("")
    undefined = {"value": None, "low": None, "high": None, "n": 0}
    none = {"fix_fresh": undefined, "damage_fresh": undefined}
    append(folder.metrics, [{"batch": 0, "update": 5, "phase": "evaluation"} | dict.fromkeys(RATES, ESTIMATE) | none])
    page = write_report(folder).read_text()
    assert re.findall("<th>([^<]*)</th>", page) == [head for head in heads if head != "fresh"]
    assert NO_CONTROL in page


def test_the_page_shows_bounds_and_a_curve_if_replies_were_not_graded(tmp_path: Path) -> None:
    """Guards against an accuracy of the replies that could be graded alone, and a rising share that nobody sees."""
    folder = run_folder(tmp_path / "run")
    before = write_report(folder).read_text()
    assert "parentheses" not in before
    assert "replies that were not graded" not in before
    bounds = {"solve": {**ESTIMATE, "at_least": 0.59, "at_most": 0.63}, "n_not_graded": 4}
    append(folder.metrics, [{"batch": 0, "update": 5, "phase": "evaluation"} | dict.fromkeys(RATES, ESTIMATE) | bounds])
    append(
        folder.metrics,
        [
            {"batch": 0, "update": n, "phase": "solve", "alarms": [], "optimizer_steps": 4, "n_not_graded": n}
            for n in (6, 7)
        ],
    )
    page = write_report(folder).read_text()
    assert page.count("<td>61.0 [55.0, 67.0] (59.0 to 63.0)</td>") == 1
    assert page.count("<td>61.0 [55.0, 67.0]</td>") == 11
    assert "in parentheses: the accuracy if all replies that were not graded are wrong" in page
    assert page.count("<polyline") == 2
