"""Sampling ahead of training, where a run is used in unusual ways: saved at any record, abandoned, and methods that keep
policies."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.objectives import Objective, Update
from rethink.policies.base import Policy
from rethink.training.loop import train
from rethink.training.run import Run, open_run
from rethink.types import Problem
from support.processes import light
from support.runs import Make, make, problems

__all__ = ["make", "problems"]

_light = pytest.fixture(scope="module", autouse=True)(light)

TWO_AHEAD = ("method.name=grpo", "method.n_solve=3", "updates=6", "async_level=2")


def save(run: Run) -> Path:
    """Save a checkpoint, in a thread that may hang."""
    found: list[Path] = []
    thread = threading.Thread(target=lambda: found.append(run.save()), daemon=True)
    thread.start()
    thread.join(120)
    assert found, "run.save() hangs or fails"
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 3, 4])
def test_a_checkpoint_within_a_batch_resumes(n: int, make: Make) -> None:
    """Regression: `run.save()` at the record of an update kept the samples of the batch after it as those of the unfinished
    one, so that the checkpoint could not be resumed."""
    recipe = make(*TWO_AHEAD)
    first = open_run(recipe)
    for record in train(first):
        if record["update"] == n:
            first.save()
            break
    run = open_run(recipe, resume=True, warn=lambda _: None)
    assert (run.trainer.version, run.n_batches, run.sampled_ahead) == (n, n - 1, [])
    list(train(run))
    assert run.trainer.version == 6


@pytest.mark.slow
def test_an_abandoned_run_can_be_saved_and_trained_on(make: Make) -> None:
    """Regression: after an exception in the loop's body, `run.save()` waited for a round of sampling that was dropped."""
    run = open_run(make(*TWO_AHEAD))
    records = train(run)
    while run.trainer.version < 4:
        next(records)
    with pytest.raises(KeyboardInterrupt):
        records.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert save(run).name == "000004"
    list(train(run))
    assert run.trainer.version == 6


@dataclass
class KeepsRole:
    """A method that asks for a role once, and not in each batch."""

    kept: ClassVar[dict[str, Policy]] = {}

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        role = self.kept.setdefault("role", actors.role("initial"))
        solved = actors.rollout(actors.prompts.ask(problems), 3)
        role.score([sample for group in solved for sample in group])
        yield Objective().update("only", solved)


@pytest.mark.slow
def test_a_role_of_an_earlier_batch_is_refused(make: Make) -> None:
    """Regression: the sampling thread waited for itself, for ever."""
    run = open_run(make(f"method.name={__name__}:KeepsRole", "updates=6", "async_level=1"))
    with pytest.raises(UserError, match="uses a policy or a role of an earlier batch"):
        list(train(run))
