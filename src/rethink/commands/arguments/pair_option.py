"""Commands with an option --pair that takes two words and can be repeated, which typer does not offer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from rethink.errors import UserError

OPTION = "--pair"


class PairCommand(TyperCommand):
    """A command that reads `--pair A B` as `--pair A --pair B`; see `pairs`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _one_word_each(args))


def pairs(words: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Return the pairs of a `PairCommand`'s option.

    >>> pairs([Path("a"), Path("b"), Path("c"), Path("d")]) == [(Path("a"), Path("b")), (Path("c"), Path("d"))]
    True
    """
    if len(words) % 2:
        raise UserError(f"{OPTION} takes two runs: {OPTION} BEFORE AFTER")
    return list(zip(words[::2], words[1::2], strict=True))


def _one_word_each(args: Sequence[str]) -> list[str]:
    found: list[str] = []
    place = 0
    while place < len(args):
        word = args[place]
        if word == "--":
            return [*found, *args[place:]]
        found.append(word)
        if word == OPTION:
            two = args[place + 1 : place + 3]
            if len(two) < 2 or two[0].startswith("-") or two[1].startswith("-"):
                raise UserError(f"{OPTION} takes two runs: {OPTION} BEFORE AFTER")
            found += [two[0], OPTION, two[1]]
            place += 2
        place += 1
    return found
