"""Presets of objectives: the values of their papers, and which settings win."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.methods import METHODS
from rethink.methods.grpo import GRPO
from rethink.methods.reflect_retry_reward import ReflectRetryReward
from rethink.methods.think_twice import ThinkTwice
from rethink.objectives import CISPO, GMPO, SAPO, Clip, Objective, Surrogate, objectives_of, preset
from rethink.objectives.presets import PRESETS
from rethink.recipe import changed_toml, load_recipe, to_toml
from support.method_runs import R, W, graded_group, only_part

PAPERS: dict[str, tuple[Surrogate, str, str]] = {
    "grpo": (Clip(0.2, 0.2), "standardize", "sequence"),
    "dr_grpo": (Clip(0.2, 0.2), "center", "constant"),
    "dapo": (Clip(0.2, 0.28), "standardize", "token"),
    "gspo": (Clip(3e-4, 4e-4, None, "sequence"), "standardize", "sequence"),
    "gmpo": (GMPO(0.4, 0.4), "standardize", "sequence"),
    "cispo": (CISPO(1.0, 4.0), "standardize", "token"),
    "sapo": (SAPO(1.0, 1.05), "standardize", "sequence"),
    "rloo": (Clip(0.2, 0.2), "rloo", "constant"),
}


@pytest.mark.parametrize("name", PRESETS)
def test_the_loss_is_that_of_the_paper(name: str) -> None:
    """Guards against a preset that leaves a setting of another objective in place."""
    surrogate, advantage, aggregation = PAPERS[name]
    for base in (None, Objective("maxrl", 0.1, 0.1, 1.5), Objective("center", 0.5, 0.5, 9.0, "sequence", "constant")):
        objective = preset(name, base)
        part = only_part(objective.update("solve", [graded_group(R, W)]))
        assert (part.surrogate, part.loss_aggregation) == (surrogate, aggregation)
        assert objective.advantage == advantage
    assert preset("dapo").zero_std_groups == "drop"


def test_all_other_settings_stay() -> None:
    """Guards against presets that switch a method's KL term off, or change its number of optimizer steps."""
    base = Objective(kl_coef=0.5, n_steps=3, truncated="mask", overlong_buffer=2)
    found = preset("gspo", base)
    assert (found.kl_coef, found.n_steps, found.truncated, found.overlong_buffer) == (0.5, 3, "mask", 2)
    pass_at_2 = Objective("pass_at_k", pass_k=2)
    assert (preset("gspo", pass_at_2).advantage, preset("gspo", pass_at_2).pass_k) == ("pass_at_k", 2)


def method_of(*settings: str) -> Any:
    return load_recipe(None, settings).build_method()


def test_a_recipe_names_a_preset() -> None:
    """Guards against a preset for the first objective only, one that beats single settings, and lost defaults."""
    assert method_of("method.objective=gspo") == ThinkTwice(solve=preset("gspo"), refine=preset("gspo"))
    mixed = method_of("method.objective=cispo", "method.refine.clip_high=2", "method.refine.n_steps=1")
    assert mixed == ThinkTwice(solve=preset("cispo"), refine=replace(preset("cispo"), clip_high=2.0, n_steps=1))
    own = ReflectRetryReward().reflect
    assert method_of("method.name=reflect_retry_reward", "method.objective=sapo").reflect == preset("sapo", own)
    assert own.kl_coef == preset("sapo", own).kl_coef == 0.001


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("recipe", ["dapo-qwen3-4b", "drgrpo-qwen3-4b", "thinktwice-qwen3-4b", "rrr-qwen2.5-3b"])
def test_a_preset_on_the_command_line_wins_over_the_recipe(recipe: str, name: str, tmp_path: Path) -> None:
    """Regression: `rethink train grpo-qwen3-4b method.objective=gspo` had the recipe's clip of 0.2, and with a run folder,
    whose recipe has every value, a preset did nothing."""
    own = dict(objectives_of(load_recipe(recipe).build_method()))
    (stored := tmp_path / "config.toml").write_text(to_toml(load_recipe(recipe)), encoding="utf-8")
    for source in (recipe, stored):
        found = dict(objectives_of(load_recipe(source, [f"method.objective={name}"]).build_method()))
        assert found.keys() == own.keys()
        for key, objective in found.items():
            assert objective == preset(name, objective), "all settings of the preset"
            assert (objective.n_steps, objective.kl_coef) == (own[key].n_steps, own[key].kl_coef)
    settings = ["method.solve.clip_high=0.5", "method.objective=gspo"]
    assert load_recipe("grpo-qwen3-4b", settings).build_method().solve.clip_high == 0.5


def test_a_preset_on_the_command_line_keeps_pass_at_k() -> None:
    """Guards against merging without a good candidate among k."""
    solve = load_recipe("demo-learn-to-merge", ["method.objective=gspo"]).build_method().solve
    assert (solve.advantage, solve.importance_sampling_level) == ("pass_at_k", "sequence")
    assert solve.pass_k == load_recipe("demo-learn-to-merge").build_method().solve.pass_k


@pytest.mark.parametrize("name", PRESETS)
def test_the_stored_recipe_has_every_value(name: str) -> None:
    """Guards against a stored name, whose meaning may change, and a print-out that loads as another recipe."""
    recipe = load_recipe(None, ["method.name=grpo", f"method.objective={name}", "method.solve.n_steps=2"])
    stored = tomllib.loads(to_toml(recipe))["method"]
    assert "objective" not in stored
    assert {key: stored["solve"][key] for key in PRESETS[name]} == PRESETS[name]
    for text in (to_toml(recipe), changed_toml(recipe)):
        solve = tomllib.loads(text)["method"]["solve"]
        assert GRPO(solve=Objective(**solve)) == recipe.build_method()


def test_surrogates_with_their_settings() -> None:
    """Guards against a surrogate that gets the settings of another one."""
    assert Objective(clip_low=0.1, clip_high=0.3, surrogate="gmpo").make_surrogate() == GMPO(0.1, 0.3)
    assert Objective(clip_low=0.1, clip_high=0.3, surrogate="cispo").make_surrogate() == CISPO(0.1, 0.3)
    assert Objective(tau_pos=0.5, tau_neg=2.0, surrogate="sapo").make_surrogate() == SAPO(0.5, 2.0)
    assert Objective(dual_clip=math.inf).make_surrogate() == Clip(0.2, 0.28, None)


def test_a_method_without_objectives_has_no_preset() -> None:
    """Guards against a preset that is accepted and not used."""
    with pytest.raises(UserError, match='"grpo" has no effect: GSR has no policy gradient'):
        method_of("method.name=gsr", "method.objective=grpo")


@dataclass(frozen=True)
class FactoryMethod:
    n: int = 4
    solve: Objective = field(default_factory=lambda: Objective(loss_aggregation="constant", kl_coef=0.5))

    def updates(self, actors: Any, problems: Any) -> Any:
        return []


def test_the_default_of_an_objective_may_come_from_a_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: one setting of such an objective set all others to the defaults of `Objective`, and presets were
    refused because the method seemed to have none."""
    monkeypatch.setitem(METHODS, "own", FactoryMethod)
    solve = method_of("method.name=own", "method.solve.n_steps=1").solve
    assert solve == Objective(loss_aggregation="constant", kl_coef=0.5, n_steps=1)
    assert method_of("method.name=own", "method.objective=gspo").solve == preset("gspo", Objective(kl_coef=0.5))


@dataclass(frozen=True)
class OwnMethod(GRPO):
    objective: Objective = Objective()


def test_a_method_may_have_a_setting_of_this_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a preset in the way of a method's own setting."""
    monkeypatch.setitem(METHODS, "own", OwnMethod)
    assert method_of("method.name=own", "method.objective.clip_low=0.5").objective == Objective(clip_low=0.5)


def test_the_name_of_a_preset_is_no_method() -> None:
    """Guards against a list of methods for someone who looks for DAPO."""
    with pytest.raises(UserError, match=r"write method\.name=grpo method\.objective=dapo"):
        method_of("method.name=dapo")
