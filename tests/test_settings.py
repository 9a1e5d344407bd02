"""Settings: their explanations, their values on the command line, their defaults and bounds."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink import settings
from rethink.methods.reflect_retry_reward import ReflectRetryReward
from rethink.methods.think_tuning import ThinkTuning
from rethink.recipe import Recipe, known_keys, load_recipe
from rethink.settings import AuxiliaryModel, Endpoint
from rethink.types import Sampling
from settings_page import other_libraries_page, settings_page
from support.recipe_texts import refused

DOCS = Path(__file__).parent.parent / "docs"

SECTIONS = [
    cls for _, cls in inspect.getmembers(settings, dataclasses.is_dataclass) if cls.__module__ == settings.__name__
]


@pytest.mark.parametrize("section", [Recipe, *SECTIONS], ids=lambda section: section.__name__)
def test_the_docstring_explains_each_key_in_the_order_of_the_fields(section: type[Any]) -> None:
    """Guards against a setting that nobody can find."""
    explained: list[str] = []
    for names in re.findall(r"^ *- (`.*?`):", section.__doc__ or "", re.MULTILINE):
        explained += re.findall(r"`(\w+)`", names)
    bases = filter(dataclasses.is_dataclass, section.__bases__)
    inherited = {f.name for base in bases for f in dataclasses.fields(base)}
    keys = [f.name for f in dataclasses.fields(section) if f.name not in inherited]
    assert [name for name in explained if name not in inherited] == keys


VALUES: dict[str, object] = {
    "out=runs/a b": "runs/a b",
    "out=a=b": "a=b",
    "out=": "",
    "out=tab\\t": "tab\\t",
    'out="tab\\t"': "tab\t",
    "seed=1_000": 1000,
    "model.random=true": True,
    "training.lr=1": 1.0,
    "training.betas=[0.8, 0.95]": (0.8, 0.95),
    'problems.subsets=["a", "b"]': ("a", "b"),
    "sampling={temperature = 0.5, max_tokens = 7}": Sampling(0.5, 7),
    "model.template_options.enable_thinking=false": False,
    "prompts.solve=Äh: {question}": "Äh: {question}",
}


@pytest.mark.parametrize(("setting", "expected"), VALUES.items())
def test_values_on_the_command_line(setting: str, expected: object) -> None:
    """Guards against strings that need quotes, and numbers, lists and tables that become strings."""
    found: Any = load_recipe(None, [setting])
    for name in setting.partition("=")[0].split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == expected
    assert type(found) is type(expected)


def test_later_settings_win() -> None:
    """Guards against another order than that of the command line."""
    assert load_recipe(None, ["seed=1", "seed=2"]).seed == 2
    assert load_recipe(None, ["sampling={max_tokens=3, top_k=5}", "sampling.max_tokens=7"]).sampling.top_k == 5


def test_sampling_in_part_keeps_the_rest() -> None:
    """Regression: evaluation.sampling.max_tokens=64 changed a greedy evaluation to temperature 1."""
    plan = load_recipe(None, ["evaluation.sampling.max_tokens=64"]).evaluation
    assert (plan.sampling, plan.refine_sampling) == (Sampling(0.0, 64), None)
    both = ["evaluation.sampling={max_tokens = 64, top_p = 0.5}", "evaluation.refine_sampling.temperature=0.5"]
    plan = load_recipe(None, both).evaluation
    assert (plan.sampling, plan.refine_sampling) == (Sampling(0.0, 64, 0.5), Sampling(0.5, 64, 0.5))
    refined = load_recipe(None, ["evaluation.refine_sampling.top_k=5"]).evaluation.refine_sampling
    assert refined == Sampling(0.0, top_k=5)
    assert load_recipe(None, ["sampling.max_tokens=64"]).sampling == Sampling(1.0, 64)


def test_an_api_key_as_the_name_of_a_variable_is_refused_but_not_repeated() -> None:
    """Guards against an API key in config.toml, or on the screen."""
    message = refused("endpoint.key_env=sk-secret")
    assert message.startswith("endpoint.key_env must be the name of an environment variable")
    assert "secret" not in message


def test_infinity_switches_a_bound_off() -> None:
    """Guards against a range check that refuses inf."""
    bounds = ("training.max_grad_norm", "training.importance_sampling_clip_max", "method.solve.dual_clip")
    found = load_recipe(None, [f"{bound}=inf" for bound in bounds])
    assert found.training.max_grad_norm == found.training.importance_sampling_clip_max == float("inf")


def test_a_section_in_part_keeps_the_defaults_of_its_parent() -> None:
    """Regression: method.reflect.n_steps=2 reset the rest of that objective to the defaults of `Objective`."""
    reflect = load_recipe(None, ["method.name=reflect_retry_reward", "method.reflect.n_steps=2"]).build_method().reflect
    assert reflect == dataclasses.replace(ReflectRetryReward().reflect, n_steps=2)
    solve = load_recipe(None, ["method.name=think_tuning", "method.solve={clip_high = 0.5}"]).build_method().solve
    assert solve == dataclasses.replace(ThinkTuning().solve, clip_high=0.5)
    teacher = load_recipe(None, ["teacher={path = 'x', endpoint = {retries = 3}}"]).teacher
    assert teacher == AuxiliaryModel("x", endpoint=Endpoint(retries=3))


@pytest.mark.parametrize(
    ("page", "write"),
    [("settings.md", settings_page), ("coming-from-other-libraries.md", other_libraries_page)],
)
def test_the_pages_of_settings_are_current(page: str, write: Callable[[], str]) -> None:
    """Guards against settings that no page lists; to mend it, run: python tools/settings_page.py"""
    assert (DOCS / page).read_text(encoding="utf-8") == write()


def test_the_page_of_settings_names_every_setting() -> None:
    """Guards against a section that the page forgets."""
    text = settings_page()
    for key in known_keys():
        last = key.rpartition(".")[2]
        assert f"`{key}`" in text or f".{last}`" in text, key
