"""Export a run or a checkpoint as an ordinary model folder, with the adapter merged and nothing of the run in it."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from rethink.errors import UserError
from rethink.jsonl import make_folder
from rethink.lock import Lock
from rethink.models import bundled, lora
from rethink.models.chat import Chat
from rethink.models.file_modes import allow_as_usual
from rethink.models.language_model import DTYPES, LanguageModel
from rethink.models.load import load_model
from rethink.run_folder import RunFolder
from rethink.training.model_card import write_card


def export(
    source: str, out: Path, dtype: str = "bfloat16", warn: Callable[[str], None] = print, name: str = ""
) -> Path:
    """Write the model of a run folder (its newest checkpoint), of a checkpoint or of an adapter to the folder `out`, with a
    model card, which calls it `name` (by default that of the folder).

    Return the path of what was exported. Raise UserError if there is nothing to export, or if `out` holds anything but the
    same export: nothing is overwritten."""
    is_used = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if is_used and not (out / "config.json").is_file():
        raise UserError(f"{out} already exists and is not an empty folder; choose another --out DIR")
    found = find_model(source, warn)
    target = out.absolute()
    temporary = target.with_name(f".writing-{out.name}")
    make_folder(target.parent)
    with Lock(target.with_name(f"{out.name}.export"), warn):
        shutil.rmtree(temporary, ignore_errors=True)
        make_folder(temporary)
        try:
            _write(found, temporary, dtype)
            write_card(temporary, found, name or target.name, dtype)
            allow_as_usual(temporary)
            if not is_used:
                temporary.replace(target)  # replaces an empty folder
            elif not _is_same(temporary, target):  # the same: this command was killed at its end, or repeated
                raise UserError(f"{out} already exists and holds another model; choose another --out DIR")
        except UserError:
            raise
        except (OSError, ValueError, RuntimeError, SafetensorError) as err:
            raise UserError(f"cannot export {found} to {out}: {err}") from err
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return found


def _write(source: Path, folder: Path, dtype: str) -> None:
    module, chat = load_merged(str(source))
    module.to(DTYPES[dtype]).save_pretrained(folder)
    chat.save(folder)


def _is_same(folder: Path, other: Path) -> bool:
    """Return whether two folders hold the same files with the same bytes."""
    names = sorted(file.name for file in folder.iterdir())
    if names != sorted(file.name for file in other.iterdir()):
        return False
    return filecmp.cmpfiles(folder, other, names, shallow=False)[0] == names


def find_model(source: str, warn: Callable[[str], None]) -> Path:
    """Return the newest valid checkpoint of a run folder, a model of the package, or any other folder or hub name.

    Raise UserError for a run without checkpoints, and for a folder that does not exist."""
    folder = RunFolder(Path(source))
    if (folder.path / "config.toml").is_file() and not folder.checkpoints.is_dir():
        raise UserError(f"the run {source} has no checkpoint to export")
    return Path(bundled.resolve(source, warn))


def load_merged(path: str) -> tuple[Any, Chat]:
    """Return the module, with all weights in float32 and the adapter merged, and the chat."""
    model = load_model(path, template="plain")  # required by load_model, not used here
    return model.module if model.base is None else merge_adapter(model), model.chat


@torch.no_grad()
def merge_adapter(model: LanguageModel) -> Any:
    """Merge the adapter into the base model in place, and return the base. They share tensors: do not use `model` after."""
    assert model.base is not None
    parameters = dict(model.base.module.named_parameters())
    for name, tensor in lora.named_weights(model):
        if name in parameters:
            parameters[name].copy_(tensor)
    return model.base.module
