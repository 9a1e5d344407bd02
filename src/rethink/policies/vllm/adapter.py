"""The sending side of adapters: vLLM keeps the base model and loads each version of the LoRA adapter from a folder.

Written against vLLM 0.32: `--enable-lora`, and its routes to load and unload adapters
(VLLM_ALLOW_RUNTIME_LORA_UPDATING=1).
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from rethink.errors import UserError
from rethink.models import lora
from rethink.models.language_model import LanguageModel
from rethink.policies.vllm.transfer import Shapes, shared_memory

MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM accepts for `--max-lora-rank`; adapters of a smaller rank are padded with zeros."""


@dataclass(frozen=True)
class AdapterSource:
    """The trainer's adapter: `peft`'s config, the parameters' names and shapes, and names and present values.

    A sharded trainer gathers the values one by one: iterate to the end."""

    config: Any
    shapes: Callable[[], Shapes]
    current: Callable[[], Iterable[tuple[str, Tensor]]]

    @property
    def rank(self) -> int:
        """The largest rank of a layer."""
        return max([self.config.r, *self.config.rank_pattern.values()])

    @property
    def modules(self) -> list[str]:
        """The last parts of the names of its layers, such as "q_proj"."""
        return sorted({name.partition(".lora_")[0].rpartition(".")[2] for name, _ in self.shapes()})


class Client(Protocol):
    """What passes the folder of a new version to the servers."""

    def load_adapter(self, folder: Path) -> None: ...


def module_adapter(model: LanguageModel) -> AdapterSource | None:
    """Return the adapter of a model that is whole in this process; None without one."""
    if model.base is None:
        return None
    parameters = lora.adapter_parameters(model.module)
    return AdapterSource(
        model.module.peft_config[lora.NAME],
        lambda: [(name, tuple(p.shape)) for name, p in parameters.items()],
        parameters.items,
    )


def why_merged(adapter: AdapterSource, random: bool) -> str:
    """Return why vLLM cannot use this adapter, as far as that is known before it starts; "" if nothing speaks against it.

    Adapters that are more than LoRA (`modules_to_save`, biases, DoRA) are refused when they are loaded."""
    if random:
        return "the base model's random weights exist only in the trainer"
    if adapter.rank > MAX_RANKS[-1]:
        return f"vLLM's largest rank is {MAX_RANKS[-1]}, but lora.rank = {adapter.rank}"
    return ""


def max_lora_rank(rank: int) -> int:
    """Return vLLM's smallest `--max-lora-rank` for this rank."""
    return next(largest for largest in MAX_RANKS if largest >= rank)


def write_zeros(adapter: AdapterSource, folder: Path) -> None:
    """Write an adapter of the same layers that changes nothing, to see whether vLLM accepts it."""
    _write(adapter, folder, {name: torch.zeros(shape) for name, shape in adapter.shapes()})


class AdapterSender:
    """Send the adapter as a folder on this machine: in /dev/shm if it exists, a new one for each version.

    vLLM's prefix cache tells adapters apart by name and folder, so no version may have those of another one. A folder is
    removed when its successor has been loaded: until then, vLLM may read it again."""

    def __init__(self, client: Client, adapter: AdapterSource, dtype: torch.dtype) -> None:
        self.client = client
        self.adapter = adapter
        self.dtype = dtype
        self.folder = Path(tempfile.mkdtemp(prefix="rethink-", dir=shared_memory()))
        self.n_sent = 0
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def send(self) -> None:
        """Send the present adapter to all servers. Raise UserError if the folder cannot be written."""
        before, folder = self.folder / str(self.n_sent), self.folder / str(self.n_sent + 1)
        self.n_sent += 1
        folder.mkdir()
        tensors = {name: tensor.detach().to("cpu", self.dtype) for name, tensor in self.adapter.current()}
        _write(self.adapter, folder, tensors)
        self.client.load_adapter(folder)
        shutil.rmtree(before, ignore_errors=True)

    def close(self) -> None:
        """Remove the folder, which otherwise happens when this process ends."""
        self._remove()


def _write(adapter: AdapterSource, folder: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        lora.write_adapter(folder, adapter.config, tensors)
    except (OSError, RuntimeError, SafetensorError) as err:
        raise UserError(f"cannot write the adapter to {folder}: {err}; is there enough memory for it?") from err
