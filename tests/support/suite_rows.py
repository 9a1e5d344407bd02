"""Rows of every suite, made up, in the shapes of the hub's data sets, and a stand-in for the hub that holds them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from pyarrow import parquet

Row = dict[str, Any]
Asked = tuple[str, str | None, str, str | None]
"""Data set, config, split, file."""


@dataclass(frozen=True)
class Case:
    """What a suite asks the hub for, and its last problem. `ids` has all problems, `layouts` unusual names of files."""

    hub: dict[Asked, list[Row]]
    question: str
    gold: str
    wrong: str
    answer_format: str = "boxed"
    right: tuple[str, ...] = ()
    ids: tuple[int, ...] = (0,)
    layouts: tuple[str, ...] = ()


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
        "The mass in kg?", "3e-5", "\\boxed{3}", right=("\\boxed{3 \\times 10^{-5}}",),
        layouts=("minerva_math/test.parquet",),
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
        "Which gas?\n\nA) argon\nB) helium\nC) neon\nD) xenon", "B", "\\boxed{A}", "choice",
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
        self.data = dict(data)
        self.asked: list[Asked] = []

    def load_dataset(
        self, path: str, name: str | None = None, *, split: str, data_files: str | None = None
    ) -> datasets.Dataset:
        self.asked.append((path, name, split, data_files))
        return datasets.Dataset.from_list(self.data[path, name, split, data_files])


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
