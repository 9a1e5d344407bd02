"""Every named benchmark end to end: from the hub (a stand-in with made-up rows), from local copies, and in which split."""

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
from rethink.grading.pool import POOL
from rethink.problems.source import ANSWER_FORMATS, answer_format_of, load_problems, needs_hub
from rethink.problems.suites import GROUPS, SUITES, expand_sources, find_suite
from rethink.settings import ProblemSource
from rethink.types import Problem
from support.suite_rows import CASES, Hub, rows_of, save

SEED = 5


@pytest.fixture(scope="module", autouse=True)
def _end_the_workers() -> Iterator[None]:
    yield
    POOL.close()


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
    """Guards against wrong names, configs, splits and columns: each suite is asked for, read, and graded as it should."""
    case, hub = CASES[name], use_hub(name)
    found = load(name)
    assert hub.asked == list(case.hub)
    assert [p.id for p in found] == [f"{name}/{n}" for n in case.ids]
    last, form = found[-1], ANSWER_FORMATS[case.answer_format]
    assert (last.question, last.gold, last.suite) == (case.question, case.gold, name)
    assert answer_format_of(ProblemSource(name)) is form
    assert last.solve == form.solve
    assert "{question}" in last.solve
    assert [last.grade(reply).right for reply in (form.gold_reply(last.gold), *case.right)] == [True] * (
        1 + len(case.right)
    )
    assert last.grade(case.wrong).right is False


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


VERL = [name for name, case in CASES.items() if case.answer_format == "boxed" and ":" not in name]


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
    (problem,) = load(name, data=str(tmp_path))
    assert (problem.question, problem.gold) == (task, "\\frac{1}{2}")


REAL = {
    "gsm8k": ("gsm8k", {"train": 7473, "test": 1319}),
    "math500": ("math500", {"test": 500}),
    "aime": ("aime", {"test": 90}),
    "amc": ("amc", {"test": 83}),
    "minerva": ("minerva_math", {"test": 272}),
    "olympiad": ("olympiadbench", {"test": 581}),
    "countdown-tasks": ("countdown", {"train": 50_000, "test": 1024}),
}
"""Folders and numbers of rows, as the README of the data states them."""


@pytest.mark.parametrize(
    ("name", "split"), [pytest.param(n, s, id=f"{n}-{s}") for n, (_, counts) in REAL.items() for s in counts]
)
def test_real_files_as_local_copies(real_data: Path, name: str, split: Literal["train", "test"]) -> None:
    """Guards against rows that are lost, golds of another column, and questions with the instruction of the file."""
    folder, counts = REAL[name]
    rows = parquet.read_table(real_data / folder / f"{split}.parquet", columns=["prompt", "reward_model"]).to_pylist()
    found = load(name, split, data=str(real_data))
    assert len(found) == len(rows) == counts[split]
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


@pytest.mark.parametrize("name", [name for name in REAL if name != "countdown-tasks"])
def test_every_real_gold_is_right_when_stated(real_data: Path, name: str) -> None:
    """Guards against golds that their own verifier rejects, and against a verifier that takes anything."""
    found = load(name, data=str(real_data))
    assert [p.id for p in found if p.grade(ANSWER_FORMATS["boxed"].gold_reply(p.gold)).right is not True] == []
    assert [p.id for p in found if p.grade("\\boxed{\\text{no idea}}").right] == []


def test_math5_is_five_suites_in_order(real_data: Path) -> None:
    """Guards against a group in another order, twice in a list, or with a suite too many."""
    five = ["aime", "amc", "math500", "minerva", "olympiad"]
    assert expand_sources("math5") == list(GROUPS["math5"]) == five
    assert expand_sources(" MATH5 , gsm8k,amc") == [*five, "gsm8k"]
    found = load("math5", data=str(real_data), limit=2)
    assert [(p.suite, p.id) for p in found] == [(name, f"{name}/{n}") for name in five for n in (0, 1)]


EVALUATION = [n for n, case in CASES.items() if n not in ("gsm8k", "math", "xlam", "countdown-tasks")]


@pytest.mark.parametrize("name", EVALUATION)
def test_nobody_trains_on_a_set_for_evaluation_unawares(
    name: str, use_hub: Callable[[str], Hub], tmp_path: Path
) -> None:
    """Guards against training on "train" where that is the hub's name for a test set, and on a local file without split."""
    use_hub(name)
    for layout in ("{}.parquet", "{}/train.parquet", "{}/test.parquet"):
        save(rows_of(name), tmp_path / layout.format(name))
    only = f"{name} has no split train, only test"
    for settings in ({}, {"data": str(tmp_path)}):
        assert refused(name, "train", **settings) == f"{only}; to train on an evaluation set, set its split"
        assert load(name, "train", split="test", **settings) == load(name)
    assert refused(name, "train", split="train") == only


@pytest.mark.parametrize("name", ["aime", "amc", "gpqa"])
def test_a_split_by_the_hubs_name_does_not_help(name: str, tmp_path: Path) -> None:
    """Guards against copies of the hub's folders, in which the test set lies in train.parquet."""
    save(rows_of(name), tmp_path / name / "train.parquet")
    assert "only test" in refused(name, "train", data=str(tmp_path), split="train")
    assert len(load(name, data=str(tmp_path))) == 1


@pytest.mark.parametrize("name", ["xlam", "countdown-tasks"])
def test_evaluation_takes_the_only_split(name: str, use_hub: Callable[[str], Hub], tmp_path: Path) -> None:
    """Guards against a suite with training data alone that cannot be evaluated on; a file for test goes first."""
    use_hub(name)
    assert load(name, "test") == load(name, "train")
    assert "no split test, only train" in refused(name, split="test")
    save(rows_of(name) * 3, tmp_path / name / "train.jsonl")
    assert len(load(name, data=str(tmp_path))) == 3
    save(rows_of(name) * 2, tmp_path / name / "test.jsonl")
    assert [len(load(name, purpose, data=str(tmp_path))) for purpose in ("train", "test")] == [3, 2]


@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_the_purpose_picks_the_split(name: str, use_hub: Callable[[str], Hub]) -> None:
    """Guards against evaluation on training data by default."""
    hub = use_hub(name)
    hub.data |= {(path, config, "train", None): [*rows, *rows] for (path, config, _, _), rows in hub.data.items()}
    n = len(load(name))
    assert {split for _, _, split, _ in hub.asked} == {"test"}
    assert len(load(name, "train")) == 2 * n
    assert len(load(name, "train", split="test")) == n
    assert "no split validation, only train and test" in refused(name, split="validation")


def test_local_copies_may_have_splits_of_their_own(tmp_path: Path) -> None:
    """Guards against a validation file that cannot be named, and against another split or the whole in its place."""
    save(rows_of("gsm8k"), tmp_path / "gsm8k" / "validation.jsonl")
    save(rows_of("gsm8k") * 2, tmp_path / "gsm8k.jsonl")
    assert [len(load("gsm8k", data=str(tmp_path), split=split)) for split in ("validation", "train", "test")] == [
        1,
        2,
        2,
    ]
    assert refused("gsm8k", data=str(tmp_path), split="dev") == f"{tmp_path} has no gsm8k/dev.parquet (nor .jsonl)"


def test_a_missing_local_copy_is_told(tmp_path: Path) -> None:
    """Guards against a silent fall-back to the hub."""
    missing = f"{tmp_path} has no minerva/test.parquet or minerva.parquet (nor .jsonl)"
    assert refused("minerva", data=str(tmp_path)) == missing
    assert refused("gsm8k", "train", data=str(tmp_path)).startswith(f"{tmp_path} has no gsm8k/train.parquet")


def test_options_are_in_an_order_drawn_by_the_seed(use_hub: Callable[[str], Hub]) -> None:
    """Guards against the right option in one place for all, and against an exam that changes from run to run."""
    use_hub("gpqa")
    found = [load_problems(ProblemSource("gpqa"), seed, "test")[0] for seed in range(40)]
    assert {p.gold for p in found} == set("ABCD")
    assert all(f"{p.gold}) helium" in p.question.split("\n") for p in found)
    assert found == [load_problems(ProblemSource("gpqa"), seed, "test")[0] for seed in range(40)]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("math50", "math500"),
        ("gms8k", "gsm8k"),
        ("MATH500", "math500"),
        ("countdwn", "countdown"),
    ],
)
def test_a_misspelt_suite_is_told_what_was_meant(name: str, meant: str) -> None:
    """Guards against a bare "no such file"."""
    assert refused(name).endswith(f"did you mean {meant}?")


@pytest.mark.parametrize("name", ["", "mine.csv", "mine.json", "mine", "aime:last"])
def test_what_is_no_source_is_told_what_there_is(name: str) -> None:
    """Guards against a CSV file that is read as JSON lines, and against an empty name that is taken for something."""
    assert refused(name).startswith(f"{name!r} is not a suite, a .jsonl or .parquet file, or hub:NAME; ")


def test_a_year_without_contests_is_refused(use_hub: Callable[[str], Hub]) -> None:
    """Guards against years that add no problems without a word, beside a suite that has some."""
    use_hub("aime:2019")
    assert find_suite("aime:") is None
    assert refused("aime:2019,aime:2031") == "aime:2031 has no problems"


def test_what_comes_from_the_hub() -> None:
    """Guards against a dry run that loads data from the hub."""
    assert all(needs_hub(ProblemSource(name)) for name in ("math5", "aime:2019", "hub:a/b", "countdown, gsm8k"))
    assert needs_hub(ProblemSource("hub:a/b", data="folder"))
    assert not any(needs_hub(ProblemSource(name)) for name in ("countdown", "gym:chain_sum", "mine.jsonl"))
    assert not needs_hub(ProblemSource("math5", data="folder"))
