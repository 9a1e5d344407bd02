"""What vLLM loads in each of its processes (entry point `vllm.general_plugins`): weight transfer for where there is no GPU.

The trainer writes the weights into a file that both see, best in memory (/dev/shm); the workers load it. That is enough for
one machine. vLLM brings its own engines for GPUs, "nccl" and "ipc".
"""

from __future__ import annotations

FILES = "rethink-files"
"""The name of this way to transfer weights: `--weight-transfer-config '{"backend": "rethink-files"}'`."""


def register() -> None:
    """Make the engine known to vLLM. May be called more than once."""
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    if FILES not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(FILES, "rethink.policies.vllm.files", "FilesEngine")
