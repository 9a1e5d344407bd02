"""The processes of a run: what they exchange, and what happens when one of them differs or dies. No torch until needed.

In order: the errors, `Ranks` (what processes tell each other), what torchrun says by environment variables, how processes
connect, which of them reports an error, and checks that all run the same.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from rethink.errors import UserError

T = TypeVar("T")


class RankError(UserError):
    """A mistake that one process has met, and others perhaps not."""


class LostRankError(RankError):
    """Another process has died, or did not answer in time."""


class CommonError(UserError):
    """A mistake that all processes know of."""


class Ranks:
    """This process, number `rank` of `size`. Number 0 writes the files and reports. Alone, all of this is trivial.

    Every method but the properties must be called by all ranks, in the same order, and by one thread at a time.
    `sampling_group` is where ranks tell each other what they sample and grade: the same connection, or a second one (see
    `open_sampling_group`).
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank, self.size = rank, size
        self.sampling_group = self
        self._n_bytes = 0
        self._group = group

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def n_bytes_gathered(self) -> int:
        """How many bytes were exchanged so far, in the sampling group as well."""
        return sum(ranks._n_bytes for ranks in {self, self.sampling_group})

    def gather(self, what: T) -> list[T]:
        """Return what each rank has, in the order of ranks. It is pickled on the way, except for one's own."""
        if self.size == 1:
            return [what]
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        with raise_as_lost_rank(self.rank):
            dist.all_gather_object(found, pickle.dumps(what), group=self._group)
        self._n_bytes += sum(map(len, found))
        return [what if k == self.rank else pickle.loads(data) for k, data in enumerate(found)]

    def any(self, flag: bool) -> bool:
        """Return whether it is true anywhere."""
        return any(self.gather(flag))

    def on_rank0(self, do: Callable[[], T]) -> T:
        """Return what rank 0 gets from `do`; a UserError there is raised everywhere. The result must be picklable."""
        if self.size == 1:
            return do()
        outcome: tuple[Any, str] = (None, "")
        if self.is_first:
            outcome = _outcome(do)
        result, fault = self.gather(outcome)[0]
        if fault:
            raise CommonError(fault)
        return result

    def on_all_ranks(self, do: Callable[[], T]) -> list[T]:
        """Return what each rank gets from `do`, in order; a UserError anywhere is raised everywhere, with the rank's
        number."""
        if self.size == 1:
            return [do()]
        found = self.gather(_outcome(do))
        faults = [f"rank {k}: {fault}" for k, (_, fault) in enumerate(found) if fault]
        if faults:
            raise CommonError("; ".join(faults))
        return [result for result, _ in found]

    def agree(self, what: str, value: str, advice: str) -> None:
        """Raise UserError, everywhere, unless all ranks have the same value."""
        ranks_of: dict[str, list[str]] = {}
        for rank, theirs in enumerate(self.gather(value)):
            ranks_of.setdefault(theirs, []).append(str(rank))
        if len(ranks_of) > 1:
            named = "; ".join(f"{theirs} on rank {', '.join(ranks)}" for theirs, ranks in ranks_of.items())
            raise CommonError(f"the ranks differ in {what}: {named}. {advice}")


def _outcome(do: Callable[[], T]) -> tuple[Any, str]:
    """Return the result, or what a UserError says."""
    try:
        return do(), ""
    except UserError as err:
        return None, str(err)


ALONE = Ranks()


@contextmanager
def raise_as_lost_rank(rank: int) -> Iterator[None]:
    """Raise failures of the connection as LostRankError: the other end is gone, or silent for longer than the limit."""
    try:
        yield
    except RuntimeError as err:
        if not is_lost(err):
            raise
        raise LostRankError(
            f"rank {rank} got no answer from the others: one has ended, or took longer than distributed.timeout_s "
            f"({str(err).splitlines()[0]}); the last checkpoint is untouched, go on from it with --resume"
        ) from err


def is_lost(err: RuntimeError) -> bool:
    """Return whether an error comes from the connection between processes."""
    import torch.distributed as dist

    return isinstance(err, dist.DistError) or "gloo" in str(err) or "Connection" in str(err)


# What torchrun says.


def under_torchrun() -> bool:
    """Return whether this process is one of several that `torchrun` started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def restarted() -> bool:
    """Return whether `torchrun` has started this process again after a failure (its --max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def launch_id() -> str:
    """Return what stays the same when torchrun starts rank 0 again, and no other start has: the run's id and torchrun's
    process."""
    return f"{os.environ.get('TORCHELASTIC_RUN_ID', '')} {os.getppid()}"


# Connections.


def start(timeout_s: float) -> Ranks:
    """Connect to the other processes, if there are any. No exchange waits longer than `timeout_s` for a rank.

    Raises LostRankError when they do not come, UserError when there are too few GPUs."""
    if not under_torchrun():
        return ALONE
    import torch
    import torch.distributed as dist

    rank, size, local = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    backend = "gloo"
    if torch.cuda.is_available():
        if local >= torch.cuda.device_count():
            raise RankError(
                f"rank {rank} would need GPU {local}, but this machine has {torch.cuda.device_count()}; start torchrun "
                "with --nproc-per-node at most that"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    limit = timedelta(seconds=timeout_s)
    if not dist.is_initialized():
        with raise_as_lost_rank(rank):
            dist.init_process_group(backend, store=_addresses(limit), rank=rank, world_size=size, timeout=limit)
    return Ranks(rank, size, _connection(rank, timeout_s))


def open_sampling_group(ranks: Ranks, timeout_s: float) -> None:
    """Give what is sampled and graded a second connection, for one thread to sample while another one trains: in the same
    one, exchanges of both would meet in another order on each rank. All ranks must call it, at the same point.

    This one, too, is for Python's objects alone and goes over the CPU (gloo), on GPUs as well. Training then has the only
    NCCL communicator: two that are used at once may deadlock (NCCL's user guide, "Using multiple NCCL communicators
    concurrently").
    """
    if ranks.size > 1:
        ranks.sampling_group = Ranks(ranks.rank, ranks.size, _connection(ranks.rank, timeout_s))


def shutdown() -> None:
    """Close the connections, if there are any, without waiting for anything."""
    if under_torchrun():
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def _connection(rank: int, timeout_s: float) -> Any:
    """Return a group for Python's objects. It goes over the CPU: a failure there is an exception, and no abort."""
    import torch.distributed as dist

    with raise_as_lost_rank(rank):
        return dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))


def _addresses(limit: timedelta) -> Any:
    """Return where processes leave their addresses for each other. torchrun keeps it when it restarts them (seen in torch
    2.13), with the addresses of those that have died in it; so every start needs other names."""
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=limit))
    return PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


# Errors and checks.


def should_report(err: UserError) -> bool:
    """Return whether this process prints an error: rank 0 reports those common to all ranks (before they are connected, the
    first rank of each machine does)."""
    if not under_torchrun() or isinstance(err, RankError):
        return True
    import torch.distributed as dist

    if isinstance(err, CommonError):
        return os.environ["RANK"] == "0"
    return dist.is_initialized() or os.environ["LOCAL_RANK"] == "0"


def check_same_package(ranks: Ranks, name: str, version: Callable[[], str]) -> None:
    """Raise UserError unless all ranks have the same version of a package that not every run needs; `version` raises it
    where there is none."""
    versions = ranks.on_all_ranks(version)
    ranks.agree(f"the version of {name}", versions[ranks.rank], "Install the same on all nodes")


def check_same_software(ranks: Ranks, recipe: str) -> None:
    """Raise UserError unless all ranks run the same versions and the same recipe."""
    import torch
    import transformers

    from rethink import __version__

    versions = {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "rethink": __version__,
    }
    for name, version in versions.items():
        ranks.agree(f"the version of {name}", version, "Install the same on all nodes")
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    ranks.agree("the recipe (its hash)", digest, "Start all nodes with the same file and the same settings")
