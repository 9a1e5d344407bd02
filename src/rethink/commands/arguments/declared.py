"""A command as the command line declares it: its function, its group in `rethink --help`, and its examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand

TRAIN = "Train"
EVALUATE = "Evaluate"
USE = "Use a model"


@dataclass(frozen=True)
class Declared:
    """A command. `examples` are whole command lines; a test parses each of them."""

    function: Callable[..., None]
    group: str
    examples: tuple[str, ...]
    cls: type[TyperCommand] = TyperCommand
    name: str = ""

    def add_to(self, app: typer.Typer) -> None:
        """Add the command to an app."""
        options: dict[str, Any] = {
            "name": self.name or self.function.__name__,
            "cls": self.cls,
            "rich_help_panel": self.group,
            "epilog": "\n\n".join(["Examples:", *self.examples]),
        }
        app.command(**options)(self.function)
