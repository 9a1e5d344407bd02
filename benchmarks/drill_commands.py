"""What the parts of the drill share: the record of a trial, and the command line in a child process that can be ended."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["drill_commands", "rethink.cli", "rethink.training.loop", "rethink.commands.evaluate"])
TIMEOUT_S = 240.0
FAILURES = ("lost", "hung", "crashed", "code ran", "wrong called right", "silent")
HELD = "held"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Trial:
    """One trial. `outcome` is "held" or one of FAILURES; `name` says what was tried, and is unique within its part."""

    name: str
    kind: str
    outcome: str
    detail: str = ""
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (minus a signal; None if it hung), its output and its seconds."""

    code: int | None
    output: str
    seconds: float

    @property
    def tail(self) -> str:
        return " | ".join(self.output.strip().splitlines()[-3:])[-400:]


class Command:
    """`rethink ARGUMENTS` in its own process group, with `folder` as the current directory."""

    def __init__(self, folder: Path, arguments: list[str], env: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "output.txt"
        self._start = time.monotonic()
        self._process: ForkServerProcess = CONTEXT.Process(
            target=_run, args=(folder, arguments, self.log, env or {}), daemon=True
        )
        self._process.start()

    def end_after(self, seconds: float, number: int) -> bool:
        """Send a signal to the process after some seconds. Return False if it had ended before."""
        self._process.join(seconds)
        if not self._process.is_alive():
            return False
        assert self._process.pid is not None
        try:
            os.kill(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def wait(self, timeout_s: float = TIMEOUT_S) -> Ended:
        """Wait for the end of the process; kill it after the timeout."""
        self._process.join(timeout_s)
        hung = self._process.is_alive()
        if hung:
            self._process.kill()
            self._process.join()
        code = None if hung else self._process.exitcode
        output = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return Ended(code, output, time.monotonic() - self._start)


def run(folder: Path, arguments: list[str], env: dict[str, str] | None = None) -> Ended:
    """Run a command to its end."""
    return Command(folder, arguments, env).wait()


def _run(folder: Path, arguments: list[str], log: Path, env: dict[str, str]) -> None:
    import torch

    from rethink.cli import main

    torch.set_num_threads(1)
    os.setsid()
    os.environ.update(env)
    os.chdir(folder)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["rethink", *arguments]
    code = 1
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # what a user would see as a traceback
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def digest(folder: Path) -> dict[str, str]:
    """Return a hash per file of a folder, without measured seconds and what follows from them."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != MANIFEST:  # it has the hashes of the other files
            found[file.relative_to(folder).as_posix()] = hashlib.sha256(_contents(file)).hexdigest()
    return found


def _contents(file: Path) -> bytes:
    if file.suffix not in (".jsonl", ".json"):
        return file.read_bytes()
    text = file.read_text(encoding="utf-8")
    lines = []
    for line in text.split("\n") if file.suffix == ".jsonl" else [text]:
        try:
            lines.append(json.dumps(without_seconds(json.loads(line or "null"))))
        except ValueError:
            return file.read_bytes()
    return "\n".join(lines).encode()


def without_seconds(value: object) -> object:
    if isinstance(value, dict):
        measured = [
            key for key in value if key.endswith(("_s", "seconds")) or key == "logs"
        ]  # a checkpoint's log hashes
        return {key: without_seconds(item) for key, item in value.items() if key not in measured}
    if isinstance(value, list):
        return [without_seconds(item) for item in value]
    return value


def difference(wanted: dict[str, str], got: dict[str, str]) -> str:
    """Return the first files that differ; "" if there are none."""
    names = sorted(name for name in {*wanted, *got} if wanted.get(name) != got.get(name))
    return ", ".join(names[:4])
