"""Comparing evaluations of other tools, with each other and with ours."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.evaluation.compare import compare
from rethink.evaluation.drafts import DraftColumns, read_drafts
from rethink.evaluation.paired import read_pairs
from rethink.jsonl import append
from rethink.settings import ProblemSource
from support.command_line import in_process
from support.evaluations import answer

PAGE = Path(__file__).parents[3] / "docs" / "other-evaluations.md"


def points(before: Path, after: Path, *metrics: str) -> dict[str, float]:
    """The difference of first answers per suite, in points."""
    found = compare(read_pairs([(before, after)], metrics))
    return {suite: 100 * gap.value for suite, gap in found.differences["solve"].items()}


def test_a_difference_is_that_of_the_verdicts(logs: Path) -> None:
    """Guards against replies that are paired with another problem's. By hand, right of four before and after:
    flexible 1 1 0 0 and 1 1 1 0; em 1 0 0 0 and 0 1 1 0. acc is that of the same model.
    """
    lm, light = logs / "lm-eval", logs / "lighteval"
    assert points(lm / "before", lm / "after", "exact_match,flexible", "acc") == pytest.approx(
        {"sums": 25, "pick": 0, "mean": 12.5}
    )
    assert points(light / "before", light / "after", "em") == pytest.approx({"sums|0": 25})


def test_tools_are_paired_by_question(logs: Path, tmp_path: Path) -> None:
    """Guards against problems of two tools that are the same and are not found, in another order and with a label."""
    (sums,) = (logs / "lm-eval" / "after").glob("samples_sums*")
    lines = sums.read_text().replace("What is 2 + 2?", "Question: What is 2  + 2? Answer:").splitlines()
    sums.write_text("\n".join(reversed(lines)) + "\n")
    # strict is 0 0 1 0, match 1 0 0 0 and 0 0 0 0 in the two epochs: 1/8
    assert points(logs / "before.eval", sums, "match", "exact_match,strict") == pytest.approx({"sums": 12.5})
    assert points(sums, logs / "before.eval", "match", "exact_match,strict") == pytest.approx({"sums": -12.5})
    assert points(logs / "lighteval" / "before", sums, "em", "exact_match,flexible") == pytest.approx({"sums|0": 50})
    ours = [
        replace(answer(f"p{i}", right, None), question=f"What is {i} + {i}?") for i, right in ((4, True), (1, False))
    ]
    file = tmp_path / "answers.jsonl"
    append(file, [asdict(one) for one in ours])
    # ours: 4 right, 1 wrong; flexible after: 4 wrong, 1 right; two problems are only theirs
    found = compare(read_pairs([(file, sums)], ["exact_match,flexible"]))
    assert (found.n_shared, found.n_unshared) == (2, 2)
    assert {suite: gap.value for suite, gap in found.differences["solve"].items()} == pytest.approx({"s": 0})


def test_other_documents_are_refused(logs: Path) -> None:
    """Guards against documents with equal ids of data sets that differ."""
    lm = logs / "lm-eval"
    (sums,), (other,) = ((lm / name).glob("samples_sums*") for name in ("before", "after"))
    whole = other.read_text()
    other.write_text(whole.replace("3 + 3", "3 + 4"))
    with pytest.raises(UserError, match="problem sums/2 has different questions in the two evaluations"):
        points(sums, other, "exact_match,strict")
    other.write_text(whole.replace('"target": "6"', '"target": "7"'))
    with pytest.raises(UserError, match="problem sums/2 has different gold answers in the two evaluations"):
        points(sums, other, "exact_match,strict")
    other.write_text(re.sub(r"What is (\d) \+", r"What was \1 +", whole))
    with pytest.raises(UserError, match=r"no problem in common; .*'What is 1 \+ 1\?', 'What was 1 \+"):
        points(logs / "before.eval", other, "exact_match,strict", "match")


def test_a_metric_without_a_log_is_refused(tmp_path: Path) -> None:
    """Guards against an option that does nothing."""
    for name in "ab":
        append(tmp_path / f"{name}.jsonl", [asdict(answer("p", True, True))])
    with pytest.raises(UserError, match="--metric acc has no effect"):
        read_pairs([(tmp_path / "a.jsonl", tmp_path / "b.jsonl")], ["acc"])


def test_replies_of_a_log_are_drafts(logs: Path) -> None:
    """Guards against drafts that are missing, doubled (once per filter), or those of another problem."""
    (sums,) = (logs / "lm-eval" / "before").glob("samples_sums*")
    problems, drafts = read_drafts(sums, ProblemSource(), DraftColumns(), None)
    assert [(p.question, p.gold) for p in problems] == [(f"What is {i} + {i}?", str(2 * i)) for i in range(1, 5)]
    assert list(drafts.values()) == [["2"], ["It is 4"], ["7"], ["9"]]
    _, drafts = read_drafts(logs / "before.eval", ProblemSource(), DraftColumns(), None)
    assert next(iter(drafts.values())) == ["2", "The answer is 7"]


def test_the_python_of_the_page_runs(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against names that no longer exist. Without `lenient`, no draft in the log would be right."""
    monkeypatch.chdir(logs)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(code, PAGE.name, "exec"), found)
    assert "solve, sums" in capsys.readouterr().out
    assert list(found["table"].right) == [False, False, False, True, True, True, False, False]
    rights = [problem.grade(found["drafts"][problem.id][0]).right for problem in found["problems"]]
    assert rights == [True, False, False, False]  # the replies 2, The answer is 2, 4 and 5


@pytest.mark.slow
def test_the_commands_of_the_page_run(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against documented commands that fail. In the last, lenient grading and the strict filter differ on "It is 2"
    and on "It is 4".
    """
    rethink = in_process(capsys, monkeypatch, logs)
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 5
    for command in commands:
        done = rethink(*shlex.split(command)[1:])
        assert done.code == 0, f"{command}\n{done.err}"
    records = [json.loads(line) for line in (logs / "verdicts.jsonl").read_text().splitlines()]
    assert [(r["verdict"], r["against"]) for r in records] == [
        ("right", "wrong"),
        ("right", "wrong"),
        ("right", "right"),
        ("wrong", "wrong"),
    ]
