"""Start the ranks of a run: with torchrun, or forked with its environment variables, which saves ten seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from torch._C._distributed_c10d import TCPStore

from support.processes import CONTEXT, start

PRELOADED = ["rethink.commands", "rethink.training.loop", "rethink.training.fsdp.shard_model", "torchao.optim"]
CONTEXT.set_forkserver_preload(PRELOADED)  # modules that are not installed are skipped

TIMEOUT_S = 240.0
"""Far more than any test here takes."""


@dataclass(frozen=True)
class RankExit:
    """The exit code of a process (None if it had to be killed) and its output."""

    code: int | None
    text: str


def torchrun(n: int, *arguments: object, options: Sequence[str] = (), env: Mapping[str, str] | None = None) -> RankExit:
    """Run `torchrun --nproc-per-node n -m rethink ...`, with the tests' modules importable."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", *options]
    folder = Path(__file__).parent.parent
    path = [str(folder.parent / "src"), str(folder)]
    process = subprocess.Popen(
        [*command, "-m", "rethink", *map(str, arguments)],
        env={**os.environ, **(env or {}), "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        text, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun then ends its processes; after a kill they would stay
        text, _ = process.communicate()
        return RankExit(None, text)
    return RankExit(process.returncode, text)


class RankProcesses:
    """n processes that run target(*arguments) as ranks 0 to n - 1. Unlike torchrun, nothing ends the others with one."""

    def __init__(
        self,
        n: int,
        target: Callable[..., None],
        *arguments: object,
        folder: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
        folder.mkdir(parents=True, exist_ok=True)
        common = {
            **{"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1"},
            **{"MASTER_PORT": str(self._store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"},
            **{"TORCHELASTIC_RESTART_COUNT": "0", **(env or {})},
        }
        self._files = [folder / f"rank-{rank}.txt" for rank in range(n)]
        self.processes: list[ForkServerProcess] = [
            start(_run_rank, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, target, arguments, output=file)
            for rank, file in enumerate(self._files)
        ]

    def wait(self, ranks: Sequence[int] | None = None, timeout_s: float = TIMEOUT_S) -> list[RankExit]:
        """Wait for these ranks (by default all) to end, kill the others, and return how each ended."""
        limit = time.monotonic() + timeout_s
        waited = range(len(self.processes)) if ranks is None else ranks
        for rank in waited:
            self.processes[rank].join(max(0.0, limit - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
            process.join()
        return [
            RankExit(codes[rank] if rank in waited else None, file.read_text()) for rank, file in enumerate(self._files)
        ]


def run_ranks(
    n: int, target: Callable[..., None], *arguments: object, folder: Path, timeout_s: float = TIMEOUT_S, **more: Any
) -> list[RankExit]:
    """Run target(*arguments) on n ranks and return how each ended."""
    return RankProcesses(n, target, *arguments, folder=folder, **more).wait(timeout_s=timeout_s)


def assert_success(exits: Sequence[RankExit]) -> None:
    assert [e.code for e in exits] == [0] * len(exits), report(exits)


def assert_refused(exits: Sequence[RankExit], *words: str) -> None:
    """Assert that every rank ends with exit code 2, and that one prints one message, with these words."""
    assert [e.code for e in exits] == [2] * len(exits), report(exits)
    messages = [line for e in exits for line in e.text.splitlines() if line.startswith("rethink: ")]
    assert len(messages) == 1, report(exits)
    assert [word for word in words if word not in messages[0]] == [], messages[0]
    assert "Traceback" not in report(exits), report(exits)


def assert_lost(exit: RankExit, rank: int = 0) -> None:
    """Assert that this rank ended with one message: another rank is lost."""
    assert exit.code == 2, exit.text
    messages = [line for line in exit.text.splitlines() if line.startswith("rethink: ")]
    assert len(messages) == 1, exit.text
    assert f"rethink: rank {rank} got no answer from the others: one has ended, or took longer than" in messages[0]
    assert "the last checkpoint is untouched, resume from it with --resume" in messages[0]
    assert "Traceback" not in exit.text


def report(exits: Sequence[RankExit]) -> str:
    """Return the output of all ranks, for the message of a failed assertion."""
    return "".join(f"\n--- rank {k}, exit code {e.code}\n{e.text}" for k, e in enumerate(exits))


def _run_rank(env: dict[str, str], target: Callable[..., None], arguments: Sequence[object]) -> None:
    os.environ.update(env)
    target(*arguments)
