"""Ordinary model folders of GGUF files, kept in the user's cache: dequantizing takes too long to be repeated.

A folder is written under another name and renamed, so it is whole or absent. Its name has the version of this conversion
and a hash of the file's header, size and time of change.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import GenerationConfig

from rethink.errors import UserError
from rethink.models.file_modes import allow_as_usual
from rethink.models.gguf import tensors
from rethink.models.gguf.config import build_config
from rethink.models.gguf.header import Header, TensorInfo, read_header
from rethink.models.gguf.locate import find, is_gguf
from rethink.models.gguf.tokenizer import save_tokenizer
from rethink.models.model_folder import read_object

VERSION = 1
"""To be raised when a file is converted in another way than before."""
SHARD_BYTES = 2 * 2**30
"""The size of a file of weights, at which the next one begins."""
KEY = "dequantized_from"
"""The key in config.json that names the quantization. The library keeps it in checkpoints and exports."""
FLOAT32_BYTES = 4


def root() -> Path:
    """Return the folder that holds all of these folders."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "rethink" / "gguf"


def info_folder(file: Path) -> Path:
    """Return a model folder without weights: configuration, generation config, tokenizer and chat template."""
    whole = _own_folder(file, "model")
    return whole if whole.is_dir() else _made(_own_folder(file, "info"), file, _write_info)


def model_folder(file: Path) -> Path:
    """Return the model folder of a GGUF file, with its weights in float32; write it if it is not there yet."""
    return _made(_own_folder(file, "model"), file, _write_model)


def describe(file: Path) -> str:
    """Return what the weights of a GGUF file are in this library, for tables and logs."""
    header = _header(file)
    return f"weights {'dequantized' if header.is_quantized else 'converted'} from {header.file_type}"


def origin(path: str) -> str:
    """Return what to say next to a model's figures if its weights are, or were made from, those of a GGUF file; else ""."""
    if is_gguf(path):
        return describe(find(path))
    for name, key in (("adapter_config.json", "base_model_name_or_path"), ("config.json", KEY)):
        if (Path(path) / name).is_file():
            value = read_object(Path(path) / name).get(key)
            if value and key == KEY:
                return f"made from weights dequantized from {value}"
            if value and is_gguf(str(value)):
                return f"an adapter of {describe(find(str(value)))}"
    return ""


def announce(file: Path) -> str:
    """Return a line for the log: what the weights are, and where their copy is or will be."""
    header, folder = _header(file), _own_folder(file, "model")
    gib = FLOAT32_BYTES * sum(prod(t.shape) for t in header.tensors) / 2**30
    if folder.is_dir():
        return f"{file}: {describe(file)}; using the copy in {folder}"
    return f"{file}: {describe(file)}; once, which may take minutes: the copy ({gib:.1f} GiB) is kept in {folder}"


def _own_folder(file: Path, part: str) -> Path:
    """Return the folder of a GGUF file in the cache; `part` is "info", or "model" for the one that also has weights."""
    header, stat = _header(file), file.stat()
    key = hashlib.sha256(f"{header.digest} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    return root() / f"{file.stem}-{key}-v{VERSION}" / part


def _header(file: Path) -> Header:
    stat = file.stat()
    return _read_header(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)  # the model, a teacher, a judge
def _read_header(file: Path, n_bytes: int, changed_ns: int) -> Header:
    return read_header(file)


def _made(folder: Path, file: Path, write: Callable[[Header, Path], object]) -> Path:
    """Return the folder, written by `write` if it is not there yet. Other processes wait meanwhile."""
    if folder.is_dir():
        return folder
    name = f"{folder.parent.name}-{folder.name}"
    temporary = root() / f".writing-{name}-{os.getpid()}"
    try:
        root().mkdir(parents=True, exist_ok=True)
        with _waiting(root() / f".{name}.lock"):
            if folder.is_dir():  # another process was first
                return folder
            for left in root().glob(f".writing-{glob.escape(name)}-*"):  # of processes that were killed
                shutil.rmtree(left, ignore_errors=True)
            temporary.mkdir()
            write(_header(file), temporary)
            allow_as_usual(temporary)
            folder.parent.mkdir(exist_ok=True)
            temporary.rename(folder)
    except OSError as err:
        raise UserError(
            f"cannot keep the dequantized copy of {file} in {root()}: {err}; set XDG_CACHE_HOME to another folder"
        ) from err
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


@contextmanager
def _waiting(file: Path) -> Iterator[None]:
    """Lock a file, after waiting for the process that has it. Without effect on a file system that has no locks."""
    with file.open("w") as handle:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _write_info(header: Header, folder: Path) -> dict[str, Any]:
    """Write everything but the weights, and return the configuration."""
    config = build_config(header)
    tensors.match(header, config)
    save_tokenizer(header, folder)
    own = {KEY: header.file_type} if header.is_quantized else {}
    (folder / "config.json").write_text(json.dumps({**config, **own}, indent=2) + "\n", encoding="utf-8")
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**ids).save_pretrained(folder)
    return config


def _write_model(header: Header, folder: Path) -> None:
    config = _write_info(header, folder)
    shards = _shards(tensors.match(header, config))
    n_bytes = FLOAT32_BYTES * sum(prod(info.shape) for shard in shards for info in shard.values())
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise UserError(
            f"the dequantized copy of {header.path} needs {n_bytes / 2**30:.1f} GiB, and {folder.parent} has "
            f"{free / 2**30:.1f} GiB left; set XDG_CACHE_HOME to a folder with more room"
        )
    files: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        weights = {key: tensors.convert(header, config, key, info) for key, info in shard.items()}
        save_file(weights, folder / name, metadata={"format": "pt"})
        files |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": n_bytes}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(infos: Mapping[str, TensorInfo]) -> list[dict[str, TensorInfo]]:
    """Return the tensors in groups of about SHARD_BYTES, to be in memory one group at a time."""
    found: list[dict[str, TensorInfo]] = [{}]
    size = 0
    for name, info in infos.items():
        n_bytes = FLOAT32_BYTES * prod(info.shape)
        if found[-1] and size + n_bytes > SHARD_BYTES:
            found.append({})
            size = 0
        found[-1][name] = info
        size += n_bytes
    return found
