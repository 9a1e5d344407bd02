"""A held-out share of a source that training never sees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from rethink.errors import UserError
from rethink.problems import equation, mathematics
from rethink.problems.held_out import bucket
from rethink.problems.source import load_problems, refuse_overlap
from rethink.settings import ProblemSource
from rethink.types import Message, Problem


def file(folder: Path, rows: list[dict[str, Any]]) -> str:
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "mine.jsonl")


@pytest.fixture
def sums(tmp_path: Path) -> str:
    return file(tmp_path, [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(1009)])


def ids(source: ProblemSource, purpose: Literal["train", "test"] = "train", seed: int = 0) -> list[str]:
    return [p.id for p in load_problems(source, seed, purpose)]


def test_two_parts_of_a_source(sums: str) -> None:
    """Guards against a problem in both parts or neither, another order, and a wrong share."""
    source = ProblemSource(sums, held_out=0.2)
    train, test = ids(source), ids(source, "test")
    assert sorted(train + test, key=lambda name: int(name.split("/")[1])) == ids(ProblemSource(sums))
    assert train == [name for name in ids(ProblemSource(sums)) if name in set(train)]
    # 1009 draws of 0.2: 202 expected, with a standard deviation of 12.7; three of them.
    assert len(test) == pytest.approx(202, abs=38)
    refuse_overlap(load_problems(source), load_problems(source, purpose="test"))


def test_a_problem_stays_in_its_part(sums: str, tmp_path: Path) -> None:
    """Guards against a part that depends on the seed, the other problems or their order."""
    source = ProblemSource(sums, held_out=0.2)
    questions = {p.question for p in load_problems(source, seed=5, purpose="test")}
    assert questions == {p.question for p in load_problems(source, purpose="test")}
    rows = [json.loads(line) for line in Path(sums).read_text().splitlines()][::-7]
    (tmp_path / "other").mkdir()
    others = ProblemSource(file(tmp_path / "other", rows), held_out=0.2)
    assert {p.question for p in load_problems(others, purpose="test")} == questions & {r["question"] for r in rows}
    larger = {p.question for p in load_problems(ProblemSource(sums, held_out=0.3), purpose="test")}
    assert questions < larger


@pytest.mark.parametrize("verifier", ["choice", "mixed"])
def test_drawn_options_change_no_part(tmp_path: Path, verifier: str) -> None:
    """Guards against held-out questions of multiple choice that another seed, which orders the options, trains on."""
    rows = [{"question": f"{n} + 1?", "options": [str(n), str(n + 1), str(n + 2)], "answer": 1} for n in range(200)]
    source = ProblemSource(file(tmp_path, rows), verifier=verifier, options="options", held_out=0.3)
    assert load_problems(source, 0, "test")[0].question != load_problems(source, 5, "test")[0].question
    assert ids(source, "test") == ids(source, "test", seed=5)
    with pytest.raises(UserError, match="held-out problems are also training problems"):
        refuse_overlap(load_problems(source, 0), load_problems(source, 5))


def test_limit_counts_after_the_split(sums: str) -> None:
    """Guards against a limit on rows that belong to the other part, and a default that holds problems out."""
    source = ProblemSource(sums, held_out=0.2)
    assert ids(ProblemSource(sums, held_out=0.2, limit=7), "test") == ids(source, "test")[:7]
    assert ids(ProblemSource(sums)) == ids(ProblemSource(sums), "test")


def test_a_share_out_of_range(sums: str) -> None:
    """Guards against a share that leaves a part empty."""
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="held_out must be at least 0 and below 1"):
            load_problems(ProblemSource(sums, held_out=share))


def test_the_same_numbers_are_in_one_part() -> None:
    """Guards against test problems that are training problems with their numbers in another order."""
    texts = [json.dumps({"numbers": [n, 70 + n, 30], "target": 60}) for n in range(30)]
    reversed_texts = [json.dumps({"numbers": [30, 70 + n, n], "target": 60}) for n in range(30)]
    first, second = ([bucket(Problem("p", t, t, equation.verify)) for t in ts] for ts in (texts, reversed_texts))
    assert first == second
    assert len(set(first)) == 30


def xlam(request: str, *names: str) -> dict[str, Any]:
    tools = [{"name": name, "parameters": {}} for name in names]
    return {"query": request, "answers": "[]", "tools": json.dumps(tools)}


def test_the_same_functions_are_in_one_part(tmp_path: Path) -> None:
    """Guards against a function that is memorized in training and used in evaluation."""
    rows = [xlam("one", "f", "g"), xlam("two", "g", "f"), xlam("one", "f"), xlam("three", "f", "h")]
    source = ProblemSource(file(tmp_path, rows), verifier="calls", question="query", answer="answers")
    found = [bucket(p) for p in load_problems(source)]
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_conversations_differ_by_their_earlier_turns() -> None:
    """Guards against "And why?" after different questions that counts as one problem; a system message is no difference."""
    why = Problem("p", "And why?", "4", mathematics.verify)
    first, second = (replace(why, earlier=(Message("user", q), Message("assistant", "4"))) for q in ("2+2?", "3+1?"))
    refuse_overlap([first], [second, why])
    with pytest.raises(UserError, match="1 held-out problems are also training problems"):
        refuse_overlap([first], [replace(first, earlier=(Message("system", "Be brief."), *first.earlier))])
