"""Every named benchmark end to end: from the hub (a stand-in, with made-up rows of the real shapes) and local copies."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

from rethink.errors import UserError
from rethink.problems.source import FORMS, ProblemSource, form_of, load_problems
from rethink.problems.suites import GROUPS, SUITES, expand, find_suite
from rethink.types import Problem

Row = dict[str, Any]
Asked = tuple[str, str | None, str, str | None]
"""Data set, config, split, file."""

SEED = 5


@dataclass(frozen=True)
class Case:
    """What a suite asks the hub for, the rows that it gets, and the last problem that has to come of them."""

    hub: dict[Asked, list[Row]]
    question: str
    gold: str
    wrong: str
    form: str = "boxed"
    right: tuple[str, ...] = ()
    ids: tuple[int, ...] = (0,)
    purpose: Literal["train", "test"] = "test"
    layouts: tuple[str, ...] = field(default=())


MATH = ("algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra")
SOLUTION = "First \\boxed{3}; divided by four it is \\boxed{\\frac{3}{4}}."
TOOL = {"name": "tide", "description": "Tides.", "parameters": {"port": {"type": "str", "description": "Where"}}}
FUNCTION = {
    "name": "ferry.book",
    "description": "Books.",
    "parameters": {"type": "dict", "properties": {"cars": {"type": "integer"}}, "required": ["cars"]},
}
CALL = '[{"name":"tide","arguments":{"port":"Oban"}}]'
BFCL = "gorilla-llm/Berkeley-Function-Calling-Leaderboard"
ALL_AIME = ("di-zhang-fdu/AIME_1983_2024", None, "train", None)


def aime(year: int, question: str, answer: str) -> Row:
    return {"ID": f"{year}-1", "Year": year, "Problem Number": 1, "Question": question, "Answer": answer, "Part": "I"}


CASES: dict[str, Case] = {
    "gsm8k": Case(
        {("openai/gsm8k", "main", "test", None): [{"question": "6 boxes of 7?", "answer": "6*7=<<6*7=42>>42\n#### 42"}]},
        "6 boxes of 7?", "42", "\\boxed{43}", right=("\\boxed{42.0}",),
    ),
    "math": Case(
        {
            ("EleutherAI/hendrycks_math", config, "test", None): [
                {"problem": f"{config}?", "level": "Level 5", "type": config, "solution": SOLUTION}
            ]
            for config in (*MATH, "precalculus")
        },
        "precalculus?", "\\frac{3}{4}", "\\boxed{3}", right=("\\boxed{0.75}",), ids=(0, 1, 2, 3, 4, 5, 6),
    ),
    "math500": Case(
        {
            ("HuggingFaceH4/MATH-500", None, "test", None): [
                {"problem": "Half of 3?", "solution": "\\boxed{9}", "answer": "\\frac{3}{2}", "subject": "Algebra",
                 "level": 2, "unique_id": "test/algebra/1.json"}
            ]
        },
        "Half of 3?", "\\frac{3}{2}", "\\boxed{9}", right=("\\boxed{1.5}",),
    ),
    "aime": Case(
        {("AI-MO/aimo-validation-aime", None, "train", None): [
            {"id": 7, "problem": "How many?", "solution": "\\boxed{99}", "answer": "033", "url": "https://example.org"}]},
        "How many?", "033", "\\boxed{330}", right=("\\boxed{33}",),
    ),
    "amc": Case(
        {("AI-MO/aimo-validation-amc", None, "train", None): [
            {"id": 7, "problem": "What is m+n?", "answer": 142.0, "url": "https://example.org"}]},
        "What is m+n?", "142.0", "\\boxed{1420}", right=("\\boxed{142}",),
    ),
    "minerva": Case(
        {("math-ai/minervamath", None, "test", None): [{"question": "The mass in kg?", "answer": "3e-5"}]},
        "The mass in kg?", "3e-5", "\\boxed{3}", right=("\\boxed{3 \\times 10^{-5}}",), layouts=("minerva_math/test.parquet",),
    ),
    "olympiad": Case(
        {("afraamn/olympiadbench_math_textonly", None, "test_en", None): [
            {"question": "Find c.", "context": None, "final_answer": ["$7$"]},
            {"question": "Find p.", "context": "A coin is fair.", "final_answer": ["$\\frac{1}{2}$"]}]},
        "A coin is fair.\n\nFind p.", "$\\frac{1}{2}$", "\\boxed{2}", right=("\\boxed{\\frac{1}{2}}",), ids=(0, 1),
        layouts=("olympiadbench/test.parquet", "olympiad/test_en.jsonl"),
    ),
    "aime24": Case(
        {("math-ai/aime24", None, "test", None): [{"problem": "24?", "solution": "\\boxed{204}", "url": "u"}]},
        "24?", "204", "\\boxed{24}",
    ),
    "aime25": Case(
        {("math-ai/aime25", None, "test", None): [{"problem": "25?", "answer": "70", "id": "0"}]},
        "25?", "70", "\\boxed{25}",
    ),
    "aime:2019": Case(
        {ALL_AIME: [aime(2018, "18?", "18"), aime(2019, "19?", "019"), aime(2020, "20?", "20")]},
        "19?", "019", "\\boxed{18}", right=("\\boxed{19}",), ids=(1,), layouts=("AIME_1983_2024/train.parquet",),
    ),
    "gpqa": Case(
        {("Idavidrein/gpqa", "gpqa_diamond", "train", None): [
            {"Question": "Which gas?\n", "Correct Answer": "helium\n", "Incorrect Answer 1": "neon",
             "Incorrect Answer 2": "argon", "Incorrect Answer 3": "xenon", "Canary String": "canary"}]},
        "Which gas?\n\nA) argon\nB) neon\nC) xenon\nD) helium", "D", "\\boxed{A}", "choice",
        layouts=("gpqa_diamond.parquet", "gpqa/train.jsonl"),
    ),
    "xlam": Case(
        {("Salesforce/xlam-function-calling-60k", None, "train", None): [
            {"id": 0, "query": "Tides at Oban?", "answers": CALL.replace(",", ", "), "tools": json.dumps([TOOL])}]},
        f"Functions:\n{json.dumps(TOOL, separators=(',', ':'))}\n\nRequest: Tides at Oban?",
        '[{"arguments":{"port":"Oban"},"name":"tide"}]', CALL.replace("Oban", "Mull"), "calls", (CALL,),
        layouts=("xlam/train.parquet",),
    ),
    "bfcl": Case(
        {
            (BFCL, None, "train", "BFCL_v3_simple.json"): [
                {"id": "simple_0", "question": [[{"role": "user", "content": "Two cars"}]], "function": [FUNCTION]}],
            (BFCL, None, "train", "possible_answer/BFCL_v3_simple.json"): [
                {"id": "simple_7", "ground_truth": [{"ferry.book": {"cars": [7]}}]},
                {"id": "simple_0", "ground_truth": [{"ferry.book": {"cars": [2, 3]}}]}],
        },
        f"Functions:\n{json.dumps(FUNCTION, separators=(',', ':'))}\n\nRequest: Two cars",
        '[{"name":"ferry.book","parameters":{"cars":{"accepted":[2,3],"optional":false,"type":"integer"}}}]',
        '[{"name": "ferry.book", "arguments": {"cars": 7}}]', "bfcl",
        ('[{"name": "ferry.book", "arguments": {"cars": 3}}]',), layouts=("bfcl_simple.jsonl",),
    ),
    "countdown-tasks": Case(
        {("Jiayi-Pan/Countdown-Tasks-3to4", None, "train", None): [{"target": 26, "nums": [3, 7, 5]}]},
        "Make 26 from the numbers 3, 7 and 5.", '{"numbers":[3,7,5],"target":26}', "<answer>3 + 7 * 5</answer>",
        "equation", ("<answer>5 + 7*3</answer>",), layouts=("countdown/test.parquet", "countdown-tasks/train.jsonl"),
    ),
}  # fmt: skip


class Hub:
    """Stands in for `datasets.load_dataset`, with the parameters of the real one; refuses what is not there."""

    def __init__(self, data: dict[Asked, list[Row]]) -> None:
        self.data = data
        self.asked: list[Asked] = []

    def load_dataset(
        self, path: str, name: str | None = None, *, split: str, data_files: str | None = None
    ) -> datasets.Dataset:
        self.asked.append((path, name, split, data_files))
        return datasets.Dataset.from_list(self.data[path, name, split, data_files])


@pytest.fixture
def use_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Hub]:
    def use(name: str) -> Hub:
        hub = Hub(CASES[name].hub)
        monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
        return hub

    return use


def load(name: str, purpose: Literal["train", "test"] = "test", **settings: Any) -> list[Problem]:
    return load_problems(ProblemSource(name, **settings), SEED, purpose)


def refused(name: str, purpose: Literal["train", "test"] = "test", **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(name, purpose, **settings)
    return str(caught.value)


def test_the_table_above_has_every_suite() -> None:
    """Guards against a new suite without a test."""
    assert set(CASES) == {*SUITES, "aime:2019"}


@pytest.mark.parametrize("name", CASES)
def test_a_suite_from_the_hub(name: str, use_hub: Callable[[str], Hub]) -> None:
    """Guards against wrong names, configs, splits and columns: each suite is asked for, read, and judged as it should."""
    case, hub = CASES[name], use_hub(name)
    found = load(name)
    assert hub.asked == list(case.hub)
    assert [p.id for p in found] == [f"{name}/{n}" for n in case.ids]
    last, form = found[-1], FORMS[case.form]
    assert (last.question, last.gold, last.suite) == (case.question, case.gold, name)
    assert form_of(ProblemSource(name)) is form
    assert last.solve == form.solve
    assert "{question}" in last.solve
    assert [last.judge(reply).right for reply in (form.state(last.gold), *case.right)] == [True] * (1 + len(case.right))
    assert last.judge(case.wrong).right is False


def save(rows: list[Row], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rows_of(name: str) -> list[Row]:
    """The rows of a suite as one file has them."""
    found = list(CASES[name].hub.values())
    if name == "bfcl":
        return [{**found[0][0], **found[1][1]}]
    return [row for part in found for row in part]


@pytest.mark.parametrize("name", CASES)
def test_a_local_copy_gives_the_same_problems(
    name: str, use_hub: Callable[[str], Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against ids or texts that depend on where a file lies, and against aliases that are not found."""
    use_hub(name)
    expected = load(name)
    monkeypatch.delattr(datasets, "load_dataset")
    layouts = ("{}.parquet", "{}/test.parquet", "{}.jsonl", "{}/test.jsonl", *CASES[name].layouts)
    for n, layout in enumerate(layouts):
        save(rows_of(name), tmp_path / f"{n}" / layout.format(name))
        assert load(name, data=str(tmp_path / f"{n}")) == expected, layout


VERL = [name for name, case in CASES.items() if case.form == "boxed" and ":" not in name]


@pytest.mark.parametrize("name", VERL)
def test_local_copies_in_other_columns(name: str, tmp_path: Path) -> None:
    """Guards against questions with an instruction of somebody else's, and against solutions as golds."""
    task = "What is 1/4 + 1/4?"
    row = {
        "prompt": [{"role": "user", "content": f"{task} Let's think step by step and write the answer after ####."}],
        "reward_model": {"ground_truth": "\\frac{1}{2}", "style": "rule"},
        "extra_info": {"index": 0, "question": task, "answer": "#### 7"},
        "solution": "\\boxed{7}",
    }
    save([row if name == "gsm8k" else {**row, "problem": task}], tmp_path / name / "test.parquet")
    if name == "aime24":  # the hub's set has no answer but in `solution`
        row["answer"] = row["reward_model"]["ground_truth"]
        save([{**row, "problem": task}], tmp_path / name / "test.parquet")
    (problem,) = load(name, data=str(tmp_path))
    assert (problem.question, problem.gold) == (task, "\\frac{1}{2}")
