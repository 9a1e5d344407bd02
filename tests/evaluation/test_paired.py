"""Comparisons of evaluations by path, from Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import rethink
from rethink.policies.fake import FakePolicy
from support.evaluations import answers

LOGS = Path(__file__).parent / "other_tools" / "data"
R, W = True, False


def test_the_logs_of_two_tools_differ_as_counted_by_hand() -> None:
    """Guards against another score than the named one, and against the wrong sign. Sum by sum, lm-evaluation-harness has
    right, right, wrong, wrong; the two epochs of inspect_ai are read from its file here."""
    (before,) = (LOGS / "lm-eval" / "before").glob("samples_sums*")
    log = json.loads((LOGS / "after.json").read_text())
    verdicts: dict[str, list[bool]] = {}
    for sample in log["samples"]:
        if sample.get("scores"):
            verdicts.setdefault(sample["id"], []).append(sample["scores"]["includes"]["value"] == "C")
    n_replies = sum(map(len, verdicts.values()))
    wanted = sum(map(sum, verdicts.values())) / n_replies - 2 / 4
    found = rethink.compare(before, LOGS / "after.json", metric=["exact_match,flexible", "includes"])
    gap = found.differences["solve"]["sums"]
    assert gap.value == pytest.approx(wanted)
    assert gap.n == 4
    assert str(found).startswith(f"{LOGS / 'after.json'} minus {before}, in points, paired by problem")
    assert f"solve, sums  {gap.percent('+')}" in str(found)
    swapped = rethink.compare(LOGS / "after.json", before, metric=["exact_match,flexible", "includes"])
    assert swapped.differences["solve"]["sums"].value == pytest.approx(-wanted)


def test_a_path_a_loaded_evaluation_and_answers_are_the_same(tmp_path: Path) -> None:
    """Guards against an argument that is read in another way than the file that it stands for."""
    problems = rethink.load_problems(rethink.ProblemSource("countdown", limit=5))
    before = rethink.evaluate(FakePolicy(lambda *_: "?"), problems, file=tmp_path / "before.jsonl")
    right = FakePolicy(lambda *_: "1 + 1 = 2 ; 2 + 1 = 3")
    after = rethink.evaluate(right, problems, file=tmp_path / "after.jsonl")
    by_path = rethink.compare(tmp_path / "before.jsonl", str(tmp_path / "after.jsonl"), ks=[1])
    loaded = rethink.compare(rethink.load_evaluation(tmp_path / "before.jsonl"), tmp_path / "after.jsonl", ks=[1])
    assert by_path == loaded
    answered = rethink.compare(before, after, ks=[1])
    assert answered.differences == by_path.differences
    assert str(answered).startswith("after minus before, in points")
    assert {"solve pass@1", "refined pass@1"} < by_path.differences.keys()


@pytest.mark.parametrize(
    ("before", "metric", "message"),
    [
        (answers([(R, R)]), "acc", "metric has no effect on evaluations that are loaded"),
        ([], (), "compare needs paths, or what load_evaluation or evaluate returns"),
        (["answers.jsonl"], (), "compare needs paths"),
        ("missing", (), "missing holds no answers of an evaluation"),
    ],
)
def test_mistakes_are_named(before: object, metric: str, message: str) -> None:
    """Guards against an error from the depths, and a metric that is silently ignored."""
    with pytest.raises(rethink.UserError, match=message):
        rethink.compare(before, answers([(W, R)]), metric=metric)  # type: ignore[arg-type]
