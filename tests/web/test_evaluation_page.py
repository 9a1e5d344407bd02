"""The page of an evaluation in Chromium, against the numbers that Python computes from its answers."""

from __future__ import annotations

from pathlib import Path

import pytest

import rethink
from rethink.policies.fake import FakePolicy
from rethink.problems.mathematics import verify
from rethink.report.folders import find_sources
from rethink.report.page import write_page
from rethink.types import Problem, Prompt
from web.browser import chromium, open_page

pytestmark = pytest.mark.slow


def test_an_evaluation_shows_its_numbers_and_leads_to_its_transcripts(tmp_path: Path) -> None:
    """Guards against a table, a flow or a link that shows other answers than those of its strategy."""
    problems = [Problem(str(n), f"{n} + 1?", str(n + 1), verify, solve="{question}") for n in range(12)]

    def reply(prompt: Prompt, index: int, version: int) -> str:
        n = int(prompt.problem.id)
        right = (n + index) % (3 if prompt.phase == "solve" else 2) == 0
        return rf"\boxed{{{n + 1 if right else 77}}}"

    settings = rethink.AnswerSettings(strategy="refine,solve", n=2)
    answers = rethink.evaluate(FakePolicy(reply), problems, settings, file=tmp_path / "run" / "answers.jsonl")
    summary = rethink.summarize([answer for answer in answers if answer.strategy == "refine"])
    assert summary.transitions is not None
    assert summary.fix is not None
    file = write_page(find_sources([tmp_path / "run"]), tmp_path / "page.html")
    with chromium() as browser:
        watched = open_page(browser, file, viewport={"width": 1500, "height": 900})
        page = watched.page
        row = page.locator("table.numbers tbody tr", has_text="refine").locator("td").all_inner_texts()
        assert row[1] == summary.accuracy.percent()
        assert row[2] == summary.solve.accuracy.percent()
        assert row[4] == summary.fix.percent()
        flow = page.locator(".flow-list b").all_inner_texts()
        moved = summary.transitions
        wanted = [moved.wrong_right, moved.right_wrong, moved.right_right, moved.wrong_wrong]
        assert list(map(int, flow)) == wanted
        page.locator(".flow-list a", has_text="damaged").click()
        page.locator(".shown-count", has_text=f"{moved.right_wrong} of 48 replies").wait_for()
        watched.assert_quiet()


@pytest.mark.parametrize("right_after", [False, True])
def test_a_flow_to_one_side_has_all_its_labels(tmp_path: Path, right_after: bool) -> None:
    """Regression: if all refinements were wrong, the label "right after" was cut off at the picture's upper edge."""
    problems = [Problem(str(n), f"{n} + 1?", str(n + 1), verify, solve="{question}") for n in range(4)]

    def reply(prompt: Prompt, index: int, version: int) -> str:
        n = int(prompt.problem.id)
        right = n % 2 == 0 if prompt.phase == "solve" else right_after
        return rf"\boxed{{{n + 1 if right else 77}}}"

    rethink.evaluate(FakePolicy(reply), problems, file=tmp_path / "run" / "answers.jsonl")
    file = write_page(find_sources([tmp_path / "run"]), tmp_path / "page.html")
    with chromium() as browser:
        page = open_page(browser, file, viewport={"width": 1200, "height": 900}).page
        picture = page.locator("svg.flow").bounding_box()
        labels = [label.bounding_box() for label in page.locator("svg.flow text").all()]
        assert len(labels) == 8
        for label in labels:
            assert picture["y"] <= label["y"]
            assert label["y"] + label["height"] <= picture["y"] + picture["height"]
