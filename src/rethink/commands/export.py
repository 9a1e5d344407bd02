"""`rethink export`: write a trained model as an ordinary Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from transformers.utils import logging

from rethink.commands.console import print_note, warn
from rethink.errors import UserError
from rethink.models.gguf.locate import find, is_gguf
from rethink.models.language_model import DTYPES
from rethink.training.export import export as write


def export(source: str, out: Path, dtype: str) -> None:
    """Write the folder and print what it contains."""
    if dtype not in DTYPES:
        raise UserError(f"--dtype must be {' or '.join(DTYPES)}, not {dtype!r}")
    logging.disable_progress_bar()  # the library's progress bars would break up ours
    if is_gguf(source):
        from rethink.models.gguf.folder import announce

        print_note(announce(find(source)))
    print_note(f"exported {write(source, out, dtype, warn)} to {out}, in {dtype}")
