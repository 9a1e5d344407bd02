"""Every file of examples/ runs as it stands; only the numbers of updates and problems are its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from rethink import load_evaluation
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


def executed(name: str, folder: Path) -> nbformat.NotebookNode:
    """Return a notebook after it has run from top to bottom in a folder."""
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """Return the text that each cell of a notebook prints or shows, without warnings; cells without any are left out."""
    found: list[str] = []
    for cell in notebook.cells:
        text = ""
        for output in cell.get("outputs", []):
            if output.get("name") != "stderr":
                text += output.get("text") or output.get("data", {}).get("text/plain", "")
        if text:
            found.append(text)
    return found


def test_the_notebook_runs(tmp_path: Path) -> None:
    """Guards against a notebook that no longer runs from top to bottom."""
    assert any("refined" in text for text in printed(executed("notebook.ipynb", tmp_path)))


def test_the_notebook_about_logs_shows_what_it_computes(tmp_path: Path) -> None:
    """Guards against committed outputs that are not those of its code and logs. The refinements, which a model samples, may
    differ between machines: the comparisons, counts and disagreements before them may not."""
    pytest.importorskip("pandas")
    pytest.importorskip("matplotlib")
    shutil.copytree(EXAMPLES / "old_logs", tmp_path / "old_logs")
    wanted = printed(nbformat.read(EXAMPLES / "old_logs.ipynb", as_version=4))
    found = printed(executed("old_logs.ipynb", tmp_path))
    of_model = next(n for n, text in enumerate(wanted) if "wrong drafts fixed" in text)
    assert of_model >= 5
    assert found[:of_model] == wanted[:of_model]
    assert len(found) == len(wanted)
    assert "drafts" in found[of_model]


def test_the_rows_of_the_logs_are_as_described() -> None:
    """Guards against logs that do not belong together: the notebook compares them puzzle by puzzle."""
    folder = EXAMPLES / "old_logs"
    before, after, sampled = (
        load_evaluation(folder / name).answers for name in ("lm-eval/before", "lm-eval/after", "sampled.eval")
    )
    assert [len(some) for some in (before, after, sampled)] == [120, 120, 240]
    questions = {answer.question for answer in before}
    assert questions == {answer.question for answer in after} == {answer.question for answer in sampled}
    assert len(questions) == 120


def test_every_example_is_tested() -> None:
    """Guards against an example that nothing runs."""
    names = {file.name for file in EXAMPLES.iterdir() if file.suffix in (".py", ".ipynb")}
    assert names == {*SHOWN, "evaluate_endpoint.py", "notebook.ipynb", "old_logs.ipynb"}
