"""The guide's method runs as it is written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

GUIDE = (Path(__file__).parent.parent / "docs" / "write-your-own-method.md").read_text()


def test_the_guide_as_written(tmp_path: Path) -> None:
    """Guards against a guide that no longer runs: its files and its command, only shorter."""
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    (recipe,) = re.findall(r"```toml\n(.*?)```", GUIDE, flags=re.DOTALL)
    (command,) = re.findall(r"```console\n(.*?)```", GUIDE, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    (tmp_path / "own.py").write_text(code)
    (tmp_path / "own.toml").write_text(recipe)
    shorter = ["updates=3", "evaluation.problems.limit=5"]
    done = subprocess.run(
        [sys.executable, "-m", *command.split(), *shorter], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "runs" / "own" / "metrics.jsonl").read_text().splitlines()]
    assert [r["phase"] for r in records] == ["success"] * 3 + ["evaluation"]
    assert all(r["n_trained_tokens"] > 0 for r in records[:3])
