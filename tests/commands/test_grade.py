"""`rethink grade`: a verdict per row and in order, whatever the rows are; and the gold answers of the real suites."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from rethink.evaluation.grade import Tally
from rethink.evaluation.intervals import Outcome, rate, wilson_interval
from support.command_line import Rethink, assert_one_message
from support.grading_workers import long_timeout_pool

_long_timeouts = pytest.fixture(scope="module", autouse=True)(long_timeout_pool)


def write(file: Path, *rows: object) -> Path:
    """A line per row: text as it is, everything else as JSON."""
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def boxed(n: object, wanted: object = "5", **more: object) -> dict[str, Any]:
    return {"answer": wanted, "response": f"so \\boxed{{{n}}}", **more}


def test_a_line_per_row_in_order(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against verdicts next to other rows: every row has one, and more rows than a chunk keep their order."""
    rows: list[object] = [
        boxed(5),
        boxed("x+x", "2x"),
        boxed(6),
        {"answer": "5", "response": "five"},
        {"answer": "5", "response": None},
        {"answer": None, "response": "\\boxed{5}"},
        {"answer": "it is\n####", "response": "\\boxed{5}"},
        {"response": "\\boxed{5}"},
        '{"answer": "5", "respo',
        "[5]",
        {"answer": 5, "response": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "\\boxed{5}"}]},
        boxed("9^{9^{9}}"),
        boxed("5\0"),
    ]
    write(tmp_path / "a.jsonl", *rows, *(boxed(n, "7") for n in range(1000)))
    found = rethink("grade", "a.jsonl", "--out", "v.jsonl")
    assert found.code == 0
    assert "1013 rows" in found.err
    records = read(tmp_path / "v.jsonl")
    assert [r["row"] for r in records] == list(range(1013))
    told = [(r["verdict"], r["extracted"], r["reason"]) for r in records[:13]]
    assert told[:5] == [
        ("right", "5", "same text"),
        ("right", "x+x", "compared as formulas"),
        ("wrong", "6", "compared as numbers"),
        ("wrong", None, "no box"),
        ("not graded", None, "no response"),
    ]
    reasons = ["'answer' is empty", "no gold answer", "no column 'answer'", "not valid JSON", "not a JSON"]
    for (verdict, extracted, reason), part in zip(told[5:10], reasons, strict=True):
        assert (verdict, extracted) == ("not graded", None)
        assert part in reason
    assert told[10] == ("right", "5", "same text")
    assert told[11] == ("not graded", "9^{9^{9}}", "a power too high to compute")
    assert told[12][0] == "not graded"
    assert [r["extracted"] for r in records[13:]] == [str(n) for n in range(1000)]
    assert [r["row"] for r in records[13:] if r["verdict"] == "right"] == [13 + 7]


def test_the_replies_of_a_row_are_not_independent(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against intervals as narrow as those of 60 problems, for 10 problems with 6 replies each, all alike or not."""
    shares = [6, 6, 0, 1, 6, 0, 0, 6, 2, 5]
    rows: list[object] = []
    outcomes: list[Outcome] = []
    for n, n_right in enumerate(shares):
        replies = [f"\\boxed{{{5 if k < n_right else 6}}}" for k in range(6)]
        rows.append({"answer": "5", "response": [*replies, None], "set": "ab"[n % 2]})
        outcomes += [(str(n), k < n_right) for k in range(6)]
    write(tmp_path / "a.jsonl", *rows)
    found = rethink("grade", "a.jsonl", "--out", "v.jsonl", "--by", "set", "--json")
    numbers = json.loads(found.out)
    for own, part in ((numbers, ""), (numbers["groups"]["a"], "02468"), (numbers["groups"]["b"], "13579")):
        wanted = rate([outcome for outcome in outcomes if not part or outcome[0] in part])
        accuracy = own["accuracy_of_graded"]
        assert [accuracy[key] for key in ("value", "low", "high", "n")] == pytest.approx(astuple(wanted)[:4])
    low, high = wilson_interval(32 / 60, 60)
    assert numbers["accuracy_of_graded"]["low"] < low - 0.1
    assert numbers["accuracy_of_graded"]["high"] > high + 0.1


def test_nested_columns_and_parquet(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against dots that reach into some columns alone: once not into the other grader's and the group's."""
    rows = [
        {"meta": {"gold": "5", "score": s, "set": g}, "out": [f"\\boxed{{{n}}}"]}
        for n, s, g in ((5, 1.0, "a"), (6, 1.0, "b"))
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    write(tmp_path / "a.jsonl", *rows)
    names = ["--answer", "meta.gold", "--response", "out.0", "--against", "meta.score", "--by", "meta.set"]
    for file in ("a.parquet", "a.jsonl"):
        found = rethink("grade", file, *names, "--out", "v.jsonl")
        assert found.code == 0
        told = [(r["verdict"], r["group"], r["against"]) for r in read(tmp_path / "v.jsonl")]
        assert told == [("right", "a", "right"), ("wrong", "b", "right")]
        assert "agreement: 1 of 2 (50.0%)" in found.out
        assert "row 1: wrong (compared as numbers), against right; extracted '6'" in found.out


def test_refinements_may_quote_the_earlier_answer(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against files of refinements that are graded by the rule for first answers, with no way out."""
    write(tmp_path / "a.jsonl", {"answer": "5", "response": "Not \\boxed{3}, but \\boxed{5}."}, boxed(5), boxed(3))
    for option, verdicts in (("--refinements", ["right", "right", "wrong"]), ("", ["wrong", "right", "wrong"])):
        assert rethink("grade", "a.jsonl", *filter(None, [option]), "--out", "v.jsonl").code == 0
        assert [record["verdict"] for record in read(tmp_path / "v.jsonl")] == verdicts
    assert read(tmp_path / "v.jsonl")[0]["extracted"] == "3, 5"
    thoughts = " ".join(f"\\boxed{{{n}}}" for n in range(9))  # too many, if they were not thoughts
    write(tmp_path / "a.jsonl", {"answer": "5", "response": f"[[{thoughts}]] \\boxed{{3}} is wrong: \\boxed{{5}}."})
    assert rethink("grade", "a.jsonl", "--refinements", "--thinking", "[[", "]]", "--out", "v.jsonl").code == 0
    assert read(tmp_path / "v.jsonl")[0]["extracted"] == "5"
    for option in ("--refinements", "--lenient"):
        own = rethink("grade", "a.jsonl", option, "--verifier", "support.coins:coin", "--out", "w.jsonl")
        assert_one_message(own, f"{option} has no effect on a verifier of your own, which gets the whole reply")


MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "no answer column": (["a.jsonl", "--answer", "gold", "--out", "v.jsonl"], ["no column 'gold'", "answer, response"]),
    "no other grader": (["a.jsonl", "--against", "score", "--out", "v.jsonl"], ["no column 'score'"]),
    "no parquet": (["a.parquet", "--out", "v.jsonl"], ["not a readable parquet file"]),
    "no rows": (["empty.jsonl", "--out", "v.jsonl"], ["empty.jsonl has no rows"]),
    "a folder": (["a.jsonl", "--out", "sub"], ["cannot write sub: it is a folder; name a file"]),
    "no out": (["a.jsonl"], ["--out"]),
    "itself by another name": (["a.jsonl", "--out", "link.jsonl"], ["would overwrite"]),
    "unknown verifier": (["a.jsonl", "--out", "v.jsonl", "--verifier", "boxd"], ["boxed, choice"]),
    "unknown suite": (["--gold", "maht500"], ["did you mean math500"]),
}


@pytest.mark.parametrize(("arguments", "parts"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_message_and_nothing_is_written(
    arguments: list[str], parts: list[str], rethink: Rethink, tmp_path: Path
) -> None:
    """Guards against tracebacks, and a file half written before the mistake is seen."""
    write(tmp_path / "a.jsonl", "no JSON", boxed(5))
    (tmp_path / "a.parquet").touch()
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    (tmp_path / "sub").mkdir()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    assert_one_message(rethink("grade", *arguments), *parts)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


def test_an_existing_file_is_replaced_only_when_all_is_graded(
    rethink: Rethink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against verdicts of an earlier run that are lost to one that broke off."""
    write(tmp_path / "a.jsonl", boxed(5), boxed(6))
    (tmp_path / "v.jsonl").write_text("precious")
    with monkeypatch.context() as broken:
        broken.setattr(Tally, "add", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert rethink("grade", "a.jsonl", "--out", "v.jsonl").code != 0
    assert (tmp_path / "v.jsonl").read_text() == "precious"
    assert {file.name for file in tmp_path.iterdir()} == {"a.jsonl", "v.jsonl"}
    assert rethink("grade", "a.jsonl", "--out", "v.jsonl").code == 0
    assert [r["verdict"] for r in read(tmp_path / "v.jsonl")] == ["right", "wrong"]


def test_one_bad_row_among_many_is_named(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a row that nobody finds again, and a reason per bad row that fills the table."""
    bad = {700: "no JSON", 800: json.dumps({"answer": "5"}), 900: json.dumps({"answer": "5"})}
    write(tmp_path / "a.jsonl", *(bad.get(n, boxed(5)) for n in range(1, 1101)))
    found = rethink("grade", "a.jsonl", "--out", "new/v.jsonl")
    assert found.code == 0
    assert (
        "not graded: not valid JSON (Expecting value: line 1 column 1 (char 0)) (first: a.jsonl, line 700)" in found.out
    )
    assert "not graded: no response (first: a.jsonl, line 800)" in found.out
    locations = [record.get("location") for record in read(tmp_path / "new" / "v.jsonl")]
    assert [place for place in locations if place] == [f"a.jsonl, line {n}" for n in (700, 800, 900)]


def test_a_file_without_a_row_to_grade(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against exit code 0 and a table of nothing."""
    write(tmp_path / "junk.jsonl", "", "no JSON", "[1]", json.dumps({"answer": "5", "response": None}))
    found = rethink("grade", "junk.jsonl", "--out", "v.jsonl")
    assert (found.code, found.out) == (2, "")
    assert "no row with a reply and a gold answer; junk.jsonl, line 2: not valid JSON" in found.err
    assert not (tmp_path / "v.jsonl").exists()


def test_names_with_control_characters(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a group's name that clears the screen, adds rows to the table or turns a line around."""
    write(tmp_path / "a.jsonl", boxed(5, kind="\x1b[2Ja\nall  9"), boxed(5, kind="\u202eb"))
    found = rethink("grade", "a.jsonl", "--out", "v.jsonl", "--by", "kind")
    lines = [line.split("  ")[0] for line in found.out.splitlines()[:4]]
    assert lines == ["", r"\x1b[2Ja\nall", r"\u202eb", "all"]


OWN = """
import signal, threading
from rethink.types import Verdict

def alarming(reply, gold):
    assert threading.current_thread() is threading.main_thread()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(60)
    signal.alarm(0)
    return Verdict(reply == gold, "own", reply)

def raising(reply, gold):
    return Verdict(bool(1 / int(reply)), "own", reply)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_verifiers.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_verifiers", None)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("function", "verdicts", "reason"),
    [
        ("alarming", ["right", "wrong"], "own"),
        ("raising", ["right", "not graded"], "own_verifiers:raising failed: ZeroDivisionError"),
    ],
)
def test_verifiers_of_users(function: str, verdicts: list[str], reason: str, rethink: Rethink, tmp_path: Path) -> None:
    """Guards against signals in a thread, where Python refuses them, and a failure that counts as wrong."""
    write(tmp_path / "a.jsonl", {"answer": "1", "response": "1"}, {"answer": "1", "response": "0"})
    assert rethink("grade", "a.jsonl", "--out", "v.jsonl", "--verifier", f"own_verifiers:{function}").code == 0
    records = read(tmp_path / "v.jsonl")
    assert [r["verdict"] for r in records] == verdicts
    assert reason in records[1]["reason"]


def test_summary_of_groups_lenience_and_another_grader(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a table that does not add up: one reply is right by lenience, one unknown to the other grader."""
    rows = [
        boxed(5, s="a", o=True),
        {"answer": "5", "response": "It is 5.", "s": "b", "o": 0},
        boxed(6, s="b", o="wrong"),
    ]
    write(tmp_path / "a.jsonl", *rows, {"answer": "5", "response": None, "s": "b", "o": None})
    found = rethink("grade", "a.jsonl", "--out", "v.jsonl", "--lenient", "--against", "o", "--by", "s")
    assert found.code == 0
    table = [line.split() for line in found.out.splitlines()]
    assert ["a", "1", "1", "0", "0"] in [line[:5] for line in table]
    assert ["b", "3", "1", "1", "1"] in [line[:5] for line in table]
    assert ["all", "4", "2", "1", "1", "66.7"] in [line[:6] for line in table]
    assert ["ours:", "right", "1", "1", "0"] in table
    assert ["ours:", "not", "graded", "0", "0", "1"] in table
    assert "agreement: 2 of 3 (66.7%)" in found.out
    records = read(tmp_path / "v.jsonl")
    assert [r.get("lenient", False) for r in records] == [False, True, False, False]
    assert [r["against"] for r in records] == ["right", "wrong", "wrong", "not graded"]


@pytest.mark.slow
@pytest.mark.parametrize(("suite", "n"), [("gsm8k", 7473), ("countdown-tasks", 50_000)])
def test_a_training_set_accepts_its_own_gold_answers(suite: str, n: int, rethink: Rethink, real_data: Path) -> None:
    """Guards against a verifier that cannot read what it compares with."""
    found = rethink("grade", "--gold", suite, "--data", real_data, "--split", "train")
    assert (found.code, found.out) == (0, f"{suite}: {n} of {n} gold answers accepted\n")


def test_a_refused_gold_answer_is_shown_and_is_an_error(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a check that cannot fail."""
    write(tmp_path / "math500.jsonl", {"problem": "1+1?", "answer": "2"}, {"problem": "Which?", "answer": "3" * 501})
    found = rethink("grade", "--gold", "math500", "--data", tmp_path)
    assert found.code == 1
    assert "math500: 1 of 2 gold answers accepted" in found.out
    assert "math500/1" in found.out


def test_bounds_and_kinds_of_what_was_not_graded(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against an accuracy of the rows that could be graded alone: 2 of 3 right, 4 more not graded, and one of them
    without a reply. With them wrong it is 2 of 7, with them right 6 of 7."""
    (tmp_path / "own.py").write_text(
        "def check(reply, gold):\n"
        "    if reply == 'odd':\n        return None, 'the answer cannot be read: an unknown sign'\n"
        "    if reply == 'crash':\n        raise KeyError(gold)\n"
        "    return reply == gold\n"
    )
    replies = ["5", "5", "6", "odd", "odd", "crash", None]
    write(tmp_path / "a.jsonl", *({"answer": "5", "response": r, "score": 1, "set": r or ""} for r in replies))
    write(tmp_path / "b.jsonl", *({"answer": "5", "response": r, "score": 1} for r in replies[:3]))
    names = ["--verifier", "own:check", "--against", "score", "--out", "v.jsonl"]
    shown = rethink("grade", "a.jsonl", *names, "--by", "set").out
    lines = shown.splitlines()
    (row,) = [line for line in lines if line.startswith("all ")]
    assert row.split()[1:5] == ["7", "2", "1", "4"]
    assert row.endswith("66.7 [20.8, 93.9] (28.6 to 85.7)")
    (odd,) = [line for line in lines if line.startswith("odd ")]
    assert odd.endswith("undefined (0.0 to 100.0)")
    assert "in parentheses: the accuracy if all replies that were not graded are wrong, and if all are right" in lines
    start = next(n for n, line in enumerate(lines) if line.startswith("not graded "))
    assert [line.rsplit(maxsplit=1) for line in lines[start : start + 4]] == [
        ["not graded", "rows"],
        ["the answer cannot be read", "2"],
        ["error", "1"],
        ["no reply or gold answer in the row", "1"],
    ]
    wanted = (
        "agreement: 2 of 3 (66.7%); of all 7, with the 4 that one of the two did not grade: 28.6% if they disagree "
    )
    assert f"{wanted}there, 85.7% if they agree" in lines
    shown = rethink("grade", "b.jsonl", *names).out
    assert "66.7 [20.8, 93.9]\n" in shown
    assert "parentheses" not in shown
    assert "agreement: 2 of 3 (66.7%)\n" in shown


def test_replies_to_another_prompt_are_noticed(rethink: Rethink, tmp_path: Path) -> None:
    """Regression: of a log whose prompts ask for "#### 5", 92% of the replies were called wrong without a word."""
    replies = ["#### 5", "The answer is 5.", "#### 6", "so \\boxed{5}"]
    write(tmp_path / "a.jsonl", *({"answer": "5", "response": reply} for reply in replies))
    strict = rethink("grade", "a.jsonl", "--out", "v.jsonl")
    assert "warning: 3 of 4 replies are wrong because they have no answer where this format asks for it" in strict.err
    lenient = rethink("grade", "a.jsonl", "--out", "v.jsonl", "--lenient")
    assert [r["verdict"] for r in read(tmp_path / "v.jsonl")] == ["right", "right", "wrong", "right"]
    assert "warning" not in lenient.err
    write(tmp_path / "b.jsonl", boxed(5), boxed(6), {"answer": "5", "response": "five"})
    assert "warning" not in rethink("grade", "b.jsonl", "--out", "v.jsonl").err


def test_a_verdict_names_the_document_of_a_log(rethink: Rethink, tmp_path: Path) -> None:
    """Regression: of a log with two lines per document, a verdict had a row number alone, which is no line of the file."""
    rows = []
    for n, reply in enumerate(["\\boxed{5}", "\\boxed{6}"]):
        doc = {"doc_id": 70 + n, "doc": {"question": f"{n}?", "answer": "5"}, "target": "5", "resps": [[reply]]}
        for name in ("strict", "flexible"):
            rows.append(
                doc | {"filtered_resps": [reply], "filter": name, "metrics": ["exact_match"], "exact_match": 1.0}
            )
    write(tmp_path / "samples_sums_2026-11-29T10-00-00.000001.jsonl", *rows)
    found = rethink(
        "grade", "samples_sums_2026-11-29T10-00-00.000001.jsonl", "--against", "exact_match,strict", "--out", "v"
    )
    assert "  row 1 (task sums, id 71): wrong (compared as numbers), against right; extracted '6'" in found.out, (
        found.err
    )
    assert [(r["row"], r["task"], r["id"]) for r in read(tmp_path / "v")] == [(0, "sums", "70"), (1, "sums", "71")]
