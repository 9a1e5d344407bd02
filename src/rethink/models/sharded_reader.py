"""Read shards of `torch.distributed.checkpoint` without running what a stranger may have put into them.

Its metadata file is a pickle, and so is every value that is not a tensor. Only the few classes that belong there are
loaded. Import this module where it is needed: that takes half a second.
"""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import load

METADATA = ".metadata"

_CHECKPOINT = "torch.distributed.checkpoint"
ALLOWED = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    (f"{_CHECKPOINT}.filesystem", "_StorageInfo"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "WindowsPath"),
    ("collections", "OrderedDict"),
}
ALLOWED_METADATA = {
    "BytesStorageMetadata",
    "ChunkStorageMetadata",
    "Metadata",
    "MetadataIndex",
    "StorageMeta",
    "TensorProperties",
    "TensorStorageMetadata",
    "_MEM_FORMAT_ENCODING",
}


def read_shards(state: dict[str, Any], folder: Path, *, single_process: bool, planner: Any = None) -> None:
    """Load shards into the tensors of `state`. Raise OSError if they cannot be read, or if they hold other objects."""
    try:
        load(state, storage_reader=_Reader(folder), planner=planner or SafePlanner(), no_dist=single_process)
    except CheckpointException as err:
        raise OSError(first_cause(err)) from err


def first_cause(err: CheckpointException) -> str:
    rank, (cause, _) = next(iter(err.failures.items()))
    return f"rank {rank}: {cause}"


class SafePlanner(DefaultLoadPlanner):
    """Loads values that are not tensors only if they are numbers, texts and collections of them."""

    def load_bytes(self, read_item: ReadItem, value: BytesIO) -> None:
        torch.load(value, weights_only=True)  # raises an error for anything else; the same bytes are then loaded again
        value.seek(0)
        super().load_bytes(read_item, value)


class _Reader(FileSystemReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        file = Path(self.path) / METADATA
        with file.open("rb") as data:
            found = _Unpickler(data).load()
        if not isinstance(found, Metadata):
            raise pickle.UnpicklingError(f"{file} does not hold the metadata of a checkpoint")
        if found.storage_meta is None:
            found.storage_meta = StorageMeta()
        assert found.storage_meta is not None
        found.storage_meta.load_id = self.load_id
        return found


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_metadata = module == f"{_CHECKPOINT}.metadata" and name in ALLOWED_METADATA
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_metadata and not is_dtype and (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{METADATA} names {module}.{name}, which does not belong into a checkpoint")
        return cast(Any, super().find_class(module, name))
