"""Problems from files, generators and the hub; answer formats by name; overlap of training and held-out problems."""

from __future__ import annotations

import datetime
import json
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import datasets
import pytest

from rethink.errors import UserError
from rethink.problems import countdown, equation, gym, mathematics
from rethink.problems.answer_format import Verifier
from rethink.problems.source import ANSWER_FORMATS, answer_format_of, find_answer_format, load_problems, refuse_overlap
from rethink.settings import ProblemSource
from rethink.types import Demonstration, Message, Problem, Verdict
from support.suite_rows import Hub

ROWS = [{"question": "1+1?", "answer": "2", "context": "It is 2."}, {"question": "2+3?", "answer": "so \\boxed{5}"}]


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


def test_problems_of_a_file(tmp_path: Path) -> None:
    """Guards against whole solutions as gold answers, a context nobody named, and ids that depend on the folder."""
    first, second = load_problems(ProblemSource(jsonl(tmp_path, *ROWS)))
    assert (first.question, first.gold, first.id, first.suite) == ("1+1?", "2", "mine.jsonl/0", "mine.jsonl")
    assert (second.question, second.gold, second.id) == ("2+3?", "5", "mine.jsonl/1")
    assert second.grade("\\boxed{5}").right is True
    assert second.grade("\\boxed{6}").right is False
    assert second.solve == mathematics.SOLVE_BOXED
    assert second.demonstrate is None
    assert load_problems(ProblemSource(jsonl(tmp_path / "elsewhere", *ROWS))) == [first, second]


def test_columns_by_name(tmp_path: Path) -> None:
    """Guards against named columns that are not used: nested, alternatives, id, suite, context."""
    row = {"prompt": [{"content": "1+1?"}], "reward_model": {"ground_truth": "2"}, "solution": "\\boxed{5}"}
    first: dict[str, Any] = {**row, "key": "a", "set": "x", "about": "Sums."}
    second = {**row, "reward_model": {"ground_truth": None}, "key": "b", "set": "y", "about": None}
    answer = "answer|reward_model.ground_truth|solution"
    source = ProblemSource(jsonl(tmp_path, first, second), question="prompt.0.content", answer=answer, id="key")
    found = load_problems(replace(source, suite="set", context="about"))
    assert [(p.id, p.question, p.gold, p.suite) for p in found] == [
        ("a", "Sums.\n\n1+1?", "2", "x"),
        ("b", "1+1?", "5", "y"),
    ]


def test_columns_with_replies_to_imitate(tmp_path: Path) -> None:
    """Guards against refinements that lose their draft, and drafts without a refinement."""
    file = jsonl(tmp_path, {**ROWS[0], "reply": "\\boxed{2}", "before": "\\boxed{3}"})
    cases = {"before": Demonstration("\\boxed{2}", "refine", ("\\boxed{3}",)), "": Demonstration("\\boxed{2}")}
    for draft, shown in cases.items():
        problem = only(ProblemSource(file, reply="reply", draft=draft))
        assert problem.demonstrate is not None
        assert problem.demonstrate(7) == (shown,)
    assert "draft names a column, but reply" in refused(ProblemSource(file, draft="before"))


@pytest.mark.parametrize("columns", [{"reply": "said"}, {"failure": "said"}, {"chosen": "yes", "rejected": "said"}])
def test_a_reply_to_train_on_that_lost_a_backslash(tmp_path: Path, columns: dict[str, Any]) -> None:
    """Guards against training on a backspace and "oxed{2}", which is what JSON makes of a single backslash."""
    file = jsonl(tmp_path, {**ROWS[0], "yes": "\\boxed{2}", "said": "So \boxed{2}"})
    message = refused(ProblemSource(file, **columns))
    assert "the column 'said': the reply lost the backslash of \\boxed" in message


def test_merged_answers_need_their_candidates(tmp_path: Path) -> None:
    """Guards against a column that nothing reads."""
    file = jsonl(tmp_path, {**ROWS[0], "merged": "2", "candidates": ["2", "3"]})
    assert "candidates names a column, but merged does not" in refused(ProblemSource(file, candidates="candidates"))
    assert "merged names a column, but candidates does not" in refused(ProblemSource(file, merged="merged"))


@pytest.mark.parametrize("columns", [{"reply": "said"}, {"failure": "said"}, {"chosen": "said", "rejected": "said"}])
def test_options_keep_the_letters_that_replies_name(tmp_path: Path, columns: dict[str, Any]) -> None:
    """Guards against training on replies that name a letter of the file, under options in another order."""
    options = ["Oslo", "Rome", "Paris", "Bern"]
    rows = [{"question": f"{n}?", "options": options, "answer": "C", "said": "\\boxed{C}"} for n in range(5)]
    source = ProblemSource(jsonl(tmp_path, *rows), verifier="choice", options="options")
    assert {p.gold for p in load_problems(source)} != {"C"}
    for problem in load_problems(replace(source, **columns)):
        assert problem.question.endswith("?\n\nA) Oslo\nB) Rome\nC) Paris\nD) Bern")
        assert problem.grade("\\boxed{C}").right


def test_columns_with_pairs_of_replies(tmp_path: Path) -> None:
    """Guards against chosen and rejected replies that swap places, refinements without their draft, and half a pair."""
    better, worse = "\\boxed{2}", "\\boxed{3}"
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": worse}]
    file = jsonl(tmp_path, {**ROWS[0], "yes": better, "no": turns, "before": "\\boxed{4}"})
    cases = {"": ("solve", ()), "before": ("refine", ("\\boxed{4}",))}
    for draft, (phase, shown) in cases.items():
        problem = only(ProblemSource(file, chosen="yes", rejected="no", draft=draft))
        assert problem.preference == (Demonstration(better, phase, shown), Demonstration(worse, phase, shown))
        assert problem.demonstrate is None
    assert "chosen names a column, but rejected does not" in refused(ProblemSource(file, chosen="yes"))
    assert "rejected names a column, but chosen does not" in refused(ProblemSource(file, rejected="no"))
    assert "no column 'nope'" in refused(ProblemSource(file, chosen="yes", rejected="nope"))


@pytest.mark.parametrize("row", [{"question": "?", "answer": None}, {"question": " ", "answer": "2"}, {"answer": "2"}])
def test_incomplete_rows_are_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    """Guards against rows that are skipped, or have the gold answer "None"."""
    file = jsonl(tmp_path, ROWS[0], row)
    assert refused(ProblemSource(file)).startswith(f"{file}, line 2: ")
    assert len(load_problems(ProblemSource(file, limit=1))) == 1


def test_limit_counts_per_source(tmp_path: Path) -> None:
    """Guards against a limit on the sum, and -1 for "all", which once dropped the last row."""
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


@pytest.mark.parametrize("name", ["countdown", "signs"])
@pytest.mark.parametrize("held_out", [0.0, 0.5])
def test_a_limit_takes_the_first_problems_of_a_generator(name: str, held_out: float) -> None:
    """Guards against other problems where only some are made, and a share that is held out of those."""
    source = ProblemSource(name, split="validation", held_out=held_out)
    some = load_problems(replace(source, limit=7))
    assert [p.id for p in some] == [p.id for p in load_problems(source)[:7]]


def test_empty_sources_are_refused(tmp_path: Path) -> None:
    """Guards against a run without problems, and an empty source among others."""
    empty = jsonl(tmp_path, name="empty.jsonl")
    assert refused(ProblemSource(empty)) == f"{empty} has no problems"
    assert refused(ProblemSource(f"{jsonl(tmp_path, *ROWS)},{empty}")) == f"{empty} has no problems"
    assert refused(ProblemSource(numbers=1)) == "countdown has no problems"
    assert refused(ProblemSource("none.jsonl")) == "there is no file none.jsonl"


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    """Guards against two problems with the same random numbers and group."""
    file = jsonl(tmp_path, {**ROWS[0], "key": "a"}, {**ROWS[1], "key": "a"})
    assert "the id 'a' occurs twice" in refused(ProblemSource(file, id="key"))
    other = jsonl(tmp_path / "other", *ROWS)
    assert "the id 'mine.jsonl/0' occurs twice; ids must be unique, and so must file names" in refused(
        ProblemSource(f"{file},{other}")
    )


def test_user_defined_verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a verifier that is imported but not used, and gold answers that are parsed for it."""
    (tmp_path / "my_verifier.py").write_text("def shout(reply, gold): return reply == gold.upper()")
    monkeypatch.syspath_prepend(tmp_path)
    file = jsonl(tmp_path, {"question": "?", "answer": "x #### y"})
    problem = only(ProblemSource(file, verifier="my_verifier:shout", extraction="lenient"))
    assert (problem.grade("X #### Y"), problem.grade("x #### y")) == (Verdict(True), Verdict(False))
    assert problem.extract_answer is None
    sys.modules.pop("my_verifier")


def test_answer_format_of() -> None:
    """Guards against gold replies in the format of another source."""
    names = {"countdown": "countdown", "mine.jsonl": "boxed", "hub:a/b": "boxed", "gpqa": "choice", "mmmu": "mixed"}
    for name, expected in (names | {"math5": "boxed", "xlam,gsm8k": "calls", "aime:2019": "boxed"}).items():
        assert answer_format_of(ProblemSource(name)) is ANSWER_FORMATS[expected]
    assert answer_format_of(ProblemSource("gpqa", verifier="boxed")) is find_answer_format("boxed")
    gym_format = answer_format_of(ProblemSource("gym:chain_sum"))
    assert (gym_format.solve, gym_format.gold_reply("{7}")) == (gym.SOLVE, "<answer>{7}</answer>")
    with pytest.raises(ValueError, match="the verifier of their problem"):
        gym_format.verify("7", "7")


def test_a_data_set_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a wrong split or subset; the purpose decides the split."""
    rows = [{"question": f"{n}?", "answer": str(n)} for n in range(2)]
    asked: list[Any] = [("o/m", "a", "test", None), ("o/m", "b", "test", None)]
    asked += [("o/m", None, split, None) for split in ("train", "x")]
    hub = Hub(dict.fromkeys(asked, rows))
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    found = load_problems(ProblemSource("hub:o/m", subsets=("a", "b")), purpose="test")
    assert [(p.id, p.gold, p.suite) for p in found] == [(f"hub:o/m/{n}", str(n % 2), "hub:o/m") for n in range(4)]
    assert len(load_problems(ProblemSource("hub:o/m"))) == len(load_problems(ProblemSource("hub:o/m", split="x"))) == 2
    assert hub.asked == asked
    assert "cannot load hub:o/m (split test)" in refused(ProblemSource("hub:o/m"), "test")


def test_generators_use_their_settings(tmp_path: Path) -> None:
    """Guards against settings that are dropped silently, and evaluation on training problems."""
    small = ProblemSource(numbers=2, largest=5)
    for purpose in ("train", "test"):
        assert load_problems(small, purpose=purpose) == countdown.problems(purpose, 2, 5)
    assert load_problems(ProblemSource(split="validation", numbers=2)) == countdown.problems("validation", 2)
    assert "countdown has the splits train, validation, test, not 'dev'" in refused(ProblemSource(split="dev"))
    assert "countdown has its own verifier; leave verifier empty" in refused(ProblemSource(verifier="boxed"))
    file = jsonl(tmp_path, *ROWS)
    assert "unknown verifier 'boxd': use one of boxed, choice" in refused(ProblemSource(file, verifier="boxd"))


def test_gym_tasks_get_their_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against settings that do not reach a gym task, and training on the test split."""
    calls: list[tuple[Any, ...]] = []

    def problems(*arguments: Any) -> list[Problem]:
        calls.append(arguments)
        return [Problem("p", "1 + 1?", "2", mathematics.verify)]

    monkeypatch.setattr(gym, "problems", problems)
    source = ProblemSource("gym:chain_sum", size=5, gym={"min_terms": 3})
    load_problems(source)
    load_problems(replace(source, split="validation", extraction="lenient"), purpose="test")
    assert calls == [("chain_sum", split, 5, source.gym, split != "train", False) for split in ("train", "validation")]


@pytest.mark.parametrize("name", ANSWER_FORMATS)
def test_extraction(name: str, tmp_path: Path) -> None:
    """Guards against an evaluation that says "lenient" and is strict, or the reverse."""
    row = {"question": "?", "answer": "26", "nums": [3, 7, 5], "target": 26, "options": ["a", "b"], "tools": "[]"}
    golds = {"choice": "A", "mixed": "A", "calls": "[]", "bfcl": "[]", "equation": None}
    row["answer"] = {**golds, "countdown": "3 7 5 -> 26", "signs": "3 7 5 -> 26"}.get(name, "26")
    if name == "boxed":
        del row["options"]
    file = jsonl(tmp_path, row)
    strict, lenient = (only(ProblemSource(file, verifier=name, extraction=e)) for e in ("strict", "lenient"))
    assert (strict.verify, lenient.verify) == (ANSWER_FORMATS[name].verify, ANSWER_FORMATS[name].verify_lenient)
    if name == "boxed":
        assert strict.extract_answer is not None
        assert lenient.extract_answer is not None
        assert (strict.extract_answer("It is 7."), lenient.extract_answer("It is 7.")) == (None, "7")


def plain_problem(question: str, ident: str = "p") -> Problem:
    return Problem(ident, question, "1", mathematics.verify)


def test_overlap_of_texts_ignores_blanks() -> None:
    """Guards against a leak that differs only in line breaks; ids do not matter."""
    training = [plain_problem("What is\n 1 + 1?", "1"), plain_problem("b", "2")]
    refuse_overlap(training, [plain_problem("c", "1"), plain_problem("What is 1 + 2?", "2")])
    with pytest.raises(UserError, match="1 held-out problems are also training problems, for example file/9"):
        refuse_overlap(training, [plain_problem("c"), plain_problem(" What  is 1 + 1?", "file/9")])


@pytest.mark.parametrize(
    ("form", "verify", "other_verify"),
    [
        ("{} {} {} -> {}", countdown.verify, countdown.verify),
        ('{{"numbers":[{},{},{}],"target":{}}}', equation.verify, equation.verify_lenient),
    ],
)
def test_overlap_of_countdown_ignores_the_order_of_numbers(form: str, verify: Verifier, other_verify: Verifier) -> None:
    """Guards against a leak by another order of the numbers; verifiers may differ in extraction."""

    def problem(verify: Verifier, *numbers: int) -> Problem:
        return Problem(form.format(*numbers), form.format(*numbers), form.format(*numbers), verify)

    training = [problem(verify, 3, 7, 5, 26)]
    refuse_overlap(training, [problem(other_verify, 3, 7, 5, 27), problem(other_verify, 3, 7, 7, 26)])
    with pytest.raises(UserError, match="1 held-out problems are also training problems"):
        refuse_overlap(training, [problem(other_verify, 5, 3, 7, 26), problem(other_verify, 9, 9, 9, 26)])


@pytest.mark.slow
def test_overlap_of_real_splits(real_data: Path) -> None:
    """Guards against a check that finds too little or too much: 13 test problems of countdown are in the train file."""
    train, test = (load_problems(ProblemSource("gsm8k", str(real_data)), purpose=p) for p in ("train", "test"))
    refuse_overlap(train, test)
    train, test = (
        load_problems(ProblemSource("countdown-tasks", str(real_data)), purpose=p) for p in ("train", "test")
    )
    with pytest.raises(
        UserError, match="13 held-out problems are also training problems, for example countdown-tasks/82"
    ):
        refuse_overlap(train, test)


HINTS = [
    (
        {"problem": "1+1?", "solution": "2"},
        "question",
        "no column 'question'; there are problem, solution; is it 'problem'?",
    ),
    (
        {"question": "?", "ground_truth": "2"},
        "question",
        "is it 'ground_truth'? Then set answer=ground_truth (problems.",
    ),
    ({"prompt": "?", "reward_model": {"ground_truth": "2"}}, "prompt", "set answer=reward_model.ground_truth"),
    (
        {"instruction": "?", "input": "1", "output": "2"},
        "question",
        "is it 'instruction'? Then set question=instruction",
    ),
]


@pytest.mark.parametrize(("row", "question", "message"), HINTS)
def test_the_usual_names_of_columns_are_suggested(
    tmp_path: Path, row: dict[str, Any], question: str, message: str
) -> None:
    """Guards against a message that leaves a user to guess which setting names a column."""
    assert message in refused(ProblemSource(jsonl(tmp_path, row), question=question))


def test_a_conversation_of_a_file(tmp_path: Path) -> None:
    """Guards against a gold answer in the prompt, where one column holds the question and the answer, and lost turns."""
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "1+1?"},
        {"from": "gpt", "value": "#### 2"},
    ]
    file = jsonl(tmp_path, {"conversations": turns})
    problem = only(ProblemSource(file, question="conversations", answer="conversations", reply="conversations"))
    assert (problem.earlier, problem.question, problem.gold) == ((Message("system", "Be brief."),), "1+1?", "2")
    assert problem.demonstrate is not None
    assert problem.demonstrate(0)[0].reply == "#### 2"


def test_verl_rows_in_memory() -> None:
    """Guards against rows in memory that are read in another way than those of files."""
    row = {
        "prompt": [{"role": "user", "content": "1+1?"}],
        "reward_model": {"ground_truth": "2"},
        "extra_info": {"n": 5},
    }
    source = ProblemSource(question="prompt", answer="reward_model.ground_truth", limit=1)
    for rows in (
        [row, row],
        datasets.Dataset.from_list([row, row]),
        datasets.DatasetDict({"train": datasets.Dataset.from_list([row])}),
    ):
        (problem,) = load_problems(source, rows=rows)
        assert (problem.id, problem.question, problem.gold, problem.row) == ("rows/0", "1+1?", "2", row)
    with pytest.raises(UserError, match="the source must be a ProblemSource, not list; pass a data set as rows="):
        load_problems([row])  # type: ignore[arg-type]


def test_all_columns_reach_a_verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against columns that a verifier cannot see, and values that no worker process takes."""
    code = "return [row['n'], row['day'], row['more']['k'], row['cents']] == [5, '2024-02-29', [1], '1.50']"
    (tmp_path / "row_verifier.py").write_text(f"def check(reply, gold, row): {code}")
    monkeypatch.syspath_prepend(tmp_path)
    row = {
        "question": "?",
        "answer": "2",
        "n": 5,
        "day": datetime.date(2024, 2, 29),
        "more": {"k": [1]},
        "cents": Decimal("1.50"),
    }
    for in_process in (True, False):
        source = ProblemSource(verifier="row_verifier:check", verifier_in_process=in_process)
        first, second = load_problems(source, rows=[row, {**row, "n": 6}])
        assert (first.grade("x").right, second.grade("x").right) == (True, False)
    assert json.loads(json.dumps(first.row)) == first.row
    sys.modules.pop("row_verifier")


def test_gold_answers_that_are_solutions_are_refused(tmp_path: Path) -> None:
    """Guards against a run in which no reply can be right: the column of solutions was named, not that of answers."""
    solution = (
        "We add the numbers of apples, then we give half of them to the neighbors, and so only five of them are left."
    )
    rows = [{"question": f"{n}?", "answer": solution} for n in range(3)]
    assert "mine.jsonl: most gold answers are sentences or solutions" in refused(ProblemSource(jsonl(tmp_path, *rows)))
    mixed = [*rows[:1], *({"question": f"{n}?", "answer": "5"} for n in range(1, 3))]
    assert len(load_problems(ProblemSource(jsonl(tmp_path, *mixed)))) == 3


def test_names_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against files that only some endings or names without a comma give access to."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    (tmp_path / "a,b" / "Train.CSV").write_text("question,answer\n1+1?,2\n")
    assert only(ProblemSource("a,b")).id == "a,b/0"
    assert only(ProblemSource("a,b/Train.CSV")).gold == "2"
    (tmp_path / "notes.txt").write_text("?")
    assert refused(ProblemSource("notes.txt")).startswith("notes.txt: rows are read from .jsonl, .json")


def test_no_problems_after_a_split(tmp_path: Path) -> None:
    """Guards against a message that does not say why nothing is left."""
    message = refused(ProblemSource(jsonl(tmp_path, ROWS[0]), held_out=0.9999))
    assert message.endswith("has no problems for training; held_out is 0.9999")
