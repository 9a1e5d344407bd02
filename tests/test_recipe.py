"""Recipes: layers, error messages, and saving."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from rethink import recipes
from rethink.methods.grpo import GRPO
from rethink.methods.think_twice import ThinkTwice
from rethink.recipe import Recipe, known_keys, load_recipe, to_toml
from support.recipe_texts import refused, resolved, write

PROBLEMS = """source data split subsets question answer tools options context images id suite reply draft merged candidates
failure chosen rejected verifier right_threshold verifier_timeout_s verifier_memory_gib verifier_sandbox verifier_in_process
extraction limit held_out size gym partial_scores numbers largest lines level replies.attempts replies.p_right
replies.p_careful replies.p_hint replies.candidates replies.phases"""
MODEL = "path random dtype head_dtype device template template_options thinking image_pixels"
ENDPOINT = "url key_env concurrency timeout_s retries"
SAMPLING = "temperature max_tokens top_p top_k"

# Each new key is a decision: add it here, and say in the commit why a default is not enough.
KEYS = {
    "": """out seed updates problems_per_batch checkpoint_every checkpoint_minutes keep_checkpoints n_logged_samples
        trackers async_level method""",
    "model.": MODEL,
    "problems.": PROBLEMS,
    "rewards.": "function weight name only_if_right timeout_s memory_gib sandbox in_process",
    "prompts.": """solve refine reflect blind retry merge candidate between candidate_chars critique improve satisfied
        remember rate sub_question sub_answer enough system show_reasoning""",
    "sampling.": SAMPLING,
    "sampler.": """engine max_prompt_tokens overlong_prompts dtype cache_gib cuda_graphs urls gpu_memory concurrency
        timeout_s transfer""",
    "training.": """lr schedule warmup_updates weight_decay betas max_grad_norm micro_batch_tokens chunk_tokens autocast
        optimizer vision gradient_checkpointing old_log_probs reference_every reference_mixup
        importance_sampling_mode importance_sampling_clip_max
        importance_sampling_clip_min""",
    "lora.": "rank alpha targets",
    "distributed.": "timeout_s",
    "evaluation.": "strategy n n_refine k batch_size at_start every",
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
    "method.n=2": "unknown key method.n; did you mean method.n_solve or method.n_refine?",
    "method.xyz=2": "unknown key method.xyz; known keys: n_solve, n_refine, solve, refine, pick, if_right, if_wrong",
    "method.kl_coef=0.1": "unknown key method.kl_coef; did you mean method.solve.kl_coef?",
    "kl_coef=0.1": "unknown key kl_coef; did you mean method.solve.kl_coef?",
    "lr=1e-5": "unknown key lr; did you mean training.lr?",
    "LR=1e-5": "unknown key LR; did you mean training.lr?",
    "temperature=1": "unknown key temperature; did you mean sampling.temperature or evaluation.sampling.temperature?",
    "evaluation.temperature=1": "unknown key evaluation.temperature; did you mean evaluation.sampling.temperature?",
    "evaluation.limit=1": "unknown key evaluation.limit; did you mean evaluation.problems.limit?",
    "training.max_tokens=8": "unknown key training.max_tokens; did you mean sampling.max_tokens or evaluation.",
    "model.xyz=1": "unknown key model.xyz; known keys: path, random, dtype,",
    "updtes=1 modl.path=x": "unknown key updtes; did you mean updates?; unknown key modl; did you mean model?",
    "training.learning_rate=1e-5": "unknown key training.learning_rate; TRL's setting is training.lr here",
    "actor_rollout_ref.rollout.n=8": "unknown key actor_rollout_ref.rollout.n; verl's setting is method.n_solve here",
    "+algorithm.kl_ctrl.kl_coef=0.1": "algorithm.kl_ctrl.kl_coef; verl's setting is method.solve.kl_coef here",
    "init_kl_coef=0.1": "unknown key init_kl_coef; OpenRLHF's setting is method.solve.kl_coef here",
    "disable_dropout=true": "TRL's setting has no counterpart here: dropout is always off",
}


@pytest.mark.parametrize(("setting", "message"), UNKNOWN.items())
def test_an_unknown_key_is_refused_with_a_suggestion(setting: str, message: str) -> None:
    """Guards against misspelled settings that are ignored (regression: chunk_tokens suggested for training.max_tokens)."""
    assert message in refused(*setting.split())


def test_an_unknown_key_in_a_file_is_refused(tmp_path: Path) -> None:
    """Guards against checks that only settings on the command line go through."""
    file = write(tmp_path, "[evaluation.problems.replies]\nattempt = 3\n")
    assert "did you mean evaluation.problems.replies.attempts?" in refused(file=file)


MISTAKES = {
    "updates=2.5": "updates must be a whole number, not 2.5",
    'updates="5"': 'updates must be a whole number, not "5"',
    "updates=true": "updates must be a whole number, not true",
    "updates=[1]": "updates must be a whole number, not [1]",
    "updates=None": 'updates must be a whole number, not "None"; to use the default, leave the key out',
    "seed=0.5": "seed must be a whole number, not 0.5",
    "updates.x=3": "updates must be a whole number, not a table",
    "training.lr=small": 'training.lr must be a number, not "small"',
    "training.lr=true": "training.lr must be a number, not true",
    "model.random=yes": 'model.random must be true or false, not "yes"',
    "model.random=1": "model.random must be true or false, not 1",
    "model.path=7": "model.path must be text, not 7",
    "model=5": "model is a table and has no value: write model.path=...",
    "model=Qwen/Qwen3-0.6B": 'model is a table and has no value: write model.path="Qwen/Qwen3-0.6B"',
    "problems=own.jsonl": 'problems is a table and has no value: write problems.source="own.jsonl"',
    "evaluation.problems=gsm8k": "evaluation.problems must be a table of keys and values",
    "rewards=own:bonus": "rewards is a list of tables: write rewards.0.function=..., or [[rewards]] in a file",
    "rewards={function = 'own:bonus'}": "rewards is a list of tables: write rewards.0.function=...",
    "rewards.0.weight=1": "rewards.0.function is missing",
    "method=grpo": "method is a table and has no value: write method.name=grpo",
    "model.dtype=float16": 'model.dtype must be "float32" or "bfloat16", not "float16"',
    "model.image_pixels=[4, 2]": "model.image_pixels must be the fewest and the most pixels of an image, such as",
    "model.template_options=thinking": "model.template_options must be a table of keys and values, not",
    "training.betas=[0.5]": "training.betas must be a list of 2 values, not 1",
    "training.betas=0.9": "training.betas must be a list, not 0.9",
    "training.betas=[0.9, 'b']": 'training.betas.1 must be a number, not "b"',
    "evaluation.k=4": "evaluation.k must be a list, not 4; write [4]",
    "problems.subsets=algebra": 'problems.subsets must be a list, not "algebra"; write ["algebra"]',
    "problems.replies.phases=['solv']": 'problems.replies.phases.0 must be "solve", "refine", "reflect",',
    "lora.targets=3": "lora.targets must be text or a list, not 3",
    "method.solve=3": "method.solve is a table and has no value: write method.solve.advantage=...",
    "method.solve.dual_clip=off": 'method.solve.dual_clip must be a number, not "off"',
    "method.solve.advantage=rank": 'method.solve.advantage must be "center", "standardize", "rloo",',
    "method.name=5": "method.name must be text, not 5",
    "endpoint.key_env=5": "endpoint.key_env must be text, not the given value",
    "sampling.temperature=-1": "sampling: temperature must be 0 (greedy) or more, not -1",
    "sampling.temperature=nan": "sampling: temperature must be 0 (greedy) or more, not nan",
    "sampling.temperature=inf": "sampling: temperature must be 0 (greedy) or more, not inf",
    "prompts.solve=hi": "prompts: prompts.solve must contain the placeholder {question}",
    "method.name=grop": "unknown method 'grop'; did you mean grpo?",
    "method.name=ppo": "unknown method 'ppo': use one of grpo, think_twice, ",
    "rewards.2.weight=1": "rewards.2.weight: tables are numbered from 0; write 0 instead of '2'",
    "out=2026-01-01": "out must be text, not 2026-01-01",
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
        *(
            "training.chunk_tokens=0",
            "training.micro_batch_tokens=-1",
            "training.importance_sampling_clip_max=0",
            "sampler.cache_gib=-1",
        ),
        *("n_logged_samples=-1", "evaluation.every=-1", "training.weight_decay=-1", "training.warmup_updates=-1"),
        *("evaluation.n_refine=0", "evaluation.batch_size=0", "endpoint.concurrency=0", "endpoint.timeout_s=0"),
        *("endpoint.retries=-1", "training.betas=[1.0, 0.9]", "evaluation.k=[0]", "evaluation.k=[2]"),
        *("training.weight_decay=inf", "sampler.cache_gib=inf", "sampler.gpu_memory=1.5", "sampler.timeout_s=inf"),
        *("problems.limit=-1", "problems.held_out=1", "problems.size=0", "problems.numbers=0", "lora.rank=-1"),
        *("problems.replies.p_right=2", "problems.replies.attempts=0", "method.solve.clip_low=-0.1"),
        *("method.solve.clip_low=2", "method.solve.clip_high=0", "method.solve.kl_coef=-1", "method.solve.kl_coef=inf"),
        *("method.solve.dual_clip=0.5", "method.solve.constant_length=-1", "method.solve.n_steps=0"),
        *("method.solve.overlong_buffer=-1", "method.solve.kl_coef=nan"),
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


WORDS = {
    "=3": "'=3' is not a setting; write key=value, for example training.lr=1e-5",
    "--resume": "'--resume' is not a setting; write key=value, for example",
    "updates": "'updates' is not a setting; write updates=VALUE",
    "updates 2": "'updates' is not a setting; write updates=2",
    "updates = 2": "'updates' is not a setting; write updates=2",
    "updates= 2": "'updates=' is not a setting; write updates=2",
    "updates =2": "'updates' is not a setting; write updates=2",
    "--updates 2": "'--updates' is not a setting; write updates=2",
    "--updates=2": "'--updates=2' is not a setting; write updates=2",
    "--lr 1e-5": "'--lr' is not a setting; write training.lr=1e-5",
    "--max-tokens 5": "'--max-tokens' is not a setting; write sampling.max_tokens=5",
    "--num_generations 8": "'--num_generations' is not a setting; write method.n_solve=8",
    "evaluation.problems.limit 5": "'evaluation.problems.limit' is not a setting; write evaluation.problems.limit=5",
}


@pytest.mark.parametrize(("words", "message"), WORDS.items())
def test_text_that_is_not_a_setting_is_refused(words: str, message: str) -> None:
    """Guards against text that is ignored, and against `updates= 2`, which would set an empty value."""
    assert message in refused(*words.split())
    assert message in refused(*words.split(), "seed=1")


def test_a_custom_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against settings that are checked for the package's methods only."""
    (tmp_path / "tried_method.py").write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Mine:\n    n_tries: int = 2\n"
        "    def updates(self, actors, problems):\n        yield from ()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = load_recipe(None, ["method.name=tried_method:Mine", "method.n_tries=3"])
    assert recipe.build_method().n_tries == 3
    assert '[method]\nname = "tried_method:Mine"\nn_tries = 3\n' in to_toml(recipe)
    assert "did you mean method.n_tries?" in refused("method.name=tried_method:Mine", "method.n_trie=3")
    assert "method.n_tries must be a whole number" in refused("method.name=tried_method:Mine", "method.n_tries=all")
    sys.modules.pop("tried_method")


SHIPPED = sorted(recipes.FOLDER.glob("*.toml"))

ROUND_TRIPS = [
    [],
    ["method.name=grpo", "method.solve.n_steps=3", "evaluation.problems.source=countdown", "evaluation.n=5"],
    ["evaluation.refine_sampling.top_k=3", "evaluation.n=5", "evaluation.k=[1,5]", "endpoint.url=http://h:1/v1"],
    ['out="ä \\"quoted\\" \\\\ path"', 'prompts.refine="two\\nlines\\t\\u2028 and {question"'],
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
