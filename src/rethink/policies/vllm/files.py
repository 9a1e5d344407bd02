"""The receiving side of weight transfer by file, in vLLM's worker processes; see `plugin`. Written against vLLM 0.32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferEngine
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload


@dataclass
class FilesInit(WeightTransferInitInfo):  # type: ignore[misc]
    """A file that this process must be able to see: else trainer and worker share no folder."""

    probe: str


@dataclass
class FilesUpdate(WeightTransferUpdateInfo):  # type: ignore[misc]
    """A safetensors file with all weights, in Hugging Face names."""

    file: str


class FilesEngine(WeightTransferEngine[FilesInit, FilesUpdate]):  # type: ignore[misc]
    """Loads all weights from a file on this machine."""

    init_info_cls = FilesInit
    update_info_cls = FilesUpdate

    def init_transfer_engine(self, init_info: FilesInit) -> None:
        """Raises ValueError where the trainer's folder cannot be seen from here."""
        if not Path(init_info.probe).is_file():
            raise ValueError(
                f"the trainer's {init_info.probe} is not to be seen here: rethink-files needs one machine, and the same "
                "/dev/shm; use the backend nccl between machines"
            )

    def start_weight_update(self) -> None:
        """Weights come in the checkpoint's form; vLLM brings each layer into its own once it is complete."""
        self._missing = {name for name, _ in self.model.named_parameters()}
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, str]) -> None:
        """As in the base class, without its wait for an accelerator."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: FilesUpdate) -> None:
        """Load the file. Raises ValueError for names that the model does not have."""
        try:
            self._missing -= self.model.load_weights(_tensors(update_info.file))
        except BaseException:
            self._finalize()  # else the next update would go on with what this one left half loaded
            raise

    def finish_weight_update(self) -> None:
        """Raises ValueError if a weight did not come: the model would be part old, part new."""
        missing = self._finalize()
        if missing:
            raise ValueError(f"these weights were not sent: {', '.join(sorted(missing)[:5])}")

    def shutdown(self) -> None:
        """There is nothing to release."""

    def _finalize(self) -> set[str]:
        """Ends the update; which weights did not come."""
        finalize_layerwise_reload(self.model, self.model_config)
        _pack_tied_head(self.model)
        missing, self._missing = self._missing, set()
        return missing


def _pack_tied_head(model: Any) -> None:
    """On a CPU vLLM multiplies by a packed copy of each matrix. Nothing is loaded into a head that is tied to the
    embedding, so that its copy would stay that of the first weights."""
    head: Any = getattr(model, "lm_head", None)
    if getattr(model.config, "tie_word_embeddings", False) and hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)


def _tensors(file: str) -> Iterator[tuple[str, Tensor]]:
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118  (it is no mapping)
            yield name, tensors.get_tensor(name)
