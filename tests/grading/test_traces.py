"""Answers of a real model (Qwen3-4B, five benchmarks), checked by hand: this grader against another one.

traces.tsv has every boxed answer on which the two graders disagree, or that both call wrong. `truth` is a human verdict:
"right"; "finer" (it rounds to the gold answer) and "coarser" (the gold answer rounds to it), which are wrong because
numbers are exact; "wrong". Both graders call the other 877 right, and they are.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from pyarrow import parquet

from rethink.problems.mathematics import compare, parse_gold, verify
from support.grading_workers import long_timeout_pool

_long_timeouts = pytest.fixture(scope="module", autouse=True)(long_timeout_pool)


class Case(NamedTuple):
    row: str
    benchmark: str
    truth: str
    ours: str
    score: str
    why: str
    gold: str
    answer: str


LINES = Path(__file__).with_name("traces.tsv").read_text(encoding="utf-8").splitlines()
CASES = [Case(*line.split("\t")) for line in LINES[1:]]


@pytest.mark.slow
def test_verdicts_are_those_of_the_table() -> None:
    """Guards against verdicts that change unnoticed. Whoever fixes a false negative updates its line of the table."""
    with ThreadPoolExecutor(2) as threads:
        verdicts = list(threads.map(lambda case: str(compare(case.answer, parse_gold(case.gold))), CASES))
    assert [case for case, verdict in zip(CASES, verdicts, strict=True) if verdict != case.ours] == []


def test_error_counts_of_both_graders() -> None:
    """Guards the published numbers: the other grader calls 73 right answers wrong, this one 6, and no wrong one right."""
    counts = Counter((case.truth, case.ours, case.score) for case in CASES)
    assert counts == {
        ("right", "right", "wrong"): 67,
        ("right", "wrong", "wrong"): 6,
        ("finer", "wrong", "wrong"): 12,
        ("coarser", "wrong", "wrong"): 5,
        ("wrong", "wrong", "wrong"): 111,
    }


@pytest.mark.slow
def test_all_replies(real_data: Path) -> None:
    """Guards the table itself: of 1,526 replies, 1,459 verdicts agree (95.6%), 448 have no box, and all are graded."""
    rows = parquet.read_table(real_data / "traces" / "qwen3-4b.parquet").to_pylist()
    with ThreadPoolExecutor(2) as threads:
        verdicts = list(threads.map(lambda row: verify(row["response"], parse_gold(row["ground_truth"])), rows))
    scores = ["right" if float(row["score"]) == 1 else "wrong" for row in rows]
    counts = Counter((str(v), score) for v, score in zip(verdicts, scores, strict=True))
    assert counts == {("right", "right"): 877, ("right", "wrong"): 67, ("wrong", "wrong"): 582}
    assert sum(v.extracted is None for v in verdicts) == 582 - 134
    told = {
        n: (str(verdicts[n]), row["ground_truth"], (verdicts[n].extracted or "").replace("\n", " "), row["benchmark"])
        for n, row in enumerate(rows)
        if verdicts[n].extracted is not None and scores[n] == "wrong"
    }
    assert told == {int(case.row): (case.ours, case.gold, case.answer, case.benchmark) for case in CASES}
