"""A server in a process of the tests, on a free port of loopback."""

from __future__ import annotations

import re
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import httpx2
import openai

from support.processes import start, wait_for
from support.serving import command_line_with

ADDRESS = re.compile(r"serving at (http://127\.0\.0\.1:\d+)/v1")


@dataclass(frozen=True)
class Running:
    """A server process. The file `log` holds what it prints."""

    process: ForkServerProcess
    log: Path
    url: str

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=300)

    def metric(self, name: str, key: str = "none") -> float:
        """Return a number of /metrics."""
        text = httpx2.get(f"{self.url}/metrics", trust_env=False, headers={"Authorization": f"Bearer {key}"}).text
        return float(re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[0])


def start_server(folder: Path, *options: object, environment: dict[str, str] | None = None) -> Running:
    """Start a server on a free port, and wait until it listens."""
    log = folder / "log"
    arguments = "serve", *options, "--port", 0
    process = start(command_line_with, environment or {}, *arguments, output=log)
    wait_for(lambda: bool(ADDRESS.search(log.read_text() if log.exists() else "")) or not process.is_alive(), 120)
    found = ADDRESS.search(log.read_text())
    assert found, log.read_text()
    return Running(process, log, found[1])
