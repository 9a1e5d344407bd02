"""`rethink recipes`: list the recipes that ship with the package, or print one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rethink.commands.console import print_json, print_note, print_result
from rethink.errors import UserError
from rethink.jsonl import Record
from rethink.recipes import find, shipped
from rethink.recipes.summaries import Summary, summarize, summarize_all


def recipes(words: Sequence[str], as_json: bool = False) -> None:
    """Print the recipe of this name, or a table of those that contain all the words. Raise UserError if none does."""
    if len(words) == 1 and words[0] in shipped():
        text = find(words[0]).read_text(encoding="utf-8")
        if as_json:
            print_json({"recipes": [{**_record(summarize(words[0])), "text": text}]})
        else:
            print_result(text.rstrip("\n"))
        return
    found = [summary for summary in summarize_all() if all(map(summary.has, words))]
    if not found:
        raise UserError(_why_none(words))
    if as_json:
        print_json({"recipes": [_record(summary) for summary in found]})
        return
    print_result(table(found))
    print_note("rethink recipes NAME prints one of them; rethink train NAME runs it (docs/recipes.md)")


def table(found: Sequence[Summary]) -> str:
    """Return a line per recipe, in columns."""
    lines = [("recipe", "method", "model", "time", "hardware")]
    for one in found:
        lines.append((one.name, one.method or "(evaluation)", one.model, one.short_time, one.short_hardware))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown: list[str] = []
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        shown.append("  ".join(cells).rstrip())
    return "\n".join(shown)


def _record(summary: Summary) -> Record:
    return {**asdict(summary), "file": str(find(summary.name))}


def _why_none(words: Sequence[str]) -> str:
    if len(words) == 1:
        try:
            find(words[0])
        except UserError as err:
            if "did you mean" in str(err):
                return str(err)
    return (
        f"no recipe's name, purpose, method, model or hardware contains {' and '.join(words)}; rethink recipes lists "
        "all of them"
    )
