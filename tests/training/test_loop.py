"""The training loop: it learns, and it stops at numbers that are not finite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rethink import recipes
from rethink.commands.demo import evaluate_start
from rethink.errors import UserError
from rethink.objectives import Clip
from rethink.recipe import Recipe, load_recipe
from rethink.training import checkpoint
from rethink.training.loop import train
from rethink.training.losses import LOSSES
from rethink.training.run import Run, open_run
from support.processes import light
from support.runs import THINK_TWICE, Make, finished, make, problems
from support.trained import changed

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


@pytest.fixture
def four_updates(make: Make) -> Iterator[Recipe]:
    """The recipe of a run with a checkpoint after update 4, which must not change or be replaced."""
    settings = (*THINK_TWICE, "checkpoint_every=4")
    run = finished(make(*settings, "updates=4"))
    last = run.folder.checkpoints / "000004"
    before = {p.name: p.read_bytes() for p in last.iterdir()}
    yield make(*settings, "updates=12")
    assert checkpoint.newest(last.parent, pytest.fail) == last
    assert {p.name: p.read_bytes() for p in last.iterdir()} == before


def error_of(run: Run) -> str:
    with pytest.raises(UserError) as caught:
        list(train(run))
    return str(caught.value)


def test_loss_that_is_not_finite_ends_the_run(four_updates: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against training with NaN, or saving it, and a message without the batch."""
    run = open_run(four_updates, resume=True)
    monkeypatch.setitem(LOSSES, Clip, changed(LOSSES[Clip], lambda loss: loss * float("nan")))
    message = error_of(run)
    for text in ("the loss is nan", "'solve' update of problem batch 2", run.problems_of_batch(2)[0].id):
        assert text in message
    assert f"The last checkpoint in {run.folder.checkpoints} is untouched; resume from it with a lower" in message


def test_weight_that_is_not_finite_ends_the_run(four_updates: Recipe) -> None:
    """Guards against grading samples of a broken model."""
    run = open_run(four_updates, resume=True)
    with torch.no_grad():
        run.trainer.parameters[0].fill_(float("nan"))
    assert "its weights contain NaN" in error_of(run)


def test_absurd_learning_rate_ends_the_run(make: Make) -> None:
    """Guards against weights that overflow silently: the first steps of 1e30 make the next loss undefined."""
    run = open_run(make(*THINK_TWICE, "updates=12", "training.lr=1e30"))
    assert "of problem batch 0" in error_of(run)
    assert run.newest_checkpoint() is None
