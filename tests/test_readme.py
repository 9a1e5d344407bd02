"""The commands and examples of the README run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from rethink import recipes
from rethink.recipe import load_recipe
from support.command_line import in_process

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

SHORTER = {"80": "4", "120": "6", "000120": "000006"}
"""Numbers of updates in the README's commands, and what they become here."""

FEWER = "evaluation.problems.limit=7"


def console_lines() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
    return [line.split(" # ")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def shortened(command: str) -> list[str]:
    words = shlex.split(re.sub(r"\d+", lambda m: SHORTER.get(m[0], m[0]), command))
    words += [FEWER] if words[1] in ("train", "eval") and "--dry-run" not in words else []
    return words[1:]


@pytest.mark.slow
def test_the_commands_of_rethink_run_in_the_order_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against a documented command that no longer runs after those before it.

    They run in this process, as imports would take most of the time; `test_guide.py` starts processes."""
    (tmp_path / "answers.jsonl").write_text(json.dumps({"gold": "5/6", "reply": "It is \\boxed{\\frac56}."}) + "\n")
    commands = [line for line in console_lines() if line.startswith("rethink ")]
    assert len(commands) >= 6
    rethink = in_process(capsys, monkeypatch, tmp_path)
    for command in commands:
        done = rethink(*shortened(command))
        assert done.code == 0, f"{command}\n{done.err}"


TARGETS = {
    "demo": "rethink demo",
    "test": 'pytest -q -n 2 --dist loadfile -m "not slow"',
    "test-all": "pytest -q -n 2 --dist loadfile -m slow",
    "test-vllm": "pytest -q tests/with_vllm",
    "docs": "mkdocs build --quiet --strict",
}


@pytest.mark.slow
def test_the_python_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a first example from Python that no longer runs."""
    example = next(
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "import rethink" in block
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(example.replace("updates=4", "updates=2"), "README.md", "exec"), {})


@pytest.mark.parametrize("target", TARGETS)
def test_make_targets_do_what_the_readme_says(target: str) -> None:
    """Guards against make targets that do not exist, or do something else than the README says."""
    assert f"make {target}" in README
    shown = subprocess.run(["make", "-n", "-B", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"test-vllm": "install.py"}.get(target, "pip install") in shown
    assert TARGETS[target] in shown


def test_ci_runs_what_the_readme_says() -> None:
    """Guards against a test command that CI does not run."""
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert {target for target in TARGETS if f"make {target}" in lines} == {"test-all", "test-vllm", "docs"}


def test_every_shipped_recipe_is_documented_and_parses() -> None:
    """Guards against a recipe that nobody finds, or that no longer parses."""
    page = (ROOT / "docs" / "recipes.md").read_text()
    for file in recipes.FOLDER.glob("*.toml"):
        assert f"`{file.stem}`" in page
        load_recipe(file).build_method()


def test_the_recipe_in_the_readme_parses(tmp_path: Path) -> None:
    """Guards against a broken example in the first file that readers copy."""
    (example,) = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "recipe.toml").write_text(example)
    assert load_recipe(tmp_path / "recipe.toml").problems.verifier == "boxed"
