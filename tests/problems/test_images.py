"""Problems with images, from rows, files and messages."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from rethink.errors import UserError
from rethink.images import Image
from rethink.methods.think_tuning_feedback import teacher_prompt
from rethink.problems.source import load_problems
from rethink.prompts import Prompts, about_all
from rethink.settings import ProblemSource
from rethink.strategies.socratic import Settings, TreeNode, expand
from rethink.types import Message, Problem
from support.images import image, png
from support.samples import make_sample

RED, BLUE = image(), image("blue")
URL = "data:image/png;base64," + base64.b64encode(png()).decode()


def load(row: dict[str, Any], **source: Any) -> Problem:
    (problem,) = load_problems(ProblemSource(**source), rows=[{"answer": "2", **row}])
    return problem


def user_message(problem: Problem) -> Message:
    return Prompts().messages(problem)[-1]


ROWS: dict[str, tuple[dict[str, Any], list[Image]]] = {
    "a column": ({"question": "How many?", "image": png()}, [RED]),
    "a list": ({"question": "How many?", "images": [png(), {"bytes": png("blue"), "path": None}]}, [RED, BLUE]),
    "MMMU": ({"question": "Is <image 1> like <image 2>?", "image_1": png(),
        "image_2": png("blue"), "image_3": None}, [RED, BLUE]),
    "geometry3k": ({"question": "<image>Find x.", "images": [png()]}, [RED]),
    "LLaVA": ({"question": [{"from": "human", "value": "<image>\nHow many?"}], "image": png()}, [RED]),
    "parts": ({"question": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": URL}},
        {"type": "text", "text": "How many?"}]}]}, [RED]),
    "MathVista": ({"question": "How many?", "image": "images/1.jpg", "decoded_image": png()}, [RED]),
    "upper case": ({"question": "How many?", "Image": png()}, [RED]),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_rows_with_images(name: str) -> None:
    """Guards against forms of data sets whose images are not shown, or shown with their marks as text."""
    row, expected = ROWS[name]
    problem = load(row)
    assert list(problem.images) == expected
    assert user_message(problem).images == problem.images
    assert "<image>" not in problem.question or name == "MMMU"


def test_images_stay_in_their_turns() -> None:
    """Guards against an image of an earlier turn that is shown with the question."""
    turns = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "A dog."},
             {"role": "user", "content": "And <image> then?"}]  # fmt: skip
    problem = load({"question": turns, "images": [png(), png("blue")]})
    assert [m.images for m in Prompts().messages(problem)] == [(RED,), (), (BLUE,)]
    assert problem.all_images == (RED, BLUE)
    assert "And <image> then?" in user_message(problem).content
    numbered = [
        {**turn, "content": turn["content"].replace("<image>", f"<image {n}>")}
        for n, turn in zip((1, 0, 2), turns, strict=True)
    ]
    problem = load({"question": numbered, "images": [png(), png("blue")]})
    assert [m.images for m in Prompts().messages(problem)] == [(RED,), (), (BLUE,)]


def test_a_file_with_paths_and_a_missing_image(tmp_path: Path) -> None:
    """Guards against paths that are looked for in the wrong folder, and errors that do not name file and row."""
    (tmp_path / "a.png").write_bytes(png())
    file = tmp_path / "p.jsonl"
    rows = [{"question": "1?", "answer": "1", "pic": "a.png"}, {"question": "2?", "answer": "2", "pic": "b.png"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = ProblemSource(str(file), images="pic")
    with pytest.raises(UserError, match=r"p\.jsonl, line 2: the column 'pic': there is no file .*b\.png"):
        load_problems(source)
    (tmp_path / "b.png").write_bytes(png("blue"))
    assert [p.images for p in load_problems(source)] == [(RED,), (BLUE,)]
    with pytest.raises(UserError, match="no column 'photo'"):
        load_problems(ProblemSource(str(file), images="photo"))


def test_a_data_set_of_the_hub(tmp_path: Path) -> None:
    """Guards against `Image` columns that are decoded, or lost, on the way from datasets."""
    (tmp_path / "a.png").write_bytes(png())
    found = datasets.Dataset.from_list(
        [{"question": "1?", "answer": "1", "image": {"bytes": png("blue"), "path": None}}]
    )
    found = found.cast_column("image", datasets.Image())
    (problem,) = load_problems(ProblemSource(), rows=found)
    assert problem.images == (BLUE,)
    found.to_parquet(str(tmp_path / "p.parquet"))
    (problem,) = load_problems(ProblemSource(str(tmp_path / "p.parquet")))
    assert problem.images == (BLUE,)


def test_an_image_in_a_column_that_is_not_read() -> None:
    """Guards against questions that are asked without an image of their row."""
    row = {"question": "How many?", "image": png(), "after": {"bytes": png("blue"), "path": None}}
    with pytest.raises(UserError, match=r"row 0: the column 'after' has an image .* problems\.images=image,after"):
        load(row)
    assert load(row, images="image").images == (RED,)
    assert load(row, images="image,after").images == (RED, BLUE)
    assert load({**row, "after": {"bytes": b"RIFF....WAVE", "path": "a.wav"}}).images == (RED,)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "too many marks": ({"question": "a <image> b <image>", "image": png()}, "2 times <image>, but the row has 1"),
    "no image": ({"question": "What is in <image>?"}, "holds the placeholder <image> of something that is not there"),
    "a damaged one": ({"question": "a", "image": png()[:50]}, "rows, row 0: the column 'image'"),
    "in both": ({"question": [{"role": "user", "content": [{"type": "image", "image": URL},
        {"type": "text", "text": "a"}]}], "image": png()}, "in its messages and in another column"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_rows_whose_images_do_not_fit(name: str) -> None:
    """Guards against questions that are asked with other images than they mean."""
    row, message = WRONG[name]
    with pytest.raises(UserError, match=message):
        load(row)


def test_every_phase_shows_the_images() -> None:
    """Guards against refinements, merges and ratings of an answer to an image that is not shown."""
    problem = load({"question": "Is <image> large?", "image": png()}, verifier="boxed")
    prompts = Prompts(solve="{question} Again: {question}")
    for phase, shown in (("solve", ()), ("refine", ("a",)), ("merge", ("a", "b")), ("retry", ("a", "b"))):
        messages = prompts.messages(problem, phase, shown)
        images = [image for message in messages for image in message.images]
        assert images == [RED]
        assert sum(m.content.count("<image>") for m in messages) == 1
    composed = prompts.compose(problem, "check", "{task} Is it right?")
    assert composed.messages[-1].images == (RED,)
    assert composed.messages[-1].content.count("<image>") == 1


WORDS = "I see <image> and <image>."


def test_marks_in_replies_are_words() -> None:
    """Guards against replies that spell the mark, and so take the place of an image or end the run."""
    for question in ("What is it?", "Is <image> large?"):
        problem = load({"question": question, "image": png()}, verifier="boxed")
        prompts = Prompts(
            merge="{candidates} {question}", remember="{reflections} {task}", rate="{candidate} {question}"
        )
        draft = replace(make_sample((1,)), text=WORDS, prompt=prompts.ask([problem])[0])
        asked = [
            prompts.ask_to_rate(draft),
            prompts.ask_with_reflections(draft, [WORDS]),
            prompts.ask_to_merge([problem], [[WORDS]])[0],
            prompts.compose(problem, "check", "{reply} {question}", reply=WORDS),
            teacher_prompt(prompts, draft, "tags"),
            *next(expand(prompts, problem, TreeNode(((WORDS, WORDS),)), Settings()))[0],
        ]
        for prompt in asked:
            message = prompt.messages[-1]
            assert "I see (image) and (image)." in message.content, prompt.phase
            before = message.parts[message.parts.index(RED) - 1] if "<image>" in question else ""
            assert message.parts.count(RED) == 1
            assert str(before).endswith("Is ") or "<image>" not in question


def test_a_transcript_has_a_mark_for_each_image() -> None:
    """Guards against prompts with fewer marks than images, where one turn has its image in front and another within."""
    problem = load({"question": "?"})
    earlier = (Message("user", "What?", (RED,)), Message("assistant", "No <image>."))
    problem = replace(problem, question="Compare <image> with it.", earlier=earlier, images=(BLUE,))
    parts = about_all(problem, problem.transcript).parts
    assert parts == ["User: ", RED, "\nWhat?\n\nAssistant: No (image).\n\nUser: Compare ", BLUE, " with it."]
