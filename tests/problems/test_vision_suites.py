"""The suites with images end to end: from the hub (a stand-in with rows of their form), from local copies, and bad rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import datasets
import pytest
from datasets import Features
from datasets.exceptions import DatasetNotFoundError

from rethink.errors import UserError
from rethink.grading.pool import built_in_pool
from rethink.problems.source import ANSWER_FORMATS, answer_format_of, load_problems
from rethink.problems.suites import MMMU_SUBJECTS
from rethink.settings import ProblemSource
from rethink.types import Problem
from support.vision_suite_rows import VISION_CASES, VisionHub, cell, png


@pytest.fixture(scope="module", autouse=True)
def _end_the_workers() -> Iterator[None]:
    yield
    built_in_pool("formulas").close()


def load(name: str, purpose: Literal["train", "test"] = "test", **settings: Any) -> list[Problem]:
    return load_problems(ProblemSource(name, **settings), purpose=purpose)


def refused(name: str, purpose: Literal["train", "test"] = "test", **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(name, purpose, **settings)
    return str(caught.value)


@pytest.mark.parametrize("name", VISION_CASES)
def test_a_suite_with_images_from_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against wrong configurations, splits, columns, images, orders of options and verdicts."""
    case = VISION_CASES[name]
    hub = VisionHub(case)
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    found = load(name)
    assert hub.asked == [(case.hub, config, case.split) for config in case.configs]
    assert [p.id for p in found] == [f"{name}/{n}" for n in range(len(case.rows) * len(case.configs))]
    assert answer_format_of(ProblemSource(name)) is ANSWER_FORMATS[case.format]
    for problem, expected in zip(found, case.expected, strict=False):
        assert (problem.question, problem.gold) == (expected.question, expected.gold)
        images = [hashlib.sha256(png(color)).hexdigest() for color in expected.images]
        assert [image.digest for image in problem.images] == images
        assert problem.solve == ANSWER_FORMATS[case.format].solve
        right = [ANSWER_FORMATS[case.format].gold_reply(problem.gold), *expected.right]
        assert [(reply, problem.grade(reply).right) for reply in right] == [(reply, True) for reply in right]
        assert [(r, problem.grade(r).right) for r in expected.wrong] == [(r, False) for r in expected.wrong]
        assert problem.extract_answer is not None
        assert problem.equal_answers is not None
        votes = [problem.extract_answer(reply) for reply in (right[0], expected.right[0], expected.wrong[0])]
        assert votes[0]
        assert votes[1]
        assert votes[2] is None or not problem.equal_answers(votes[0], votes[2])


@pytest.mark.parametrize("name", VISION_CASES)
def test_a_local_copy_has_the_same_problems(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against images of a Parquet file that are lost, and names of files that are not found."""
    case = VISION_CASES[name]
    monkeypatch.setattr(datasets, "load_dataset", VisionHub(case).load_dataset)
    expected = load(name, subsets=case.configs[:1] if case.configs[0] else ())
    monkeypatch.delattr(datasets, "load_dataset")
    for n, layout in enumerate(case.layouts):
        file = tmp_path / f"{n}" / layout.format(name)
        file.parent.mkdir(parents=True)
        case.table().to_parquet(file)
        assert load(name, data=str(tmp_path / f"{n}")) == expected, layout


def test_images_beside_a_local_copy(tmp_path: Path) -> None:
    """Guards against paths of images, as the repositories of MathVista and MathVision have them, that are not read."""
    row = {**VISION_CASES["mathvision"].rows[0], "image": "images/1.png"}
    table = datasets.Dataset.from_list([{name: row[name] for name in ("id", "question", "options", "image", "answer")}])
    (tmp_path / "mathvision" / "images").mkdir(parents=True)
    (tmp_path / "mathvision" / "images" / "1.png").write_bytes(png("green"))
    table.to_json(tmp_path / "mathvision" / "test.jsonl")
    (problem,) = load("mathvision", data=str(tmp_path))
    assert problem.images[0].digest == hashlib.sha256(png("green")).hexdigest()


BAD = [
    ("mathvista", {"decoded_image": None, "image": None}, "the column 'decoded_image' is empty"),
    ("mathvista", {"decoded_image": {"bytes": b"broken", "path": "1.png"}}, "the image is damaged or no image"),
    ("mathvista", {"answer": "4"}, "the answer '4' is not one of the choices ['2', '1', '6cm ']"),
    ("mathvista", {"answer": None}, "the column 'answer' is empty"),
    ("mathvista", {"question_type": "open"}, "question_type is 'open', neither 'multi_choice' nor 'free_form'"),
    ("mathvista", {"choices": ["2"]}, "1 options; 2 to 26 can have letters"),
    ("mathvista", {"question_type": "free_form", "answer_type": "float"}, "the precision of a float is 0, not 1 or 2"),
    ("mathvista", {"question_type": "free_form"}, "answer_type is 'text', not integer, float or list"),
    ("mathverse", {"image": None}, "the column 'image' is empty"),
    ("mathverse", {"question_type": "open"}, "question_type is 'open', neither 'multi-choice' nor 'free-form'"),
    ("mathvision", {"options": ["x", " "]}, "the column 'options' has an empty text"),
    ("mathvision", {"options": ["x", "y"]}, "the answer '60' is not the letter of one of 2 options"),
    ("mmmu", {"options": "['a', "}, "the column 'options' is no list"),
    ("mmmu", {"answer": "D"}, "the answer 'D' is not the letter of one of 3 options"),
    ("mmmu", {"answer": "?"}, "the answer is not published; use the split validation"),
    ("mmmu", {"question": "See <image 2>."}, "the column 'image_2' is empty"),
    ("geometry3k", {"images": []}, "holds the placeholder <image> of something that is not there"),
    ("geometry3k", {"images": [cell("red"), cell("blue")]}, "has 1 times <image>, but the row has 2 images"),
]


@pytest.mark.parametrize(("name", "changed", "message"), BAD)
def test_a_bad_row_is_named(name: str, changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Guards against a question without its image or answer, and a message that does not say which row it is about."""
    case = VISION_CASES[name]
    rows = [case.rows[0], {**case.rows[0], **changed}]
    datasets.Dataset.from_list(rows, Features(case.features)).to_parquet(tmp_path / f"{name}.parquet")
    found = refused(name, data=str(tmp_path))
    assert found.startswith(f"{tmp_path / name}.parquet, row 1: ")
    assert message in found


def test_which_splits_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against training on an evaluation set, and subjects of MMMU that cannot be chosen."""
    for name in ("mathvista", "mathverse", "mathvision", "mmmu"):
        assert f"{name} has no split train, only test" in refused(name, "train")
    hub = VisionHub(VISION_CASES["geometry3k"])
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    load("geometry3k", "train")
    load("geometry3k", split="validation")
    hub.case = VISION_CASES["mmmu"]
    load("mmmu", subsets=("Art", "Music"))
    hub.case = VISION_CASES["mathvision"]
    load("mathvision", split="testmini")
    assert [split for _, _, split in hub.asked] == ["train", "validation", "validation", "validation", "testmini"]
    assert [config for _, config, _ in hub.asked] == [None, None, "Art", "Music", None]
    assert len(set(MMMU_SUBJECTS)) == 30


def test_a_data_set_that_is_gated_or_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a bare message of the hub that does not say what to do."""

    def gone(*args: Any, **kwargs: Any) -> None:
        raise DatasetNotFoundError("Dataset 'MMMU/MMMU' is a gated dataset on the Hub.")

    monkeypatch.setattr(datasets, "load_dataset", gone)
    message = refused("mmmu")
    assert message.startswith(
        "cannot load hub:MMMU/MMMU (Art, split validation): Dataset 'MMMU/MMMU' is a gated dataset on the Hub; "
    )
    assert "`hf auth login`" in message
    assert message.endswith("as FOLDER/mmmu.parquet, and set data=FOLDER (problems.data)")


def test_other_questions_of_the_data_set(tmp_path: Path) -> None:
    """Guards against letters that do not belong to the prompts that the data set has itself."""
    VISION_CASES["mathvista"].table(0).to_parquet(tmp_path / "mathvista.parquet")
    (problem,) = load("mathvista", data=str(tmp_path), question="query")
    assert (problem.question, problem.gold) == ("Hint: ...", "A")
