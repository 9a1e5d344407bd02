"""The sending side of weight transfer: by file on one machine, or with vLLM's trainer engines on GPUs.

Written against vLLM 0.32. The GPU backends, "nccl" between GPUs and "ipc" within one, have not been run yet.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx2
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from rethink.errors import UserError, install_extra
from rethink.models.forward.embedding import tower_names
from rethink.models.language_model import LanguageModel
from rethink.models.lora import named_weights
from rethink.policies.vllm.plugin import FILES

Shapes = list[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class WeightSource:
    """The trainer's weights: `shapes` returns their Hugging Face names and shapes, tied ones once; `current` returns names
    and present values in the same order. A sharded trainer gathers them one by one: iterate to the end. `frozen` names
    those that training never changes, a vision tower's: servers get them with the first weights only."""

    shapes: Callable[[], Shapes]
    current: Callable[[], Iterable[tuple[str, Tensor]]]
    frozen: frozenset[str] = frozenset()


SHARED_MEMORY = Path("/dev/shm")


class Client(Protocol):
    """The client that passes a sender's calls to the servers, with the interface of vLLM's `VLLMWeightSyncClient`."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: dict[str, Any]) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...


def module_weights(model: LanguageModel) -> WeightSource:
    """Return the weights of a model that is whole in this process, with its adapter merged if it has one."""
    base = model.base or model  # has the same names and shapes, and nothing to merge
    return WeightSource(
        lambda: [(name, tuple(weight.shape)) for name, weight in named_weights(base)],
        lambda: named_weights(model),
        tower_names(base.module),
    )


def open_sender(
    backend: str, client: Client, weights: WeightSource, dtype: torch.dtype, url: str, world_size: int
) -> FileSender | VllmSender:
    """Return a sender for this backend. `world_size` counts the servers' workers; `url` is that of one server."""
    if backend == FILES:
        return FileSender(client, weights, dtype)
    if backend in ("nccl", "ipc"):
        return VllmSender(backend, client, weights, dtype, url, world_size)
    raise UserError(
        f'the weight transfer backend {backend!r} is not supported; start the servers with "nccl" or "{FILES}"'
    )


def shared_memory() -> Path | None:
    """Return a folder in memory that all processes of this machine see; None (the temporary folder) without one."""
    return SHARED_MEMORY if SHARED_MEMORY.is_dir() else None


class FileSender:
    """Send the weights as safetensors files on this machine: in /dev/shm if it exists, removed after each update."""

    def __init__(self, client: Client, weights: WeightSource, dtype: torch.dtype) -> None:
        self.client = client
        self.weights = weights
        self.dtype = dtype
        self.folder = Path(tempfile.mkdtemp(prefix="rethink-", dir=shared_memory()))
        self._remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._has_frozen = False
        probe = self.folder / "probe"
        probe.touch()
        client.init_weight_transfer_engine({"probe": str(probe)})

    def send(self) -> None:
        """Send the present weights to all servers: the first time all of them, later those that are not frozen. Raise
        UserError if a file cannot be written."""
        frozen: dict[str, Tensor] = {}
        trained: dict[str, Tensor] = {}
        for name, weight in self.weights.current():
            if name not in self.weights.frozen:
                trained[name] = weight.to("cpu", self.dtype).contiguous()
            elif not self._has_frozen:
                frozen[name] = weight.to("cpu", self.dtype).contiguous()
        with ExitStack() as files:
            once = files.enter_context(self._written("frozen", frozen)) if frozen else ""
            file = files.enter_context(self._written("weights", trained))
            self.client.start_weight_update()
            if once:
                self.client.update_weights({"file": once, "stays": True})
            self.client.update_weights({"file": file})
            self.client.finish_weight_update()
        self._has_frozen = True

    @contextmanager
    def _written(self, name: str, tensors: dict[str, Tensor]) -> Iterator[str]:
        """Write tensors to a file, which is removed at the end."""
        file = self.folder / f"{name}.safetensors"
        try:
            try:
                save_file(tensors, file)
            except (OSError, RuntimeError, SafetensorError) as err:
                raise UserError(f"cannot write the weights to {file}: {err}; is there enough memory for them?") from err
            yield str(file)
        finally:
            file.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder, which otherwise happens when this process ends."""
        self._remove()


class VllmSender:
    """Send the weights between GPUs with vLLM's own trainer engines."""

    def __init__(
        self, backend: str, client: Client, weights: WeightSource, dtype: torch.dtype, url: str, world_size: int
    ) -> None:
        try:
            from vllm.distributed import weight_transfer as vllm_transfer
        except ImportError as err:
            raise UserError(
                f"the backend {backend} needs vLLM in the trainer's environment too: {install_extra('vllm')}"
            ) from err

        self._frozen = weights.frozen
        self._sent: frozenset[str] = frozenset()  # and need not be sent again

        sender = self

        class Source(vllm_transfer.WeightSource):  # type: ignore[misc]
            def metadata(self) -> list[Any]:
                shapes = [(name, shape) for name, shape in weights.shapes() if name not in sender._sent]
                return [vllm_transfer.ParamMeta(name, dtype, shape) for name, shape in shapes]

            def __iter__(self) -> Iterator[tuple[str, Tensor]]:
                for name, weight in weights.current():
                    if name not in sender._sent:
                        yield name, weight.to(dtype)

        init: Any
        if backend == "ipc":
            from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

            init = IPCTrainerInitInfo(rank=0, packed=True)
        else:  # a separate group of trainer (rank 0) and workers, over a free port of this machine
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

            host, port = _local_address(url)
            init = NCCLTrainerInitInfo(rank=0, master_address=host, master_port=port, world_size=1 + world_size)
        self._engine = vllm_transfer.WeightTransferTrainerFactory.trainer_init(init, client=client, source=Source())

    def send(self) -> None:
        """Send the present weights to all servers: the first time all of them, later those that are not frozen."""
        self._engine.send_weights()
        self._sent = self._frozen

    def close(self) -> None:
        """Shut the engine down."""
        self._engine.shutdown()


def _local_address(url: str) -> tuple[str, int]:
    """Return the address of this machine as the server at `url` sees it, and a free port."""
    parsed = httpx2.URL(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parsed.host, parsed.port or 80))  # sends nothing
        host = str(probe.getsockname()[0])
    with socket.socket() as listening:
        listening.bind((host, 0))
        return host, int(listening.getsockname()[1])
