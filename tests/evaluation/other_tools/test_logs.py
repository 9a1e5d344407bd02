"""Reading the logs of other tools. All logs are real; faults are put into copies."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.evaluation.answers import Answer, count_not_graded
from rethink.evaluation.grade import GradeSettings, Tally, grade_rows
from rethink.evaluation.other_tools import find_log, inspect_ai, lighteval, lm_eval, reply_rows
from rethink.evaluation.other_tools.answers import answers_of
from rethink.evaluation.other_tools.archive import open_archive
from rethink.evaluation.other_tools.scored import score_of
from rethink.problems import mathematics


def answers(path: Path, *metrics: str) -> list[Answer]:
    log = find_log(path)
    assert log is not None
    return answers_of(log, metrics)


def rights(path: Path, *metrics: str) -> list[bool | None]:
    return [answer.steps[0].right for answer in answers(path, *metrics)]


def members(file: Path) -> dict[str, bytes]:
    with open_archive(file) as archive:
        return {name: archive.read(name) for name in archive.names}


def change(file: Path, edit: Callable[[Any], object]) -> Path:
    """Changes a JSON file, or each line of a JSONL file."""
    lines = [file.read_text()] if file.suffix == ".json" else file.read_text().splitlines()
    values = [json.loads(line) for line in lines]
    for value in values:
        edit(value)
    file.write_text("\n".join(json.dumps(value) for value in values) + "\n")
    return file


@pytest.mark.parametrize("name", ["before.eval", "after.json"])
@pytest.mark.parametrize("scorer", ["match", "includes"])
def test_a_log_of_inspect_ai_has_the_accuracy_that_it_reports(logs: Path, name: str, scorer: str) -> None:
    """Guards against verdicts other than the scorer's. The tool itself computed its means; it gives epochs of a sample
    equal weights, and leaves out a sample that failed.
    """
    file = logs / name
    header = json.loads(members(file)["header.json"] if name.endswith(".eval") else file.read_bytes())
    (accuracy,) = [s["metrics"]["accuracy"]["value"] for s in header["results"]["scores"] if s["name"] == scorer]
    by_problem: dict[str, list[bool]] = {}
    for answer in answers(file, scorer):
        if answer.steps[0].right is not None:
            by_problem.setdefault(answer.problem, []).append(answer.steps[0].right)
    means = [sum(some) / len(some) for some in by_problem.values()]
    assert len(means) == 4
    assert sum(means) / 4 == pytest.approx(accuracy)


def test_every_part_of_a_sample_is_read(logs: Path) -> None:
    """Guards against swapped fields, and against repeats that count once."""
    found = {(a.problem, a.repeat): a for a in answers(logs / "before.eval", "match")}
    assert sorted(found) == [(f"sums/sum-{i}", epoch) for i in range(1, 5) for epoch in (0, 1)]
    one = found["sums/sum-2", 0]
    assert (one.suite, one.question, one.gold, one.steps[0].text) == ("sums", "What is 2 + 2?", "4", "The answer is 2")
    assert one.steps[0].stop == "stop"
    failed = {(a.problem, a.repeat): a for a in answers(logs / "after.json", "match")}["sums/sum-1", 1]
    assert str(failed.steps[0].reason) == "RuntimeError('the server has gone away')"
    assert count_not_graded(answers(logs / "after.json", "match")) == 1


def test_long_texts_conversations_and_several_values_are_read(logs: Path) -> None:
    """Guards against references in place of texts, system messages as questions, and scores of dicts that are lost."""

    def edit(log: Any) -> None:
        sample = log["samples"][0]
        sample["attachments"] = {"ab12": "How many?"}
        sample["input"] = [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "attachment://ab12"}, {"type": "image", "image": "x"}],
            },
        ]
        sample["target"] = ["two", "2"]
        sample["scores"]["match"]["value"] = {"unit": "C", "form": 0}

    file = change(logs / "after.json", edit)
    first = inspect_ai.read(file)[0]
    assert (first.question, first.gold) == ("How many?", "two or 2")
    assert dict(first.scores) == {"match.unit": "C", "match.form": 0, "includes": "C"}


def test_samples_of_lm_eval_have_a_score_per_filter(logs: Path) -> None:
    """Guards against a document that counts once per filter, and against one filter's scores for another's."""
    (sums,) = (logs / "lm-eval" / "before").glob("samples_sums*")
    assert rights(sums, "exact_match,strict") == [True, False, False, False]
    assert rights(sums, "exact_match,flexible") == [True, True, False, False]
    with pytest.raises(
        UserError, match="several scores; name one with --metric: exact_match,strict, exact_match,flexible"
    ):
        answers(sums)
    with pytest.raises(UserError, match="has no single score exact_match; --metric can be exact_match,strict, exact_"):
        answers(sums, "exact_match")
    one = answers(sums, "exact_match,strict")[1]
    assert (one.suite, one.problem, one.question, one.gold) == ("sums", "sums/1", "What is 2 + 2?", "4")
    assert one.steps[0].text == "It is 4"
    (pick,) = (logs / "lm-eval" / "before").glob("samples_pick*")
    assert rights(pick, "acc") == [False, False, False, True]  # the fourth option has the highest log-likelihood


def test_details_of_lighteval_are_read(logs: Path) -> None:
    """Guards against metrics that are mixed up, and a file name with a bar and a date that is no task."""
    assert rights(logs / "lighteval" / "before", "em") == [True, False, False, False]
    assert rights(logs / "lighteval" / "before", "suffix") == [True, True, False, False]
    one = answers(logs / "lighteval" / "before", "em")[1]
    assert (one.suite, one.problem, one.question, one.gold) == ("sums|0", "sums|0/1", "What is 2 + 2?", "4")
    assert one.steps[0].text == "It is 4"


def test_a_score_never_stands_in_for_another_column(logs: Path) -> None:
    """Guards against grading by the verdict of a scorer named `answer` instead of the gold answer."""

    def edit(log: Any) -> None:
        for sample in log["samples"]:
            if sample.get("scores"):
                sample["scores"]["answer"] = sample["scores"].pop("match")

    wanted = [row.values for row in reply_rows(logs / "after.json", strict=False)]
    found = [row.values for row in reply_rows(change(logs / "after.json", edit), strict=False)]
    assert [row["answer"] for row in found] == [row["answer"] for row in wanted]
    assert [row.get("score.answer") for row in found] == [row.get("match") for row in wanted]
    assert any("score.answer" in row for row in found)


@pytest.mark.parametrize(
    ("value", "score"),
    list(
        zip(
            ["C", "I", "N", "P", 1, 0.0, "1.0", "no", True, None, float("nan"), "NaN", 0.25, 2],
            [True, False, False, 0.5, True, False, True, False, True, None, None, None, 0.25, 2.0],
            strict=True,
        )
    ),
)
def test_scores_are_verdicts_only_where_they_are(value: object, score: object) -> None:
    """Guards against a partial score, or none at all, that counts as wrong."""
    found = score_of(value)
    assert (found, type(found)) == (score, type(score))


def test_partial_scores_are_refused(logs: Path) -> None:
    """Guards against a rounded score, and against one that is compared as if it were a verdict."""
    file = change(logs / "after.json", lambda log: log["samples"][2]["scores"]["match"].update(value="P"))
    with pytest.raises(UserError, match=r"sums sum-3: the score match is 0\.5, and a verdict is 1"):
        answers(file, "match")
    file = change(logs / "after.json", lambda log: log["samples"][2]["scores"]["match"].update(value=[1, 2]))
    with pytest.raises(UserError, match="sums sum-3: the score match is no verdict: list, not a number"):
        answers(file, "match")
    assert len(answers(file, "includes")) == 8


def test_an_evaluation_that_did_not_finish_is_refused(logs: Path, tmp_path: Path) -> None:
    """Guards against a comparison of the samples that a crash happened to leave."""
    file = change(logs / "after.json", lambda log: log.update(status="error"))
    with pytest.raises(UserError, match=r"after\.json: the evaluation did not finish \(status error\)"):
        answers(file, "match")
    with zipfile.ZipFile(tmp_path / "running.eval", "w") as archive:
        archive.writestr("_journal/start.json", "{}")
    with pytest.raises(UserError, match="did not finish"):
        answers(tmp_path / "running.eval")
    file = change(logs / "after.json", lambda log: log.update(status="success", samples=None))
    with pytest.raises(UserError, match="has no samples"):
        answers(file)


def test_damage_is_one_clear_error(logs: Path, tmp_path: Path) -> None:
    """Guards against tracebacks, and against files that are read in part."""
    whole = (logs / "before.eval").read_bytes()
    (tmp_path / "cut.eval").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.eval is damaged or incomplete"):
        answers(tmp_path / "cut.eval")
    (tmp_path / "bits.eval").write_bytes(whole[:700] + b"\0" * 400 + whole[1100:])
    with pytest.raises(UserError, match=r"bits\.eval: .* is "):
        answers(tmp_path / "bits.eval")
    file = change(logs / "after.json", lambda log: log["samples"][1].pop("epoch"))
    with pytest.raises(UserError, match="sample sum-2 is not one that inspect_ai writes"):
        answers(file)
    (sums,) = (logs / "lm-eval" / "before").glob("samples_sums*")
    sums.write_text(sums.read_text() + sums.read_text())
    with pytest.raises(UserError, match="line 9: the document 0 is there twice"):
        answers(sums)
    change(sums, lambda line: line.pop("target"))
    with pytest.raises(UserError, match="line 1: not a line that lm-evaluation-harness writes"):
        answers(sums)


def test_an_archive_without_zstandard_is_read_too(logs: Path, tmp_path: Path) -> None:
    """Guards against logs of versions that packed with deflate; the same samples must come out."""
    with zipfile.ZipFile(tmp_path / "old.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members(logs / "before.eval").items():
            archive.writestr(name, content)
    assert inspect_ai.read(tmp_path / "old.eval") == inspect_ai.read(logs / "before.eval")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_sample_that_was_written_twice_counts_once(logs: Path, tmp_path: Path) -> None:
    """Guards against a sample of a retried evaluation that is read twice."""
    content = members(logs / "before.eval")
    with zipfile.ZipFile(tmp_path / "twice.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in (*content, *content):
            archive.writestr(name, content[name])
    assert inspect_ai.read(tmp_path / "twice.eval") == inspect_ai.read(logs / "before.eval")


@pytest.mark.parametrize("damage", [b"\xff" * 20, b""])
def test_damaged_compression_is_one_clear_error(damage: bytes, logs: Path, tmp_path: Path) -> None:
    """Guards against errors of zlib, and of data that ends early, as tracebacks."""
    with zipfile.ZipFile(tmp_path / "bad.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members(logs / "before.eval").items():
            archive.writestr(name, content)
        last = archive.infolist()[-1]
    data = bytearray((tmp_path / "bad.eval").read_bytes())
    start = last.header_offset + 30 + len(last.filename)
    if damage:
        data[start : start + len(damage)] = damage
    else:  # a stored block that claims more bytes than there are
        data[start : start + 5] = b"\x00\xff\xff\x00\x00"
    (tmp_path / "bad.eval").write_bytes(data)
    with pytest.raises(UserError, match=r"bad\.eval: .* is damaged"), open_archive(tmp_path / "bad.eval") as archive_:
        archive_.read(last.filename)


def test_a_sample_that_unpacks_to_gigabytes_is_refused(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a stranger's log of a few megabytes that fills the memory: it is refused before it is unpacked, and
    what is unpacked ends where the archive says."""
    with open_archive(logs / "before.eval") as packed:
        name = packed.names[-1]
        packed._zipped.getinfo(name).file_size -= 1
        with pytest.raises(UserError, match=r"it does not have the \d+ bytes that the archive names"):
            packed.read(name)
    with zipfile.ZipFile(tmp_path / "old.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", "[" + " " * 5000 + "]")
    monkeypatch.setattr("rethink.evaluation.other_tools.archive.LARGEST", 1000)
    for file in (logs / "before.eval", tmp_path / "old.eval"):
        with pytest.raises(UserError, match=r"header\.json would unpack to .* GiB, more than any sample has"):
            inspect_ai.read(file)


def test_several_evaluations_of_a_task_are_refused(logs: Path) -> None:
    """Guards against an old evaluation in place of the new one, and against answers that count twice."""
    (sums,) = (logs / "lm-eval" / "before").glob("samples_sums*")
    shutil.copy(sums, logs / "lm-eval" / "after")
    with pytest.raises(UserError, match=r"has several evaluations of sums \(samples_sums_2026.*name one of the files"):
        answers(logs / "lm-eval" / "after", "exact_match,strict", "acc")


def test_other_files_are_no_logs(tmp_path: Path) -> None:
    """Guards against our own files, and rows of problems, that are taken for a log of another tool."""
    (tmp_path / "rows.jsonl").write_text('{"question": "?", "answer": "1"}\n')
    (tmp_path / "rows.json").write_text('[{"question": "?", "answer": "1"}]')
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    assert [find_log(tmp_path / name) for name in ("rows.jsonl", "rows.json", "rows.parquet", ".", "none")] == [
        None
    ] * 5
    assert lm_eval.task_of(Path("samples_a_b_2026-11-29T20-06-59.611211.jsonl")) == "a_b"
    assert lighteval.task_of(Path("details_a_b|0_2026-11-29T20-06-59.611211.parquet")) == "a_b|0"


def test_rows_have_a_column_per_score(logs: Path) -> None:
    """Guards against replies that cannot be graded again, and against failed samples as empty drafts."""
    rows = list(reply_rows(logs / "after.json", strict=False))
    assert [(row.n, bool(row.broken)) for row in rows] == [(n, n == 4) for n in range(8)]
    assert "the server has gone away" in rows[4].broken
    assert rows[7].values == {
        "question": "What is 4 + 4?",
        "answer": "8",
        "response": "8",
        "task": "sums",
        "id": "sum-4",
        "repeat": 1,
        "match": True,
        "includes": True,
    }
    assert len(list(reply_rows(logs / "after.json"))) == 7
    with pytest.raises(UserError, match="has no replies: log-likelihoods"):
        next(reply_rows(next((logs / "lm-eval" / "before").glob("samples_pick*"))))


def test_epochs_are_replies_to_one_problem(logs: Path) -> None:
    """Guards against intervals that take the epochs of a sample as different problems: they come in two passes here."""
    settings = GradeSettings(mathematics.FORMAT, "answer", "response", lenient=True)
    for file in ("before.eval", "after.json"):
        tally, together = Tally(), Tally()
        records = list(grade_rows(reply_rows(logs / file, strict=False), settings))
        names = [record["problem"] for record in records]
        assert sorted(names) == sorted([f"sums/sum-{i}" for i in range(1, 5)] * 2)
        by_problem: dict[str, list[str]] = {}
        for record in records:
            tally.add(record)
            by_problem.setdefault(record["problem"], []).append(record["verdict"])
        for n, verdicts in enumerate(by_problem.values()):  # as a row with a list of replies
            for k, verdict in enumerate(verdicts):
                together.add({"row": n, "reply": k, "verdict": verdict, "reason": "", "extracted": ""})
        assert +tally.problems[""] == +together.problems[""]
        assert sum((+tally.problems[""]).values()) == 4
