"""vLLM beside the trainer: a server for this process alone, on its device, that ends with it.

It is a process of its own, so that neither's threads, process groups or crashes disturb the other, behind a Unix socket
that only this user can open.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from rethink.errors import UserError
from rethink.models.device import cache_bytes
from rethink.policies.vllm.plugin import FILES
from rethink.policies.vllm.server import Server
from rethink.settings import Sampler

STARTUP_S = 1800.0
SERVE = "vllm.entrypoints.launchers.api_server.entry"
"""What `vllm serve` runs. The command itself does not start in the CPU build, which is a package of another name."""

LAUNCHER = {
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "ROLE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
}
"""What torchrun tells the trainer's processes, and vLLM must not take for its own."""


@dataclass(frozen=True)
class OwnModel:
    """What the server loads and how: a folder or hub name, or its configuration alone (`random`)."""

    path: str
    device: torch.device
    dtype: torch.dtype
    max_model_len: int
    random: bool = False


def start_own(model: OwnModel, settings: Sampler) -> Server:
    """Return a running server. Raises UserError with the end of what it wrote where it does not start."""
    folder = Path(tempfile.mkdtemp(prefix="rethink-vllm-"))  # mode 0700
    path, log = folder / "socket", folder / "log"
    watchdog = [sys.executable, "-m", "rethink.policies.vllm.watchdog"]
    with log.open("w") as out:
        process = subprocess.Popen(
            watchdog + command(model, settings, str(path)),
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment(model, os.environ),
            start_new_session=True,  # Ctrl-C is for the trainer, which ends its batch first
        )
    server = Server("http://colocated-vllm", socket=str(path), timeout_s=settings.timeout_s)
    end = weakref.finalize(server, _end, process, folder)
    server.on_close = end
    try:
        _wait(server, process, log)
    except BaseException:
        end()
        raise
    return server


def command(model: OwnModel, settings: Sampler, path: str) -> list[str]:
    """Return how the server is started."""
    gpu = model.device.type == "cuda"
    words = [sys.executable, "-m", SERVE, "--model", model.path, "--uds", path, "--tokens-only"]
    words += ["--logprobs-mode", "processed_logprobs", "--enable-prefix-caching"]
    words += ["--max-model-len", str(model.max_model_len), "--dtype", str(model.dtype).removeprefix("torch.")]
    words += ["--load-format", "dummy" if model.random else "auto"]
    words += ["--weight-transfer-config", f'{{"backend": "{"ipc" if gpu else FILES}"}}']
    if gpu:
        return [*words, "--gpu-memory-utilization", f"{settings.gpu_memory:g}", "--enable-sleep-mode"]
    n_bytes = int(settings.cache_gib * 2**30) or cache_bytes(model.device)
    return [*words, "--kv-cache-memory-bytes", str(n_bytes), "--enforce-eager"]


def environment(model: OwnModel, given: Mapping[str, str]) -> dict[str, str]:
    """The server's environment: the one device, and none of what torchrun told the trainer."""
    kept = {k: v for k, v in given.items() if k not in LAUNCHER and not k.startswith("TORCHELASTIC_")}
    # Handles of GPU memory are pickled; they come from this process, over a socket that is closed to others.
    added = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_INSECURE_SERIALIZATION": "1", "VLLM_NO_USAGE_STATS": "1"}
    if model.device.type == "cuda":
        visible = [name for name in given.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        index = model.device.index or 0
        return {**kept, **added, "CUDA_VISIBLE_DEVICES": visible[index] if visible else str(index)}
    threads = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return {**kept, **added, **threads}


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTUP_S
    while process.poll() is None and time.monotonic() < deadline:
        if _listens(str(server.socket)) and server.look_again():
            return
        time.sleep(0.1)
    raise UserError(f"vLLM did not start; the end of what it wrote:\n{_tail(log)}")


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def _tail(log: Path, n: int = 25) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(lines[-n:])


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    """The watchdog ends the server when its input closes."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)
