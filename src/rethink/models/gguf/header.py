"""Read the header of a GGUF file: its metadata, and where each tensor lies. No tensor is read.

The reader of the package `gguf` makes several numpy arrays per token of the vocabulary, which takes half a minute.
"""

from __future__ import annotations

import hashlib
import mmap
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from rethink.errors import UserError, install_extra
from rethink.models.model_folder import refuse_pointer

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
STRING, ARRAY = 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""GGUF's types of numbers -> their formats in `struct`."""
PLAIN = ("F32", "F16", "BF16", "F64")
"""Types of tensors that are not quantized."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of the file: its shape in torch's order, its type ("Q4_1"), and its bytes in the file."""

    name: str
    shape: tuple[int, ...]
    kind: str
    start: int
    n_bytes: int


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of its model. `digest` is a hash of these bytes."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    digest: str

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def setting(self, name: str, default: Any = None) -> Any:
        """Return a setting of the architecture, such as "block_count"."""
        return self.metadata.get(f"{self.architecture}.{name}", default)

    @property
    def file_type(self) -> str:
        """The name of the file's quantization, such as "Q4_K_M", or else of the type that most weights have."""
        types = _gguf().LlamaFileType
        number = self.metadata.get("general.file_type")
        if number in [t.value for t in types]:
            name = str(types(number).name).removeprefix("MOSTLY_").removeprefix("ALL_")
            if name != "GUESSED":
                return name
        counts: Counter[str] = Counter()
        for tensor in self.tensors:
            counts[tensor.kind] += prod(tensor.shape)
        return counts.most_common(1)[0][0]

    @property
    def is_quantized(self) -> bool:
        return any(tensor.kind not in PLAIN for tensor in self.tensors)


def is_gguf_file(path: Path) -> bool:
    """Return whether this is a file that begins as GGUF files do, or is named like one."""
    if not path.is_file():
        return False
    with path.open("rb") as data:
        return data.read(len(MAGIC)) == MAGIC or path.suffix.lower() == ".gguf"


def read_header(path: Path) -> Header:
    """Return the header of a GGUF file. Raise UserError if it is damaged, cut short, or a part of a model."""
    sizes = _gguf().GGML_QUANT_SIZES
    refuse_pointer(path)
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise UserError(f"{path} is not a GGUF file: it does not begin with GGUF; download it again")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with data:
        reader = _Reader(data)
        try:
            metadata, entries = _parse(path, reader)
        except UserError:
            raise
        except (struct.error, ValueError, KeyError, OverflowError, MemoryError) as err:
            raise UserError(
                f"{path} is damaged or cut short (its header cannot be read: {err}); download it again"
            ) from err
        digest = hashlib.sha256(data[: reader.position]).hexdigest()
        n_bytes = len(data)
    _refuse_split(path, metadata)
    alignment = int(metadata.get("general.alignment", 32))
    start = -(-reader.position // alignment) * alignment
    tensors = tuple(_tensor(path, entry, sizes, start) for entry in entries)
    end = max((t.start + t.n_bytes for t in tensors), default=0)
    if end > n_bytes:
        raise UserError(
            f"{path} is cut short: it has {n_bytes:,} bytes, and its tensors need {end:,}; download it again"
        )
    return Header(path, metadata, tensors, digest)


def _parse(path: Path, reader: _Reader) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], int, int]]]:
    """Return the metadata, and name, shape, type and offset of each tensor."""
    (version,) = reader.numbers("I", 1)
    if version not in VERSIONS:
        raise UserError(f"{path} is of GGUF version {version}; versions {VERSIONS[0]} and {VERSIONS[1]} are supported")
    n_tensors, n_settings = reader.numbers("Q", 2)
    metadata = dict(reader.setting() for _ in range(n_settings))
    return metadata, [reader.tensor() for _ in range(n_tensors)]


def _refuse_split(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raise UserError if the file holds only a part of a model."""
    named = SPLIT.search(path.name)
    n_parts = int(metadata.get("split.count", 0)) or (int(named[2]) if named else 0)
    if n_parts > 1:
        raise UserError(
            f"{path} is one of {n_parts} parts of a model, which must be joined first: with llama.cpp, "
            "llama-gguf-split --merge FIRST_PART.gguf WHOLE.gguf"
        )


class _Reader:
    """Reads one value after the other, behind the magic bytes."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.position = len(MAGIC)

    def numbers(self, kind: str, n: int) -> tuple[Any, ...]:
        form = f"<{n}{kind}"
        found = struct.unpack_from(form, self._data, self.position)
        self.position += struct.calcsize(form)
        return found

    def text(self) -> str:
        (length,) = self.numbers("Q", 1)
        found = self._data[self.position : self.position + length]
        if len(found) < length:
            raise ValueError("a text ends after the file")
        self.position += length
        return found.decode("utf-8")

    def setting(self) -> tuple[str, Any]:
        key = self.text()
        (kind,) = self.numbers("I", 1)
        return key, self._value(kind)

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Return the name, shape, type and offset of the next tensor."""
        name = self.text()
        (n_axes,) = self.numbers("I", 1)
        shape = self.numbers("Q", n_axes)[::-1]  # the fastest axis comes first in the file
        kind, offset = self.numbers("IQ", 1)
        return name, shape, kind, offset

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.numbers(NUMBERS[kind], 1)[0]
        kind, n = self.numbers("IQ", 1)
        if kind in NUMBERS:
            return list(self.numbers(NUMBERS[kind], n))
        return [self._value(kind) for _ in range(n)]


def _tensor(
    path: Path, entry: tuple[str, tuple[int, ...], int, int], sizes: Mapping[Any, tuple[int, int]], start: int
) -> TensorInfo:
    name, shape, number, offset = entry
    kind = next((kind for kind in sizes if kind == number), None)
    if kind is None:
        raise UserError(
            f"the tensor {name} of {path} has type {number}, which the installed package gguf does not know; update it"
        )
    block, block_bytes = sizes[kind]
    if not shape or shape[-1] % block:
        raise UserError(
            f"{path} is damaged: the tensor {name} of shape {list(shape)} is no whole number of {kind.name} blocks"
        )
    return TensorInfo(name, shape, kind.name, start + offset, prod(shape) // block * block_bytes)


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as err:
        raise UserError(f"a GGUF file needs the package gguf: {install_extra('gguf')}") from err
    return gguf
