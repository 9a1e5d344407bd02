"""Every suite end to end: from the hub (a stand-in with made-up rows), from local copies, and the choice of the split."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import datasets
import pytest
from pyarrow import parquet

from rethink.errors import UserError
from rethink.grading.pool import built_in_pool
from rethink.problems.source import ANSWER_FORMATS, answer_format_of, load_problems, needs_hub
from rethink.problems.suites import GROUPS, SUITES, expand_sources, find_suite
from rethink.settings import ProblemSource
from rethink.types import Problem
from support.suite_rows import CASES, Hub, rows_of, save
from support.vision_suite_rows import VISION_CASES

SEED = 5


@pytest.fixture(scope="module", autouse=True)
def _end_the_workers() -> Iterator[None]:
    yield
    built_in_pool("formulas").close()


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


def test_every_suite_has_a_case() -> None:
    """Guards against a new suite without a test."""
    assert {*CASES, *VISION_CASES} == {*SUITES, "aime:2019"}


@pytest.mark.parametrize("name", CASES)
def test_a_suite_from_the_hub(name: str, use_hub: Callable[[str], Hub]) -> None:
    """Guards against wrong data sets, configs, splits, columns, verdicts and votes."""
    case, hub = CASES[name], use_hub(name)
    found = load(name)
    assert hub.asked == list(case.hub)
    assert [p.id for p in found] == [f"{name}/{n}" for n in case.ids]
    last, answer_format = found[-1], ANSWER_FORMATS[case.answer_format]
    gold_reply = answer_format.gold_reply(last.gold)
    assert (last.question, last.gold, last.suite, last.solve) == (case.question, case.gold, name, answer_format.solve)
    assert answer_format_of(ProblemSource(name)) is answer_format
    assert [last.grade(reply).right for reply in (gold_reply, *case.right)] == [True] * (1 + len(case.right))
    assert last.grade(case.wrong).right is False
    assert last.extract_answer is not None
    assert last.equal_answers is not None
    right, wrong = last.extract_answer(gold_reply), last.extract_answer(case.wrong)
    assert right
    assert wrong
    assert (last.equal_answers(right, right), last.equal_answers(right, wrong)) == (True, False)


@pytest.mark.parametrize("name", CASES)
def test_a_local_copy_has_the_same_problems(
    name: str, use_hub: Callable[[str], Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against ids or texts that depend on the place of a file, and names of folders that are not found."""
    use_hub(name)
    expected = load(name)
    monkeypatch.delattr(datasets, "load_dataset")
    layouts = ("{}.parquet", "{}/test.parquet", "{}/test.jsonl", *CASES[name].layouts)
    for n, layout in enumerate(layouts):
        save(rows_of(name), tmp_path / f"{n}" / layout.format(name))
        assert load(name, data=str(tmp_path / f"{n}")) == expected, layout


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.answer_format == "boxed" and ":" not in n])
def test_local_copies_with_verl_columns(name: str, tmp_path: Path) -> None:
    """Guards against questions that include the file's instruction, and solutions as gold answers."""
    question = "What is 1/4 + 1/4?"
    row = {
        "prompt": [{"role": "user", "content": f"{question} Let's think step by step."}],
        "reward_model": {"ground_truth": "\\frac{1}{2}", "style": "rule"},
        "extra_info": {"index": 0, "question": question, "answer": "#### 7"},
        "solution": "\\boxed{7}",
    }
    save([row if name == "gsm8k" else {**row, "problem": question}], tmp_path / name / "test.parquet")
    (problem,) = load(name, data=str(tmp_path))
    assert (problem.question, problem.gold) == (question, "\\frac{1}{2}")


REAL = {
    "gsm8k": ("gsm8k", {"train": 7473, "test": 1319}),
    "math500": ("math500", {"test": 500}),
    "aime": ("aime", {"test": 90}),
    "amc": ("amc", {"test": 83}),
    "minerva": ("minerva_math", {"test": 272}),
    "olympiad": ("olympiadbench", {"test": 581}),
    "countdown-tasks": ("countdown", {"train": 50_000, "test": 1024}),
}
"""Folders and numbers of rows, from the README of the data."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "split"), [(n, s) for n, (_, counts) in REAL.items() for s in counts])
def test_real_files_as_local_copies(real_data: Path, name: str, split: Literal["train", "test"]) -> None:
    """Guards against lost rows, gold answers from another column, and questions with the file's instruction."""
    folder, counts = REAL[name]
    rows = parquet.read_table(real_data / folder / f"{split}.parquet", columns=["prompt", "reward_model"]).to_pylist()
    found = load(name, split, data=str(real_data))
    assert len(rows) == counts[split]
    assert [p.id for p in found] == [f"{name}/{n}" for n in range(len(rows))]
    for problem, row in zip(found, rows, strict=True):
        prompt, gold = row["prompt"][0]["content"], row["reward_model"]["ground_truth"]
        if name == "countdown-tasks":
            assert json.loads(problem.gold) == gold
            assert re.findall(r"\d+", problem.question) == [str(gold["target"]), *map(str, gold["numbers"])]
        else:
            assert problem.gold == gold
            assert prompt.startswith(problem.question)
            assert re.match(r" (Let's think|Solve the following) ", prompt[len(problem.question) :])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in REAL if name != "countdown-tasks"])
def test_real_gold_answers_are_right(real_data: Path, name: str) -> None:
    """Guards against gold answers that their verifier rejects, and a verifier that accepts anything."""
    found = load(name, data=str(real_data))
    assert [p.id for p in found if p.grade(ANSWER_FORMATS["boxed"].gold_reply(p.gold)).right is not True] == []
    assert [p.id for p in found if p.grade("\\boxed{\\text{no idea}}").right] == []


def test_expand_sources(real_data: Path) -> None:
    """Guards against a group in another order, repeated suites, or a suite too many."""
    five = ["aime", "amc", "math500", "minerva", "olympiad"]
    assert expand_sources("math5") == list(GROUPS["math5"]) == five
    assert expand_sources(" MATH5 , gsm8k,amc") == [*five, "gsm8k"]
    found = load("math5", data=str(real_data), limit=2)
    assert [(p.suite, p.id) for p in found] == [(name, f"{name}/{n}") for name in five for n in (0, 1)]


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("gsm8k", "math", "xlam", "countdown-tasks")])
def test_evaluation_sets_are_not_training_data(name: str, use_hub: Callable[[str], Hub], tmp_path: Path) -> None:
    """Guards against training on a test set that the hub calls "train", or on a local file without a split."""
    use_hub(name)
    for layout in ("{}.parquet", "{}/train.parquet", "{}/test.parquet"):
        save(rows_of(name), tmp_path / layout.format(name))
    message = f"{name} has no split train, only test"
    for settings in ({}, {"data": str(tmp_path)}):
        assert refused(name, "train", **settings) == f"{message}; to train on an evaluation set, set its split"
        assert load(name, "train", split="test", **settings) == load(name)
    assert refused(name, "train", split="train") == message


@pytest.mark.parametrize("name", ["xlam", "countdown-tasks"])
def test_evaluation_uses_the_only_split(name: str, use_hub: Callable[[str], Hub], tmp_path: Path) -> None:
    """Guards against a suite without a test split that cannot be evaluated on; a local test file has priority."""
    use_hub(name)
    assert load(name, "test") == load(name, "train")
    assert "no split test, only train" in refused(name, split="test")
    save(rows_of(name) * 3, tmp_path / name / "train.jsonl")
    assert len(load(name, data=str(tmp_path))) == 3
    save(rows_of(name) * 2, tmp_path / name / "test.jsonl")
    assert [len(load(name, purpose, data=str(tmp_path))) for purpose in ("train", "test")] == [3, 2]


@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_the_purpose_decides_the_split(name: str, use_hub: Callable[[str], Hub]) -> None:
    """Guards against evaluation on training data by default."""
    hub = use_hub(name)
    hub.data |= {(path, config, "train", None): [*rows, *rows] for (path, config, _, _), rows in hub.data.items()}
    n = len(load(name))
    assert {split for _, _, split, _ in hub.asked} == {"test"}
    assert len(load(name, "train")) == 2 * n
    assert len(load(name, "train", split="test")) == n
    assert "no split validation, only train and test" in refused(name, split="validation")


def test_local_copies_with_another_split(tmp_path: Path) -> None:
    """Guards against a validation file that cannot be named, and the whole file instead of a missing split."""
    save(rows_of("gsm8k"), tmp_path / "gsm8k" / "validation.jsonl")
    save(rows_of("gsm8k") * 2, tmp_path / "gsm8k.jsonl")
    counts = {split: len(load("gsm8k", data=str(tmp_path), split=split)) for split in ("validation", "train", "test")}
    assert counts == {"validation": 1, "train": 2, "test": 2}
    assert (
        refused("gsm8k", data=str(tmp_path), split="dev")
        == f"{tmp_path} has no gsm8k/dev.parquet (nor .jsonl, .json, .csv)"
    )
    message = refused("minerva", data=str(tmp_path))  # it is not loaded from the hub
    assert message == f"{tmp_path} has no minerva/test.parquet or minerva.parquet (nor .jsonl, .json, .csv)"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MATH50", "'MATH50' is not a suite, a file or folder of problems, or hub:NAME; did you mean math500?"),
        ("", "'' is not a suite, a file or folder of problems, or hub:NAME; suites are gsm8k, "),
        ("mine.json", "there is no file mine.json"),
        ("mine.txt", "there is no file or folder mine.txt"),
        ("openai/gsm8k", "there is no file or folder openai/gsm8k; a data set on the hub is hub:openai/gsm8k"),
    ],
)
def test_unknown_sources_are_refused_with_a_hint(name: str, hint: str) -> None:
    """Guards against a bare "no such file", and unknown kinds of files that are read as JSON lines."""
    message = refused(name)
    assert message.startswith(hint)


def test_a_year_without_contests_is_refused(use_hub: Callable[[str], Hub]) -> None:
    """Guards against years that silently add no problems."""
    use_hub("aime:2019")
    assert find_suite("aime:") is None
    assert refused("aime:2019,aime:2031") == "aime:2031 has no problems"


def test_needs_hub() -> None:
    """Guards against a dry run that loads data from the hub."""
    assert all(needs_hub(ProblemSource(name)) for name in ("math5", "aime:2019", "hub:a/b", "countdown, gsm8k"))
    assert needs_hub(ProblemSource("hub:a/b", data="folder"))
    assert not any(needs_hub(ProblemSource(name)) for name in ("countdown", "gym:chain_sum", "mine.jsonl"))
    assert not needs_hub(ProblemSource("math5", data="folder"))
