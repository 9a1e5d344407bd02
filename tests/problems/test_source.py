"""Problems from users' own files and from generators; forms and verifiers by name."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from rethink.errors import UserError
from rethink.problems import countdown, gym, mathematics
from rethink.problems.source import ANSWER_FORMATS, answer_format_of, find_answer_format, load_problems
from rethink.settings import ProblemSource
from rethink.types import Demonstration, Problem, Verdict
from support.suite_rows import Hub

ROWS = [{"question": "1+1?", "answer": "2"}, {"question": "2+3?", "answer": "so \\boxed{5}"}]


def jsonl(folder: Path, *rows: object, name: str = "mine.jsonl") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def only(source: ProblemSource) -> Problem:
    (problem,) = load_problems(source)
    return problem


def refused(source: ProblemSource, purpose: Literal["train", "test"] = "train") -> str:
    with pytest.raises(UserError) as caught:
        load_problems(source, purpose=purpose)
    return str(caught.value)


def test_rows_become_problems(tmp_path: Path) -> None:
    """Guards against golds that are whole solutions, and against ids that depend on the folder."""
    first, second = load_problems(ProblemSource(jsonl(tmp_path, *ROWS)))
    assert (first.question, first.gold, first.id, first.suite) == ("1+1?", "2", "mine.jsonl/0", "mine.jsonl")
    assert (second.question, second.gold, second.id) == ("2+3?", "5", "mine.jsonl/1")
    assert second.grade("\\boxed{5}").right is True
    assert second.grade("\\boxed{6}").right is False
    assert second.solve == mathematics.SOLVE_BOXED
    assert second.demonstrate is None
    assert load_problems(ProblemSource(jsonl(tmp_path / "elsewhere", *ROWS))) == [first, second]


def test_columns_by_name(tmp_path: Path) -> None:
    """Guards against columns that are named and not used: nested ones, alternatives, id, suite, context."""
    table = pa.table(
        {
            "prompt": [[{"role": "user", "content": "1+1?"}], [{"role": "user", "content": "2+3?"}]],
            "reward_model": [{"ground_truth": "2", "style": "rule"}, {"ground_truth": None, "style": "rule"}],
            "solution": ["\\boxed{7}", "\\boxed{5}"],
            "key": ["a", "b"],
            "set": ["x", "y"],
            "about": ["Sums.", None],
        }
    )
    parquet.write_table(table, tmp_path / "p.parquet")
    source = ProblemSource(
        str(tmp_path / "p.parquet"),
        question="prompt.0.content",
        answer="answer|reward_model.ground_truth|solution",
        id="key",
        suite="set",
        context="about",
    )
    assert [(p.id, p.question, p.gold, p.suite) for p in load_problems(source)] == [
        ("a", "Sums.\n\n1+1?", "2", "x"),
        ("b", "2+3?", "5", "y"),
    ]


def test_a_column_called_context_is_left_alone(tmp_path: Path) -> None:
    """Guards against text in front of a question that nobody asked for."""
    assert only(ProblemSource(jsonl(tmp_path, {**ROWS[0], "context": "The answer is 2."}))).question == "1+1?"


def test_columns_to_imitate(tmp_path: Path) -> None:
    """Guards against replies to imitate that lose the draft they refine, and against drafts without such a reply."""
    file = jsonl(tmp_path, {**ROWS[0], "reply": "\\boxed{2}", "before": "\\boxed{3}"})
    cases = {"before": Demonstration("\\boxed{2}", "refine", ("\\boxed{3}",)), "": Demonstration("\\boxed{2}")}
    for draft, shown in cases.items():
        problem = only(ProblemSource(file, reply="reply", draft=draft))
        assert problem.demonstrate is not None
        assert problem.demonstrate(7) == (shown,)
    assert "draft names a column, but reply" in refused(ProblemSource(file, draft="before"))


def test_forms_for_own_files(tmp_path: Path) -> None:
    """Guards against a form that is named and not used."""
    row = {"q": "Which?", "right": 1, "choices": {"text": ["this", "that"]}}
    source = ProblemSource(
        jsonl(tmp_path, row), question="q", answer="right", options="choices.text", verifier="choice"
    )
    problem = only(source)
    assert f"{problem.gold}) that" in problem.question
    assert problem.grade(f"\\boxed{{{problem.gold}}}").right is True
    assert problem.solve == ANSWER_FORMATS["choice"].solve


@pytest.mark.parametrize("row", [{"question": "?", "answer": None}, {"question": " ", "answer": "2"}, {"answer": "2"}])
def test_a_row_that_lacks_something_is_named(tmp_path: Path, row: dict[str, Any]) -> None:
    """Guards against rows that are skipped, or that have the gold answer "None"."""
    file = jsonl(tmp_path, ROWS[0], row)
    assert refused(ProblemSource(file)).startswith(f"{file}, line 2: ")
    assert len(load_problems(ProblemSource(file, limit=1))) == 1


def test_several_sources_and_a_limit_for_each(tmp_path: Path) -> None:
    """Guards against an off-by-one, a limit for the sum, and -1 for "all", which once dropped the last row."""
    files = [
        jsonl(tmp_path, *({"question": f"{k}{n}", "answer": "1"} for n in range(size)), name=f"{k}.jsonl")
        for k, size in (("a", 5), ("b", 2))
    ]
    source = ", ".join([*files, "countdown", files[0]])
    found = load_problems(ProblemSource(source, limit=3))
    assert [p.question for p in found[:5]] == ["a0", "a1", "a2", "b0", "b1"]
    assert [p.suite for p in found[5:]] == ["countdown"] * 3
    assert len(load_problems(ProblemSource(",".join(files), limit=7))) == 7
    assert "limit must be 0 (all rows) or more, not -1" in refused(ProblemSource(files[0], limit=-1))


def test_a_source_without_problems_is_refused(tmp_path: Path) -> None:
    """Guards against a run on no problems at all, and against one that others hide."""
    empty = jsonl(tmp_path, name="empty.jsonl")
    assert refused(ProblemSource(empty)) == f"{empty} has no problems"
    assert refused(ProblemSource(f"{jsonl(tmp_path, *ROWS)},{empty}")) == f"{empty} has no problems"
    assert refused(ProblemSource(numbers=1)) == "countdown has no problems"
    assert refused(ProblemSource("none.jsonl")) == "no file none.jsonl"


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    """Guards against two problems that share their random numbers and their group."""
    file = jsonl(tmp_path, {**ROWS[0], "key": "a"}, {**ROWS[1], "key": "a"})
    assert "the id 'a' occurs twice" in refused(ProblemSource(file, id="key"))
    other = jsonl(tmp_path / "other", *ROWS)
    assert "the id 'mine.jsonl/0' occurs twice; ids must be unique, and so must file names" in refused(
        ProblemSource(f"{file},{other}")
    )


def test_a_verifier_by_module_and_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against own verifiers that are imported but not used; the answer's column is theirs to read."""
    (tmp_path / "my_verifier.py").write_text(
        "from rethink.types import Verdict\ndef shout(reply, gold):\n    return Verdict(reply == gold.upper())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = jsonl(tmp_path, {"question": "?", "answer": "x #### y"})
    for extraction in ("strict", "lenient"):
        problem = only(ProblemSource(file, verifier="my_verifier:shout", extraction=extraction))
        assert problem.grade("X #### Y") == Verdict(True)
        assert problem.grade("x #### y") == Verdict(False)
    sys.modules.pop("my_verifier")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "boxd",
            "unknown verifier 'boxd': use one of boxed, choice, calls, bfcl, equation, countdown, or module:",
        ),
        ("no_such_module:f", "cannot be imported"),
        ("json:no_such_function", "cannot be imported"),
        (":f", "cannot be imported"),
        ("json:__name__", "json:__name__ is not a function"),
    ],
)
def test_an_unknown_verifier_is_refused(tmp_path: Path, name: str, message: str) -> None:
    """Guards against a fall-back to another verifier, and against tracebacks (an empty module name once gave one)."""
    assert message in refused(ProblemSource(jsonl(tmp_path, *ROWS), verifier=name))


def test_forms_of_sources() -> None:
    """Guards against gold answers that are stated in the form of another source."""
    names = {
        "countdown": "countdown",
        "mine.jsonl": "boxed",
        "hub:a/b": "boxed",
        "gpqa": "choice",
    }
    for name, form in (names | {"math5": "boxed", "xlam,gsm8k": "calls", "aime:2019": "boxed"}).items():
        assert answer_format_of(ProblemSource(name)) is ANSWER_FORMATS[form]
    assert (
        answer_format_of(ProblemSource("gpqa", verifier="boxed"))
        is ANSWER_FORMATS["boxed"]
        is find_answer_format("boxed")
    )
    tagged = answer_format_of(ProblemSource("gym:chain_sum"))
    assert (tagged.solve, tagged.gold_reply("{7}")) == (gym.SOLVE, "<answer>{7}</answer>")
    with pytest.raises(ValueError, match="the verifier of their problem"):
        tagged.verify("7", "7")


def test_a_data_set_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against arguments in the wrong places, and against a subset called "None"; the split is the purpose's."""
    rows = [{"question": f"{n}?", "answer": str(n)} for n in range(2)]
    asked = [
        ("o/m", "a", "test", None),
        ("o/m", "b", "test", None),
        ("o/m", None, "train", None),
        ("o/m", None, "x", None),
    ]
    hub = Hub(dict.fromkeys(asked, rows))
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    found = load_problems(ProblemSource("hub:o/m", subsets=("a", "b")), purpose="test")
    assert [(p.id, p.gold, p.suite) for p in found] == [(f"hub:o/m/{n}", str(n % 2), "hub:o/m") for n in range(4)]
    assert len(load_problems(ProblemSource("hub:o/m"))) == len(load_problems(ProblemSource("hub:o/m", split="x"))) == 2
    assert hub.asked == asked
    assert "cannot load hub:o/m (split test)" in refused(ProblemSource("hub:o/m"), "test")


def test_generators_take_their_settings_and_the_purpose() -> None:
    """Guards against settings of the source that are ignored, and against evaluation on training problems."""
    small = ProblemSource(numbers=2, largest=5)
    for purpose in ("train", "test"):
        assert load_problems(small, purpose=purpose) == countdown.problems(purpose, 2, 5)
    assert load_problems(ProblemSource(split="validation", numbers=2)) == countdown.problems("validation", 2)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (ProblemSource(split="dev"), "countdown has the splits train, validation, test, not 'dev'"),
        (ProblemSource(verifier="boxed"), "countdown has its own verifier; leave verifier empty"),
    ],
)
def test_generators_refuse_what_they_cannot_do(source: ProblemSource, message: str) -> None:
    """Guards against tracebacks, and against settings that are dropped without a word."""
    assert message in refused(source)


def test_tasks_of_reasoning_gym(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against settings that do not reach a task, and against training on what is tested."""
    pytest.importorskip("reasoning_gym", reason='an extra: pip install "rethink-rl[gym]"')
    source = ProblemSource("gym:chain_sum", size=5, limit=3, gym={"min_terms": 3, "max_terms": 3})
    found = load_problems(source, purpose="test")
    assert [p.question.count(" + ") + p.question.count(" - ") for p in found] == [2, 2, 2]
    assert {p.suite for p in found} == {"gym:chain_sum"}
    calls: list[tuple[Any, ...]] = []

    def stand_in(*given: Any) -> list[Problem]:
        calls.append(given)
        return found

    monkeypatch.setattr(gym, "problems", stand_in)
    load_problems(source)
    load_problems(replace(source, split="validation", extraction="lenient"), purpose="test")
    assert calls == [("chain_sum", split, 5, source.gym, split != "train", False) for split in ("train", "validation")]


CALL = '{"name": "f", "arguments": {"x": 1}}'
BFCL = '[{"name":"f","parameters":{"x":{"accepted":[1],"optional":false,"type":"integer"}}}]'
LOOSE: dict[str, tuple[str, str]] = {
    "boxed": ("5", "The answer is 5."),
    "choice": ("B", "The answer is B."),
    "calls": (f"[{CALL}]", f"I call {CALL} now."),
    "bfcl": (BFCL, f"I call {CALL} now."),
    "equation": ('{"numbers":[3,7,5],"target":26}', "So it is\n3 * 7 + 5 = 26"),
}
"""Gold answers, and replies that lenient extraction alone reads. The generator countdown has no lenient extraction."""


@pytest.mark.parametrize("name", ANSWER_FORMATS)
def test_lenient_extraction_reaches_every_form(name: str, tmp_path: Path) -> None:
    """Guards against an evaluation that says "lenient" and is strict, or the reverse."""
    row = {"question": "?", "answer": "26", "nums": [3, 7, 5], "target": 26, "options": ["a", "b"], "tools": "[]"}
    row["answer"] = {"choice": "A", "calls": "[]", "bfcl": "[]", "equation": None}.get(name, "26")
    file = jsonl(tmp_path, row)
    strict, lenient = (only(ProblemSource(file, verifier=name, extraction=e)) for e in ("strict", "lenient"))
    assert (strict.verify, lenient.verify) == (ANSWER_FORMATS[name].verify, ANSWER_FORMATS[name].verify_lenient)
    if name in LOOSE:
        gold, reply = LOOSE[name]
        assert strict.verify(reply, gold).right is False
        verdict = lenient.verify(reply, gold)
        assert (verdict.right, verdict.lenient) == (True, True)
    else:
        assert strict.verify is lenient.verify


def test_lenient_extraction_reaches_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an evaluation on generated problems that says "lenient" and is strict."""
    assert only(ProblemSource(limit=1, extraction="lenient")).verify is countdown.verify
    if importlib.util.find_spec("reasoning_gym"):
        monkeypatch.setattr(gym, "grade_in_worker", lambda task, asked: Verdict(asked[-1] == "7", "stand-in"))
        task = ProblemSource("gym:chain_sum", size=1, extraction="lenient")
        assert only(task).grade("So it is\n7") == Verdict(True, "stand-in", "7", True)
