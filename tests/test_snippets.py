"""Every command and piece of code in the README and in docs/ is read by what would run it.

The README's commands run in `test_readme.py`, those of the first page of docs/ here, and those of some other pages in the
tests of these. Others are parsed: commands with their options, recipes and settings, TOML as recipes, Python by `compile`.
"""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from rethink import ProblemSource, cli, load_problems, recipes
from rethink.methods import METHODS
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.recipe import known_keys, load_recipe
from rethink.recipes.keys import known_keys as keys_of
from rethink.recipes.other_libraries import TABLES
from rethink.strategies import parse_all
from support.command_line import in_process
from support.processes import light

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "log.md")]
"""All pages but the log, which describes experiments with earlier versions."""

_light = pytest.fixture(scope="module", autouse=True)(light)
COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^ *(?:\$ )?(?:torchrun .*-m )?(rethink (?!:).*)$", re.MULTILINE)


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the blocks of code in these languages."""
    return [body for language, body in BLOCK.findall(page.read_text()) if language in languages]


def commands(page: Path) -> list[str]:
    """Return the lines of blocks that call `rethink`, without comments and what follows a pipe."""
    found: list[str] = []
    for body in blocks(page, "", "console", "sh"):
        lines = COMMAND.findall(body.replace("\\\n", " "))
        found += [re.split(r" # | #| \| ", line)[0].strip() for line in lines]
    return found


ALL_COMMANDS = [(page.stem, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), ALL_COMMANDS, ids=lambda text: text[:60])
def test_a_command_parses(page: str, line: str) -> None:
    """Guards against an option, a recipe of the package, a strategy or a setting that does not exist."""
    name, *words = shlex.split(line)[1:]
    params = COMMANDS[name].make_context(name, words).params
    given = [params.get(key) for key in ("settings", "models", "question")]
    settings = [word for words in given if isinstance(words, list | tuple) for word in words if "=" in word]
    recipe = params.get("recipe")
    custom = any(word.startswith("method.name=") and ":" in word for word in settings)
    if "recipe" in params and not custom:
        load_recipe(recipe if recipe and (recipes.FOLDER / f"{recipe}.toml").exists() else None, settings)
        assert not recipe or recipe in YOURS or (recipes.FOLDER / f"{recipe}.toml").exists()
    if params.get("strategy"):
        assert parse_all(params["strategy"])


YOURS = {"recipe.toml", "mine.toml", "own_method.toml", "gsm8k.toml", "my-recipe"}
"""Recipes that the reader writes."""


def settings_of_all_methods() -> set[str]:
    found = {*known_keys(), "method.name", "method.objective"}
    for method in METHODS.values():
        found |= {*keys_of(method, "method.")}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_in_sentences_exist(page: Path) -> None:
    """Guards against a sentence that names a command, an option or a setting that does not exist. Their values may be
    placeholders."""
    known = settings_of_all_methods()
    for line in re.findall(r"(?<!`)`rethink ([a-z]+[^`\n]*)`(?!`)", page.read_text()):
        name, *words = line.split()
        options = {option for param in COMMANDS[name].params for option in param.opts + param.secondary_opts}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in options | {"--help"}, line
            elif re.match(r"[a-z_.]+=", word):
                assert word.partition("=")[0] in known, line


ALL_TOML = [(page.stem, body) for page in PAGES for body in blocks(page, "toml") if "own_method:" not in body]
"""All but the recipe of the method that the reader writes, which test_guide.py runs."""


@pytest.mark.parametrize(("page", "body"), ALL_TOML, ids=lambda text: text[:40])
def test_a_recipe_loads(page: str, body: str, tmp_path: Path) -> None:
    """Guards against settings in examples that do not exist."""
    (tmp_path / "recipe.toml").write_text(body)
    load_recipe(tmp_path / "recipe.toml")


ALL_PYTHON = [(page.stem, body) for page in PAGES for body in blocks(page, "python", "py")]


@pytest.mark.parametrize(("page", "body"), ALL_PYTHON, ids=lambda text: text[:40])
def test_python_compiles(page: str, body: str) -> None:
    """Guards against slips in examples that need a server, another library or a trained model, and so do not run here."""
    compile(body, page, "exec")


RUN_ELSEWHERE = {
    "README": "test_readme.py",
    "write-your-own-method": "test_guide.py",
    "serving": "serving/test_page.py",
    "rewards": "problems/test_rewards.py",
    "evaluation": "evaluation/test_stored.py",
    "other-evaluations": "evaluation/other_tools/test_align.py",
    "page": "below",
    "strategies": "below",
    "coming-from-other-libraries": "its names are compared with the tables below; TRL is not installed",
}


def test_each_page_with_python_is_run_somewhere() -> None:
    """Guards against a new page whose examples are only compiled."""
    assert {page for page, _ in ALL_PYTHON} <= RUN_ELSEWHERE.keys()


def test_the_strategies_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against functions of strategies that have changed."""
    (body,) = blocks(ROOT / "docs" / "strategies.md", "python")
    policy = FakePolicy(lambda prompt, index, version: "1 + 1 = 2 ; 2 + 1 = 3")
    exec(
        body,
        {
            "policy": policy,
            "prompts": Prompts("{question}"),
            "problems": load_problems(ProblemSource("countdown", limit=3)),
        },
    )
    assert "1 + 1 = 2" in capsys.readouterr().out


def set_there() -> dict[str, set[str]]:
    """Return the names that the run of TRL and that of verl set on the page that shows one run in three libraries."""
    page = ROOT / "docs" / "coming-from-other-libraries.md"
    (script,) = blocks(page, "python")
    (shell,) = blocks(page, "sh")
    calls = [node for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Call)]
    (config,) = [call for call in calls if ast.unparse(call.func) == "GRPOConfig"]
    words = shlex.split(shell.replace("\\\n", " "))
    trl = {str(keyword.arg) for keyword in config.keywords}
    return {"TRL": trl, "verl": {word.partition("=")[0] for word in words if "=" in word}}


OF_A_MACHINE = {
    "gradient_accumulation_steps",
    "vllm_mode",
    "actor_rollout_ref.actor.use_dynamic_bsz",
    "actor_rollout_ref.rollout.tensor_model_parallel_size",
    "trainer.n_gpus_per_node",
}
"""How the others' work is laid out on a GPU, which follows from the machine here."""


@pytest.mark.parametrize("library", ["TRL", "verl"])
def test_the_same_run_in_another_library_sets_the_same_things(library: str) -> None:
    """Guards against a side-by-side that leaves out what the other run sets."""
    (recipe,) = blocks(ROOT / "docs" / "coming-from-other-libraries.md", "toml")
    ours = set(flat(tomllib.loads(recipe)))
    assert len(set_there()[library]) > 10
    for name in set_there()[library] - OF_A_MACHINE:
        counterparts = TABLES[library][name].settings
        by_preset = [one for one in counterparts if one.startswith("method.solve.")]
        assert ours & {*counterparts} or by_preset, name


def flat(table: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the keys of a recipe as `section.key`."""
    found: list[str] = []
    for key, value in table.items():
        found += flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return found


SHORTER = {"updates=20": "updates=2", "000020": "000002"}


@pytest.mark.slow
def test_the_first_run_of_the_first_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against first commands that fail, and pages whose data cannot be read as docs/page.md says."""
    rethink = in_process(capsys, monkeypatch, tmp_path)
    for line in commands(ROOT / "docs" / "index.md"):
        for long, short in SHORTER.items():
            line = line.replace(long, short)
        fewer = [] if "--dry-run" in line else ["evaluation.problems.limit=7"]
        done = rethink(*shlex.split(line)[1:], *fewer)
        assert done.code == 0, f"{line}\n{done.err}"
    (body,) = blocks(ROOT / "docs" / "page.md", "python")
    exec(body.replace("runs/mine", "runs/first"), {})
