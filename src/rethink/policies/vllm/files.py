"""The receiving side of weight transfer by file, in vLLM's workers; see `plugin`. Written against vLLM 0.32."""

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
    """A file that this process must be able to see; otherwise trainer and worker share no folder."""

    probe: str


@dataclass
class FilesUpdate(WeightTransferUpdateInfo):  # type: ignore[misc]
    """A safetensors file with weights, by their Hugging Face names. Those that stay are not sent in later updates."""

    file: str
    stays: bool = False


class FilesEngine(WeightTransferEngine[FilesInit, FilesUpdate]):  # type: ignore[misc]
    """Load all weights from files on this machine."""

    _staying: frozenset[str] = frozenset()  # loaded in an earlier update
    init_info_cls = FilesInit
    update_info_cls = FilesUpdate

    def init_transfer_engine(self, init_info: FilesInit) -> None:
        """Raise ValueError if this process cannot see the trainer's folder."""
        if not Path(init_info.probe).is_file():
            raise ValueError(
                f"the trainer's {init_info.probe} is not visible here: rethink-files needs one machine with one /dev/shm; "
                "use the backend nccl between machines"
            )

    def start_weight_update(self) -> None:
        """Prepare for weights in the checkpoint's format; vLLM converts each layer once it is complete."""
        # With --enable-lora, layers are wrapped, but weights are loaded by the names that they have without it.
        names = {name.replace(".base_layer.", ".") for name, _ in self.model.named_parameters()}
        self._missing = names - self._staying
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, str]) -> None:
        """Do as the base class does, but do not wait for an accelerator."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: FilesUpdate) -> None:
        """Load the file. Raise ValueError for names that the model does not have."""
        try:
            loaded = self.model.load_weights(_tensors(update_info.file))
            self._missing -= loaded
            self._staying |= loaded if update_info.stays else set()
        except BaseException:
            self._finalize()  # otherwise the next update would start from half-loaded weights
            raise

    def finish_weight_update(self) -> None:
        """Raise ValueError if a weight is missing: the model would be part old, part new."""
        missing = self._finalize()
        if missing:
            raise ValueError(f"these weights were not sent: {', '.join(sorted(missing)[:5])}")

    def shutdown(self) -> None:
        """Do nothing: there is nothing to release."""

    def _finalize(self) -> set[str]:
        """End the update and return the names of missing weights."""
        finalize_layerwise_reload(self.model, self.model_config)
        _pack_tied_head(self.model)
        missing, self._missing = self._missing, set()
        return missing


def _pack_tied_head(model: Any) -> None:
    """Refresh the packed copy of a tied head. On a CPU vLLM multiplies by a packed copy of each matrix, and loading never
    touches a head that is tied to the embedding, so its copy would stay at the first weights."""
    parts = [model]
    if hasattr(model, "get_language_model"):  # a vision-language model
        parts.append(model.get_language_model())
    for part in parts:
        head: Any = getattr(part, "lm_head", None)
        if getattr(part.config, "tie_word_embeddings", False) and hasattr(head, "cpu_linear"):
            head.quant_method.process_weights_after_loading(head)


def _tensors(file: str) -> Iterator[tuple[str, Tensor]]:
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118  (not a mapping)
            yield name, tensors.get_tensor(name)
