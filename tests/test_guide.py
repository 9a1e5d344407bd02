"""The code of the guide to writing a method runs as it is written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "write-your-own-method.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, flags=re.DOTALL)


def run(command: str, folder: Path) -> list[dict[str, Any]]:
    """The records of a command of the guide, only shorter."""
    shorter = ["updates=3", "evaluation.problems.limit=5"]
    done = subprocess.run(
        [sys.executable, "-m", *command.split(), *shorter], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (metrics,) = folder.glob("runs/*/metrics.jsonl")
    return [json.loads(line) for line in metrics.read_text().splitlines()]


def test_the_guide_as_written(tmp_path: Path) -> None:
    """Guards against a guide that no longer runs: its files and its command."""
    (recipe,) = blocks("toml")
    code = blocks("python")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    body = code.partition("@dataclass")[2].strip()
    assert body in (ROOT / "examples" / "own_method.py").read_text()
    (tmp_path / "own_method.py").write_text(code)
    (tmp_path / "own_method.toml").write_text(recipe)
    records = run(blocks("console")[0], tmp_path)
    assert [r["phase"] for r in records] == ["imitate"] * 3 + ["evaluation"]
    assert all(r["n_trained_tokens"] > 0 for r in records[:3])


def test_the_test_of_the_guide_as_written(tmp_path: Path) -> None:
    """Guards against a test without a model that does not pass."""
    for name, code in zip(("own_method.py", "test_own_method.py"), blocks("python"), strict=False):
        (tmp_path / name).write_text(code)
    command = [sys.executable, "-m", "pytest", "-q", "test_own_method.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_the_loss_of_the_guide_as_written(tmp_path: Path) -> None:
    """Guards against a loss that is registered and not used: its file trains, and its ratios are capped and logged."""
    (tmp_path / "topr.py").write_text(blocks("python")[2])
    records = run(blocks("console")[1], tmp_path)
    assert [r["phase"] for r in records] == ["solve"] * 3 + ["evaluation"]
    assert all(r["loss"] != 0 and r["ratio"] > 0 for r in records[:3])
    assert {r["clip_low_frac"] for r in records[:3]} == {0.0}
