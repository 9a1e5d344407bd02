"""`rethink prepare`: prepare the data that a method trains on, once, with the start weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rethink.commands.console import print_note, progress, warn
from rethink.errors import UserError
from rethink.images import store
from rethink.jsonl import Record, RecordMismatchError, Resumable, make_folder, to_json, write_text
from rethink.lock import Lock
from rethink.methods import needs_of
from rethink.problems.answer_format import read_after
from rethink.problems.source import load_problems
from rethink.recipe import Recipe, load_recipe, name_checkpoints, to_toml
from rethink.seeds import stable_hash
from rethink.types import Problem

KEY = b"rethink"
"""The metadata of a parquet file that identify the command that made it: hashes of settings and problems."""

CARD = """# {name}

Made by `rethink prepare` with the method `{method}` from {n_problems} problems of `{source}` and the start weights of
`{model}`{teacher}: {n} rows.{counts}

Sampled tokens: {n_sampled_tokens} by the start weights, {n_role_tokens} by the teacher.

The recipe that made it:

```toml
{recipe}```
"""


def prepare(recipe: str, settings: Sequence[str], out: Path) -> None:
    """Write a parquet file and a data card next to it.

    Finished batches are kept in NAME.parquet.partial until the end. To resume a killed command, repeat it; a repeated
    command that has finished changes nothing. Images of the problems are kept in the folder NAME-images, each once.
    """
    for word in settings:
        if word.partition("=")[0].strip() == "out":
            raise UserError(f"{word} has no effect here: write --{word}")
    resolved = name_checkpoints(load_recipe(recipe, settings), print_note)
    method = resolved.build_method()
    if not hasattr(method, "prepare"):
        raise UserError(f"the method {resolved.method['name']} does not need prepared data")
    partial, card = out.with_name(f"{out.name}.partial"), out.with_suffix(".md")
    make_folder(out.parent)
    with Lock(out, warn):
        problems = read_after(load_problems(resolved.problems, resolved.seed), resolved.model.thinking)
        key = {"settings": _hash(to_toml(resolved)), "problems": _hash(*map(_content, problems))}
        if _is_finished(out, key):
            _remove(partial)
            print_note(f"{out} is there already, made by the same command")
            return
        if out.suffix != ".parquet" or out.exists() or (card.exists() and not partial.exists()):
            raise UserError(
                f"{out}: --out must be a new .parquet file, and its data card {card.name} must not exist either"
            )
        with _hint_on_stop(partial):
            images = out.with_name(f"{out.stem}-images")
            rows, sampled, left_out = _rows(resolved, method, problems, Resumable(partial, key, _done), images)
        if not rows:
            raise UserError(f"no problem gave a row, so there is nothing to write.{_left_out(left_out)}")
        write_text(card, _card(out.stem, rows, resolved, len(problems), sampled, left_out))
        write(out, rows, key)
        _remove(partial)
    print_note(f"{len(rows)} rows: {out}\ndata card: {card}")


def _hash(*texts: str) -> str:
    return f"{stable_hash(*texts):016x}"


def _content(problem: Problem) -> str:
    return json.dumps([problem.id, problem.transcript, problem.gold, *problem.image_names])


def _done(record: Record) -> Record:
    return {"done": record["done"]}


def _rows(
    recipe: Recipe, method: Any, problems: Sequence[Problem], file: Resumable, images: Path
) -> tuple[list[Record], dict[str, int], Counter[str]]:
    """Return the rows of all problems, the counts of tokens, and those of what the method left out, which it counts in
    `actors.state`. Batches that the file lacks are made and appended."""
    from rethink.build import check_auxiliary_model, check_inputs
    from rethink.training.meter import COUNTS, Meter
    from rethink.training.run import open_actors

    check_inputs(recipe)
    check_auxiliary_model("teacher", recipe.teacher, problems)
    meter = Meter()
    actors = open_actors(recipe, meter)
    rows: list[Record] = []
    left_out: Counter[str] = Counter()
    sampled = dict.fromkeys(COUNTS, 0)
    with progress() as bar:
        task = bar.add_task("prepare", total=len(problems), note="")
        for start in range(0, len(problems), recipe.problems_per_batch):
            batch = problems[start : start + recipe.problems_per_batch]
            done = {"done": start + len(batch)}
            found = file.read_batch([done])
            if found is None:
                actors.state.clear()
                made = [with_image_files(row, images) for row in method.prepare(actors, batch)]
                found = [{**done, "rows": made, "left_out": dict(actors.state), **meter.read_and_reset()}]
                file.append(found)
            for record in found:
                rows += record["rows"]
                left_out.update(record.get("left_out", {}))  # older versions did not count
                for name in COUNTS:
                    sampled[name] += int(record[name])
            bar.update(task, completed=start + len(batch))
    file.close()
    return rows, sampled, left_out


def with_image_files(row: Record, folder: Path) -> Record:
    """Return a row with the names of its images, after writing those that the folder lacks."""
    if "images" not in row:
        return row
    store(folder, row["images"])
    return {**row, "images": [f"{folder.name}/{image.name}" for image in row["images"]]}


@contextmanager
def _hint_on_stop(partial: Path) -> Iterator[None]:
    """Say where the finished batches are if the block is interrupted, or ends by an error, such as a teacher's server."""
    try:
        yield
    except RecordMismatchError:
        raise
    except (UserError, KeyboardInterrupt):
        if partial.exists():
            print_note(f"stopped; the finished batches are in {partial}; to resume, repeat the command")
        raise


def _is_finished(out: Path, key: Record) -> bool:
    """Return whether the file holds the data that a command with this key makes."""
    from pyarrow import ArrowException, parquet

    if not out.is_file():
        return False
    try:
        metadata = parquet.read_metadata(out).metadata or {}
    except (ArrowException, OSError):
        return False
    return bool(metadata.get(KEY) == to_json(key).encode())


def write(out: Path, rows: list[Record], key: Record) -> None:
    """Write the rows to a parquet file, with the key that identifies the command. Raise UserError if that fails."""
    import pyarrow as pa
    from pyarrow import parquet

    if any("images" in row for row in rows):
        rows = [{"images": [], **row} for row in rows]  # the first row has all columns
    table = pa.Table.from_pylist(rows)
    temporary = out.with_name(f"{out.name}.tmp")
    try:
        parquet.write_table(table.replace_schema_metadata({KEY: to_json(key)}), temporary)
        temporary.replace(out)
    except OSError as err:
        _remove(temporary)
        raise UserError(f"cannot write {out}: {err.strerror or err}") from err


def _remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink(missing_ok=True)


def _card(
    name: str, rows: list[Record], recipe: Recipe, n_problems: int, sampled: dict[str, int], left_out: Counter[str]
) -> str:
    teacher = recipe.teacher.path or ("an endpoint" if recipe.teacher.endpoint.url else "the start weights")
    return CARD.format(
        name=name,
        method=recipe.method["name"],
        n_problems=n_problems,
        source=recipe.problems.source,
        model=recipe.model.path,
        teacher=f", teacher {teacher}" if needs_of(recipe.method["name"]).asks_teacher else "",
        n=len(rows),
        counts=_counts(rows) + _left_out(left_out),
        recipe=to_toml(recipe),
        **sampled,
    )


def _left_out(counts: Counter[str]) -> str:
    listed = "; ".join(f"{n} {what}" for what, n in sorted(counts.items()))
    return f" Left out: {listed}." if listed else ""


def _counts(rows: list[Record]) -> str:
    """Return how many targets were kept, and how many right candidates their problems had."""
    counts = ""
    for name in ("direct", "refined"):
        if name in rows[0]:
            counts += f" {sum(row[name] is not None for row in rows)} of them have `{name}`."
    if "n_right" not in rows[0]:
        return counts
    shares: Counter[int] = Counter()
    n_cut = 0
    for row in rows:
        n_cut += row["n_cut"]
        if row["refined"] is not None:
            shares[row["n_right"]] += 1
    if not shares[0]:
        warn("no refinement has only wrong candidates: the data teaches choosing, but not finding a right answer")
    by_right = ", ".join(f"{k}: {n}" for k, n in sorted(shares.items()))
    cut = f" Candidates shown without their middle because they were too long: {n_cut}." if n_cut else ""
    return f"{counts} Refinements by number of right candidates: {by_right}.{cut}"
