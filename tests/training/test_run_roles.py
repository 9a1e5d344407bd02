"""The teacher and the start model of a run: which weights they have, and that they are loaded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rethink.models.load import load_model
from rethink.policies.base import Policy
from rethink.policies.local import LocalPolicy
from rethink.recipe import Recipe, load_recipe
from rethink.training import loop
from rethink.training import run as runs
from rethink.training.meter import Meter, MeteredPolicy
from support.processes import light
from support.runs import run_settings, write_problems

pytestmark = pytest.mark.slow

_light = pytest.fixture(scope="module", autouse=True)(light)


MERGE = ["prompts.merge={question} {candidates} again", "prompts.candidate=? {candidate}", 'prompts.between=" "']


@pytest.fixture(scope="module")
def settings(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    common = run_settings(write_problems(tmp_path_factory.mktemp("data")))
    return [*common, *MERGE, f"model.path={model_folders['qwen3']}"]


GSR_K3 = ["method.name=gsr", "method.k=3", "model.path=tiny", "sampling.max_tokens=24"]


def recipe_of(settings: list[str], out: Path, *more: str) -> Recipe:
    thinking = ["method.name=think_tuning", "method.feedback=again", "method.max_feedback_tokens=5"]
    joint = ['method.separator=" "', "sampling.max_tokens=11", "method.solve.kl_coef=0.1", "training.lr=0.01"]
    return load_recipe(None, [*settings, *thinking, *joint, f"out={out}", "updates=3", *more])


def weights(policy: Any) -> list[torch.Tensor]:
    assert isinstance(policy, LocalPolicy)
    return [p.detach() for p in policy.model.module.parameters()]


def test_the_teacher_is_the_frozen_start_by_default(settings: list[str], tmp_path: Path) -> None:
    """Guards against a teacher that learns along, and against start weights that are held twice."""
    run = runs.open_run(recipe_of(settings, tmp_path / "run"))
    records = list(loop.train(run))
    assert records[-1]["kl_to_reference_nats"] > 0
    first = [p.detach() for p in load_model(run.recipe.model.path).module.parameters()]
    teacher = run.role("teacher")
    assert isinstance(teacher, LocalPolicy)
    assert all(map(torch.equal, weights(teacher), first))
    assert not all(map(torch.equal, run.trainer.parameters, first))
    initial = run.role("initial")
    assert isinstance(initial, LocalPolicy)
    assert teacher.model is initial.model is run.trainer.initial
    assert teacher.model is not run.trainer.model
    assert run.role("teacher") is teacher
    assert not any(p.requires_grad for p in teacher.model.module.parameters())
    assert teacher.version == 0
    resumed = runs.open_run(run.recipe, resume=True)
    assert resumed.trainer.version == 3
    assert all(map(torch.equal, weights(resumed.role("teacher")), first))


def test_another_teacher_by_its_path(settings: list[str], tmp_path: Path, model_folders: dict[str, Path]) -> None:
    """Guards against a path that is not looked at, and against one that replaces the KL term's reference as well."""
    run = runs.open_run(recipe_of(settings, tmp_path / "run", f"teacher.path={model_folders['llama']}"))
    teacher, initial = run.role("teacher"), run.role("initial")
    assert isinstance(teacher, LocalPolicy)
    assert isinstance(initial, LocalPolicy)
    assert teacher.model.config.model_type == "llama"
    assert initial.model.config.model_type == "qwen3"
    assert initial.model is run.trainer.initial
    assert len(list(loop.train(run))) == 3


def test_roles_of_a_preparing_method(settings: list[str], tmp_path: Path, model_folders: dict[str, Path]) -> None:
    """Guards against a second copy of the start weights, and a teacher that is opened for each batch."""
    settings = [*settings, *GSR_K3]
    actors = runs.open_actors(load_recipe(None, settings), Meter())
    assert unmetered(actors.role("teacher")) is unmetered(actors.policy) is unmetered(actors.role("initial"))
    actors = runs.open_actors(load_recipe(None, [*settings, f"teacher.path={model_folders['llama']}"]), Meter())
    teacher = unmetered(actors.role("teacher"))
    assert isinstance(teacher, LocalPolicy)
    assert teacher.model.config.model_type == "llama"
    assert unmetered(actors.role("teacher")) is teacher
    assert unmetered(actors.role("initial")) is unmetered(actors.policy)


def unmetered(policy: Policy) -> Policy:
    return policy.policy if isinstance(policy, MeteredPolicy) else policy
