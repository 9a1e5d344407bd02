"""The code of the guide to writing a method runs as it is written."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rethink import Actors, Problem, Prompts, Verdict
from rethink.policies.fake import FakePolicy
from rethink.problems.rewards import grade
from rethink.types import Prompt

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


def test_the_turns_of_the_guide_as_written(tmp_path: Path) -> None:
    """Guards against a loop over turns that does not train; the log has samples of later turns, which see all before."""
    (tmp_path / "rise.py").write_text(blocks("python")[2])
    records = run(blocks("console")[1], tmp_path)
    assert [r["phase"] for r in records] == ["rise"] * 3 + ["evaluation"]
    assert all(r["method/n_wrong_1"] >= r["method/n_wrong_2"] >= r["method/n_wrong_4"] for r in records[:3])
    (samples,) = tmp_path.glob("runs/*/samples.jsonl")
    n_messages = [len(json.loads(line)["prompt"]) for line in samples.read_text().splitlines()]
    assert {1, 3, 5, 7} >= set(n_messages) > {1, 3}


def test_weights_and_turns_of_the_guide() -> None:
    """By hand: the tries are wrong, wrong, right; of the new replies, one of the later turns' is right."""

    def reply(prompt: Prompt, index: int, version: int) -> str:
        turn = len(prompt.messages) // 2 + 1
        return {(3, 0): "4", (2, 2): "4", (3, 2): "4"}.get((turn, index), f"no{turn}{index}")

    scope: dict[str, Any] = {"__name__": "rise"}
    exec(compile(blocks("python")[2], "rise.py", "exec", dont_inherit=True), scope)  # without the future import above
    problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
    policy = FakePolicy(reply)
    actors = Actors(policy, Prompts("{question}", refine="again"), grade)
    (update,) = scope["RISE"](max_turns=5, n_new=2, tau=1.0).updates(actors, [problem])
    (part,) = update.parts
    assert [sample.text for sample in part.samples] == ["no11", "4", "4"]
    assert part.weights == pytest.approx([3 / (1 + 2 * math.e), *[3 * math.e / (1 + 2 * math.e)] * 2])
    shown = [[message.content for message in prompt.messages] for prompt in policy.shown]
    assert shown == [["2 + 2?", "no10", "again", "no20", "again"][: 2 * n + 1] for n in range(3)]
    assert update.metrics == {"n_wrong_1": 1, "n_wrong_2": 1, "n_wrong_3": 0, "n_wrong_4": 0, "n_wrong_5": 0}


def test_the_loss_of_the_guide_as_written(tmp_path: Path) -> None:
    """Guards against a loss that is registered and not used: its file trains, and its ratios are capped and logged."""
    (tmp_path / "topr.py").write_text(blocks("python")[3])
    records = run(blocks("console")[2], tmp_path)
    assert [r["phase"] for r in records] == ["solve"] * 3 + ["evaluation"]
    assert all(r["loss"] != 0 and r["ratio"] > 0 for r in records[:3])
    assert {r["clip_low_frac"] for r in records[:3]} == {0.0}
