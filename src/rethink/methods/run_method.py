"""Run a method, which may be a user's own, and check that it gives updates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rethink.errors import UserError
from rethink.methods.actors import Actors, Method
from rethink.objectives import Update
from rethink.types import Problem


def run_method(method: Method, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
    """Yield the updates of one problem batch. Raise UserError if a method gives anything else."""
    name = type(method).__name__
    found: Any = method.updates(actors, problems)
    if not isinstance(found, Iterable):
        kind = "None" if found is None else f"a {type(found).__name__}"
        raise UserError(f"{name}.updates returned {kind}: it must `yield` updates; see docs/write-your-own-method.md")
    for update in found:
        if not isinstance(update, Update):
            kind = type(update).__name__
            raise UserError(
                f"{name}.updates gave a {kind}: it must `yield Update(...)`; see docs/write-your-own-method.md"
            )
        yield update
