"""Commands that take settings: a setting that is written like an option is refused with the right form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand

from rethink.errors import UserError


class SettingsCommand(TyperCommand):
    """A command that knows settings: `--updates 4` is answered with `updates=4`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as err:
            message = _as_setting(getattr(err, "option_name", None), given, self.name == "eval")
            if message:
                raise UserError(message) from err
            raise


def _as_setting(option: object, given: Sequence[str], evaluates: bool) -> str:
    """Return a message if an unknown option is the name of a setting; "" for others."""
    if not isinstance(option, str):
        return ""
    from rethink.recipe import known_keys
    from rethink.recipes.overrides import guess_key, not_a_setting

    known = sorted(known_keys(), key=lambda name: evaluates and not name.startswith("evaluation."))
    if not guess_key(option.lstrip("-"), known):
        return ""
    place = [i for i, word in enumerate(given) if word.split("=")[0] == option]
    return not_a_setting(given[place[0] :] if place else [option], known)
