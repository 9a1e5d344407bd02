"""Images of questions in Chromium: where they stand, how they are enlarged, and what happens without their files."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rethink.jsonl import append
from rethink.report.page import write_report
from rethink.run_folder import RunFolder
from support.images import png
from support.report_runs import answer, put_image, sample, step, training_folder
from web.browser import Watched, chromium, open_page

pytestmark = pytest.mark.slow

TWO = "Is <image> larger than <image>, if $n = 2$?"
MISSING = "0" * 24 + ".png"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with questions about a red and a blue image, in this order."""
    path = tmp_path_factory.mktemp("images") / "run"
    run = training_folder(path, n_answers=4)
    red, blue = put_image(path, png("red")), put_image(path, png("blue", (1500, 900)))
    draft = step("solve", "I see <image> here", "wrong")
    turns = [["user", TWO, red, blue], ["assistant", "I see <image> here"], ["user", "again"]]
    final = step("refine", "<image> and <image>", "right", prompt=turns)
    records = [
        answer("two", draft, final, question=TWO, images=[red, blue]),
        answer("before", draft, final, question="What color?", images=[blue]),
        answer("earlier", draft, final, question="And <image>?", images=[red, blue]),
        answer("gone", draft, final, question="Is <image> not <image>?", images=[MISSING, red]),
        answer("words", draft, final, question="What does <image> mean?"),
    ]
    append(path / "eval" / "000006.jsonl", records)
    append(run.samples, [sample("seen", "red", 3, question="What is seen?", images=[red])])
    return run


@pytest.fixture(scope="module")
def report(folder: RunFolder) -> Path:
    return write_report(folder.path)


def open_reply(browser: Any, report: Path, problem: str, **options: Any) -> Watched:
    watched = open_page(browser, report, f"#transcripts?problem={problem}", **options)
    watched.page.locator(".list-row").click()
    watched.page.wait_for_selector(".detail-title h2")
    return watched


CONTENT = """box => [...box.childNodes].map(node => {
    const image = node.querySelector?.("img");
    return image ? image.alt : node.textContent;
}).join("|")"""
"""The texts and images in a box, in order."""

COLOR = """async image => {
    await image.decode();
    const canvas = document.createElement("canvas");
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    return [...context.getImageData(2, 2, 1, 1).data.slice(0, 3)].map(part => part > 127);
}"""
RED, BLUE = [True, False, False], [False, False, True]


def test_images_stand_where_their_marks_are(browser: Any, report: Path) -> None:
    """Guards against images at another place or in another order than the model saw, and marks that stay in the text."""
    wanted = {
        "two": ("Is |image 1 of 2| larger than |image 2 of 2|, if ", [RED, BLUE]),
        "before": ("image|What color?", [BLUE]),
        "earlier": ("image 1 of 2|And |image 2 of 2|?", [RED, BLUE]),
        "seen": ("image|What is seen?", [RED]),
        "words": ("What does <image> mean?", []),
    }
    for problem, (text, colors) in wanted.items():
        watched = open_reply(browser, report, problem)
        page = watched.page
        question = page.locator(".question")
        for view in ("Formulas", "Plain text"):
            page.get_by_role("button", name=view).click()
            assert question.evaluate(CONTENT).startswith(text), (problem, view)
        assert [image.evaluate(COLOR) for image in question.locator("img").all()] == colors
        badges = page.locator(".list-row .image-badge")
        assert [badge.get_attribute("title") for badge in badges.all()] == (
            [f"{len(colors)} image{'s' * (len(colors) > 1)}"] if colors else []
        )
        if problem == "two":
            assert page.locator(".list-text").inner_text().startswith("Is (image) larger than (image), if")
        watched.assert_quiet()
        page.close()


def test_a_mark_in_a_reply_stays_text(browser: Any, report: Path) -> None:
    """Guards against a model that puts images into its replies, in all views and in what it was shown."""
    watched = open_reply(browser, report, "two")
    page = watched.page
    for view in ("Word diff", "Formulas", "Plain text"):
        page.get_by_role("button", name=view).click()
        assert page.locator(".reply .text").all_inner_texts() == ["I see <image> here", "<image> and <image>"]
    page.get_by_text("What the model was shown").click()
    turns = page.locator(".turn .text").all()
    assert [turn.locator("img").count() for turn in turns] == [2, 0, 0]
    assert turns[0].evaluate(CONTENT) == "Is |image 1 of 2| larger than |image 2 of 2|, if $n = 2$?"
    assert turns[1].inner_text() == "I see <image> here"
    watched.assert_quiet()
    page.close()


def test_images_are_enlarged_by_key_and_by_click(browser: Any, report: Path) -> None:
    """Guards against images that only a mouse can enlarge, keys that reach the page behind, and a dialog that stays."""
    watched = open_reply(browser, report, "two", viewport={"width": 900, "height": 600})
    page = watched.page
    dialog, image = page.locator("dialog"), page.locator("dialog img")
    page.locator(".question .image").first.focus()
    page.keyboard.press("Enter")
    assert image.get_attribute("alt") == "image 1 of 2"
    assert image.evaluate(COLOR) == RED
    page.keyboard.press("ArrowRight")
    assert image.get_attribute("alt") == "image 2 of 2"
    assert image.evaluate(COLOR) == BLUE
    page.keyboard.press("ArrowRight")
    assert image.get_attribute("alt") == "image 1 of 2"
    for key in ("j", "d", "1"):
        page.keyboard.press(key)
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert page.locator(".detail-title h2").inner_text() == "two"
    assert page.evaluate("document.activeElement.querySelector('img').alt") == "image 1 of 2"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert image.evaluate(COLOR) == BLUE
    box = dialog.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["y"] >= 0
    assert box["x"] + box["width"] <= 900
    assert box["y"] + box["height"] <= 600
    image.click()
    dialog.wait_for(state="detached")
    watched.assert_quiet()
    page.close()


@pytest.mark.parametrize("width", [390, 1300])
def test_an_image_without_its_file_is_a_note(browser: Any, report: Path, width: int) -> None:
    """Guards against a page that breaks, or shows another image, because a file is gone; and a note wider than a phone."""
    watched = open_reply(browser, report, "gone", viewport={"width": width, "height": 800})
    page = watched.page
    text = page.locator(".question").evaluate(CONTENT)
    assert text == f"Is |image 1 of 2 is not shown: the file images/{MISSING} is missing| not |image 2 of 2|?"
    assert page.locator(".question img").evaluate(COLOR) == RED
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    watched.assert_quiet()
    page.close()


def test_the_served_page_shows_images(browser: Any, folder: RunFolder) -> None:
    """Guards against a policy of the page that keeps its images out, and a missing file that breaks it."""
    command = [sys.executable, "-m", "rethink", "view", str(folder.path), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        found = re.search(r"http://127.0.0.1:\d+/", server.stderr.readline())
        assert found is not None
        for problem, colors in (("two", [RED, BLUE]), ("gone", [RED])):
            page = browser.new_page()
            page.goto(f"{found[0]}#transcripts?problem={problem}")
            page.locator(".list-row").click()
            images = page.locator(".question img")
            if problem == "gone":
                page.get_by_text(f"image 1 of 2 is not shown: the file images/{MISSING} is missing").wait_for()
            assert [image.evaluate(COLOR) for image in images.all()] == colors
            page.close()
    finally:
        server.terminate()
        server.wait()
        assert server.stderr is not None
        server.stderr.close()
