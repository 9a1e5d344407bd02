"""Problems from files, from the hub and from countdown; every fault names the place."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from rethink.errors import UserError
from rethink.problems import boxed, countdown, symbolic
from rethink.problems.source import ProblemSource, load_problems, refuse_overlap
from rethink.types import Demonstration, Problem, Verdict

ROWS = [{"question": "1+1?", "answer": "2"}, {"question": "2+3?", "answer": "so \\boxed{5}"}]


@pytest.fixture(scope="module", autouse=True)
def _end_the_worker() -> Iterator[None]:
    yield
    symbolic._worker.close()


def jsonl(folder: Path, *rows: object) -> str:
    file = folder / "problems.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def only(source: ProblemSource) -> Problem:
    (problem,) = load_problems(source)
    return problem


def refused(source: ProblemSource) -> str:
    with pytest.raises(UserError) as caught:
        load_problems(source)
    return str(caught.value)


def test_jsonl_rows_become_problems(tmp_path: Path) -> None:
    """Guards against golds that are whole solutions, and against ids that do not say where a problem stands."""
    first, second = load_problems(ProblemSource(file := jsonl(tmp_path, *ROWS)))
    assert (first.question, first.gold, first.id) == ("1+1?", "2", f"{file}, row 1")
    assert (second.question, second.gold, second.id) == ("2+3?", "5", f"{file}, row 2")
    assert second.judge("\\boxed{5}").right is True
    assert second.judge("\\boxed{6}").right is False


def test_blank_lines_are_skipped_but_counted(tmp_path: Path) -> None:
    """Guards against row numbers that do not lead to the line in an editor; a byte order mark is no fault."""
    file = tmp_path / "p.jsonl"
    file.write_text("\ufeff" + json.dumps(ROWS[0]) + "\n\n" + json.dumps(ROWS[1]) + "\n", encoding="utf-8")
    assert [p.id for p in load_problems(ProblemSource(str(file)))] == [f"{file}, row 1", f"{file}, row 3"]


def nested_table() -> pa.Table:
    return pa.table(
        {
            "prompt": [[{"role": "user", "content": "1+1?"}], [{"role": "user", "content": "2+3?"}]],
            "reward_model": [{"ground_truth": "2", "style": "rule"}, {"ground_truth": "5", "style": "rule"}],
            "key": ["a", "b"],
        }
    )


def test_parquet_with_nested_columns(tmp_path: Path) -> None:
    """Guards against dots that reach into records but not into lists."""
    parquet.write_table(nested_table(), tmp_path / "p.parquet")
    found = load_problems(
        ProblemSource(
            str(tmp_path / "p.parquet"), question="prompt.0.content", answer="reward_model.ground_truth", id="key"
        )
    )
    assert [(p.id, p.question, p.gold) for p in found] == [("a", "1+1?", "2"), ("b", "2+3?", "5")]


def test_values_that_are_not_text_become_json(tmp_path: Path) -> None:
    """Guards against str() of Python values as gold answers, and against a 0 that counts as missing."""
    file = jsonl(tmp_path, {"q": [1, 2], "a": 0})
    problem = only(ProblemSource(file, question="q", answer="a"))
    assert (problem.question, problem.gold) == ("[1, 2]", "0")


def test_columns_to_imitate(tmp_path: Path) -> None:
    """Guards against replies to imitate that lose the draft they refine."""
    file = jsonl(tmp_path, {**ROWS[0], "reply": "\\boxed{2}", "before": "\\boxed{3}"})
    problem = only(ProblemSource(file, reply="reply", draft="before"))
    assert problem.demonstrate is not None
    assert problem.demonstrate(7) == (Demonstration("\\boxed{2}", "\\boxed{3}"),)


@pytest.mark.parametrize("answer", [None, "", "  "])
def test_a_row_without_an_answer_is_named(tmp_path: Path, answer: object) -> None:
    """Guards against rows that are skipped, or that have the gold answer "None"."""
    file = jsonl(tmp_path, ROWS[0], {"question": "?", "answer": answer})
    assert refused(ProblemSource(file)) == f"{file}, row 2: the column 'answer' is empty"


@pytest.mark.parametrize("name", ["gold", "answer.text", "answer.0"])
def test_a_missing_column_is_named_with_the_ones_there_are(tmp_path: Path, name: str) -> None:
    """Guards against a KeyError that names neither file nor row."""
    file = jsonl(tmp_path, ROWS[0])
    assert refused(ProblemSource(file, answer=name)) == f"{file}, row 1: no column {name!r}; there are question, answer"


def test_a_list_index_past_the_end_is_a_missing_column(tmp_path: Path) -> None:
    """Guards against an IndexError out of nested columns."""
    file = jsonl(tmp_path, {"prompt": ["a"], "answer": "2"})
    assert "no column 'prompt.1'" in refused(ProblemSource(file, question="prompt.1"))


@pytest.mark.parametrize("line", [b'{"question": ', b"\xff\xfe\x00", b"[1, 2]", b"7"])
def test_a_bad_line_is_named(tmp_path: Path, line: bytes) -> None:
    """Guards against tracebacks for bad JSON; bytes that are not UTF-8 once gave one."""
    file = tmp_path / "p.jsonl"
    file.write_bytes(json.dumps(ROWS[0]).encode() + b"\n" + line + b"\n")
    assert refused(ProblemSource(str(file))).startswith(f"{file}, row 2: not ")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    """Guards against a run on no problems at all."""
    assert refused(ProblemSource(jsonl(tmp_path))).endswith("has no problems")


def test_a_missing_file_is_refused_with_the_alternatives(tmp_path: Path) -> None:
    """Guards against a bare FileNotFoundError for a misspelt source."""
    assert 'no file countdwn ("countdown" and "hub:NAME"' in refused(ProblemSource("countdwn"))


def test_other_kinds_of_files_are_refused(tmp_path: Path) -> None:
    """Guards against a CSV file that is read as JSON lines."""
    (tmp_path / "p.csv").write_text("question,answer\n")
    assert ".jsonl and .parquet" in refused(ProblemSource(str(tmp_path / "p.csv")))


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    """Guards against tracebacks of pyarrow's own."""
    (tmp_path / "p.parquet").write_bytes(b"PAR1 is all there is")
    assert "not a readable parquet file" in refused(ProblemSource(str(tmp_path / "p.parquet")))


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    """Guards against two problems that share their random numbers and their group."""
    file = jsonl(tmp_path, {**ROWS[0], "key": "a"}, {**ROWS[1], "key": "a"})
    assert "the id 'a' occurs twice" in refused(ProblemSource(file, id="key"))


def test_limit_keeps_the_first_rows(tmp_path: Path) -> None:
    """Guards against an off-by-one, and against -1 for "all", which once dropped the last row without a word."""
    file = jsonl(tmp_path, *({"question": str(n), "answer": "1"} for n in range(5)))
    assert [p.question for p in load_problems(ProblemSource(file, limit=3))] == ["0", "1", "2"]
    assert len(load_problems(ProblemSource(file, limit=7))) == 5
    assert "limit must be 0 (all rows) or more, not -1" in refused(ProblemSource(file, limit=-1))


def test_a_verifier_by_module_and_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against own verifiers that are imported but not used."""
    (tmp_path / "my_verifier.py").write_text(
        "from rethink.types import Verdict\ndef shout(reply, gold):\n    return Verdict(reply == gold.upper())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    problem = only(ProblemSource(jsonl(tmp_path, {"question": "?", "answer": "x"}), verifier="my_verifier:shout"))
    assert problem.judge("X") == Verdict(True)
    assert problem.judge("x") == Verdict(False)
    sys.modules.pop("my_verifier")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("boxd", "unknown verifier 'boxd': use one of boxed, countdown, or module:function"),
        ("no_such_module:f", "cannot be imported"),
        ("json:no_such_function", "cannot be imported"),
        (":f", "cannot be imported"),
    ],
)
def test_an_unknown_verifier_is_refused(tmp_path: Path, name: str, message: str) -> None:
    """Guards against a fall-back to another verifier, and against tracebacks (an empty module name once gave one)."""
    assert message in refused(ProblemSource(jsonl(tmp_path, *ROWS), verifier=name))


def test_countdown_settings_reach_the_generator() -> None:
    """Guards against settings of the source that are ignored."""
    found = load_problems(ProblemSource(split="validation", numbers=2, largest=5))
    assert {countdown.instance(p) for p in found} == {
        countdown.instance(p) for p in countdown.problems("validation", 2, 5)
    }
    assert "splits train, validation, test" in refused(ProblemSource(split="dev"))


def asked(question: str, number: int) -> Problem:
    return Problem(f"file, row {number}", question, "1", boxed.verify)


def test_overlap_of_texts_ignores_blanks() -> None:
    """Guards against a leak that differs in line breaks only; ids play no part."""
    training = [asked("What is\n 1 + 1?", 1), asked("b", 2)]
    refuse_overlap(training, [asked("c", 1), asked("What is 1 + 2?", 2)])
    with pytest.raises(UserError, match="1 held-out problems are also training problems, file, row 9 for one"):
        refuse_overlap(training, [asked("c", 1), asked(" What  is 1 + 1?", 9)])


def countdown_problem(text: str) -> Problem:
    return Problem(text, text, text, countdown.verify)


def test_overlap_of_countdown_ignores_the_order_of_numbers() -> None:
    """Guards against a leak by another order of the same numbers."""
    training = [countdown_problem("3 7 5 -> 26")]
    refuse_overlap(training, [countdown_problem("3 7 5 -> 27"), countdown_problem("3 7 7 -> 26")])
    with pytest.raises(UserError, match="also training problems"):
        refuse_overlap(training, [countdown_problem("5 3 7 -> 26")])


class Hub:
    """Stands in for `datasets.load_dataset`, with the signature of the real one."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str | None, str | None]] = []

    def load_dataset(self, path: str, name: str | None = None, *, split: str | None = None) -> Any:
        self.calls.append((path, name, split))
        return datasets.Dataset.from_list([{"question": f"{name} {n}?", "answer": str(n)} for n in range(2)])


def test_hub_subsets_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against arguments in the wrong places; ids name data set, subset and row."""
    hub = Hub()
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    found = load_problems(ProblemSource("hub:owner/maths", split="test", subsets=("algebra", "geometry")))
    assert hub.calls == [("owner/maths", "algebra", "test"), ("owner/maths", "geometry", "test")]
    assert [p.id for p in found] == [f"owner/maths/{s}, row {n}" for s in ("algebra", "geometry") for n in (1, 2)]
    assert [p.gold for p in found] == ["0", "1", "0", "1"]


def test_hub_without_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a subset called "None"."""
    hub = Hub()
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    assert [p.id for p in load_problems(ProblemSource("hub:owner/maths"))] == [
        "owner/maths, row 1",
        "owner/maths, row 2",
    ]
    assert hub.calls == [("owner/maths", None, "train")]


@pytest.mark.parametrize("error", [ConnectionError("offline"), ValueError("Unknown split"), KeyError("x")])
def test_a_failing_hub_is_a_user_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Guards against the hub client's tracebacks, of which there are many kinds."""

    def fail(path: str, name: str | None = None, *, split: str | None = None) -> Any:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert f"cannot load hub:a/b (split train): {error}" in refused(ProblemSource("hub:a/b"))


REAL = {
    "gsm8k": 1319,
    "math500": 500,
    "aime": 90,
    "minerva_math": 272,
    "olympiadbench": 581,
    "amc": 83,
}


@pytest.mark.parametrize(("name", "n_rows"), REAL.items())
def test_real_benchmarks_load_and_every_gold_is_right(shared_data: Path, name: str, n_rows: int) -> None:
    """Guards against gold answers that their own verifier rejects, on every row of six benchmarks."""
    found = load_problems(
        ProblemSource(
            str(shared_data / name / "test.parquet"), question="prompt.0.content", answer="reward_model.ground_truth"
        )
    )
    assert len(found) == n_rows
    wrong = [(p.id, p.gold) for p in found if p.judge(f"\\boxed{{{p.gold}}}").right is not True]
    assert wrong == []


@pytest.mark.parametrize("name", REAL)
def test_golds_of_real_benchmarks_equal_themselves_by_symbolic_comparison(shared_data: Path, name: str) -> None:
    """Guards against a check that passes for equal text only: every 29th gold goes through
    math-verify as well. Texts that are no mathematics are left to the comparison of text."""
    file = shared_data / name / "test.parquet"
    golds = [boxed.gold(row["reward_model"]["ground_truth"]) for row in parquet.read_table(file).to_pylist()[::29]]
    verdicts = {g: symbolic.compare(g, g) for g in golds if "\\text" not in g}
    assert [g for g, v in verdicts.items() if v.right is not True] == []
