"""`rethink prepare`: the data that a method is trained on, made once with the start weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rethink import recipes
from rethink.commands.console import progress, say, warn
from rethink.config import Recipe, load_recipe, to_toml
from rethink.errors import UserError
from rethink.folder import append, make_folder, read_lines, replace
from rethink.problems.source import load_problems

CARD = """# {name}

Made by `rethink prepare` with the method `{method}` from {n_problems} problems of `{source}` and the start weights of
`{model}`{teacher}: {n} rows.{counts}

Settings, as the recipe that made it:

```toml
{recipe}```
"""


def prepare(recipe: str, settings: Sequence[str], out: Path) -> None:
    """Write a parquet file and a data card beside it. What is done so far is kept in NAME.jsonl until then, so that a
    killed command goes on when it is given again."""
    from rethink.train.run import open_actors

    resolved = load_recipe(recipes.find(recipe), settings)
    method = resolved.build_method()
    if not hasattr(method, "prepare"):
        raise UserError(f"the method {resolved.method['name']} needs no prepared data")
    if out.suffix != ".parquet" or out.exists():
        raise UserError(f"{out}: --out names a new .parquet file")
    make_folder(out.parent)
    partial, config = out.with_suffix(".jsonl"), out.with_suffix(".toml")
    done = _done(partial, config, to_toml(resolved))
    problems = load_problems(resolved.problems, resolved.seed)
    actors = open_actors(resolved)
    with progress() as bar:
        task = bar.add_task("prepare", total=len(problems), completed=done, note="")
        for start in range(done, len(problems), resolved.n_problems):
            batch = problems[start : start + resolved.n_problems]
            rows = list(method.prepare(actors, batch))
            append(partial, [{"done": start + len(batch), "rows": rows}])
            bar.update(task, completed=start + len(batch))
    rows = [row for _, record in read_lines(partial) for row in record["rows"]]
    if not rows:
        raise UserError("nothing to keep: no problem gave a row")
    _write(out, rows, resolved, len(problems))
    partial.unlink()
    config.unlink()
    say(f"{len(rows)} rows: {out}\ncard: {out.with_suffix('.md')}")


def _done(partial: Path, config: Path, settings: str) -> int:
    """How many problems an earlier, killed call has done; a torn last line is cut off."""
    if config.is_file() and config.read_text(encoding="utf-8") == settings:
        lines = list(read_lines(partial))
        replace(partial, "".join(line + "\n" for line, _ in lines))
        return lines[-1][1]["done"] if lines else 0
    if partial.exists():
        warn(f"{partial} was made with other settings; beginning anew")
    replace(config, settings)
    replace(partial, "")
    return 0


def _write(out: Path, rows: list[dict[str, Any]], recipe: Recipe, n_problems: int) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    temporary = out.with_suffix(".tmp")
    parquet.write_table(pa.Table.from_pylist(rows), temporary)
    temporary.replace(out)
    kept = {name: sum(row[name] is not None for row in rows) for name in ("direct", "refined") if name in rows[0]}
    counts = "".join(f" {n} of them have `{name}`." for name, n in kept.items())
    if "n_right" in rows[0]:
        shares = [sum(row["n_right"] == k and row["refined"] is not None for row in rows) for k in range(99)]
        counts += " Refinements by number of right candidates: "
        counts += ", ".join(f"{k}: {n}" for k, n in enumerate(shares) if n) + "."
        if not shares[0]:
            warn("no refinement comes from candidates that are all wrong: nothing teaches to do better than to choose")
    teacher = recipe.teacher.path or ("the start weights" if not recipe.teacher.endpoint.url else "an endpoint")
    card = CARD.format(
        name=out.stem,
        method=recipe.method["name"],
        n_problems=n_problems,
        source=recipe.problems.source,
        model=recipe.model.path,
        teacher=f", teacher {teacher}" if "direct" in rows[0] else "",
        n=len(rows),
        counts=counts,
        recipe=to_toml(recipe),
    )
    replace(out.with_suffix(".md"), card)
