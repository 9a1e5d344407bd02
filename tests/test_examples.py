"""Every file of examples/ runs as it stands; only the numbers of updates and problems are its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from support.fake_endpoint import FakeEndpoint, completion

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.slow


def run(example: str, folder: Path, *arguments: str) -> str:
    """Run an example in a process and return what it prints."""
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


SHOWN = {
    "explicit_loop.py": ["solve   reward 0.", "refine  reward 0.", "drafts ", "refined "],
    "custom_reward.py": ["reward 0.", " + 0.2 * 0."],
    "own_method.py": ["'n_trained_tokens': ", "'update': 4"],
}


@pytest.mark.parametrize("example", SHOWN)
def test_an_example_runs(example: str, tmp_path: Path) -> None:
    """Guards against an example that no longer runs, or trains nothing."""
    shown = run(example, tmp_path)
    for text in SHOWN[example]:
        assert text in shown


def test_the_endpoint_example_runs(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    """Guards against a first answer and a refinement that are mixed up: here the second one is right."""
    endpoint.script = lambda asked: completion("\\boxed{5/6}" if len(asked.body["messages"]) > 1 else "\\boxed{2/5}")
    (tmp_path / "problems.jsonl").write_text('{"question": "What is 1/2 + 1/3?", "answer": "5/6"}\n')
    shown = run("evaluate_endpoint.py", tmp_path, endpoint.url, "my-model", "problems.jsonl")
    assert "drafts 0.0 " in shown
    assert "refined 100.0 " in shown
    assert (tmp_path / "answers.jsonl").is_file()


def test_the_notebook_runs(tmp_path: Path) -> None:
    """Guards against a notebook that no longer runs from top to bottom."""
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("refined" in text for text in texts)


def test_every_example_is_tested() -> None:
    """Guards against an example that nothing runs."""
    names = {file.name for file in EXAMPLES.iterdir() if file.suffix in (".py", ".ipynb")}
    assert names == {*SHOWN, "evaluate_endpoint.py", "notebook.ipynb"}
