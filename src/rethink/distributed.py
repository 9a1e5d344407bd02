"""The processes (ranks) of a run: how they exchange data, and what happens when one of them differs or dies.

In order: the errors, `Ranks` (exchanges between ranks), torchrun's environment variables, connecting, which rank reports
an error, and checks that all ranks run the same. torch is imported only when there are several ranks.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from rethink.errors import UserError

T = TypeVar("T")

PARENT_CHECK_S = 1.0
"""How often a rank checks that torchrun is alive."""


class RankError(UserError):
    """An error on one rank, which the others may not have."""


class LostRankError(RankError):
    """Another rank has died, or did not answer in time."""


class CommonError(UserError):
    """An error that is raised on all ranks."""


class Ranks:
    """This process, number `rank` of `size`. Rank 0 writes the files and prints. A single process exchanges nothing.

    All ranks must call every method except the properties, in the same order, and from one thread at a time.
    `sampling_group` exchanges samples and verdicts: the same connection, or a second one (see `open_sampling_group`).
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank, self.size = rank, size
        self.sampling_group = self
        self._n_bytes = 0
        self._group = group

    @property
    def is_rank0(self) -> bool:
        return self.rank == 0

    @property
    def n_bytes_gathered(self) -> int:
        """The bytes exchanged so far, including those of the sampling group."""
        return sum(ranks._n_bytes for ranks in {self, self.sampling_group})

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in the order of ranks. Values of other ranks have been pickled."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        gathered: list[Any] = [None] * self.size
        with raise_as_lost_rank(self.rank):
            dist.all_gather_object(gathered, pickle.dumps(value), group=self._group)
        self._n_bytes += sum(map(len, gathered))
        return [value if k == self.rank else pickle.loads(data) for k, data in enumerate(gathered)]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true on any rank."""
        return any(self.gather(flag))

    def on_rank0(self, function: Callable[[], T]) -> T:
        """Call the function on rank 0 and return its result, which must be picklable, on all ranks.

        A UserError on rank 0 is raised on all ranks."""
        if self.size == 1:
            return function()
        outcome: tuple[Any, str] = (None, "")
        if self.is_rank0:
            outcome = _result_or_error(function)
        result, error = self.gather(outcome)[0]
        if error:
            raise CommonError(error)
        return result

    def on_all_ranks(self, function: Callable[[], T]) -> list[T]:
        """Call the function on every rank and return all results, in the order of ranks.

        A UserError on any rank is raised on all ranks, with the number of the rank."""
        if self.size == 1:
            return [function()]
        outcomes = self.gather(_result_or_error(function))
        errors = [f"rank {k}: {error}" for k, (_, error) in enumerate(outcomes) if error]
        if errors:
            raise CommonError("; ".join(errors))
        return [result for result, _ in outcomes]

    def require_equal(self, name: str, value: str, advice: str) -> None:
        """Raise CommonError unless all ranks have the same value. The message ends with the advice."""
        ranks_of: dict[str, list[str]] = {}
        for rank, theirs in enumerate(self.gather(value)):
            ranks_of.setdefault(theirs, []).append(str(rank))
        if len(ranks_of) > 1:
            listed = "; ".join(f"{theirs} on rank {', '.join(ranks)}" for theirs, ranks in ranks_of.items())
            raise CommonError(f"the ranks differ in {name}: {listed}. {advice}")


def _result_or_error(function: Callable[[], T]) -> tuple[Any, str]:
    """Return the function's result and "", or None and the message of its UserError."""
    try:
        return function(), ""
    except UserError as err:
        return None, str(err)


SINGLE_PROCESS = Ranks()


@contextmanager
def raise_as_lost_rank(rank: int) -> Iterator[None]:
    """Turn connection errors into LostRankError: another rank has ended, or did not answer within the time limit."""
    try:
        yield
    except RuntimeError as err:
        if not is_connection_error(err):
            raise
        raise LostRankError(
            f"rank {rank} got no answer from the others: one has ended, or took longer than distributed.timeout_s "
            f"({str(err).splitlines()[0]}); the last checkpoint is untouched, resume from it with --resume"
        ) from err


def is_connection_error(err: RuntimeError) -> bool:
    """Return whether an error comes from the connection between ranks."""
    import torch.distributed as dist

    return isinstance(err, dist.DistError) or "gloo" in str(err) or "Connection" in str(err)


# torchrun's environment variables.


def under_torchrun() -> bool:
    """Return whether `torchrun` started this process as one of several."""
    size = os.environ.get("WORLD_SIZE", "")
    return size.isdecimal() and int(size) > 1


def is_restart() -> bool:
    """Return whether `torchrun` has restarted the ranks after a failure (its --max-restarts)."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")


def launch_id() -> str:
    """Return an id of this launch of torchrun, its run id and process id, which stays the same when it restarts ranks."""
    return f"{os.environ.get('TORCHELASTIC_RUN_ID', '')} {os.getppid()}"


def _check_environment() -> None:
    """Raise UserError if WORLD_SIZE is set, but not by torchrun."""
    size = os.environ.get("WORLD_SIZE", "")
    if size and not size.isdecimal():
        raise UserError(
            f"the environment variable WORLD_SIZE is {size!r}, not a number; unset it, or start with torchrun"
        )
    missing = [name for name in ("RANK", "LOCAL_RANK") if not os.environ.get(name, "").isdecimal()]
    if under_torchrun() and missing:
        raise UserError(
            f"the environment variable WORLD_SIZE is {size}, but {missing[0]} is not a number; unset WORLD_SIZE to train "
            "in one process, or start with torchrun"
        )


# Connecting.


def connect(timeout_s: float) -> Ranks:
    """Connect to the other ranks, if there are any. No exchange waits for a rank longer than `timeout_s`.

    Raise LostRankError if the others do not connect in time, and RankError if there are too few GPUs."""
    _check_environment()
    if not under_torchrun():
        return SINGLE_PROCESS
    _stop_with_parent()
    import torch
    import torch.distributed as dist

    rank, size, local = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    backend = "gloo"
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            n_gpus = torch.cuda.device_count()
            raise RankError(
                f"rank {rank} needs {local + 1} GPUs on this machine, which has {n_gpus}; start torchrun with "
                f"--nproc-per-node of at most {n_gpus}"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    limit = timedelta(seconds=timeout_s)
    if not dist.is_initialized():
        with raise_as_lost_rank(rank):
            dist.init_process_group(backend, store=_rendezvous_store(limit), rank=rank, world_size=size, timeout=limit)
    return Ranks(rank, size, _new_gloo_group(rank, timeout_s))


def open_sampling_group(ranks: Ranks, timeout_s: float) -> None:
    """Open a second connection for samples and verdicts, so that one thread can sample while another one trains.

    On a single connection, the exchanges of the two threads would come in a different order on each rank. All ranks must
    call this at the same point. Like the first connection, it carries Python objects over the CPU (gloo), even if there
    are GPUs. So training has the only NCCL communicator: two used at once may deadlock (NCCL's user guide, "Using
    multiple NCCL communicators concurrently").
    """
    if ranks.size > 1:
        ranks.sampling_group = Ranks(ranks.rank, ranks.size, _new_gloo_group(ranks.rank, timeout_s))


def _stop_with_parent() -> None:
    """Stop this rank, as by SIGTERM, when the process that started it ends: torchrun itself may be killed.

    Otherwise the ranks would train on, and a run that is resumed meanwhile would be refused, or repeat their work."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def shutdown() -> None:
    """Close the connections, if there are any, without waiting."""
    if under_torchrun():
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def _new_gloo_group(rank: int, timeout_s: float) -> Any:
    """Return a process group for Python objects. It uses the CPU, where a failure is an exception and not an abort."""
    import torch.distributed as dist

    with raise_as_lost_rank(rank):
        return dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))


def _rendezvous_store(limit: timedelta) -> Any:
    """Return the store through which ranks find each other's addresses.

    torchrun keeps the store, with the addresses of dead processes, when it restarts the ranks (seen in torch 2.13). So the
    keys get a prefix that differs at each restart."""
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=limit))
    return PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


# Errors and checks.


def should_report(err: UserError) -> bool:
    """Return whether this process should print an error.

    Rank 0 prints those common to all ranks. Before the ranks are connected, the first rank of each machine prints."""
    if not under_torchrun() or isinstance(err, RankError):
        return True
    import torch.distributed as dist

    if isinstance(err, CommonError):
        return os.environ["RANK"] == "0"
    return dist.is_initialized() or os.environ.get("LOCAL_RANK", "0") == "0"


def check_same_package(ranks: Ranks, name: str, version: Callable[[], str]) -> None:
    """Raise CommonError unless all ranks have the same version of an optional package.

    `version` returns the version, or raises UserError if the package is missing."""
    versions = ranks.on_all_ranks(version)
    ranks.require_equal(f"the version of {name}", versions[ranks.rank], "Install the same on all nodes")


def check_same_software(ranks: Ranks, recipe: str) -> None:
    """Raise CommonError unless all ranks run the same versions and the same recipe."""
    import torch
    import transformers

    from rethink.version import __version__

    versions = {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "rethink": __version__,
    }
    for name, version in versions.items():
        ranks.require_equal(f"the version of {name}", version, "Install the same on all nodes")
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    ranks.require_equal("the recipe (its hash)", digest, "Start all nodes with the same file and the same settings")
