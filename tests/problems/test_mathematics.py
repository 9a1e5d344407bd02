"""The boxed format: equality of answers, and votes against verdicts. test_mathematics_replies.py tests the verifier."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from rethink.problems import mathematics
from rethink.types import Verdict
from support.grading_workers import long_timeout_pool

_long_timeouts = pytest.fixture(scope="module", autouse=True)(long_timeout_pool)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("\\frac12", "0.5", True),
        ("2, 1", "1, 2", True),
        ("1/2", "0.51", False),
        ("(2, 1)", "(1, 2)", False),
        ("0.33", "1/3", False),
        pytest.param("x+1", "1+x", True, marks=pytest.mark.slow),  # in a worker
        pytest.param("2003^{2002^{2001}}", "7", False, marks=pytest.mark.slow),
    ],
)
def test_equal_answers(a: str, b: str, equal: bool) -> None:
    """Guards against votes split over spellings of one number."""
    assert (mathematics.equal_answers(a, b), mathematics.equal_answers(b, a)) == (equal, equal)
    assert mathematics.equal_answers(a, a)


def test_equal_answers_is_symmetric(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against groups of votes that depend on which reply came first, and a failed comparison that is a vote."""
    monkeypatch.setattr(mathematics, "_compare", lambda a, gold: Verdict(a < gold))
    assert mathematics.equal_answers("a", "b")
    assert mathematics.equal_answers("b", "a")
    assert not mathematics.equal_answers("a", "a")
    monkeypatch.setattr(mathematics, "_compare", lambda a, gold: Verdict(None, "failed"))
    assert not mathematics.equal_answers("x+1", "1+x")


def test_parse_gold_and_long_answers() -> None:
    """Guards against a whole solution as gold answer, and against megabytes that reach the algebra."""
    golds = {"3 + 4 = 7\n#### 7": "7", "\\boxed{3}, hence \\boxed{\\frac{1}{2}}.": "\\frac{1}{2}", " 42 ": "42"}
    assert [mathematics.parse_gold(text) for text in golds] == list(golds.values())
    assert mathematics.compare("7" * 501, "7").reason == "the answer has 501 characters"


@pytest.mark.slow
def test_votes_agree_with_verdicts_on_real_replies(real_data: Path) -> None:
    """Guards against an extracted answer that is missing or compares other than the verdict says."""
    rows = parquet.read_table(real_data / "traces" / "qwen3-4b.parquet").to_pylist()

    def is_right(row: dict[str, Any]) -> bool:
        gold = mathematics.parse_gold(row["ground_truth"])
        verdict = mathematics.verify(row["response"], gold)
        answer = mathematics.extract_answer(row["response"], False)
        assert answer is None or mathematics.extract_answer(row["response"], True) == answer
        assert (answer is None) == (verdict.extracted is None)
        right = answer is not None and mathematics.equal_answers(answer, gold)
        assert right == verdict.right
        return right

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(is_right, rows))
    assert (len(found), sum(found)) == (1526, 944)
