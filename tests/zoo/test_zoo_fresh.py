"""The table that compares refinements with fresh answers."""

from __future__ import annotations

import numpy as np

from zoo_fresh import fresh_table
from zoo_results import T1, Answers, Point, Run, Runs


def run(arm: str, seed: int, drafts: list[list[int]], refined: list[list[int]]) -> Run:
    point = Point(0, 0, {}, {T1: Answers(np.array(drafts, bool), np.array(refined, bool), {}, {})})
    return Run(arm, seed, 0.0, "p", 0, {"sampled": 160}, {0 if arm == "start" else 160: point})


def test_fix_and_damage_by_hand() -> None:
    """Guards against a swapped sign and against new seeds in a column of the first ones.

    Of two drafts of a problem, one is right, and each is the fresh answer to the other: a fresh answer repairs all wrong
    drafts and damages all right ones. Refinements repair none with seed 0, all with seed 5, and damage none.
    """
    drafts, repaired = [[1, 0], [0, 1]], [[1, 1], [1, 1]]
    runs: Runs = {"start": {0: run("start", 0, drafts, drafts)}}
    runs["score"] = {0: run("score", 0, drafts, drafts), 5: run("score", 5, drafts, repaired)}
    lines = fresh_table(runs).split("\n")
    assert lines[2] == "| start | -100.0 | - | - | -100.0 | - |"
    assert lines[3] == "| SCoRe | -100.0 | +0.0 | - | -100.0 | -100.0 |"
    assert len(lines) == 5
