"""`rethink view` in Chromium: it follows a run under way, and compares several."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rethink.jsonl import append
from support.report_runs import held_out, sample, training_folder, update_record
from web.browser import chromium

pytestmark = pytest.mark.slow


@contextmanager
def served(folder: Path) -> Iterator[Any]:
    """Open the page that the command serves."""
    command = [sys.executable, "-m", "rethink", "view", str(folder), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        found = None
        while found is None:
            line = server.stderr.readline()
            assert line, "rethink view has ended"
            found = re.search(r"http://127.0.0.1:\d+/", line)
        with chromium() as browser:
            shown = browser.new_page(viewport={"width": 1300, "height": 800})
            errors: list[str] = []
            shown.on("pageerror", lambda error: errors.append(str(error)))
            shown.goto(found[0])
            shown.wait_for_selector("header.top")
            yield shown
            assert errors == []
    finally:
        server.terminate()
        server.wait()
        assert server.stderr is not None
        server.stderr.close()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    """The page that the command serves, with two runs."""
    for name in ("first", "second"):
        training_folder(tmp_path / "runs" / name)
    with served(tmp_path / "runs") as shown:
        yield shown


def test_the_page_waits_for_the_first_run(tmp_path: Path) -> None:
    """Guards against a page that breaks without a run, or does not show the first one when it begins."""
    (tmp_path / "runs").mkdir()
    with served(tmp_path / "runs") as page:
        page.get_by_text("No run has begun yet. The page waits for the first record.").wait_for()
        assert page.locator("table.runs tbody tr").count() == 0
        training_folder(tmp_path / "runs" / "first")
        page.get_by_text("6 of 6 updates").wait_for(timeout=10_000)
        assert page.locator(".tile-value").nth(1).inner_text() == "60.0%"


def test_the_page_follows_a_run(page: Any, tmp_path: Path) -> None:
    """Guards against a page that must be loaded again to see new updates, evaluations and replies."""
    page.get_by_role("link", name="second").click()
    page.get_by_text("6 of 6 updates").wait_for()
    assert page.locator(".tile-value").nth(1).inner_text() == "60.0%"
    folder = tmp_path / "runs" / "second"
    append(folder / "metrics.jsonl", [update_record(7), update_record(8), held_out(8, 0.7)])
    page.get_by_text("8 of 6 updates").wait_for(timeout=10_000)
    assert page.locator(".tile-value").nth(1).inner_text() == "80.0%"
    page.get_by_role("link", name="Transcripts").click()
    page.get_by_text("45 of 45 replies").wait_for()
    append(folder / "samples.jsonl", [sample("new", "just written", 8)])
    page.get_by_text("46 of 46 replies").wait_for(timeout=10_000)
    page.get_by_text("What is new?").click()
    assert page.locator(".reply .text").inner_text() == "just written"


def test_runs_are_sorted_compared_and_share_charts(page: Any, tmp_path: Path) -> None:
    """Guards against a table in another order than its arrow says, and differences with the wrong sign."""
    append(tmp_path / "runs" / "second" / "metrics.jsonl", [held_out(8, 0.7)])
    rows = page.locator("table.runs tbody tr")
    page.wait_for_selector("table.runs tbody tr:first-child:has-text('second')", timeout=10_000)
    page.get_by_role("button", name="refined").click()
    assert [text.split("\n")[0].split("\t")[1].strip() for text in rows.all_inner_texts()] == ["first", "second"]
    rows.first.get_by_role("button", name="compare").click()
    assert rows.nth(1).locator(".delta").nth(1).inner_text() == "+20.0"
    page.get_by_role("link", name="Training").click()
    legend = page.locator("figure", has=page.get_by_text("Reward", exact=True)).locator(".legend-item")
    names = sorted(text.rsplit(" ", 1)[0] for text in legend.all_inner_texts())
    assert names == ["first, refine", "first, solve", "second, refine", "second, solve"]
    page.get_by_role("link", name="Runs").click()
    page.get_by_label("first in the charts").uncheck()
    page.get_by_role("link", name="Training").click()
    assert page.locator("figure", has=page.get_by_text("Reward", exact=True)).locator(".legend-item").count() == 2
