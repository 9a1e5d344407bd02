"""`rethink export`: write a trained model as an ordinary Hugging Face folder, and push it to the hub."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub.utils.tqdm import disable_progress_bars
from transformers.utils import logging

from rethink.commands.console import console, print_note, print_result, warn
from rethink.errors import UserError
from rethink.models.gguf.locate import find, is_gguf
from rethink.models.language_model import DTYPES
from rethink.models.push import find_repository, push
from rethink.training.export import export as write
from rethink.version import __version__


def export(source: str, out: Path | None, dtype: str, push_to: str, private: bool, exist_ok: bool) -> None:
    """Write the folder and push it, and print what it contains and where it is."""
    if dtype not in DTYPES:
        raise UserError(f"--dtype must be {' or '.join(DTYPES)}, not {dtype!r}")
    if out is None and not push_to:
        raise UserError("name a folder with --out DIR, a repository on the hub with --push NAME, or both")
    if (private or exist_ok) and not push_to:
        raise UserError(f"{'--private' if private else '--exist-ok'} is for --push NAME")
    logging.disable_progress_bar()  # the library's progress bars would break up ours
    if not console.is_terminal:
        disable_progress_bars()  # of uploads
    repository = find_repository(push_to, exist_ok, private) if push_to else None  # before minutes of work
    if is_gguf(source):
        from rethink.models.gguf.folder import announce

        print_note(announce(find(source)))
    with TemporaryDirectory(prefix="rethink-export-") as temporary:
        folder = out or Path(temporary) / "model"
        found = write(source, folder, dtype, warn, name=repository.name if repository else "")
        if out is not None:
            print_note(f"exported {found} to {out}, in {dtype}")
        if repository is not None:
            address = push(folder, repository, private, f"Upload a model exported by rethink {__version__}")
            print_note(f"pushed {found}, in {dtype}:")
            print_result(address)
