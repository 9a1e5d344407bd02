"""`rethink train --dry-run`: what it says about steps, updates and methods of one's own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rethink.build import load_all_problems
from rethink.recipe import load_recipe, to_toml
from rethink.run_folder import RunFolder
from rethink.training import problem_hash
from support.command_line import Rethink, assert_one_message

OWN = """
from dataclasses import dataclass
from rethink.methods import GRPO

@dataclass(frozen=True)
class Nothing:
    def updates(self, actors, problems):
        return iter(())

@dataclass(frozen=True)
class Forgets:
    def updates(self, actors, problems):
        actors.rollout(actors.prompts.ask(problems), 2)

@dataclass(frozen=True)
class Needs:
    n: int

    def updates(self, actors, problems):
        yield from GRPO(n_solve=self.n).updates(actors, problems)
"""
TINY = ["model.device=cpu", "evaluation.problems.limit=3"]


@pytest.mark.parametrize(
    ("settings", "described"),
    [
        (["problems_per_batch=4"], "2 updates in at most 8 optimizer steps"),
        (["problems_per_batch=2"], "2 updates in at most 4 optimizer steps, not 8 as n_steps asks"),
        (["updates=3", "problems_per_batch=4"], "so 4 updates in all, because a batch is finished"),
    ],
)
def test_steps_and_updates_are_those_of_the_run(rethink: Rethink, settings: list[str], described: str) -> None:
    """Guards against a dry run that promises optimizer steps or updates that the run does not make."""
    assert described in rethink("train", "demo-think-twice", "updates=4", *TINY, *settings, "--dry-run").out


def test_a_warmup_longer_than_the_run_is_mentioned(rethink: Rethink) -> None:
    """Guards against a learning rate that is silently far below `training.lr`."""
    shown = rethink("train", "demo-grpo", *TINY, "updates=4", "training.warmup_updates=19", "--dry-run")
    assert (shown.code, shown.err) == (
        0,
        "warning: training.warmup_updates = 19 is not below updates = 4: the learning rate only reaches 20% of "
        "training.lr\n",
    )


def test_shorter_replies_in_evaluation_are_mentioned(rethink: Rethink) -> None:
    """Guards against held-out curves of replies that are cut, after `sampling.max_tokens` alone was raised."""
    shown = rethink("train", "demo-grpo", *TINY, "sampling.max_tokens=99", "--dry-run")
    assert shown.code == 0
    assert re.fullmatch(
        r"warning: evaluation.sampling.max_tokens = \d+ is below sampling.max_tokens = 99: held-out replies are cut "
        r"earlier than those in training\n",
        shown.err,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method={name='own_methods:Nothing'}"], "the method own_methods:Nothing gives no update"),
        (["method={name='own_methods:Forgets'}"], "Forgets.updates returned None: it must `yield` updates"),
    ],
)
def test_methods_without_updates_are_refused(
    rethink: Rethink, tmp_path: Path, settings: list[str], message: str
) -> None:
    """Guards against the approval of a run that would never end."""
    (tmp_path / "own_methods.py").write_text(OWN)
    assert_one_message(rethink("train", "demo-grpo", *TINY, *settings, "--dry-run"), message)


def test_a_resume_with_other_problems_is_refused(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a dry run that approves of a resume that the run refuses."""
    recipe = load_recipe("demo-grpo", [*TINY, "out=run"])
    folder = RunFolder(tmp_path / "run")
    folder.create(to_toml(recipe))
    training, held_out = load_all_problems(recipe)
    for started_with, code in ((training, 0), (training[1:], 2)):
        problem_hash.write(folder, {"training": started_with, "held-out": held_out})
        shown = rethink("train", "demo-grpo", *TINY, "out=run", "--dry-run", "--resume")
        assert shown.code == code
    assert "the training problems have changed since run was started" in shown.err


def test_settings_without_a_default_are_printed(rethink: Rethink, tmp_path: Path) -> None:
    """Regression: the dry run refused a method whose setting has no default, and the run accepted it."""
    (tmp_path / "own_methods.py").write_text(OWN)
    shown = rethink("train", "demo-grpo", *TINY, "method={name='own_methods:Needs', n=2}", "--dry-run")
    assert (shown.code, shown.err) == (0, "")
    assert "n = 2" in shown.out


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_misspelled_setting_is_refused_before_torch_is_imported(options: list[str]) -> None:
    """Regression: the message came after an import of torch, which takes seconds."""
    command = ["rethink", "train", "demo-grpo", "num_generations=4", *options]
    program = f"import sys; sys.modules['torch'] = None; sys.argv = {command}; import rethink.cli; rethink.cli.main()"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert shown.returncode == 2
    assert shown.stderr == "rethink: unknown key num_generations; TRL's setting is method.n_solve here\n"


@pytest.mark.slow
def test_a_run_without_updates_ends(rethink: Rethink, tmp_path: Path) -> None:
    """Regression: such a run went on for ever."""
    (tmp_path / "own_methods.py").write_text(OWN)
    shown = rethink(
        "train", "demo-grpo", *TINY, "out=run", "problems_per_batch=2", "method={name='own_methods:Nothing'}"
    )
    assert shown.code == 2
    assert "gave no update for 20 problem batches in a row" in shown.err
