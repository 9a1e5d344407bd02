"""Short runs of random models: their settings, and what to compare of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from rethink.jsonl import Record
from rethink.methods.actors import Actors
from rethink.objectives import Objective, Update
from rethink.recipe import Recipe, load_recipe
from rethink.training.loop import train
from rethink.training.run import Run, open_run
from rethink.types import Problem
from support.trained import bits, same

THINK_TWICE = ("method.name=think_twice", "method.n_solve=5", "method.n_refine=3", "method.solve.n_steps=2")
"""Two updates per batch, the first with two optimizer steps."""

OFF_POLICY = "async_level=1"

Make = Callable[..., Recipe]


def write_problems(folder: Path) -> Path:
    """Write seven problems, each with a reply to imitate, and return the file."""
    file = folder / "problems.jsonl"
    rows = [{"key": f"p{n}", "question": f"{n} 7 5 -> 26", "answer": "26", "reply": f"{n} + 7"} for n in range(7)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def run_settings(problems: Path) -> list[str]:
    """Return settings of a run with three batches per pass; replies of a random model are right about half of the time."""
    return [
        *("model.device=cpu", "problems_per_batch=2", "checkpoint_every=1000", "training.lr=0.003", "seed=3"),
        *(f"problems.source={problems}", "problems.id=key", "problems.verifier=support.coins:coin"),
        *("prompts.solve={question}", "prompts.refine=again", "prompts.reflect=why", "prompts.retry=again"),
        "sampling.max_tokens=5",
    ]


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_problems(tmp_path_factory.mktemp("data"))


@pytest.fixture
def make(model_folders: dict[str, Path], problems: Path, tmp_path: Path) -> Make:
    """A function that returns a recipe for a random model of a kind, with its run folder `out`."""

    def recipe(*more: str, out: str = "run", kind: str = "qwen3") -> Recipe:
        given = [*run_settings(problems), f"model.path={model_folders[kind]}", f"out={tmp_path / out}"]
        return load_recipe(None, [*given, *more])

    return recipe


def finished(recipe: Recipe) -> Run:
    """Return the run of a recipe, trained to its end."""
    run = open_run(recipe)
    list(train(run))
    return run


def records(out: Run | Path) -> list[Record]:
    """Return what a run has logged, without the seconds that it took."""
    folder = out if isinstance(out, Path) else out.folder.path
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.endswith("_s")} for line in lines]


def assert_same(a: Run, b: Run) -> None:
    """Weights, optimizer, log, counters and the method's state are equal, bit for bit."""
    assert same(bits(a.trainer), bits(b.trainer))
    ours, theirs = (run.trainer.optimizer.state_dict()["state"] for run in (a, b))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[i][name], theirs[i][name]) for i in ours for name in ours[i])
    assert records(a) == records(b)
    assert a.folder.samples.read_bytes() == b.folder.samples.read_bytes()
    assert (a.n_batches, a.state, a.sampled_ahead) == (b.n_batches, b.state, b.sampled_ahead)
    assert a.stream.position == b.stream.position
    assert a.policy.n_overlong == b.policy.n_overlong


def assert_resumes(make: Make, *settings: str, updates: int = 4) -> Run:
    """Train a run, stop another half-way and resume it; both are equal, bit for bit. Return the run."""
    whole = finished(make(*settings, f"updates={updates}", out="whole"))
    half = open_run(make(*settings, f"updates={updates}"))
    for record in train(half):
        half.interrupted = record["update"] >= updates // 2
    assert half.trainer.version < updates
    half = open_run(make(*settings, f"updates={updates}"), resume=True)
    list(train(half))
    assert_same(half, whole)
    return whole


def first_lags(run: Run) -> dict[int, int]:
    """Return the lag of each batch's first update."""
    return {r["batch"]: r["lag_updates"] for r in reversed(records(run))}


OBJECTIVE = Objective(n_steps=2)


@dataclass(frozen=True)
class Uneven:
    """A method with one or two updates per batch, by its state: 1 2 2 1 2 2 ..."""

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        turn = actors.state["turn"] = actors.state.get("turn", -1) + 1
        for name in ("first", "second")[: 2 if turn % 3 else 1]:
            groups = actors.grade(actors.policy.sample(actors.prompts.ask(problems), 3))
            yield OBJECTIVE.update(name, groups)


@dataclass(frozen=True)
class LateState:
    """A method that changes its state once after its last update: when the third batch ends."""

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        actors.state["n"] = actors.state.get("n", 0) + 1
        groups = actors.grade(actors.policy.sample(actors.prompts.ask(problems), 3))
        yield OBJECTIVE.update("only", groups)
        if actors.state["n"] == 3:
            actors.state["late"] = True
