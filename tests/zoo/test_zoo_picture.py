"""The picture of the comparison of methods, from result files."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from zoo_picture import Place, curves, picture
from zoo_results import T1, Answers, Point, Run, Runs

SVG = "{http://www.w3.org/2000/svg}"


def run(arm: str, seed: int, n_right: int, sampled: int) -> Run:
    """Return a run with `n_right` of four right drafts to one problem after 80 updates, all mended by refinement."""
    updates = 0 if arm == "start" else 80
    drafts = np.arange(4)[None] < n_right
    answers = Answers(drafts, np.ones_like(drafts))
    return Run(arm, seed, 3e-4, "p", prepared=5, points={updates: Point(sampled, 0, {}, {T1: answers})})


def some_runs() -> Runs:
    return {
        "start": {0: run("start", 0, 1, -5)},
        "grpo": {0: run("grpo", 0, 2, 95), 1: run("grpo", 1, 4, 105)},
        "pag": {0: run("pag", 0, 3, 195)},
    }


def test_curves_are_means_from_the_start_model_on() -> None:
    """Guards against curves without the start, and tokens without those of prepared data."""
    found = curves(some_runs(), "grpo")
    assert [(p.tokens, p.value) for p in found["solve"]] == [(0, 0.25), (105, 0.75)]
    assert [(p.tokens, p.value) for p in found["refined"]] == [(0, 1), (105, 1)]
    assert math.isnan(found["solve"][0].low)
    assert found["solve"][1].low == pytest.approx(0.75 - 12.706 * 0.25, abs=1e-3)


def test_the_picture_has_a_panel_per_arm() -> None:
    """Guards against curves on other axes, and names that break the XML: 25% is low, and 105 tokens are at the right."""
    grpo = curves(some_runs(), "grpo")
    root = ET.fromstring(picture({"A & B": curves(some_runs(), "pag"), "C": grpo}, grpo))
    titles = [text.text for text in root.iter(f"{SVG}text") if text.get("font-weight")]
    assert titles == ["A & B", "C"]
    lines = [line.get("points") for line in root.iter(f"{SVG}polyline")]
    assert len(lines) == 2 * 4
    assert lines[0] == lines[4] == lines[6] == "0.0,134.4 196.0,58.1"
    assert lines[1] == "0.0,20.0 196.0,20.0"
    assert lines[2] == "0.0,134.4 373.3,58.1"  # beyond the panel's edge, where it is cut
    assert root.find(f"{SVG}defs/{SVG}clipPath") is not None


def test_a_run_without_an_interval_has_a_closed_band() -> None:
    """Guards against NaN in the picture, which no browser draws."""
    one = {"solve": [Place(10, 0.5, math.nan, math.nan)], "refined": [Place(10, 0.6, math.nan, math.nan)]}
    assert "nan" not in picture({"one": one}, one)
