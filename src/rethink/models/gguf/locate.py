"""Which names are GGUF files: on this machine, or in a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from rethink.errors import UserError
from rethink.models.gguf.header import is_gguf_file

SUFFIX = ".gguf"
IN_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)/(.+)")
QUANTIZATION = re.compile(r"([\w.-]+/[\w.-]+):([A-Za-z]\w*)")
"""llama.cpp's and vLLM's form for "the file of this quantization": org/name:Q4_K_M."""


def is_gguf(path: str) -> bool:
    """Return whether a model's name is that of a GGUF file.

    >>> is_gguf("org/name/file.gguf"), is_gguf("org/name:Q4_K_M"), is_gguf("org/name")
    (True, True, False)
    """
    if Path(path).exists():
        return is_gguf_file(Path(path))
    return path.lower().endswith(SUFFIX) or QUANTIZATION.fullmatch(path) is not None


def find(path: str) -> Path:
    """Return the file on this machine; download it from the hub if need be. Raise UserError if there is none."""
    if Path(path).is_file():
        return Path(path)
    from rethink.models import hub  # imports an HTTP client

    repository, wanted = _parse(path)
    return Path(hub.get_file(repository, lambda names: _choose(path, wanted, names)))


def find_here(path: str) -> Path | None:
    """Return the file on this machine; None if it is on the hub and not in the cache."""
    if Path(path).is_file():
        return Path(path)
    from rethink.models import hub

    repository, wanted = _parse(path)
    found = hub.cached_file(repository, lambda names: _choose(path, wanted, names))
    return None if found is None else Path(found)


def check_name(path: str) -> None:
    """Raise UserError for a file that is not on this machine, and whose name cannot be one on the hub."""
    if not Path(path).is_file():
        _parse(path)


def _parse(path: str) -> tuple[str, str]:
    """Return the repository, and a file in it or a quantization."""
    found = None if path.startswith((".", "/", "~")) else QUANTIZATION.fullmatch(path) or IN_REPOSITORY.fullmatch(path)
    if found is None:
        raise UserError(f"there is no file {path}")
    return found[1], found[2]


def _choose(path: str, wanted: str, names: list[str]) -> str:
    """Return the one file of the repository that is wanted. Raise UserError if there is none, or more than one."""
    files = [name for name in names if name.lower().endswith(SUFFIX)]
    is_file = wanted.lower().endswith(SUFFIX)
    pattern = re.escape(wanted) if is_file else rf"(.*[-._/])?{wanted}\{SUFFIX}"
    found = [name for name in files if re.fullmatch(pattern, name, 0 if is_file else re.IGNORECASE)]
    if len(found) != 1:
        what = f"has {len(found)} files" if found else "has no file"
        there = f"; its GGUF files are: {', '.join(files)}" if files else ", and no other GGUF file"
        raise UserError(f"{path}: the repository {what} of that name{there}")
    return found[0]
