"""`rethink eval --drafts`, and mistakes of `rethink eval`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rethink.evaluation.answers import read_answers
from rethink.problems.files import read_rows
from support.command_line import PLAIN, Rethink, assert_one_message
from support.fake_endpoint import FakeEndpoint, completion

SAMPLING = ["evaluation.sampling={temperature = 0.0, max_tokens = 24}"]


def numbers_of(folder: Path, suite: str) -> dict[str, Any]:
    """Return the numbers of an evaluation's only strategy."""
    found = json.loads((folder / "summary.json").read_text())["suites"][suite]["strategies"]
    (numbers,) = found.values()
    return dict(numbers)


def texts(folder: Path) -> list[tuple[str, str]]:
    return [(a.problem, a.firsts[0].text) for a in read_answers(folder / "answers.jsonl")]


@pytest.mark.slow
def test_drafts_of_an_evaluation(rethink: Rethink, tmp_path: Path, model_folders: dict[str, Path]) -> None:
    """Guards against drafts that are sampled again when another model refines them. Their folder names the problems."""
    warm = ["evaluation.sampling={temperature = 1.0, max_tokens = 24}", *PLAIN]
    first = ["eval", "tiny", "--on", "countdown", "evaluation.problems.limit=7", "evaluation.n=2", *warm]
    assert rethink(*first, "--strategy", "solve", "--out", "a").code == 0
    other = ["eval", model_folders["qwen3"], *PLAIN, *SAMPLING]
    assert rethink(*other, "--drafts", "a", "--out", "b").code == 0
    assert rethink(*other, "--drafts", "a/answers.jsonl", "--on", "countdown", "--out", "c").code == 0
    assert texts(tmp_path / "a") == texts(tmp_path / "b") == texts(tmp_path / "c")
    assert (tmp_path / "b" / "answers.jsonl").read_bytes() == (tmp_path / "c" / "answers.jsonl").read_bytes()
    assert rethink(*other, "--drafts", "a", "--out", "d", "evaluation.problems.limit=3").code == 0
    assert texts(tmp_path / "d") == texts(tmp_path / "a")[:3]
    numbers = [numbers_of(tmp_path / folder, "countdown") for folder in "ab"]
    assert numbers[0]["solve"]["accuracy"] == numbers[1]["solve"]["accuracy"]
    assert numbers[1]["solve"]["truncated"]["value"] is None
    some = rethink(*other, "--drafts", "d", "--on", "countdown", "--out", "f", "evaluation.problems.limit=7")
    assert "5 of 7 problems have no draft" in some.err
    shutil.copy(tmp_path / "a" / "answers.jsonl", tmp_path / "alone.jsonl")
    assert_one_message(rethink(*other, "--drafts", "alone.jsonl"), "no config.toml next to it", "--on")
    few = rethink(*other, "--drafts", "a", "--on", "countdown", "evaluation.problems.limit=3")
    assert_one_message(few, "drafts for problems other than the given ones")


def test_drafts_in_a_folder_of_shards(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a folder of files that counts as a damaged evaluation, and a list of replies that is one reply."""
    (tmp_path / "shards").mkdir()
    for n in range(2):
        row = {"question": f"{n}+1?", "answer": [str(n + 1), "x"], "response": [f"\\boxed{{{n + 1}}}", "\\boxed{9}"]}
        (tmp_path / "shards" / f"part-{n}.json").write_text(json.dumps([row]))
    found = rethink("eval", "tiny", *PLAIN, *SAMPLING, "--drafts", "shards", "--out", "a")
    assert found.code == 0, found.err
    answers = read_answers(tmp_path / "a" / "answers.jsonl")
    assert [(a.problem, a.firsts[0].right) for a in answers] == [
        ("shards/0", True), ("shards/0", False), ("shards/1", True), ("shards/1", False)
    ]  # fmt: skip


@pytest.mark.filterwarnings("default:.*replies are empty")
def test_drafts_of_any_file(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against columns that are not the named ones, and against unmatched rows that are dropped."""
    (tmp_path / "p.jsonl").write_text('{"question": "1 3 7", "answer": "21"}\n{"question": "2", "answer": "2"}\n')
    rows = [{"q": "1 3 7 . 9", "r": "\\boxed{21}"}, {"q": "1 3 7", "r": None}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["eval", "tiny", *PLAIN, *SAMPLING, "--drafts", "d.jsonl", "--question", "q", "--response", "r"]
    shown = rethink(*given, "--on", "p.jsonl", "--out", "a")
    assert shown.code == 0
    assert texts(tmp_path / "a") == [("p.jsonl/0", "\\boxed{21}")]
    assert "warning: d.jsonl: 1 of 2 replies are empty, and are left out\n" in shown.err
    assert "1 of 2 problems have no draft in d.jsonl" in shown.err
    assert_one_message(rethink(*given), "line 1: no column 'answer'")
    with (tmp_path / "d.jsonl").open("a") as out:
        out.write('{"q": "8 8", "r": "x"}\n')
    assert_one_message(rethink(*given, "--on", "p.jsonl"), "line 3: no problem named with --on has this question")


def test_real_answers_do_not_fit_the_tiny_model(rethink: Rethink, tmp_path: Path, real_data: Path) -> None:
    """Guards against long drafts that are cut to fit: they are graded, counted, and not refined."""
    file = real_data / "traces" / "qwen3-4b.parquet"
    columns = ["--question", "raw_question", "--answer", "ground_truth", "evaluation.problems.limit=5"]
    shown = rethink("eval", "tiny", "--drafts", file, *columns, *SAMPLING, *PLAIN, "--out", "e")
    assert shown.code == 0
    numbers = numbers_of(tmp_path / "e", "qwen3-4b.parquet")
    assert (numbers["n_drafts"], numbers["n_not_refined"], numbers["refined"]["accuracy"]["value"]) == (5, 5, None)
    assert shown.out.splitlines()[-1].split() == ["qwen3-4b.parquet", "0", "5", "0", "0"]


def test_real_answers_refined_at_an_endpoint(
    rethink: Rethink, tmp_path: Path, real_data: Path, endpoint: FakeEndpoint
) -> None:
    """Guards against drafts that are changed on their way, and problems taken for others: the refiner repeats drafts."""
    traces = [r.values for r in read_rows(real_data / "traces" / "qwen3-4b.parquet") if r.values["benchmark"] == "AMC"]
    (tmp_path / "amc.jsonl").write_text("".join(json.dumps(row) + "\n" for row in traces))
    endpoint.script = lambda asked: completion(asked.body["messages"][1]["content"])
    given = ["--on", "amc", "--data", str(real_data), "--drafts", "amc.jsonl", "--question", "raw_question"]
    shown = rethink("eval", "echo", "--endpoint", endpoint.url, *given, "--out", "e")
    assert shown.code == 0
    numbers = numbers_of(tmp_path / "e", "amc")
    assert (numbers["n_problems"], numbers["n_drafts"], len(endpoint.asked)) == (83, 83, 83)
    assert (numbers["gain"]["value"], numbers["fix"]["value"], numbers["damage"]["value"]) == (0, 0, 0)
    right = numbers["transitions"]["right_right"]
    agreed = sum(row["score"] for row in traces)
    assert abs(right - agreed) <= 8  # another grader's opinion, which grades some of the drafts otherwise
    assert {d for _, d in texts(tmp_path / "e")} == {row["response"] for row in traces}


def test_refinements_of_drafts_may_quote_them(rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint) -> None:
    """Guards against a fix rate of 0 for a model that names the mistake, and against drafts that may quote something."""
    drafts = ["\\boxed{3}", "Not \\boxed{3} but \\boxed{4}"]
    (tmp_path / "d.jsonl").write_text(json.dumps({"question": "2 + 2?", "answer": "4", "response": drafts}))
    endpoint.script = lambda asked: completion("The earlier answer \\boxed{3} is wrong; it is \\boxed{4}.")
    shown = rethink("eval", "m", "--endpoint", endpoint.url, "--drafts", "d.jsonl", "--out", "e")
    assert shown.code == 0, shown.err
    numbers = numbers_of(tmp_path / "e", "d.jsonl")
    assert (numbers["solve"]["accuracy"]["value"], numbers["fix"]["value"]) == (0, 1)


def test_mistakes_of_eval(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against tracebacks, and against words that are ignored."""
    assert_one_message(rethink("eval", "tiny", "--on", "coutdown"), "did you mean countdown?")
    assert_one_message(rethink("eval", "tiny"), "no problems: name a suite or a file with --on")
    assert_one_message(rethink("eval", "runs/x/000300", "--on", "countdown"), "there is no model folder runs/x/000300")
    k = rethink("eval", "tiny", "--on", "countdown", "evaluation.n=3", "evaluation.k=[1,4]")
    assert_one_message(k, "evaluation.k must be between 1 and the number of answers (3), not 4")
    assert_one_message(rethink("eval", "tiny", "--on", "countdown", "--strategy", "solv"), "evaluation.strategy: ")
    assert_one_message(rethink("eval", "tiny", "--on", "countdown", "model.template=no.jinja"), "no.jinja")
    assert_one_message(rethink("eval", "m", "--on", "countdown", "--endpoint", "localhost"), "is not the URL")
    assert not any(path.is_file() for path in tmp_path.rglob("*"))  # an empty folder is removed at exit
