"""A run in several processes: started by torchrun, or forked and told what torchrun tells, which saves its ten seconds."""

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

import pytest
from torch._C._distributed_c10d import TCPStore

from rethink import cli
from support.processes import CONTEXT, start, write_to

CONTEXT.set_forkserver_preload(
    ["rethink.commands", "rethink.training.loop", "rethink.training.fsdp.build", "torchao.optim"]
)
"""The last is passed over where it is not installed; each process would take three seconds to import it."""

TIMEOUT_S = 240.0
"""Far more than anything here takes: a test that gets there hangs."""


@dataclass(frozen=True)
class Ended:
    """How a process ended (None: it had to be killed), and what it wrote."""

    code: int | None
    text: str


def torchrun(n: int, *arguments: object, options: Sequence[str] = (), told: Mapping[str, str] | None = None) -> Ended:
    """`torchrun --nproc-per-node n -m rethink ...` where the modules of the tests are found; `told` is its environment."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", *options]
    folder = Path(__file__).parent.parent
    path = [str(folder.parent / "src"), str(folder)]
    process = subprocess.Popen(
        [*command, "-m", "rethink", *map(str, arguments)],
        env={**os.environ, **(told or {}), "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        text, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.terminate()  # it then ends its processes, which a kill would leave behind
        text, _ = process.communicate()
        return Ended(None, text)
    return Ended(process.returncode, text)


def torchrun_forked(
    n: int, *arguments: object, file: Path, options: Sequence[str] = (), told: Mapping[str, str] | None = None
) -> Ended:
    """The same with torchrun's agent, its environment, its watch over the ranks and its restarts, but the processes are
    forked, and need no seconds for imports each time. What they write goes to `file`."""
    agent = CONTEXT.Process(target=_agent, args=(n, arguments, file, tuple(options), dict(told or {})))
    agent.start()
    agent.join(TIMEOUT_S)
    if agent.exitcode is None:
        agent.terminate()  # it then ends its processes
        agent.join()
        return Ended(None, file.read_text())
    return Ended(agent.exitcode, file.read_text())


def _agent(n: int, arguments: Sequence[object], file: Path, options: Sequence[str], told: dict[str, str]) -> None:
    from torch.distributed import run
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    def launch(config: LaunchConfig, entrypoint: object) -> Callable[..., object]:
        return lambda *_: elastic_launch(config, _torchruns_rank)(told, file, arguments)

    write_to(file)
    pytest.MonkeyPatch().setattr(run, "elastic_launch", launch)
    run.main(["--standalone", f"--nproc-per-node={n}", "--start-method=fork", *options, "rethink"])


def _torchruns_rank(told: dict[str, str], file: Path, arguments: Sequence[object]) -> None:
    write_to(file)
    os.environ.update(told)
    command_line(*arguments)


class Processes:
    """n processes that run target(*arguments) as ranks 0 to n - 1; unlike torchrun nobody ends the others when one ends."""

    def __init__(
        self,
        n: int,
        target: Callable[..., None],
        *arguments: object,
        folder: Path,
        told: Mapping[str, str] | None = None,
    ) -> None:
        # Of torchrun's agent, too, the processes know this one thing.
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
        folder.mkdir(parents=True, exist_ok=True)
        all_told = {
            **(told or {}),
            **{"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1"},
            **{"MASTER_PORT": str(self._store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"},
            "TORCHELASTIC_RESTART_COUNT": "0",
        }
        self._files = [folder / f"rank-{rank}.txt" for rank in range(n)]
        self.processes: list[ForkServerProcess] = [
            start(_as_rank, {**all_told, "RANK": str(rank), "LOCAL_RANK": str(rank)}, target, arguments, output=file)
            for rank, file in enumerate(self._files)
        ]

    def end(self, ranks: Sequence[int] | None = None, timeout_s: float = TIMEOUT_S) -> list[Ended]:
        """Wait for these ranks (all) to end by themselves; whatever then is left is killed."""
        limit = time.monotonic() + timeout_s
        waited = range(len(self.processes)) if ranks is None else ranks
        for rank in waited:
            self.processes[rank].join(max(0.0, limit - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
            process.join()
        return [
            Ended(codes[rank] if rank in waited else None, file.read_text()) for rank, file in enumerate(self._files)
        ]


def together(
    n: int, target: Callable[..., None], *arguments: object, folder: Path, timeout_s: float = TIMEOUT_S, **more: Any
) -> list[Ended]:
    """How each of n ranks ended."""
    return Processes(n, target, *arguments, folder=folder, **more).end(timeout_s=timeout_s)


def command_line(*arguments: object) -> None:
    """`rethink ...` in this process."""
    sys.argv = ["rethink", *map(str, arguments)]
    cli.main()


def report(ended: Sequence[Ended]) -> str:
    """What all processes wrote, to be shown when a test fails."""
    return "".join(f"\n--- rank {k}, exit code {e.code}\n{e.text}" for k, e in enumerate(ended))


def _as_rank(told: dict[str, str], target: Callable[..., None], arguments: Sequence[object]) -> None:
    os.environ.update(told)
    target(*arguments)
