"""Hashes of problems, in problems.json of a folder: a run or an evaluation resumes only with those it was started with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from rethink.errors import UserError
from rethink.grading.user_function import UserFunction
from rethink.jsonl import to_json, write_text
from rethink.problems.rewards import Grader
from rethink.run_folder import RunFolder
from rethink.types import Problem

NAMED = {"id": "ids", "question": "questions", "gold": "gold answers"}
"""Fields of a problem that are hashed separately, so that a message can say which of them changed."""
COLUMNS = "columns"
"""The hash of all columns of the rows. It counts only if a function reads the row: other columns may change."""
IN_ANY_ORDER = "in any order"
TRAINING = "training"
"""The problems whose replies get rewards; those of evaluations have verdicts alone."""
NEW_RUN = (
    "For a new run with the new problems, choose another folder with out=DIR; with model.path=CHECKPOINT it starts from "
    "these weights"
)


def write(folder: RunFolder, problems: Mapping[str, Sequence[Problem]]) -> None:
    """Write the hashes of the problems, by what they are for."""
    described = {purpose: describe(found) for purpose, found in problems.items()}
    write_text(folder.problems, to_json(described, indent=1) + "\n")


def check_unchanged(
    folder: RunFolder, problems: Mapping[str, Sequence[Problem]], grader: Grader, advice: str = NEW_RUN
) -> None:
    """Raise UserError unless the run was started with these problems. A run of an older version gets the hashes now."""
    if folder.problems.is_file():
        refuse_changed(folder, problems, grader, advice)
    else:
        write(folder, problems)


def refuse_changed(
    folder: RunFolder, problems: Mapping[str, Sequence[Problem]], grader: Grader, advice: str = NEW_RUN
) -> None:
    """Raise UserError if the run was started with other problems, as far as its folder says with which. Write nothing.

    Columns that prompts do not show count if a reward function of the grader reads them, or the verifier. `advice` says
    how to work with the new problems."""
    file = folder.problems
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
        are_rows_read = (purpose == TRAINING and grader.reads_rows) or any(map(_is_row_verified, found))
        difference = _difference(stored.get(purpose), describe(found), are_rows_read)
        if difference:
            raise UserError(
                f"the {purpose} problems have changed since {folder.path} was started: {difference}. Restore "
                f"them to resume. {advice}"
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
    found[COLUMNS] = _hash(map(_row_text, problems))
    found[IN_ANY_ORDER] = _hash(sorted(map(repr, texts)))
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


def _row_text(problem: Problem) -> str:
    """Return all columns as text; their order does not matter."""
    return json.dumps(problem.row, sort_keys=True, default=str)


def _is_row_verified(problem: Problem) -> bool:
    """Return whether the verifier gets the problem's row."""
    return isinstance(problem.verify, UserFunction) and problem.verify.reads_row


def _hash(texts: Iterable[str]) -> str:
    found = hashlib.sha256()
    for text in texts:
        found.update(hashlib.sha256(text.encode(errors="surrogatepass")).digest())
    return found.hexdigest()[:16]


def _difference(was: Any, now: Mapping[str, Any], are_rows_read: bool) -> str:
    """Return in words what changed; "" if nothing did."""
    was = was if isinstance(was, dict) else {}
    if was.get("n") != now["n"]:
        return f"there were {was.get('n', 0)}, now there are {now['n']}"
    changed = [name for name in now if name not in (IN_ANY_ORDER, COLUMNS) and was.get(name) != now[name]]
    if changed and was.get(IN_ANY_ORDER) == now[IN_ANY_ORDER]:
        return "they are in another order"
    if changed:
        return f"other {', '.join(changed)}".replace("other other", "other")
    if are_rows_read and was.get(COLUMNS) != now[COLUMNS]:
        return "other columns, which a reward function or the verifier reads"
    return ""
