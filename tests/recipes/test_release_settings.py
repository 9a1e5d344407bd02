"""The settings of ThinkTwice and its controls are those of the scripts in the history of CSSLab/ThinkTwice."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rethink.methods.grpo import GRPO
from rethink.methods.think_twice import ThinkTwice
from rethink.objectives import Objective
from rethink.recipe import load_recipe
from rethink.settings import Training
from rethink.types import Sampling
from support.recipe_headers import header
from support.shipped_recipes import MATH_RECIPES


@dataclass(frozen=True)
class Script:
    """A script of the release, and the settings in which the scripts differ.

    Its settings are, in this order: clip_ratio_low and clip_ratio_high (0.2 each if not set: actor.yaml),
    train_batch_size / ppo_mini_batch_size, loss_agg_mode, filter_groups.enable. None sets clip_ratio_c, which is 3 in
    actor.yaml; all set norm_adv_by_std_in_grpo=False.
    """

    commit: str
    file: str
    clip_low: float
    clip_high: float
    n_steps: int
    loss_aggregation: str
    zero_std_groups: str


SCRIPTS = {
    "thinktwice-qwen3-4b": Script("52ef7e8", "verl/run_thinktwice_qwen3.sh", 0.2, 0.28, 32 // 8, "token", "keep"),
    "thinktwice-olmo3-7b": Script("52ef7e8", "verl/run_thinktwice_olmo3.sh", 0.2, 0.28, 32 // 8, "token", "keep"),
    "grpo": Script("2743f4c", "verl/run_grpo_math.sh", 0.2, 0.2, 32 // 4, "token", "keep"),
    "drgrpo": Script("2743f4c", "verl/run_drgrpo_math.sh", 0.2, 0.2, 32 // 4, "constant", "keep"),
    "dapo": Script(
        "d883388", "verl/run_refpo_dapo_math_no_thinking.sh", 0.2, 0.28, 32 // 8, "token", zero_std_groups="drop"
    ),
}


def script_of(recipe: str) -> Script:
    return SCRIPTS.get(recipe) or SCRIPTS[recipe.partition("-")[0]]


@pytest.mark.parametrize("recipe", MATH_RECIPES)
def test_the_objective_is_that_of_the_script(recipe: str) -> None:
    """Guards against controls with the clip, the steps or the standard deviation of another arm."""
    script, method = script_of(recipe), load_recipe(recipe).build_method()
    wanted = Objective(
        "center",
        script.clip_low,
        script.clip_high,
        3.0,
        loss_aggregation=script.loss_aggregation,  # type: ignore[arg-type]
        constant_length=3000 if script.loss_aggregation == "constant" else 0,
        zero_std_groups=script.zero_std_groups,  # type: ignore[arg-type]
        n_steps=script.n_steps,
    )
    if recipe.startswith("thinktwice"):
        assert method == ThinkTwice(8, 8, wanted, wanted)
    else:
        filled = {"max_groups": 32, "fill_rounds": 9} if script.zero_std_groups == "drop" else {}
        assert method == GRPO(8, wanted, **filled)


@pytest.mark.parametrize("recipe", MATH_RECIPES)
def test_the_rest_is_the_same_in_all_scripts(recipe: str) -> None:
    """Guards against an importance weight, which the release does not have, and against arms that differ in more than
    their objective."""
    found = load_recipe(recipe)
    dapo = recipe.startswith("dapo")
    assert (found.problems.source, found.problems.split) == ("math", "train")
    assert found.problems_per_batch == (96 if dapo else 32)
    assert found.sampling == Sampling(temperature=1.0, max_tokens=3000)
    assert found.sampler.max_prompt_tokens == 5120
    assert found.training == Training(
        lr=1e-6,
        schedule="constant",
        weight_decay=0.01,
        betas=(0.9, 0.999),
        max_grad_norm=1.0,
        old_log_probs="recomputed",
        importance_sampling_mode="none",
        # These do not change the result, apart from rounding.
        gradient_checkpointing=True,
        autocast="bfloat16",
        micro_batch_tokens=8192,
    )
    assert found.model.template == ("chatml" if "olmo3" in recipe else "")


@pytest.mark.parametrize("recipe", MATH_RECIPES)
def test_the_header_names_the_script(recipe: str) -> None:
    """Guards against settings whose origin nobody can check."""
    script = script_of(recipe)
    assert f"\n Source:    CSSLab/ThinkTwice, commit {script.commit}, {script.file}\n" in header(recipe)


def test_the_protocol_is_that_of_the_evaluation_scripts() -> None:
    """Guards against other samples than those of evaluate_passatk.py and evaluate_cross_refinement.py (52ef7e8)."""
    passes, cross = load_recipe("thinktwice-protocol"), load_recipe("thinktwice-cross")
    assert (passes.seed, passes.evaluation.n, passes.evaluation.n_refine) == (42, 64, 1)
    assert passes.evaluation.sampling == Sampling(temperature=0.7, top_p=0.8, top_k=20, max_tokens=3000)
    # Greedy; top_p and top_k, which it inherits, have no effect.
    assert passes.evaluation.refine_sampling == Sampling(temperature=0.0, top_p=0.8, top_k=20, max_tokens=3000)
    assert (cross.seed, cross.evaluation.n, cross.evaluation.n_refine) == (42, 1, 4)
    assert cross.evaluation.sampling == Sampling(temperature=0.0, max_tokens=3000)
    assert cross.evaluation.refine_sampling == Sampling(temperature=0.7, top_p=0.9, max_tokens=3000)
    for recipe in (passes, cross):
        assert recipe.evaluation.problems is not None
        assert recipe.evaluation.problems.source == "math5"
