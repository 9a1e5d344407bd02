"""Hashes of a run's problems, in problems.json of its folder: a run resumes only with the problems it was started with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from rethink.errors import UserError
from rethink.jsonl import to_json, write_text
from rethink.run_folder import RunFolder
from rethink.types import Problem

FILE = "problems.json"
NAMED = {"id": "ids", "question": "questions", "gold": "gold answers"}
"""Fields of a problem that are hashed separately, so that a message can say which of them changed."""


def write(folder: RunFolder, problems: Mapping[str, Sequence[Problem]]) -> None:
    """Write the hashes of the problems, by what they are for."""
    described = {purpose: describe(found) for purpose, found in problems.items()}
    write_text(folder.path / FILE, to_json(described, indent=1) + "\n")


def check_unchanged(folder: RunFolder, problems: Mapping[str, Sequence[Problem]]) -> None:
    """Raise UserError unless the run was started with these problems. A run of an older version gets the hashes now."""
    if (folder.path / FILE).is_file():
        refuse_changed(folder, problems)
    else:
        write(folder, problems)


def refuse_changed(folder: RunFolder, problems: Mapping[str, Sequence[Problem]]) -> None:
    """Raise UserError if the run was started with other problems, as far as its folder says with which. Write nothing."""
    file = folder.path / FILE
    if not file.is_file():
        return
    try:
        stored = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as err:
        raise UserError(
            f"cannot read {file}, which says with which problems the run was started ({err}). If they are still the same, "
            "remove the file and resume"
        ) from err
    for purpose, found in problems.items():
        was, now = stored.get(purpose), describe(found)
        if was != now:
            raise UserError(
                f"the {purpose} problems have changed since {folder.path} was started: {_difference(was, now)}. Restore "
                "them to resume. For a new run with the new problems, choose another folder with out=DIR; with "
                "model.path=CHECKPOINT it starts from these weights"
            )


def describe(problems: Sequence[Problem]) -> dict[str, Any]:
    """Return the number of problems and the hashes of their parts, in order, and of all problems in any order."""
    texts: list[list[str]] = []
    for problem in problems:
        named = [getattr(problem, name) for name in NAMED]
        texts.append([*named, _rest(problem)])
    parts = [*NAMED.values(), "other fields"]
    found: dict[str, Any] = {"n": len(problems)}
    for k, part in enumerate(parts):
        found[part] = _hash(text[k] for text in texts)
    found["in any order"] = _hash(sorted(map(repr, texts)))
    return found


def _rest(problem: Problem) -> str:
    """Return the other fields of a problem as text, without those that have their default: later versions add fields."""
    found: list[tuple[str, Any]] = []
    for field in fields(problem):
        if field.compare and field.name not in NAMED:
            value = getattr(problem, field.name)
            if field.default is MISSING or value != field.default:
                found.append((field.name, value))
    shown = problem.demonstrate(0) if problem.demonstrate is not None else None
    return repr((found, shown))


def _hash(texts: Iterable[str]) -> str:
    found = hashlib.sha256()
    for text in texts:
        found.update(hashlib.sha256(text.encode(errors="surrogatepass")).digest())
    return found.hexdigest()[:16]


def _difference(was: Any, now: Mapping[str, Any]) -> str:
    """Return in words what changed."""
    was = was if isinstance(was, dict) else {}
    if was.get("n") != now["n"]:
        return f"there were {was.get('n', 0)}, now there are {now['n']}"
    if was.get("in any order") == now["in any order"]:
        return "they are in another order"
    changed = [name for name in now if name != "in any order" and was.get(name) != now[name]]
    return f"other {', '.join(changed)}".replace("other other", "other")
