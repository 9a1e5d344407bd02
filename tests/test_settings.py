"""Values of a recipe: how they are given, what is there by default, and what they may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rethink.methods.reflect_retry_reward import ReflectRetryReward
from rethink.methods.think_tuning import ThinkTuning
from rethink.recipe import load_recipe
from rethink.settings import AuxiliaryModel, Endpoint
from rethink.types import Sampling
from support.recipe_texts import refused

VALUES: dict[str, tuple[str, object]] = {
    "out=runs/a b": ("out", "runs/a b"),
    'out="runs/a"': ("out", "runs/a"),
    "out=a=b": ("out", "a=b"),
    "out=": ("out", ""),
    "out=tab\\t": ("out", "tab\\t"),
    'out="tab\\t"': ("out", "tab\t"),
    "seed=1_000": ("seed", 1000),
    "seed=-3": ("seed", -3),
    "model.random=true": ("model.random", True),
    "training.lr=1e-5": ("training.lr", 1e-5),
    "training.lr=1": ("training.lr", 1.0),
    "training.betas=[0.8, 0.95]": ("training.betas", (0.8, 0.95)),
    'problems.subsets=["a", "b"]': ("problems.subsets", ("a", "b")),
    "sampling={temperature = 0.5, max_tokens = 7}": ("sampling.max_tokens", 7),
    "model.template_options.enable_thinking=false": ("model.template_options", {"enable_thinking": False}),
    "prompts.solve=Äh: {question}": ("prompts.solve", "Äh: {question}"),
}


@pytest.mark.parametrize(("setting", "wanted"), VALUES.items())
def test_values_on_the_command_line(setting: str, wanted: tuple[str, object]) -> None:
    """Guards against strings that need quotes, and against numbers, lists and tables that arrive as strings."""
    found: Any = load_recipe(None, [setting])
    for name in wanted[0].split("."):
        found = getattr(found, name)
    assert found == wanted[1]
    assert type(found) is type(wanted[1])


def test_later_settings_win() -> None:
    """Guards against an order other than that of the command line."""
    assert load_recipe(None, ["seed=1", "seed=2"]).seed == 2
    assert load_recipe(None, ["sampling={max_tokens=3, top_k=5}", "sampling.max_tokens=7"]).sampling.top_k == 5


def test_what_is_left_to_the_machine_by_default() -> None:
    """Guards against a default that fixes a precision or a size of micro-batches for every machine; 0 is "by device"."""
    found = load_recipe(None, ["training.micro_batch_tokens=0"])
    assert found == load_recipe(None)
    assert (found.training.autocast, found.sampler.dtype, found.training.micro_batch_tokens) == (
        "auto",
        "auto",
        0,
    )
    chosen = load_recipe(None, ["training.autocast=none", "sampler.dtype=float32", "training.micro_batch_tokens=7"])
    assert (chosen.training.autocast, chosen.sampler.dtype) == ("none", "float32")
    assert chosen.training.micro_batch_tokens == 7
    assert refused("sampler.dtype=none").startswith("sampler.dtype: ")
    assert refused("training.autocast=float32").startswith("training.autocast: ")


def test_sampling_that_is_given_in_part_keeps_the_rest() -> None:
    """`evaluation.sampling.max_tokens=64` once turned a greedy evaluation into one at temperature 1, and a temperature
    for refinements took away their cap."""
    plan = load_recipe(None, ["evaluation.sampling.max_tokens=64"]).evaluation
    assert (plan.sampling.temperature, plan.sampling.max_tokens, plan.refine_sampling) == (0.0, 64, None)
    both = ["evaluation.sampling={max_tokens = 64, top_p = 0.5}", "evaluation.refine_sampling.temperature=0.5"]
    plan = load_recipe(None, both).evaluation
    assert plan.sampling == Sampling(0.0, 64, 0.5)
    assert plan.refine_sampling == Sampling(0.5, 64, 0.5)
    assert load_recipe(None, ["evaluation.refine_sampling.top_k=5"]).evaluation.refine_sampling == Sampling(
        0.0, top_k=5
    )
    assert load_recipe(None, ["sampling.max_tokens=64"]).sampling == Sampling(1.0, 64)


def test_a_key_that_is_no_variable_is_refused_and_not_repeated() -> None:
    """Guards against an API key in config.toml, or on the screen."""
    message = refused("endpoint.key_env=sk-secret")
    assert message == "endpoint.key_env must be the name of an environment variable, not the key itself"
    assert load_recipe(None, ["endpoint.key_env="]).endpoint.key_env == ""


def test_infinity_switches_a_bound_off() -> None:
    """Guards against a range check that takes away a way to say "no bound"."""
    found = load_recipe(None, ["training.max_grad_norm=inf", "training.tis_cap=inf", "method.solve.dual_clip=inf"])
    assert found.training.max_grad_norm == found.training.tis_cap == float("inf")


def test_a_section_that_is_given_in_part_keeps_the_defaults_of_its_place() -> None:
    """`method.reflect.n_steps=2` once turned the rest of Reflect, Retry, Reward's objective into that of GRPO: advantages
    centered only, another clip, and no KL term."""
    given = ["method.name=reflect_retry_reward", "method.reflect.n_steps=2"]
    assert load_recipe(None, given).build_method().reflect == replace(ReflectRetryReward().reflect, n_steps=2)
    given = ["method.name=think_tuning", "method.solve={clip_high = 0.5}"]
    assert load_recipe(None, given).build_method().solve == replace(ThinkTuning().solve, clip_high=0.5)
    given = ["teacher={path = 'x', endpoint = {retries = 3}}"]
    assert load_recipe(None, given).teacher == AuxiliaryModel("x", endpoint=Endpoint(retries=3))
