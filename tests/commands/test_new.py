"""`rethink new`: the recipe that it writes loads and passes a dry run; what is not clear is refused."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from rethink.methods import METHODS
from rethink.problems.source import load_problems
from rethink.recipe import load_recipe
from rethink.settings import ProblemSource
from support.command_line import Rethink, assert_one_message

N = 53


def write_csv(folder: Path, n: int = N) -> Path:
    file = folder / "problems.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "problem", "answer"])
        writer.writerows([k, f"What is {k} + {k}?", 2 * k] for k in range(n))
    return file


def write_jsonl(folder: Path, n: int = N) -> Path:
    file = folder / "problems.jsonl"
    rows = [{"prompt": f"What is {k} + {k}?", "reward_model": {"ground_truth": str(2 * k)}} for k in range(n)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize(
    ("write", "question", "answer"),
    [(write_csv, "problem", "answer"), (write_jsonl, "prompt", "reward_model.ground_truth")],
    ids=["csv", "jsonl"],
)
def test_the_recipe_passes_a_dry_run(
    rethink: Rethink, tmp_path: Path, model_folders: dict[str, Path], write: object, question: str, answer: str
) -> None:
    """Guards against a recipe that `rethink train` refuses: its problems, columns, prompts and lengths are checked."""
    assert callable(write)
    file = write(tmp_path)
    model = model_folders["qwen3"]
    found = rethink("new", "mine", "--data", file.name, "--model", model)
    assert (found.code, found.out) == (0, "mine.toml\n"), found.err
    recipe = load_recipe("mine.toml")
    assert (recipe.problems.question, recipe.problems.answer) == (question, answer)
    assert f"assumed: question: {question}\n" in found.err
    assert found.err.endswith("next: rethink train mine.toml --dry-run\n")
    shown = rethink("train", "mine.toml", "--dry-run")
    assert shown.code == 0, shown.err
    assert recipe.evaluation.problems is not None
    n_train, n_test = (
        len(load_problems(recipe.problems)),
        len(load_problems(recipe.evaluation.problems, purpose="test")),
    )
    assert n_train + n_test == N
    assert f"{n_train} problems of {file.name}" in shown.out
    assert f"held_out = {recipe.problems.held_out}: {n_test} of {N} problems, for evaluation only" in found.err
    assert "refine, 4 per problem; at the start, every 50 updates and at the end" in shown.out


TRAINED = [name for name in METHODS if name not in ("gsr", "supercorrect", "ton", "reflect_retry_reward", "imitate")]


SHORT = {"think_tuning": ["method.max_feedback_tokens=8"]}
"""What the small model of the tests needs."""


@pytest.mark.parametrize("method", TRAINED)
def test_every_method_passes_a_dry_run(
    rethink: Rethink, tmp_path: Path, model_folders: dict[str, Path], method: str
) -> None:
    """Guards against a method whose recipe needs more than a file of problems and a model."""
    write_csv(tmp_path)
    model = model_folders["qwen3"]
    assert rethink("new", method, "--data", "problems.csv", "--model", model, "--method", method).code == 0
    shown = rethink("train", f"{method}.toml", "--dry-run", *SHORT.get(method, ()))
    assert shown.code == 0, shown.err


@pytest.mark.parametrize("method", sorted({*METHODS} - {*TRAINED}))
def test_methods_with_prepared_data_are_refused(rethink: Rethink, tmp_path: Path, method: str) -> None:
    """Guards against a recipe that cannot run."""
    write_csv(tmp_path)
    message = f"rethink recipes {method}"
    assert_one_message(rethink("new", "mine", "--data", "problems.csv", "--method", method), message)
    assert not Path("mine.toml").exists()


@pytest.mark.parametrize("method", TRAINED)
def test_what_is_commented_out_is_valid(rethink: Rethink, tmp_path: Path, method: str) -> None:
    """Guards against comments with settings that do not exist, or with other values than the defaults that they show."""
    write_csv(tmp_path)
    assert rethink("new", "mine", "--data", "problems.csv", "--method", method).code == 0
    text = Path("mine.toml").read_text()
    switched = re.sub(r"^# (?=\[\[?[a-z.]+\]|[a-z_]+ = )", "", text, flags=re.MULTILINE)
    assert switched.count("\n# ") < text.count("\n# ") - 8
    Path("all.toml").write_text(switched)
    recipe = load_recipe("all.toml")
    assert (recipe.lora.rank, recipe.sampler.engine, recipe.training.schedule) == (16, "vllm", "linear")
    assert [reward.function for reward in recipe.rewards] == ["verdict", "my_module:my_reward"]
    without = re.sub(r"^objective = .*$", "", switched, flags=re.MULTILINE)
    Path("all.toml").write_text(without)
    assert load_recipe("all.toml").build_method() == load_recipe("mine.toml").build_method()


def test_nothing_is_overwritten(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a recipe of the user that is lost, and against a half-written one."""
    write_csv(tmp_path)
    Path("mine.toml").write_text("# precious\n")
    for name in ("mine", "mine.toml"):
        assert_one_message(
            rethink("new", name, "--data", "problems.csv"), "mine.toml exists already and is not overwritten"
        )
    assert Path("mine.toml").read_text() == "# precious\n"
    (tmp_path / "bad.csv").write_text("Frage,Antwort\na,b\n")
    assert_one_message(rethink("new", "other", "--data", "bad.csv"), "--question NAME: Frage, Antwort")
    assert not Path("other.toml").exists()
    named = ["--question", "Frage", "--answer", "Antwort"]
    assert rethink("new", "folder/other", "--data", "bad.csv", *named).code == 0
    assert load_recipe("folder/other.toml").problems.question == "Frage"
    assert_one_message(rethink("new", "third", "--data", "nowhere.csv"), "there is no file nowhere.csv")
    assert_one_message(rethink("new", "third", "--data", "gsm9k"), "gsm8k")
    assert_one_message(rethink("new", "third", "--data", "math500"), "for evaluation")
    assert_one_message(rethink("new", "third", "--data", "gsm8k, problems.csv"), "is several sources: name one file")
    for name in ("a=b", ".toml", "folder/"):
        assert_one_message(rethink("new", name), "is not a name for a recipe")
    assert_one_message(rethink("new", "long" * 100), "File name too long")


def test_printed_commands_can_be_copied(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against commands that a shell reads otherwise, and an evaluation of no problems."""
    write_csv(tmp_path, n=1)
    found = rethink("new", "my recipe", "--data", "problems.csv")
    assert "rethink train 'my recipe.toml' --dry-run" in found.err
    text = Path("my recipe.toml").read_text()
    assert "# Evaluate:  rethink eval 'runs/my recipe' --on FILE --recipe 'my recipe.toml'\n" in text


def test_an_input_in_a_late_row_is_part_of_the_questions(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against Alpaca's inputs that are lost because the first rows have none."""
    rows = [{"instruction": f"What is {n} + {n}?", "input": "", "output": str(2 * n)} for n in range(300)]
    rows[-1] |= {"instruction": "How long is this?", "input": "abc"}
    (tmp_path / "alpaca.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert rethink("new", "alpaca", "--data", "alpaca.jsonl").code == 0
    assert load_recipe("alpaca.toml").problems.context == "input"


@pytest.mark.parametrize(("n", "shares"), [(400, {0.1}), (40, {0.2, 0.3}), (8, {0.1, 0.2, 0.3}), (1, set())])
def test_few_problems_are_held_out_of_few(rethink: Rethink, tmp_path: Path, n: int, shares: set[float]) -> None:
    """Regression: of 40 problems three were held out, and the intervals of an evaluation spanned nearly everything."""
    write_csv(tmp_path, n)
    assert rethink("new", "mine", "--data", "problems.csv").code == 0
    held_out = load_recipe("mine.toml").evaluation.problems
    assert (held_out is None) == (not shares)
    if held_out is not None:
        assert held_out.held_out in shares
        n_test = len(load_problems(held_out, purpose="test"))
        assert n_test >= 10 if n > 8 else 0 < n_test < 8
    text = Path("mine.toml").read_text()
    assert ("# Compare:   rethink compare runs/mine/eval/000000.jsonl runs/mine\n" in text) == (held_out is not None)


def test_a_folder_with_splits(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a test split that is trained on, and a share held out where the data have a split."""
    (tmp_path / "data").mkdir()
    rows = write_jsonl(tmp_path).read_text().splitlines(keepends=True)
    (tmp_path / "data" / "train.jsonl").write_text("".join(rows[:40]))
    assert rethink("new", "one", "--data", "data").code == 0
    held_out = load_recipe("one.toml").evaluation.problems
    assert held_out is not None
    assert (held_out.split, held_out.held_out > 0) == ("train", True)
    (tmp_path / "data" / "test.jsonl").write_text("".join(rows[40:]))
    found = rethink("new", "two", "--data", "data")
    assert "the test split of data, 13 problems, is for evaluation" in found.err
    recipe = load_recipe("two.toml")
    assert recipe.problems == recipe.evaluation.problems == replace(recipe.problems, held_out=0.0, split="")
    assert rethink("train", "two.toml", "--dry-run", "model.path=tiny", "model.device=cpu").code == 2  # too long for it


def test_other_sources(rethink: Rethink) -> None:
    """Guards against benchmarks and data sets on the hub that are downloaded, or whose columns are made up."""
    assert rethink("new", "a").code == 0
    assert load_recipe("a.toml").problems == ProblemSource("gsm8k")
    found = rethink("new", "b", "--data", "hub:someone/some-data", "--question", "text")
    assert "was not looked at" in found.err
    assert load_recipe("b.toml").problems == ProblemSource("hub:someone/some-data", question="text")
    assert rethink("new", "c", "--data", "countdown", "--method", "grpo", "--model", "tiny").code == 0
    recipe = load_recipe("c.toml")
    assert (recipe.problems.verifier, recipe.sampling.max_tokens) == ("", 64)


def test_comments_hold_no_line_break(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a name that ends a comment and becomes a setting."""
    write_csv(tmp_path).rename(tmp_path / "a\nseed = 7 #.csv")
    assert rethink("new", "mine", "--data", "a\nseed = 7 #.csv").code == 0
    recipe = load_recipe("mine.toml")
    assert (recipe.seed, recipe.problems.source) == (0, "a\nseed = 7 #.csv")
