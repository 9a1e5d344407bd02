"""The logs that other tools wrote; tests/README.md says how."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """A copy of the logs, under the names of docs/other-evaluations.md."""
    folder = tmp_path / "logs"
    shutil.copytree(DATA, folder)
    return folder
