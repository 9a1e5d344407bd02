"""Fixtures of all tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.command_line import Rethink, in_process
from support.processes import light

_light = pytest.fixture(scope="module", autouse=True)(light)


@pytest.fixture
def rethink(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rethink:
    """The command line, in this process and in an empty folder."""
    return in_process(capsys, monkeypatch, tmp_path)
