"""Check a model folder's files before anything is loaded: what is missing, damaged or not downloaded is named."""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError, safe_open

from rethink.errors import UserError
from rethink.models.checkpoint_files import find_damage, is_checkpoint

POINTER = b"version https://git-lfs.github.com/"
CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "adapter_config.json")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
ONE_BYTE = ("I8", "U8", "F8_E4M3", "F8_E5M2")
VOCABULARIES = ("tokenizer.json", "*.model", "vocab*", "*vocab.*", "tekken.json", "*.tiktoken")
"""Files that hold a tokenizer's vocabulary. Without one, the library opens an empty tokenizer."""


def check_folder(folder: Path, *, needs_weights: bool = True) -> None:
    """Raise UserError if files of a model folder are missing or damaged; those of a checkpoint, if they have changed."""
    for file in sorted(folder.iterdir()):
        if file.is_file():
            refuse_pointer(file)
    if is_checkpoint(folder):
        fault = find_damage(folder, model_only=True)
        if fault is not None:
            raise UserError(f"the checkpoint {folder} is damaged ({fault}); use another one, or a copy of it")
    for name in CONFIGS:
        if (folder / name).is_file():
            read_object(folder / name)
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise UserError(f"{folder} is not a model folder: it has no config.json{_instead(folder)}")
    if not needs_weights:
        return
    for name in INDICES:
        if (folder / name).is_file():
            _check_index(folder / name)
    for file in sorted(folder.glob("*.safetensors")):
        _check_header(file)
        if not is_checkpoint(folder):  # ours holds an optimizer, too
            _refuse_bytes(file)
    if (folder / "adapter_config.json").is_file() and not any(folder.glob("adapter_model.*")):
        raise UserError(f"{folder} has no adapter_model.safetensors; copy or download it again")


def has_vocabulary(folder: Path) -> bool:
    """Return whether the folder has a tokenizer's vocabulary."""
    return any(any(folder.glob(pattern)) for pattern in VOCABULARIES)


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raise UserError if there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise UserError(f"cannot read {file}: {err}") from err
    if not isinstance(found, dict):
        raise UserError(f"{file} is not a JSON object")
    return found


def refuse_pointer(file: Path) -> None:
    """Raise UserError if a file is what git-lfs leaves in place of the file."""
    with file.open("rb") as data:
        if data.read(len(POINTER)) == POINTER:
            raise UserError(
                f"{file} is a git-lfs pointer, not the file itself; fetch the files of this folder with `git lfs pull`, or "
                "download the model with `hf download`"
            )


def reason(err: Exception) -> str:
    """Return what an error of a library means, or its first line."""
    text = str(err).strip() or type(err).__name__
    if isinstance(err, KeyError):  # its text is only the key
        return f"a setting in its files has a value or lacks a key that the library does not know: {text}"
    if isinstance(err, UnpicklingError):
        return "its weights (a .bin file, a pickle) are damaged or contain code, which is never run; use safetensors"
    if "trust_remote_code" in text:
        return "its architecture needs the code that its config.json names in auto_map, and code of models is never run"
    return text.splitlines()[0].partition(" Please ")[0]


def _check_index(index: Path) -> None:
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict):
        raise UserError(f"{index} has no weight_map; copy or download it again")
    for name in sorted(set(map(str, names.values()))):
        if not (index.parent / name).is_file():
            raise UserError(f"{index.parent / name} is missing, which {index.name} names; copy or download it again")
    whole = index.parent / index.name.removesuffix(".index.json")
    if whole.is_file() and whole.name not in names.values():
        raise UserError(
            f"{index.parent} holds two sets of weights: {whole.name}, and the files that {index.name} names; remove the "
            "one that is out of date"
        )


def _check_header(file: Path) -> None:
    try:
        with safe_open(file, "pt"):
            pass
    except (OSError, SafetensorError) as err:
        raise UserError(f"{file} is damaged or cut short ({err}); copy or download it again") from err


def _refuse_bytes(file: Path) -> None:
    """Raise UserError for weights of one byte: they are quantized, and the library would take them for whole numbers."""
    with safe_open(file, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 (not a dictionary)
            if name.endswith(".weight"):
                dtype = tensors.get_slice(name).get_dtype()
                if dtype in ONE_BYTE:
                    raise UserError(
                        f"the weight {name} in {file} is quantized ({dtype}), which is not supported; use the original "
                        "model"
                    )


def _instead(folder: Path) -> str:
    """Return what the user may have meant, for a message."""
    inside = sorted(p.parent for p in folder.glob("*/*config.json") if p.name in ("config.json", "adapter_config.json"))
    if inside:
        return f"; did you mean {inside[-1]}?"
    files = sorted(map(str, folder.glob("*.gguf")))
    return f"; to use a GGUF file, name the file: {', '.join(files)}" if files else ""
