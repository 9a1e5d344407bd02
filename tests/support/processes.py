"""Processes that start in milliseconds, forked from a server that has imported the package."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from rethink import jsonl

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["rethink.commands", "rethink.training.loop"])


def start(target: Callable[..., None], *args: object, output: Path | None = None) -> ForkServerProcess:
    """Run target(*args) in a new process, with stdout and stderr in the file `output`."""
    process = CONTEXT.Process(target=_run, args=(target, args, output), daemon=True)
    process.start()
    return process


def exit_code(process: ForkServerProcess, timeout_s: float = 300) -> int | None:
    """Wait for a process and return its exit code: minus the signal if it was killed, None after `timeout_s`."""
    process.join(timeout_s)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def wait_for(condition: Callable[[], bool], timeout_s: float = 300) -> None:
    """Wait until the condition holds, or raise TimeoutError."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition never came true")
        time.sleep(0.005)


def light() -> Iterator[None]:
    """For a fixture: use one thread, fastest for tiny models, and do not wait for the disk; so do child processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: None)
        yield
    torch.set_num_threads(before)


def write_to(file: Path | None) -> None:
    """In a new process: append its output to the file, and set it up as `light` does."""
    torch.set_num_threads(1)
    os.fsync = lambda fd: None
    if file is not None:
        with file.open("a") as end:
            os.dup2(end.fileno(), 1)
            os.dup2(end.fileno(), 2)


def _run(target: Callable[..., None], args: tuple[object, ...], output: Path | None) -> None:
    if output is not None:
        output.write_text("")
    write_to(output)
    target(*args)


def kill_while_appending(n: int, n_bytes: int | None) -> None:
    """Kill this process in its n-th append to a file of records, after `n_bytes` bytes of it (None: all of them)."""
    calls, write_records = iter(range(100)), jsonl.append

    def torn(file: Path, records: list[Any]) -> None:
        if next(calls) == n:
            with file.open("ab") as out:
                out.write("".join(jsonl.to_json(r) + "\n" for r in records).encode()[:n_bytes])
            os.kill(os.getpid(), signal.SIGKILL)
        write_records(file, records)

    setattr(jsonl, "append", torn)  # noqa: B010
