"""benchmarks/scale.py still runs, and prints what docs/scale.md says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import scale

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def test_the_computed_exchange_is_that_of_the_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against a table of an older formula, or of other assumed speeds."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["scale.py", "--gpus", "56"])
    scale.main()
    shown = capsys.readouterr().out
    printed = dict(re.findall(r"^(.+?) +([\d.]+ GB +[\d.]+) s", shown, flags=re.MULTILINE))
    rows = re.findall(r"^\| (.+?) \| ([\d.]+ GB) \| ([\d.]+) \|$", PAGE, flags=re.MULTILINE)
    assert [name for name, *_ in rows] == [
        *("gathered, reference", "gathered, forward", "gathered, backward"),
        *("gradients, summed in float32", "all"),
    ]
    for name, whole, seconds in rows:
        assert printed[scale.REDUCED if name.startswith("gradients") else name].split() == [*whole.split(), seconds]
    (computing,) = re.findall(r"beside ([\d.]+) s of computing", shown)
    assert f"Computing takes {computing} seconds per micro-batch" in PAGE
    publishing = r"gather (\d+) GB in ([\d.]+) s; send (\d+) GB in bfloat16\nfrom one GPU in ([\d.]+) s"
    gathered, within, sent, sending = re.findall(publishing, shown)[0]
    assert f"({gathered} GB, {within} s)" in PAGE
    assert f"{sent} GB take {sending} s" in PAGE


def test_the_counted_bytes_are_those_of_the_page() -> None:
    """Guards against a count that no longer works, and collectives that exchange more than the page says."""
    paths = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "benchmarks/scale.py", "--count"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (counted,) = re.findall(r"gathered (\S+) (\S+) +reduced (\S+) (\S+)", done.stdout)
    gathered, computed, reduced, computed_reduced = counted
    assert f"{gathered} gathered and {reduced} reduced; the formulas say {computed} and {computed_reduced}" in PAGE
