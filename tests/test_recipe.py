"""Recipes: layers, error messages, and saving."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from rethink import recipes
from rethink.errors import UserError
from rethink.methods.grpo import GRPO
from rethink.methods.think_twice import ThinkTwice
from rethink.recipe import Recipe, known_keys, load_recipe, to_toml
from support.recipe_texts import refused, resolved, write

PROBLEMS = """source data split subsets question answer tools options context id suite reply draft merged candidates failure
verifier right_threshold verifier_timeout_s verifier_memory_gib verifier_in_process extraction limit held_out size gym
partial_scores numbers largest replies.attempts replies.p_right replies.p_careful replies.p_hint replies.candidates
replies.phases"""
MODEL = "path random dtype device template template_options"
ENDPOINT = "url key_env concurrency timeout_s retries"
SAMPLING = "temperature max_tokens top_p top_k"

# Each new key is a decision: add it here, and say in the commit why a default is not enough.
KEYS = {
    "": """out seed updates problems_per_batch checkpoint_every keep_checkpoints n_logged_samples one_step_off_policy
        method""",
    "model.": MODEL,
    "problems.": PROBLEMS,
    "rewards.": "function weight name only_if_right timeout_s memory_gib in_process",
    "prompts.": """solve refine reflect blind retry merge candidate between candidate_chars critique improve satisfied
        remember rate sub_question sub_answer enough system show_reasoning""",
    "sampling.": SAMPLING,
    "sampler.": """engine max_prompt_tokens overlong_prompts dtype cache_gib cuda_graphs urls gpu_memory concurrency
        timeout_s""",
    "training.": """lr schedule warmup_updates weight_decay betas max_grad_norm micro_batch_tokens chunk_tokens autocast
        optimizer gradient_checkpointing old_log_probs tis_cap""",
    "lora.": "rank alpha targets",
    "distributed.": "timeout_s",
    "evaluation.": "strategy n n_refine k batch_size every",
    "evaluation.sampling.": SAMPLING,
    "evaluation.refine_sampling.": SAMPLING,
    "evaluation.problems.": PROBLEMS,
    "endpoint.": ENDPOINT,
    "teacher.": MODEL,
    "teacher.endpoint.": ENDPOINT,
    "judge.": MODEL,
    "judge.endpoint.": ENDPOINT,
}


def test_the_list_of_keys_is_pinned() -> None:
    """Guards against settings that are added without a decision."""
    assert sorted(known_keys()) == sorted(section + name for section, names in KEYS.items() for name in names.split())


def test_layers(tmp_path: Path) -> None:
    """Guards against another order than defaults, file, key=value, also within one section."""
    file = write(tmp_path, "updates = 7\nseed = 3\n[training]\nlr = 0.5\nweight_decay = 0.25\n")
    found = load_recipe(file, ["seed=5", "training.lr=0.125"])
    assert (found.updates, found.seed, found.problems_per_batch) == (7, 5, Recipe().problems_per_batch)
    assert (found.training.lr, found.training.weight_decay) == (0.125, 0.25)
    assert found.training.betas == Recipe().training.betas


def test_layers_of_the_method(tmp_path: Path) -> None:
    """Regression: `method.n_solve=5` alone was refused as "unknown method ''", because the default's name was lost."""
    assert load_recipe(None, ["method.n_solve=5"]).build_method() == ThinkTwice(n_solve=5)
    file = write(tmp_path, "[method]\nn_solve = 3\nn_refine = 2\n")
    assert load_recipe(file, ["method.n_refine=11"]).build_method() == ThinkTwice(n_solve=3, n_refine=11)
    assert load_recipe(None, ["method.name=grpo"]).build_method() == GRPO()


UNKNOWN = {
    "updtes=3": "unknown key updtes; did you mean updates?",
    "modl.path=x": "unknown key modl; did you mean model?",
    "problems.replies.p_rihgt=1": "unknown key problems.replies.p_rihgt; did you mean problems.replies.p_right?",
    "method.n_sovle=4": "unknown key method.n_sovle; did you mean method.n_solve?",
    "method.solve.n_stesp=4": "unknown key method.solve.n_stesp; did you mean method.solve.n_steps?",
    "lr=1e-5": "unknown key lr; did you mean training.lr?",
    "training.max_tokens=8": "unknown key training.max_tokens; did you mean sampling.max_tokens?",
    "model.xyz=1": "unknown key model.xyz; known keys: path, random, dtype,",
}


@pytest.mark.parametrize(("setting", "message"), UNKNOWN.items())
def test_an_unknown_key_is_refused_with_a_suggestion(setting: str, message: str) -> None:
    """Guards against misspelled settings that are ignored (regression: chunk_tokens suggested for training.max_tokens)."""
    assert message in refused(setting)


def test_an_unknown_key_in_a_file_is_refused(tmp_path: Path) -> None:
    """Guards against checks that only settings on the command line go through."""
    file = write(tmp_path, "[evaluation.problems.replies]\nattempt = 3\n")
    assert "did you mean evaluation.problems.replies.attempts?" in refused(file=file)


MISTAKES = {
    "updates=2.5": "updates: ",
    "updates.x=3": "updates: ",
    "model=5": "model: ",
    "method=grpo": "method: ",
    "model.dtype=float16": "model.dtype: ",
    "training.betas=[0.5]": "training.betas.1: ",
    "problems.subsets=algebra": "problems.subsets: ",
    "method.solve.advantage=rank": "method.solve.advantage: ",
    "sampling.temperature=-1": "sampling: temperature must be 0 (greedy) or more, not -1",
    "prompts.solve=hi": "prompts: prompts.solve must contain the placeholder {question}",
    "method.name=grop": "unknown method 'grop': use one of grpo, think_twice, ",
    "rewards.2.weight=1": "rewards.2.weight: tables are numbered from 0; write 0 instead of '2'",
    "out=2026-01-01": "out: ",
}


@pytest.mark.parametrize(("setting", "message"), MISTAKES.items())
def test_a_wrong_value_names_its_key(setting: str, message: str) -> None:
    """Guards against type errors that do not name the setting."""
    assert message in refused(setting)


@pytest.mark.parametrize(
    "setting",
    [
        *("updates=0", "problems_per_batch=0", "checkpoint_every=-1", "keep_checkpoints=0", "evaluation.n=0"),
        *("training.lr=0", "training.lr=-1", "training.lr=inf", "training.lr=nan", "training.max_grad_norm=-1"),
        *("training.chunk_tokens=0", "training.micro_batch_tokens=-1", "training.tis_cap=0", "sampler.cache_gib=-1"),
        *("n_logged_samples=-1", "evaluation.every=-1", "training.weight_decay=-1", "training.warmup_updates=-1"),
        *("evaluation.n_refine=0", "evaluation.batch_size=0", "endpoint.concurrency=0", "endpoint.timeout_s=0"),
        *("endpoint.retries=-1", "training.betas=[1.0, 0.9]", "evaluation.k=[0]", "evaluation.k=[2]"),
    ],
)
def test_a_number_out_of_range_names_its_key(setting: str) -> None:
    """Guards against impossible numbers (regression: a negative max_grad_norm reversed every gradient)."""
    key, _, value = setting.partition("=")
    message = refused(setting)
    assert message.startswith((f"{key} must ", f"{key}.0 must "))
    assert message.endswith(f", not {value.strip('[]').split(',')[0]}") or key == "evaluation.k"


@pytest.mark.parametrize("content", [b"updates = ", b"updates = 1\nupdates = 2\n", b"out = '\xff'\n"])
def test_bad_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    """Guards against a traceback (regression: for bytes that are not UTF-8)."""
    (tmp_path / "recipe.toml").write_bytes(content)
    assert refused(file=tmp_path / "recipe.toml").startswith(f"{tmp_path / 'recipe.toml'} is not valid TOML: ")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """Guards against a FileNotFoundError without the names of the shipped recipes."""
    missing = tmp_path / "no.toml"
    assert refused(file=missing).startswith(f"there is no recipe file {missing}; recipes of the package: ")
    with pytest.raises(UserError, match=r"there is no recipe demo-grop; did you mean demo-grpo\?"):
        load_recipe("demo-grop")


@pytest.mark.parametrize("setting", ["updates", "=3", "", "--resume"])
def test_text_that_is_not_a_setting_is_refused(setting: str) -> None:
    """Guards against text that is ignored."""
    assert "is not a setting; write key=value, for example" in refused(setting)


def test_a_custom_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against settings that are checked for the package's methods only."""
    (tmp_path / "my_method.py").write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Mine:\n    n_tries: int = 2\n"
        "    def updates(self, actors, problems):\n        yield from ()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = load_recipe(None, ["method.name=my_method:Mine", "method.n_tries=3"])
    assert recipe.build_method().n_tries == 3
    assert '[method]\nname = "my_method:Mine"\nn_tries = 3\n' in to_toml(recipe)
    assert "did you mean method.n_tries?" in refused("method.name=my_method:Mine", "method.n_trie=3")
    assert "method.n_tries: " in refused("method.name=my_method:Mine", "method.n_tries=all")
    sys.modules.pop("my_method")


SHIPPED = sorted(recipes.FOLDER.glob("*.toml"))

ROUND_TRIPS = [
    [],
    ["method.name=grpo", "method.solve.n_steps=3", "evaluation.problems.split=test", "evaluation.n=5"],
    ["evaluation.refine_sampling.top_k=3", "evaluation.n=5", "evaluation.k=[1,5]", "endpoint.url=http://h:1/v1"],
    ['out="ä \\"quoted\\" \\\\ path"', 'prompts.refine="two\\nlines\\t\\u2028 and {question}"'],
    # Regression: this method switches the dual clip off by default, which was lost.
    ["method.name=reflect_retry_reward", 'problems.replies.phases=["solve", "merge"]', "teacher.path=x"],
    ["training.betas=[0.5, 0.25]", 'problems.subsets=["x"]', "training.max_grad_norm=inf"],
    ["model.template_options.a.b=[1, 2]", "training.lr=1.2345678901234567e-7"],
]


@pytest.mark.parametrize("settings", ROUND_TRIPS)
def test_a_saved_recipe_loads_as_it_was(tmp_path: Path, settings: list[str]) -> None:
    """Guards against a config.toml that cannot repeat its run."""
    recipe = load_recipe(None, settings)
    again = load_recipe(write(tmp_path, to_toml(recipe)))
    assert resolved(again) == resolved(recipe)
    assert to_toml(again) == to_toml(recipe)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_every_shipped_recipe_parses_and_round_trips(tmp_path: Path, file: Path) -> None:
    """Guards against shipped recipes that break when a setting is renamed."""
    recipe = load_recipe(file.stem)
    assert dataclasses.is_dataclass(recipe.build_method())
    assert resolved(load_recipe(write(tmp_path, to_toml(recipe)))) == resolved(recipe)
