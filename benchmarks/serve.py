"""Many streams at once against `rethink serve`, on loopback: `python benchmarks/serve.py --requests 1000 --streams 200`.

Starts the server with a model of the package, sends requests that each ask for a draft and its refinement, and prints the
seconds until the first text and until the end, tokens per second, and the server's memory before and after. As many
requests as streams go first and are not counted. Client and server share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2


@dataclass(frozen=True)
class Streamed:
    """What one request took: seconds until the first text and until the end, and the tokens that it sampled."""

    first_s: float
    whole_s: float
    n_tokens: int


async def stream(client: httpx2.AsyncClient, model: str, question: str, seed: int) -> Streamed:
    """Ask a question and read the reply to its end. Raise RuntimeError if there is none."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "seed": seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    start, first, n_tokens, is_done = time.perf_counter(), 0.0, 0, False
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            first = first or time.perf_counter()
            is_done = is_done or line == "data: [DONE]"
            if '"usage"' in line:
                n_tokens = json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"]
    if answer.status_code != 200 or not is_done:
        raise RuntimeError(f"request {seed} failed with HTTP {answer.status_code}")
    return Streamed(first - start, time.perf_counter() - start, n_tokens)


async def load(url: str, model: str, n_requests: int, n_streams: int, seed: int) -> tuple[list[Streamed], float]:
    """Return what each request took, with `n_streams` at a time, and the seconds of all."""
    rng = random.Random(seed)
    questions: list[str] = []
    for _ in range(n_requests):
        lines = [f"{rng.randint(1, 12)} {rng.randint(1, 12)} -> {rng.randint(1, 24)}" for _ in range(3)]
        questions.append(" ; ".join(lines))
    waiting = iter(enumerate(questions))
    found: list[Streamed] = []
    limits = httpx2.Limits(max_connections=n_streams)
    async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=600, limits=limits) as client:

        async def work() -> None:
            for k, question in waiting:
                found.append(await stream(client, model, question, seed + k))

        start = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(n_streams)))
    return found, time.perf_counter() - start


def memory_mib(pid: int) -> float:
    """Return the memory of a process that is in use, in MiB."""
    [line] = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(line) / 1024


def percentiles(values: Sequence[float]) -> str:
    """Return median, 90th and 99th percentile in seconds."""
    cuts = statistics.quantiles(values, n=100)
    return f"median {cuts[49]:.2f} s, 90% {cuts[89]:.2f} s, 99% {cuts[98]:.2f} s"


def start_server(model: str, n_streams: int, settings: Sequence[str]) -> tuple[subprocess.Popen[str], str]:
    """Start a server on a free port; return it with its address."""
    command = [sys.executable, "-m", "rethink", "serve", model, "--recipe", "demo-gsr", "--port", "0"]
    command += ["--concurrency", str(n_streams), "--queue", str(n_streams), *settings]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        print(line, end="")
        found = re.search(r"serving at (http://127\.0\.0\.1:\d+)/", line)
        if found:
            return server, found[1]
    raise RuntimeError("the server did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny-signs")
    parser.add_argument("--strategy", default="refine")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("settings", nargs="*", help="settings of the server, such as sampler.cache_gib=0.25")
    given = parser.parse_args()
    server, url = start_server(given.model, given.streams, given.settings)
    name = f"{given.model}+{given.strategy}"
    try:
        asyncio.run(load(url, name, given.streams, given.streams, 0))
        before = memory_mib(server.pid)
        found, seconds = asyncio.run(load(url, name, given.requests, given.streams, 10_000))
        after = memory_mib(server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    n_tokens = sum(one.n_tokens for one in found)
    print(f"{len(found)} requests to {name}, {given.streams} at a time: {seconds:.1f} s, none failed")
    print(f"{len(found) / seconds:.1f} requests/s, {n_tokens / seconds:.0f} sampled tokens/s")
    print(f"first text: {percentiles([one.first_s for one in found])}")
    print(f"whole reply: {percentiles([one.whole_s for one in found])}")
    print(f"memory of the server: {before:.0f} MiB before, {after:.0f} MiB after")


if __name__ == "__main__":
    main()
