"""`rethink new`: write a commented recipe for one's own file of problems."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rethink.commands.console import print_note, print_result
from rethink.errors import UserError
from rethink.jsonl import make_folder
from rethink.models.bundled import MODELS
from rethink.problems.files import is_data_name
from rethink.problems.held_out import bucket, dedup_key
from rethink.problems.source import GENERATORS, answer_format_of, load_problems
from rethink.problems.suites import expand_sources, find_suite, unknown_source
from rethink.recipe import load_recipe
from rethink.recipes.data_columns import inspect
from rethink.recipes.new_recipe import NewRecipe, check_method
from rethink.settings import ProblemSource
from rethink.types import Problem

SHARES = (0.1, 0.2, 0.3, 0.5)
"""Shares to hold out. How many problems each is, the hash of each problem decides."""
ENOUGH = 10
"""The problems to hold out, if a third of the file is as many: with fewer, intervals span nearly everything."""
MAX_TOKENS = 1024


@dataclass(frozen=True)
class Data:
    """Problems to train on and to evaluate on, how many there are to train on (0: not known), and what was assumed."""

    problems: ProblemSource
    evaluation: ProblemSource | None
    n_problems: int = 0
    assumed: tuple[str, ...] = ()


def new(name: str, data: str, model: str, method: str, question: str, answer: str, verifier: str) -> None:
    """Write NAME.toml and print what was assumed. Raise UserError, and write nothing, if the file of problems is not clear,
    or if there is such a recipe."""
    file = _new_file(name)
    check_method(method)
    if "," in data and not Path(data).exists() and any(is_data_name(one.strip()) for one in data.split(",")):
        raise UserError(
            f"{data} is several sources: name one file, and add the others to problems.source in the recipe"
        )
    if is_data_name(data):
        found = _data_of_file(data, question, answer, verifier)
    else:
        found = _data_elsewhere(data, question, answer, verifier)
    max_tokens, notes = _max_tokens(model)
    recipe = NewRecipe(
        file=str(file),
        run=f"runs/{file.stem}",
        method=method,
        model=model,
        problems=found.problems,
        evaluation=found.evaluation,
        max_tokens=max_tokens,
        n_problems=found.n_problems,
        assumed=(*found.assumed, *notes),
    )
    write(file, recipe.text())
    load_recipe(file)
    print_result(str(file))
    assumed = [f"assumed: {one}" for one in recipe.assumed]
    print_note("\n".join([*assumed, f"next: rethink train {shlex.quote(str(file))} --dry-run"]))


def _new_file(name: str) -> Path:
    """Return the file of a recipe with this name. Raise UserError if it exists, or could have no such name."""
    file = Path(name if name.lower().endswith(".toml") else f"{name}.toml")
    if name.endswith(("/", os.sep)) or file.name.lower() == ".toml" or "=" in name:
        raise UserError(f"{name!r} is not a name for a recipe; write rethink new NAME --data FILE")
    try:
        exists = file.exists()
    except OSError as err:
        raise UserError(f"cannot write {file}: {err.strerror}") from err
    if exists:
        raise UserError(f"{file} exists already and is not overwritten; choose another name")
    return file


def write(file: Path, text: str) -> None:
    """Write a new file. Raise UserError if it exists or cannot be written."""
    make_folder(file.parent)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UserError(f"{file} exists already and is not overwritten; choose another name") from None
    except OSError as err:
        raise UserError(f"cannot write {file}: {err.strerror}") from err


def _data_elsewhere(name: str, question: str, answer: str, verifier: str) -> Data:
    """Return the problems of benchmarks, a generator or a data set on the hub, which are not looked at."""
    source = ProblemSource(name, question=question, answer=answer, verifier=verifier)
    splits = {"train", "test"}
    for one in expand_sources(name):
        suite = find_suite(one)
        if suite is None and one not in GENERATORS and not one.startswith(("gym:", "hub:")):
            raise unknown_source(one, GENERATORS)
        if suite is not None and "train" not in suite.splits:
            raise UserError(f"{one} is for evaluation and has no problems to train on; name others with --data")
        if suite is not None:
            splits &= {*suite.splits}
    answer_format_of(source)
    notes = [f"{name} was not looked at: check its columns and splits"] if name.startswith("hub:") else []
    if "test" not in splits:
        source = replace(source, held_out=SHARES[0])
        notes.append(f"held_out = {SHARES[0]:g}: this share of the problems is for evaluation only")
    return Data(source, source, assumed=tuple(notes))


def _data_of_file(name: str, question: str, answer: str, verifier: str) -> Data:
    """Return the problems of a file or folder, all of which are read."""
    columns = inspect(Path(name), question, answer)
    source = ProblemSource(
        name,
        question=columns.question,
        answer=columns.answer,
        context=columns.context,
        options=columns.options if verifier in ("", "choice") else "",
        verifier=verifier or columns.verifier,
    )
    problems = load_problems(source)
    notes = [*columns.notes] if verifier else [*columns.notes, f"verifier: {source.verifier}"]
    if ":" in verifier:
        notes.append(
            "prompts ask for the answer in \\boxed{}; if your verifier reads something else, set prompts.solve"
        )
    test = _test_problems(source)
    if test and not {*map(dedup_key, problems)} & {*map(dedup_key, test)}:
        notes.append(f"the test split of {name}, {len(test)} problems, is for evaluation")
        return Data(source, source, len(problems), tuple(notes))
    share, n_held_out = _share_to_hold_out(problems)
    if n_held_out:
        notes.append(f"held_out = {share:g}: {n_held_out} of {len(problems)} problems, for evaluation only")
        # A source without a test split holds out problems of its training split.
        held_out = replace(source, held_out=share, split="train" if test is None else "")
        return Data(held_out, held_out, len(problems) - n_held_out, tuple(notes))
    notes.append(f"too few problems ({len(problems)}) to hold some out, so nothing is evaluated")
    return Data(source, None, len(problems), tuple(notes))


def _share_to_hold_out(problems: Sequence[Problem]) -> tuple[float, int]:
    """Return the share to hold out and how many problems it is: 0 if none leaves problems on both sides."""
    found = (0.0, 0)
    for share in SHARES:
        n_held_out = sum(bucket(problem) < share for problem in problems)
        if not 0 < n_held_out < len(problems) or (found[1] and share > 1 / 3):
            continue
        found = (share, n_held_out)
        if n_held_out >= ENOUGH:
            break
    return found


def _test_problems(source: ProblemSource) -> list[Problem] | None:
    """Return what evaluation would take: the problems of the test split, or all if there are no splits; None if it cannot
    take any."""
    try:
        return load_problems(source, purpose="test")
    except UserError:
        return None


def _max_tokens(model: str) -> tuple[int, tuple[str, ...]]:
    """Return the length of replies: half of the model's positions at most, if its folder says how many it has."""
    try:
        config = json.loads((Path(MODELS.get(model, model)) / "config.json").read_text(encoding="utf-8"))
        positions = int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError):
        return MAX_TOKENS, ()
    if positions >= 2 * MAX_TOKENS:
        return MAX_TOKENS, ()
    return positions // 2, (f"max_tokens: half of the {positions} positions of {model}",)
