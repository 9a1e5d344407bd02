"""A finished run with LoRA, for tests of its checkpoints and of what is exported from them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from rethink.build import build_prompts
from rethink.models.language_model import LanguageModel
from rethink.policies.base import TrainedPolicy
from rethink.policies.local import LocalPolicy
from rethink.recipe import Recipe, load_recipe
from rethink.training.loop import train
from rethink.training.run import Run, open_run
from rethink.types import Sample
from support.runs import THINK_TWICE, run_settings, write_problems
from support.trained import bits, same


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of a run with LoRA, without model.path and out."""
    return [
        *(*run_settings(write_problems(tmp_path_factory.mktemp("data"))), *THINK_TWICE),
        *("updates=8", "checkpoint_every=4"),
        *("lora.rank=3", "training.lr=0.01", "method.solve.kl_coef=0.1", "method.solve.n_steps=1"),
    ]


@pytest.fixture(scope="module", params=["qwen3", "gpt2"])
def model(request: pytest.FixtureRequest, model_folders: dict[str, Path]) -> Path:
    return model_folders[request.param]


@pytest.fixture(scope="module")
def undisturbed(settings: list[str], model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run; most of its updates have changed the adapter."""
    run = open_run(recipe_for(settings, model, tmp_path_factory.mktemp("undisturbed") / "run"))
    seen = [bits(run.trainer)]
    for _ in train(run):
        seen.append(bits(run.trainer))
    assert sum(not same(a, b) for a, b in itertools.pairwise(seen)) >= 6
    return run


def recipe_for(settings: list[str], model: Path, out: Path, *more: str) -> Recipe:
    return load_recipe(None, [*settings, f"model.path={model}", f"out={out}", *more])


def last_checkpoint(out: Path) -> Path:
    return out / "checkpoints" / "000008"


def sampled(policy: TrainedPolicy, run: Run) -> list[Sample]:
    """Return samples of the policy for three problems of the run."""
    groups = policy.sample(build_prompts(run.recipe, 5).ask(run.problems[:3]), 4)
    return [s for group in groups for s in group]


def tokens(model: LanguageModel, run: Run) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Return ids and log-probs of samples of a model."""
    return [(s.ids, s.log_probs) for s in sampled(LocalPolicy(model, run.recipe.sampling), run)]


def contents(folder: Path) -> dict[Path, bytes]:
    """Return all files in a folder."""
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
