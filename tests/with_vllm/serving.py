"""A vLLM server, started as users start it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2

from rethink.policies.vllm.colocated import API_SERVER

STARTUP_S = 900.0
"""Far more than a start takes, even on a busy machine."""


class Served:
    """A server on loopback, started with the command in docs/vllm.md and `more`; its output goes to the file `log`."""

    def __init__(self, model: Path, log: Path, *more: str) -> None:
        self.model = model
        self.more = more
        self.log = log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start the process; `wait` until it answers."""
        command = [
            *(sys.executable, "-m", API_SERVER, "--model", str(self.model)),
            *("--host", "127.0.0.1", "--port", str(self.port), "--enable-scale-out", "--dtype", "float32"),
            *("--logprobs-mode", "processed_logprobs", "--weight-transfer-config", '{"backend": "rethink-files"}'),
            *("--max-model-len", "512", "--kv-cache-memory-bytes", str(2**26), "--enforce-eager"),
            *self.more,
        ]
        settings = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
        settings["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        with self.log.open("a") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **settings}, start_new_session=True
            )

    def wait(self) -> Served:
        """Wait until the server answers."""
        end = time.monotonic() + STARTUP_S
        while self.process.poll() is None and time.monotonic() < end:
            try:
                if httpx2.get(f"{self.url}/health").is_success:
                    return self
            except httpx2.TransportError:
                time.sleep(0.2)
        raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """Kill the server and its children."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def metric(self, name: str) -> float:
        """Return the sum of one of the server's counters."""
        lines = httpx2.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))
