"""Colocated vLLM: a server that only this process uses, that runs on its device and ends with it.

The server is a separate process, so threads, process groups and crashes of the two do not interfere. It listens on a Unix
socket that only this user can open.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rethink.errors import UserError
from rethink.models.device import cache_bytes
from rethink.policies.vllm.plugin import FILES
from rethink.policies.vllm.server import Server
from rethink.settings import Sampler

STARTUP_S = 1800.0
API_SERVER = "vllm.entrypoints.launchers.api_server.entry"
"""The module that `vllm serve` runs. The command itself does not start in the CPU build, a package of another name."""

TORCHRUN_VARIABLES = {
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "ROLE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
}
"""Variables that torchrun sets for the trainer's processes; vLLM must not see them."""


class StartError(UserError):
    """A colocated server did not start; the message has the end of its log."""


@dataclass(frozen=True)
class ColocatedModel:
    """The model that the server loads: a folder or hub name, or only its configuration with `random` weights.

    `max_lora_rank` is the largest rank of adapters that it can load, 0 if none, and `lora_modules` names their layers. If
    it `takes_images`, they get the fewest and the most `pixels` of the trainer's processor (None: it has no bounds)."""

    path: str
    device: torch.device
    dtype: torch.dtype
    max_model_len: int
    random: bool = False
    max_lora_rank: int = 0
    lora_modules: Sequence[str] = ()
    takes_images: bool = False
    pixels: tuple[int, int] | None = None


def start_colocated(model: ColocatedModel, settings: Sampler) -> Server:
    """Return a running server. Raise StartError, with the end of the server's log, if it does not start."""
    folder = Path(tempfile.mkdtemp(prefix="rethink-vllm-"))  # mode 0700
    path, log = folder / "socket", folder / "log"
    watchdog = [sys.executable, "-m", "rethink.policies.vllm.watchdog"]
    with log.open("w") as out:
        process = subprocess.Popen(
            watchdog + server_command(model, settings, str(path)),
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=server_environment(model, os.environ),
            start_new_session=True,  # only the trainer gets Ctrl-C, and finishes its batch first
        )
    server = Server("http://colocated-vllm", socket=str(path), timeout_s=settings.timeout_s)
    stop = weakref.finalize(server, _stop, process, folder)
    server.on_close = stop
    try:
        _wait_until_ready(server, process, log)
    except BaseException:
        stop()
        raise
    return server


def server_command(model: ColocatedModel, settings: Sampler, path: str) -> list[str]:
    """Return the command that starts the server, listening on the Unix socket at `path`."""
    gpu = model.device.type == "cuda"
    # With --tokens-only, there is no tokenizer, which image processors need.
    tokens_only = "--enable-scale-out" if model.takes_images else "--tokens-only"
    words = [sys.executable, "-m", API_SERVER, "--model", model.path, "--uds", path, tokens_only]
    words += ["--logprobs-mode", "processed_logprobs", "--enable-prefix-caching"]
    words += ["--max-model-len", str(model.max_model_len), "--dtype", str(model.dtype).removeprefix("torch.")]
    words += ["--load-format", "dummy" if model.random else "auto"]
    words += ["--weight-transfer-config", f'{{"backend": "{"ipc" if gpu else FILES}"}}']
    if model.pixels is not None:
        size = dict(zip(("shortest_edge", "longest_edge"), model.pixels, strict=True))
        words += ["--mm-processor-kwargs", json.dumps({"size": size})]
    if model.max_lora_rank:
        words += ["--enable-lora", "--max-lora-rank", str(model.max_lora_rank)]
        # Without this list, the output layer is wrapped too, and scoring several replies at once ends vLLM 0.32 on a CPU.
        words += ["--lora-target-modules", *model.lora_modules]
    if gpu:
        return [*words, "--gpu-memory-utilization", f"{settings.gpu_memory:g}", "--enable-sleep-mode"]
    n_bytes = int(settings.cache_gib * 2**30) or cache_bytes(model.device)
    return [*words, "--kv-cache-memory-bytes", str(n_bytes), "--enforce-eager"]


def server_environment(model: ColocatedModel, given: Mapping[str, str]) -> dict[str, str]:
    """Return the server's environment: `given` without torchrun's variables, with only the model's device visible."""
    kept = {k: v for k, v in given.items() if k not in TORCHRUN_VARIABLES and not k.startswith("TORCHELASTIC_")}
    # Handles of GPU memory are pickled. They come from this process, over a socket that no one else can open.
    added = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_INSECURE_SERIALIZATION": "1", "VLLM_NO_USAGE_STATS": "1"}
    if model.max_lora_rank:
        added["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if model.device.type == "cuda":
        visible = [name for name in given.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        index = model.device.index or 0
        return {**kept, **added, "CUDA_VISIBLE_DEVICES": visible[index] if visible else str(index)}
    threads = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return {**kept, **added, **threads}


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTUP_S
    while process.poll() is None and time.monotonic() < deadline:
        if _accepts_connections(str(server.socket)) and server.reconnect():
            return
        time.sleep(0.1)
    raise StartError(f"vLLM did not start; the end of its log:\n{_tail(log)}")


def _accepts_connections(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def _tail(log: Path, n: int = 25) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(lines[-n:])


def _stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Close the watchdog's input, which makes it end the server, and remove the server's folder."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)
