"""vLLM's plugin (entry point `vllm.general_plugins`), loaded in each of its processes: weight transfer without a GPU.

The trainer writes the weights to a file, in memory (/dev/shm) if possible, and vLLM's workers load it. This works on one
machine. vLLM has its own engines for GPUs, "nccl" and "ipc".
"""

from __future__ import annotations

FILES = "rethink-files"
"""The name of this transfer backend: `--weight-transfer-config '{"backend": "rethink-files"}'`."""


def register() -> None:
    """Register the engine with vLLM. May be called more than once."""
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    if FILES not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(FILES, "rethink.policies.vllm.files", "FilesEngine")
