"""Chromium for the tests of the page. Tests are skipped where it is not installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@dataclass
class Watched:
    """A page with what it has requested from the network, and its errors."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def assert_quiet(self) -> None:
        """Fail if the page had errors, asked the network for anything, or ran what a reply told it to."""
        assert self.errors == []
        assert self.requests == []
        assert self.page.evaluate("window.hacked") is None


@contextmanager
def chromium() -> Iterator[Any]:
    """Open a browser without a window."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def open_page(browser: Any, file: Path, hash: str = "", **options: Any) -> Watched:
    """Open a page from disk and wait until it shows something."""
    page = browser.new_page(**options)
    watched = Watched(page)
    page.on("console", lambda line: watched.errors.append(line.text) if line.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: watched.errors.append(str(error)))
    page.on("request", lambda sent: None if sent.url.startswith("file:") else watched.requests.append(sent.url))
    page.goto(f"{file.as_uri()}{hash}")
    page.wait_for_selector("header.top")
    return watched
