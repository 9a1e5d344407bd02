"""The training loop: it learns, and it stops at numbers that are not finite."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from rethink import recipes
from rethink.commands.demo import evaluate_start
from rethink.errors import UserError
from rethink.objectives import Update
from rethink.recipe import load_recipe
from rethink.training.loop import train
from rethink.training.run import open_run
from support.processes import light
from support.runs import THINK_TWICE, Make, finished, make, problems

__all__ = ["make", "problems"]

pytestmark = pytest.mark.slow

_light = pytest.fixture(scope="module", autouse=True)(light)


def test_forty_updates_of_grpo_lift_held_out_accuracy_by_ten_points(tmp_path: Path) -> None:
    """Guards against wrong signs, shifted targets and stale weights. (Measured: from 35 to 56 percent, 800 answers.)"""
    settings = [f"out={tmp_path}/run", "updates=40", "evaluation.problems.limit=400"]
    recipe = load_recipe(recipes.find("demo-grpo"), settings)
    before = evaluate_start(recipe, tmp_path / "start.jsonl")["solve"]["value"]
    after = [r for r in train(open_run(recipe)) if r["phase"] == "evaluation"][-1]["solve"]["value"]
    assert after >= before + 0.10


def test_weight_that_is_not_finite_ends_the_run(make: Make) -> None:
    """Guards against grading samples of a broken model, and a checkpoint that is replaced."""
    finished(make(*THINK_TWICE, "updates=4"))
    run = open_run(make(*THINK_TWICE, "updates=12"), resume=True)
    with torch.no_grad():
        run.trainer.parameters[0].fill_(float("nan"))
    with pytest.raises(UserError, match="its weights contain NaN"):
        list(train(run))
    assert run.newest_checkpoint() == run.folder.checkpoints / "000004"


def test_absurd_learning_rate_ends_the_run(make: Make) -> None:
    """Guards against weights that overflow silently: the first steps of 1e30 make the next loss undefined."""
    run = open_run(make(*THINK_TWICE, "updates=12", "training.lr=1e30"))
    with pytest.raises(UserError, match=r"of problem batch 0.*There is no checkpoint yet: begin again with a lower"):
        list(train(run))
    assert run.newest_checkpoint() is None
    again = open_run(make(*THINK_TWICE, "updates=2", "training.lr=1e-4"))  # as the message says
    assert [record["update"] for record in train(again) if record["phase"] != "evaluation"] == [1, 2]


def test_loss_that_is_not_finite_says_how_to_continue(make: Make) -> None:
    """Regression: the message said to resume with a lower learning rate, which is refused: settings must stay the same."""
    finished(make(*THINK_TWICE, "updates=4"))
    run = open_run(make(*THINK_TWICE, "updates=12"), resume=True)

    def no_number(update: Update, lag: int = 0) -> dict[str, float]:
        raise FloatingPointError("the loss is nan")

    run.trainer.apply = no_number  # type: ignore[method-assign]
    with pytest.raises(UserError, match="the loss is nan in the 'solve' update of problem batch 2") as caught:
        list(train(run))
    settings = re.findall(r"model\.path=\S+", str(caught.value))
    assert settings == [f"model.path={run.folder.checkpoints / '000004'}"]
    new = open_run(make(*THINK_TWICE, *settings, "updates=2", "training.lr=1e-5", out="new"))
    assert [record["update"] for record in train(new) if record["phase"] != "evaluation"] == [1, 2]
