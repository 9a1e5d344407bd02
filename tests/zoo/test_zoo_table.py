"""The tables of the comparison of methods, from result files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from zoo_results import T1, Answers, Point, Run, Runs, Verdicts, write_run
from zoo_table import (
    ablation_table,
    difference_table,
    gap_table,
    holm,
    main,
    main_table,
    over_training,
    problem_table,
    rate_table,
    repeated_table,
    solve_update_table,
)

N = 50


def verdicts(n_right: int) -> Verdicts:
    """Return verdicts on four answers to each of 50 problems, `n_right` of which are right."""
    return (np.arange(4 * N) < n_right).reshape(N, 4)


def some_runs(solve: dict[str, tuple[int, ...]], phases: dict[str, int] | None = None) -> Runs:
    """Return runs with these numbers of right drafts by seed; refinement mends ten more."""
    start = Point(0, 0, {}, {T1: answers(20)})
    runs: Runs = {"start": {seed: Run("start", seed, 0.0, "p", points={0: start}) for seed in range(8)}}
    for arm, right in solve.items():
        for seed, n in enumerate(right):
            points = {u: Point(1000 * u, 900 * u, phases or {"solve": u}, {T1: answers(n + u)}) for u in (80, 160)}
            runs.setdefault(arm, {})[seed] = Run(arm, seed, 3e-4, "p", 0, {"sampled": 160}, points)
    return runs


def answers(n_right: int) -> Answers:
    others = {"merge:3": verdicts(n_right)[:, 0]}
    return Answers(
        verdicts(n_right), verdicts(min(200, n_right + 10)), others, {"vote:3": 0.2, "vote:4": 0.3, "not merged": 0.1}
    )


@pytest.mark.parametrize(
    ("given", "corrected"),
    [
        ({"a": 0.01}, {"a": 0.01}),
        ({"a": 0.04, "b": 0.01, "c": 0.03}, {"b": 0.03, "c": 0.06, "a": 0.06}),
        ({"a": 0.5, "b": 0.9}, {"a": 1.0, "b": 1.0}),
        ({"a": 0.02, "b": math.nan}, {"a": 0.02, "b": math.nan}),
        ({}, {}),
    ],
)
def test_holm(given: dict[str, float], corrected: dict[str, float]) -> None:
    """Guards against p-values that are multiplied by too little, and that fall."""
    assert holm(given) == pytest.approx(corrected, nan_ok=True)


def test_rates_are_means_over_runs() -> None:
    """Guards against pooled runs: 180, 184 and 182 right of 200; the start model answers alike with each seed."""
    lines = rate_table(some_runs({"grpo": (20, 24, 22)}), ["grpo", "pag"], "sampled", T1, ("solve", "refined")).split(
        "\n"
    )
    assert lines[0] == "|  | runs | solve | refined once |"
    assert lines[2:] == ["| start | 8 | 10.0 | 15.0 |", "| GRPO | 3 | 91.0 [88.5, 93.5] | 96.0 [93.5, 98.5] |", ""]


def test_the_main_table_row_by_row() -> None:
    """Guards against cells in the wrong column, and against another arm's differences.

    GRPO's drafts are right in 160 and 164 of 200 cases, and a refinement mends ten more. The second run of PAG has
    spent the budget of sampled tokens after 80 updates."""
    runs = some_runs({"grpo": (0, 4), "pag": (4, 10)})
    for seed, run in runs["pag"].items():
        runs["pag"][seed] = replace(run, marks={"sampled": (160, 80)[seed], "trained": 160})
    for seed, run in runs["grpo"].items():
        runs["grpo"][seed] = replace(run, marks={"sampled": 160, "trained": 80})
    others = {"self-refine": verdicts(120)[:, 0]}
    lengths = {"tokens": 40.0, "refined tokens": 12.4}
    for run in runs["pag"].values():
        for point in run.points.values():
            by_sampling = point.by_sampling
            assert isinstance(by_sampling, dict)
            by_sampling[T1] = replace(by_sampling[T1], others=others, numbers=lengths)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in main_table(runs).split("\n")[:-1]]
    assert rows[0][:7] == [
        "",
        "updates",
        "tokens",
        "solve",
        "refined",
        "minus GRPO",
        "the same at equal trained tokens",
    ]
    start, grpo, pag = rows[2:]
    assert start[:7] == ["start", "0", "- + -", "10.0", "15.0", "-", "-"]
    assert [grpo[1], grpo[5], grpo[6], grpo[-1]] == ["160", "-", "-", "-"]
    assert grpo[3].startswith("81.0 [")
    assert grpo[4].startswith("86.0 [")
    assert pag[1] == "80-160"
    assert pag[2] == "40 + 12"
    assert pag[3].startswith("63.5 [")  # 164 and 90 of 200
    assert pag[5].startswith("-17.5 [")  # 174 - 170 and 100 - 174 of 200
    assert pag[6].startswith("+42.5 [")  # after 160 updates minus GRPO's after 80: 174 - 90 and 180 - 94
    assert pag[-1] == "60.0 (checked and corrected)"


def test_differences_are_paired_by_seed_and_corrected() -> None:
    """Guards against unpaired differences: +1, +2 and +3 points over runs that differ by more, and two arms in Holm."""
    runs = some_runs({"grpo": (0, 10, 20), "think-twice": (2, 14, 26), "pag": (1, 9)})
    lines = difference_table(runs, ["grpo", "think-twice", "pag", "score"], "sampled", T1, ("solve",)).split("\n")
    assert [line.split(" | ")[0] for line in lines[2:-1]] == ["| ThinkTwice", "| PAG"]
    assert lines[2] == "| ThinkTwice | +2.0 [-0.5, +4.5], p 0.148 |"
    assert "p 1.000" in lines[3]


def test_differences_over_problems() -> None:
    """Guards against problems of other seeds: of the seeds that both have, 2 of 200 answers differ."""
    table = problem_table(some_runs({"grpo": (0, 10), "pag": (2,)}), ["pag"], 160, T1, ("solve",))
    assert "| PAG | +1.0 [" in table


def test_the_gap_is_that_to_votes() -> None:
    """Guards against another baseline: merged is right in 40 of 50, a vote in 20 or 30 percent."""
    runs = some_runs({"grpo": (0, 0)})
    assert gap_table(runs, ["grpo"], 160).split("\n")[3] == "| GRPO | +60.0 | +50.0 | 10.0 |"


def test_equal_solve_updates() -> None:
    """Guards against another partner: after 160 updates, 80 of them solve, as many as GRPO after 80."""
    runs = some_runs({"grpo": (0, 2)}) | some_runs({"think-twice": (0, 4)}, {"solve": 80, "refine": 80})
    lines = solve_update_table(runs, T1).split("\n")
    assert lines[2].startswith("| ThinkTwice after 160 minus GRPO after 80 | +40.5 [")
    assert len(lines) == 4


def test_over_training() -> None:
    """Guards against missing marks: the start, two numbers of updates, and none for the others."""
    table = over_training(some_runs({"grpo": (0, 2)}), T1, "refined")
    assert table.split("\n")[2] == "| GRPO | 0 to 1 | 15.0 | - | 45.5 [39.1, 51.9] | 85.5 [79.1, 91.9] | - |"


def test_over_training_all_points_are_of_the_same_runs() -> None:
    """Guards against a step from five seeds to three, which looks like progress: only seed 0 has 320 updates."""
    runs = some_runs({"grpo": (0, 40)})
    runs["grpo"][0].points[320] = Point(0, 0, {}, {T1: answers(100)})  # type: ignore[index]
    table = over_training(runs, T1, "solve")
    assert table.split("\n")[2] == "| GRPO | 0 | 10.0 | - | 40.0 | 80.0 | 50.0 |"


def test_ablations_are_compared_with_their_method() -> None:
    """Guards against another arm's differences, and a row for one seed: refinement mends ten of 200 in all runs."""
    runs = some_runs({"pag": (0, 4), "pag-revise-all": (2, 10), "wrong-drafts": (1, 2), "think-twice": (0,)})
    for arm, right in (("pag", 120), ("pag-revise-all", 140)):
        for run in runs[arm].values():
            by_sampling = run.points[160].by_sampling
            by_sampling[T1] = replace(by_sampling[T1], others={"self-refine": verdicts(right)[:, 0]})  # type: ignore[index]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in ablation_table(runs, 160).split("\n")[2:-1]]
    assert [row[:2] for row in rows] == [["PAG, revising everything", "2"]]
    assert rows[0][2].startswith("+2.0 [")
    assert rows[0][3].startswith("+2.0 [")
    assert rows[0][6] == "+10.0 (checked and corrected)"


def test_new_seeds_are_shown_beside_the_others() -> None:
    """Guards against new seeds in the first column: 1 and 3 of 200 more with the first seeds, 2 and 6 with the new ones."""
    runs = some_runs({"grpo": (0, 0, 0, 0, 0, 0, 0, 0), "score": (2, 2, 2, 2, 2, 4, 4, 10)})
    assert "SCoRe" not in repeated_table(runs)  # none has 320 updates
    for arm, right in (("grpo", 40), ("score", 50)):
        for seed in (5, 6, 7):
            runs[arm][seed].points[320] = Point(0, 0, {}, {T1: answers(right)})  # type: ignore[index]
    row = [cell.strip() for cell in repeated_table(runs).split("\n")[2].split("|")[1:-1]]
    assert row[:2] == ["SCoRe", "+1.0"]
    assert row[2].startswith("+3.0 [")
    assert row[3:5] == ["+5.0", "+5.0"]


def test_all_tables_from_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against tables that fail where arms, marks and samplings are missing."""
    for by_seed in some_runs({"grpo": (0, 2), "think-twice": (1, 4), "pag-revise-all": (3,)}).values():
        for run in by_seed.values():
            write_run(tmp_path, run)
    monkeypatch.setattr("sys.argv", ["zoo_table.py", str(tmp_path)])
    main()
    printed = capsys.readouterr().out
    assert "| ThinkTwice | 0.0003 | 160 | 0.00 | 0.16 | 0.14 |" in printed
    assert "## At equal trained tokens" in printed
    assert "Not trained for so long: GRPO, ThinkTwice." in printed
    assert "nan" not in printed
