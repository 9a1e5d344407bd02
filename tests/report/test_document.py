"""The JSON document of the page, against numbers that are counted or computed another way."""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import rethink
from rethink.errors import UserError
from rethink.jsonl import Record, append, write_text
from rethink.policies.fake import FakePolicy
from rethink.problems.mathematics import verify
from rethink.report.document import SCHEMA, read_document, read_replies, to_columns
from rethink.report.folders import Source, find_sources
from rethink.report.replies import NONE, Limits, ReplyTable
from rethink.strategies.attempt import OVERLONG
from rethink.types import Problem, Prompt
from support.report_runs import HOSTILE, answer, held_out, sample, step, training_folder, update_record


def texts_of(found: Record, column: str) -> list[str | None]:
    """Return a column of rows as texts."""
    return [None if number == NONE else found["texts"][number] for number in found["rows"][column]]


def reply_of(found: Record, number: int, field: str) -> str:
    return found["texts"][found["replies"][field][number]]


def test_a_training_run_keeps_every_number_of_its_updates(tmp_path: Path) -> None:
    """Guards against numbers in another row or column than in metrics.jsonl, and alarms that are lost."""
    folder = training_folder(tmp_path / "run")
    append(folder.metrics, [update_record(7, fix=0.25, alarms=["a kind: 1", "other: 2"]), update_record(8)])
    append(folder.metrics, [held_out(8, 0.55)])
    found = read_document([Source(folder.path, "mine")])
    (run,) = found["runs"]
    assert (found["schema"], found["rethink"], run["name"]) == (SCHEMA, rethink.__version__, "mine")
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    updates = [line for line in lines if line["phase"] != "evaluation"]
    for name, column in run["updates"].items():
        for value, record in zip(column, updates, strict=True):
            exact = record.get(name)
            assert value == (pytest.approx(exact, rel=1e-5) if isinstance(exact, float) else exact), name
    assert run["updates"]["fix"] == [None] * 6 + [0.25, None]
    assert [record["solve"]["value"] for record in run["evaluations"]] == [0.5, 0.55]
    assert (run["n_updates"], run["n_wanted"], run["method"]) == (8, 6, "think_twice")
    assert [(alarm["kind"], alarm["updates"]) for alarm in run["alarms"]] == [("a kind", [7]), ("other", [7])]
    assert run["alarms"][0]["text"] == "alarm in 1 of 8 updates, first in update 7: a kind: 1"


def test_numbers_are_rounded_and_undefined_ones_are_missing() -> None:
    """Guards against NaN, which is no JSON, and seventeen digits per number."""
    columns = to_columns([{"a": 2 / 3, "n": 12345678, "b": float("nan")}, {"a": 1e-9 / 3}])
    assert columns == {"a": [0.666667, 3.33333e-10], "n": [12345678, None], "b": [None, None]}


def test_rows_count_transitions_as_the_summary_does(tmp_path: Path) -> None:
    """Guards against a draft paired with another refinement: the counts must be those of the evaluation itself, computed
    there from other data structures.
    """
    problems = [Problem(str(n), f"{n} + 1?", str(n + 1), verify, solve="{question}") for n in range(12)]

    def reply(prompt: Prompt, index: int, version: int) -> str:
        n = int(prompt.problem.id)
        is_draft = prompt.phase == "solve"
        right = (n + index) % 3 == 0 if is_draft else (n + index) % 2 == 0
        return rf"\boxed{{{n + 1 if right else 77}}}"

    settings = rethink.AnswerSettings(strategy="refine", n=2)
    file = tmp_path / "evaluation" / "answers.jsonl"
    answers = rethink.evaluate(FakePolicy(reply), problems, settings, file=file)
    summary = rethink.summarize(answers)
    (source,) = find_sources([file.parent])
    found = read_replies(source)
    assert summary.transitions is not None
    counted = Counter(texts_of(found, "transition"))
    assert counted == {
        "kept right": summary.transitions.right_right,
        "damaged": summary.transitions.right_wrong,
        "fixed": summary.transitions.wrong_right,
        "still wrong": summary.transitions.wrong_wrong,
    }
    assert len(counted) == 4
    (run,) = read_document([source])["runs"]
    assert (run["kind"], run["is_complete"]) == ("evaluation", False)
    shown = run["suites"][answers[0].suite]["strategies"]["refine"]
    assert shown["fix"]["value"] == summary.fix.value if summary.fix else False
    assert shown["transitions"]["wrong_right"] == summary.transitions.wrong_right


def test_a_row_has_the_texts_of_its_record(tmp_path: Path) -> None:
    """Guards against a column that is filled from another field."""
    table = ReplyTable(Limits())
    draft = step("solve", "first", "wrong", extracted="3", reason="3 is not 4")
    final = step("refine", "second", "right", extracted="4")
    table.add_answer(answer("p", draft, final), "evaluation", None)
    found = table.data(1)
    columns = ("problem", "question", "gold", "strategy", "phase", "suite", "transition")
    wanted = ["p", "What is p?", "4", "refine", "refine", "sums", "fixed"]
    assert [texts_of(found, column) for column in columns] == [[text] for text in wanted]
    (before,), (after,) = found["rows"]["draft"], found["rows"]["final"]
    assert [reply_of(found, before, name) for name in ("text", "verdict", "extracted", "reason")] == [
        *("first", "wrong", "3", "3 is not 4")
    ]
    assert [reply_of(found, after, name) for name in ("text", "verdict", "extracted")] == ["second", "right", "4"]
    assert found["replies"]["n_tokens"] == [1, 1]
    ((role, number),) = found["replies"]["prompt"][after]
    assert (role, found["texts"][number]) == ("user", "asked")


def test_a_vote_has_no_draft_but_all_its_replies() -> None:
    """Guards against an answer chosen among several that is shown as the refinement of one of them."""
    table = ReplyTable(Limits())
    steps = [step("solve", f"try {n}", "right" if n else "wrong", index=n) for n in range(3)]
    merged = step("merge", "merged", "right")
    table.add_answer(
        answer("p", steps[0], merged, strategy="merge:3", steps=[*steps, merged], finals=[3]), "evaluation", None
    )
    found = table.data(1)
    assert found["rows"]["draft"] == [NONE]
    assert [reply_of(found, number, "text") for number in found["rows"]["steps"][0]] == [
        *("try 0", "try 1", "try 2", "merged")
    ]
    kept = ReplyTable(Limits())
    both = answer("p", steps[1], step("refine", "worse", "wrong"), finals=[0])
    kept.add_answer(both, "evaluation", None)
    assert texts_of(kept.data(1), "transition") == ["kept right"]


FOREIGN = {
    "no phase": ("metrics.jsonl", '{"update": 1}'),
    "no update": ("metrics.jsonl", '{"phase": "evaluation"}'),
    "lists": ("metrics.jsonl", "[1, 2]"),
    "another version": ("answers.jsonl", '{"problem": "p", "reply": "4"}'),
    "another summary": ("summary.json", '{"suites": [1]}'),
    "another strategy": ("answers.jsonl", json.dumps(answer("p", step("solve", "", ""), {}, strategy="magic"))),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_that_is_not_ours_is_named(name: str, tmp_path: Path) -> None:
    """Guards against a traceback that does not say which of several folders cannot be read."""
    file, text = FOREIGN[name]
    (tmp_path / "answers.jsonl").touch()
    (tmp_path / file).write_text(text + "\n")
    source = Source(tmp_path, "x")
    with pytest.raises(UserError, match=f"cannot read {tmp_path}: its files are damaged, or of another program"):
        read_document([source])
    (run,) = read_document([source], strict=False)["runs"]
    assert str(tmp_path) in run["notes"][0]
    if file == "answers.jsonl":
        with pytest.raises(UserError, match=f"cannot read {tmp_path}"):
            read_replies(source)


def test_answers_that_nothing_refined_have_no_transition() -> None:
    """Guards against votes and over-long first answers that count as kept: the summary leaves both out."""
    table = ReplyTable(Limits())
    steps = [step("solve", f"try {n}", "right", index=n) for n in range(3)]
    table.add_answer(answer("p", *steps[:2], strategy="vote:3", steps=steps, finals=[1]), "evaluation", None)
    long = step("solve", "very long", "wrong")
    for notes in ({OVERLONG: 1}, {}):
        table.add_answer(answer("q", long, long, steps=[long], finals=[0], notes=notes), "evaluation", None)
    found = table.data(3)
    assert texts_of(found, "transition") == [None, None, "still wrong"]
    assert found["rows"]["draft"][:2] == [NONE, NONE]


def test_a_sample_of_training_shows_its_draft() -> None:
    """Guards against refinements without the draft that they revise, and samples of older runs that do not name it."""
    table = ReplyTable(Limits())
    turns = [["user", "What?"], ["assistant", "old"], ["user", "again"]]
    record = sample("p", "new", 3, phase="refine", prompt=turns, draft_verdict="wrong", verdict="right")
    table.add_sample({**record, "draft": "old and more", "draft_extracted": "7"})
    del record["question"]
    table.add_sample({**record, "seed": "01"})
    found = table.data(2)
    assert texts_of(found, "transition") == ["fixed", "fixed"]
    assert texts_of(found, "question") == ["What is p?", "What?"]
    assert [reply_of(found, number, "text") for number in found["rows"]["draft"]] == ["old and more", "old"]
    assert found["rows"]["update"] == [3, 3]


def test_a_large_run_shows_what_matters_most_and_says_how_much(tmp_path: Path) -> None:
    """Guards against pages of gigabytes: the last evaluation comes first, then the first one, then the newest samples."""
    folder = training_folder(tmp_path / "run", n_answers=10)
    for update, n in ((2, 7), (4, 5)):
        drafts = [answer(f"q{update}-{m}", step("solve", "a", "wrong"), step("refine", "b", "right")) for m in range(n)]
        append(folder.path / "eval" / f"{update:06d}.jsonl", drafts)
    source = Source(folder.path, "run")
    n_all = 10 + 7 + 5 + len(HOSTILE)
    everything = read_replies(source)
    assert (everything["n_records"], everything["n_total"], len(everything["rows"]["id"])) == (n_all, n_all, n_all)
    assert everything["rows"]["update"] == [6] * 10 + [2] * 7 + [4, 3, 2, 1, 0] + [4] * 5
    few = read_replies(source, Limits(n_records=19))
    assert (few["n_records"], few["n_total"]) == (19, n_all)
    assert few["rows"]["update"] == [6] * 10 + [2] * 7 + [4, 3]
    assert read_replies(source, Limits(n_letters=1))["n_records"] == 1


def test_a_long_text_loses_its_middle() -> None:
    """Guards against one reply of megabytes that makes the page useless."""
    table = ReplyTable(Limits(n_letters_of_text=10))
    table.add_sample(sample("p", "abcde" + "x" * 1000 + "vwxyz", 0))
    assert "abcde\n[1,000 letters are not shown here]\nvwxyz" in table.texts


def test_ids_are_links_that_stay(tmp_path: Path) -> None:
    """Guards against links that lead elsewhere once more was evaluated, and two rows with one id."""
    folder = training_folder(tmp_path / "run")
    source = Source(folder.path, "run")
    before = read_replies(source)["rows"]
    append(
        folder.path / "eval" / "000008.jsonl",
        [answer("new", step("solve", "a", "wrong"), step("refine", "b", "right"))],
    )
    after = read_replies(source)["rows"]
    assert len(set(after["id"])) == len(after["id"]) == len(before["id"]) + 1
    assert set(before["id"]) < set(after["id"])


def test_a_finished_evaluation_shows_its_summary(tmp_path: Path) -> None:
    """Guards against numbers other than those that the command printed."""
    folder = tmp_path / "evaluation"
    append_to = folder / "answers.jsonl"
    folder.mkdir()
    append(append_to, [answer("p", step("solve", "a", "wrong"), step("refine", "b", "right"))])
    (source,) = find_sources([folder])
    (before,) = read_document([source])["runs"]
    row = before["suites"]["sums"]["strategies"]["refine"]
    row["n_problems"] = 4711
    record = {"model": "m", "suites": before["suites"], "mean": None, "graded_by": {}, "seconds": 2.5}
    write_text(source.summary, json.dumps(record))
    (run,) = read_document([source])["runs"]
    assert run["suites"]["sums"]["strategies"]["refine"]["n_problems"] == 4711
    assert (run["is_complete"], run["model"], run["seconds"]) == (True, "m", 2.5)


def test_folders_are_found_below_the_one_that_is_named(tmp_path: Path) -> None:
    """Guards against runs that are listed twice, or under names that do not tell them apart."""
    for name in ("grpo/0", "grpo/1"):
        training_folder(tmp_path / "demo" / name)
    training_folder(tmp_path / "mine")
    names = [source.name for source in find_sources([tmp_path / "demo", tmp_path / "mine", tmp_path / "mine"])]
    assert names == ["demo/grpo/0", "demo/grpo/1", "mine"]


def test_a_folder_that_cannot_be_searched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without permission below the one that was named once ended `rethink view` with a traceback."""
    secret = tmp_path / "secret"
    secret.mkdir()
    listed = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:
        if path == secret:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match=f"cannot look for runs in {secret}: Permission denied; name their folders"):
        find_sources([tmp_path])
