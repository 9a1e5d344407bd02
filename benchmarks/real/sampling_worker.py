"""One engine of `sampling.py`, in a process of its own: `python sampling_worker.py JOB.json`.

It may run in an environment without rethink. A job names the engine, the model, the threads and the measurements to make.
A line of JSON is printed when the engine is ready, and one after each measurement; whatever else is printed goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

N_CHECKED = 8
"""Each engine first continues a prompt greedily by so many tokens. All should agree, but for rounding."""


@dataclass(frozen=True)
class Replies:
    """The ids of the replies, the seconds until every row has its first token and until all is done, and the number of
    tokens that were sampled in between."""

    ids: list[list[int]]
    first_s: float
    total_s: float
    n_after_first: int


class Engine(Protocol):
    """What `open_engine(job)` of a module engine_NAME returns."""

    version: str

    def generate(self, prompts: Sequence[Sequence[int]], n_tokens: int, *, greedy: bool) -> Replies:
        """Return exactly `n_tokens` tokens for each prompt, at temperature 1 or greedily; nothing ends a reply earlier."""
        ...


def main(file: str) -> None:
    job = json.loads(Path(file).read_text())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print, also from C

    def say(record: dict[str, Any]) -> None:
        print(json.dumps(record), file=answers, flush=True)

    engine: Engine = importlib.import_module(f"real.engine_{job['engine']}").open_engine(job)
    start = engine.generate([job["checked_prompt"]], N_CHECKED, greedy=True)
    say({"version": engine.version, "start": start.ids[0]})
    for n_rows in job["rows"]:
        if time.time() > job["deadline"]:
            break
        say({"rows": n_rows, **measure(engine, job["prompts"][:n_rows], job["reply_tokens"])})


def measure(engine: Engine, prompts: Sequence[Sequence[int]], n_tokens: int) -> dict[str, float]:
    """Return the seconds, rates and peak memory of one batch. Raise ValueError if a reply has another length."""
    reset_peak()
    found = engine.generate(prompts, n_tokens, greedy=False)
    if len(found.ids) != len(prompts) or any(len(ids) != n_tokens for ids in found.ids):
        raise ValueError(f"not {len(prompts)} replies of {n_tokens} tokens: {[len(ids) for ids in found.ids]}")
    decoding_s = found.total_s - found.first_s
    return {
        "first_token_s": found.first_s,
        "total_s": found.total_s,
        "tokens_per_s": len(prompts) * n_tokens / found.total_s,
        "steps_per_s": found.n_after_first / len(prompts) / decoding_s,
        "peak_bytes": peak_bytes(),
    }


def reset_peak() -> None:
    """Begin a new measurement of this process's peak memory, where the system can do so."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def peak_bytes() -> int:
    """Return the most memory that this process has had at once since `reset_peak`, weights and mapped files included."""
    file = Path("/proc/self/status")
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(sys.argv[1])
