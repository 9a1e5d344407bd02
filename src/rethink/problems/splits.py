"""Pick a split by name."""

from __future__ import annotations

from collections.abc import Sequence

from rethink.errors import UserError

ALIASES = {"validation": ("valid", "val", "dev", "eval"), "test": ("testing",), "train": ("training",)}
"""Other names that files give to splits."""


def pick_split(where: object, there: Sequence[str], wanted: Sequence[str]) -> str:
    """Return the first wanted split that is there. Raise UserError if none is, or if none is asked for and several are."""
    for name in wanted:
        for other in (name, *ALIASES.get(name, ())):
            if other in there:
                return other
    listed = ", ".join(there)
    if not wanted and len(there) == 1:
        return there[0]
    if not wanted:
        raise UserError(f"{where} holds several splits ({listed}); name the folder or file of one of them")
    raise UserError(f"{where} holds no split {wanted[0]!r}, only {listed}; choose one with the setting `split`")
