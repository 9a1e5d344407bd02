"""Exchanges between ranks, which rank reports an error, and checks that all ranks run the same."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch._C._distributed_c10d import TCPStore

import rethink.version
from rethink import distributed
from rethink.distributed import (
    SINGLE_PROCESS,
    CommonError,
    LostRankError,
    RankError,
    Ranks,
    check_same_package,
    check_same_software,
    raise_as_lost_rank,
    should_report,
)
from rethink.errors import UserError
from support.processes import exit_code, start, wait_for
from support.thread_ranks import SIZES, run_on_ranks

Environment = Callable[..., None]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Set torchrun's variables; without a call there are none."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT")
    for name in names:
        monkeypatch.delenv(name, raising=False)

    def set_all(rank: int, size: int, local: int | None = None, n_restarts: int = 0) -> None:
        for name, value in zip(names, (rank, size, rank if local is None else local, n_restarts), strict=True):
            monkeypatch.setenv(name, str(value))

    return set_all


def fail(text: str) -> Any:
    raise UserError(text)


# Exchanges.


@pytest.mark.parametrize("size", SIZES)
def test_results_come_in_the_order_of_ranks(size: int) -> None:
    """Guards against results in another order, and flags that only some ranks see."""

    def work(ranks: Ranks) -> Any:
        return (
            ranks.gather(ranks.rank**2),
            ranks.on_rank0(lambda: f"made by {ranks.rank}"),
            ranks.on_all_ranks(lambda: -ranks.rank),
            [ranks.any(ranks.rank == k) for k in range(size + 1)],
            ranks.is_rank0,
        )

    for k, found in enumerate(run_on_ranks(size, work)):
        squares, negatives = [n**2 for n in range(size)], [-n for n in range(size)]
        assert found == (squares, "made by 0", negatives, [True] * size + [False], k == 0)


def test_a_single_process_neither_pickles_nor_counts() -> None:
    """Guards against a single process that pays for ranks it does not have."""
    unpicklable = threading.Lock()
    assert SINGLE_PROCESS.gather(unpicklable) == SINGLE_PROCESS.on_all_ranks(lambda: unpicklable) == [unpicklable]
    assert SINGLE_PROCESS.on_rank0(lambda: unpicklable) is unpicklable
    assert (SINGLE_PROCESS.rank, SINGLE_PROCESS.is_rank0, SINGLE_PROCESS.n_bytes_gathered) == (0, True, 0)
    with pytest.raises(UserError, match="mine") as raised:
        SINGLE_PROCESS.on_all_ranks(lambda: fail("mine"))
    assert type(raised.value) is UserError


def test_an_error_on_rank0_is_raised_on_all() -> None:
    """Guards against ranks that continue, or wait, when rank 0 has failed; the others do not call the function."""
    found = run_on_ranks(3, lambda ranks: ranks.on_rank0(lambda: fail(f"no space on {ranks.rank}")))
    assert {(type(e), str(e)) for e in found} == {(CommonError, "no space on 0")}


@pytest.mark.parametrize("failing", [{0}, {2}, {1, 2}])
def test_an_error_on_any_rank_is_raised_on_all(failing: set[int]) -> None:
    """Guards against ranks that wait for one that failed, and messages without the rank's number."""
    found = run_on_ranks(3, lambda ranks: ranks.on_all_ranks(lambda: fail("is full") if ranks.rank in failing else 1))
    message = "; ".join(f"rank {k}: is full" for k in sorted(failing))
    assert {(type(e), str(e)) for e in found} == {(CommonError, message)}


def test_other_exceptions_keep_their_type() -> None:
    """Guards against a bug that turns into another rank's empty result."""
    with pytest.raises(ZeroDivisionError):
        run_on_ranks(2, lambda ranks: ranks.on_all_ranks(lambda: 1 // ranks.rank))
    with pytest.raises(ZeroDivisionError):
        run_on_ranks(2, lambda ranks: ranks.on_rank0(lambda: 1 // ranks.rank))


def test_unequal_values_are_listed_with_their_ranks() -> None:
    """Guards against ranks that continue with different values."""

    def work(ranks: Ranks) -> None:
        ranks.require_equal("the weather", "fine", "Stay")
        ranks.require_equal("the weather", "rain" if ranks.rank in (1, 3) else "fine", "Take an umbrella")

    message = "the ranks differ in the weather: fine on rank 0, 2, 4; rain on rank 1, 3. Take an umbrella"
    assert {(type(e), str(e)) for e in run_on_ranks(5, work)} == {(CommonError, message)}


# Who reports an error.

REPORTS = {
    "no torchrun": (None, False, (True, True, True)),
    "rank 0": ((0, 4), False, (True, True, True)),
    "rank 1": ((1, 4), False, (False, False, True)),
    "the first of another node": ((2, 4, 0), False, (False, True, True)),
    "connected": ((3, 4, 1), True, (False, True, True)),
}
"""torchrun's numbers, whether ranks are connected, and who reports a CommonError, a UserError and a RankError."""


@pytest.mark.parametrize("case", REPORTS)
def test_one_rank_reports_common_errors(case: str, environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against one message per rank, and errors that no rank reports."""
    numbers, is_connected, expected = REPORTS[case]
    if numbers:
        environment(*numbers)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: is_connected)
    assert tuple(should_report(kind("x")) for kind in (CommonError, UserError, RankError)) == expected
    assert should_report(LostRankError("x"))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234\nmore"),
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1000ms for recv"),
        torch.distributed.DistStoreError("wait timeout after 60000ms"),
    ],
)
def test_connection_errors_become_one_plain_message(error: RuntimeError) -> None:
    """Guards against a traceback of a library where another process has died."""
    with pytest.raises(LostRankError) as raised, raise_as_lost_rank(3):
        raise error
    message = str(raised.value)
    assert message.startswith("rank 3 got no answer from the others")
    assert str(error).splitlines()[0] in message
    assert "\n" not in message


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("gloo"), UserError("Connection")])
def test_other_errors_are_not_lost_ranks(error: Exception) -> None:
    """Guards against a bug that is reported as the death of another process."""
    with pytest.raises(type(error)) as raised, raise_as_lost_rank(0):
        raise error
    assert raised.value is error


# Connecting.


def test_restarts_are_recognized(environment: Environment) -> None:
    """Guards against a first start that resumes an old folder."""
    assert not distributed.is_restart()
    environment(0, 2)
    assert not distributed.is_restart()
    environment(0, 2, n_restarts=1)
    assert distributed.is_restart()


def test_too_few_gpus_are_an_error_before_connecting(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against two ranks on one GPU, and a start that hangs because one rank has none."""
    environment(5, 8, local=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RankError, match="rank 5 needs 2 GPUs"):
        distributed.connect(1.0)


def test_a_restart_does_not_see_addresses_of_dead_processes(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a restart that waits for dead processes, whose addresses torchrun keeps in its store."""
    agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(agent.port))
    seen = []
    for n_restarts in (0, 0, 1):
        environment(1, 2, n_restarts=n_restarts)
        store = distributed._rendezvous_store(timedelta(seconds=30))
        seen.append(store.check(["rank 0"]))
        store.set("rank 0", "an address")
    assert seen == [False, True, False]


# Equal software.


def test_versions_are_compared() -> None:
    """Guards against a run of two versions."""
    seen: dict[str, object] = {}

    class Recording(Ranks):
        def require_equal(self, name: str, value: str, advice: str) -> None:
            seen[name] = value

    check_same_software(Recording(0, 2), "recipe")
    modules = {"torch": torch, "transformers": transformers, "rethink": rethink.version}
    expected = {f"the version of {name}": module.__version__ for name, module in modules.items()}
    assert seen.items() >= {**expected, "the version of Python": "{}.{}".format(*sys.version_info)}.items()


def test_optional_packages_must_be_equal_on_all_ranks() -> None:
    """Guards against optimizers or adapters of two versions, and one refusal per rank."""

    def missing() -> str:
        raise UserError("pip install it")

    def check(*versions: Callable[[], str]) -> list[Any]:
        return run_on_ranks(len(versions), lambda ranks: check_same_package(ranks, "ao", versions[ranks.rank]))

    assert check(lambda: "1.2", lambda: "1.2") == [None, None]
    errors = check(lambda: "1.2", lambda: "1.2", missing)
    assert {(type(e), str(e)) for e in errors} == {(CommonError, "rank 2: pip install it")}
    message = "the ranks differ in the version of ao: 1.2 on rank 0; 1.3 on rank 1. Install the same on all nodes"
    assert {str(e) for e in check(lambda: "1.2", lambda: "1.3")} == {message}


def test_different_recipes_are_refused() -> None:
    """Guards against nodes on which the file was edited, or that were started with other settings."""
    found = run_on_ranks(3, lambda ranks: check_same_software(ranks, "lr = 2" if ranks.rank == 2 else "lr = 1"))
    assert "the ranks differ in the recipe (its hash): " in str(found[0])
    assert "on rank 0, 1; " in str(found[0])
    assert "on rank 2. Start all nodes with the same file and the same settings" in str(found[0])
    assert run_on_ranks(3, lambda ranks: check_same_software(ranks, "lr = 1")) == [None] * 3


# The environment, and the process that started a rank.


@pytest.mark.parametrize("size", ["", "1", "0"])
def test_an_empty_world_size_is_one_process(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """WORLD_SIZE="" was once a traceback, of every command."""
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "")
    assert distributed.connect(1.0) is SINGLE_PROCESS
    assert not distributed.under_torchrun()
    assert not distributed.is_restart()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', not a number; unset it"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is '-1', not a number; unset it"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK is not a number; unset WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE is 2, but LOCAL_RANK is not a number"),
    ],
)
def test_a_world_size_that_torchrun_did_not_set(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a traceback on a machine where another program's variables are set."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as caught:
        distributed.connect(1.0)
    assert should_report(caught.value)


def parent_of_a_rank(folder: Path) -> None:
    """Start a child that watches this process, and be killed once it does."""
    child = os.fork()
    if child == 0:
        distributed.PARENT_CHECK_S = 0.01
        signal.signal(signal.SIGTERM, lambda number, frame: (folder / "stopped").touch())
        distributed._stop_with_parent()
        (folder / "ready").touch()
        signal.pause()
        os._exit(0)
    while not (folder / "ready").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_rank_stops_when_its_parent_is_killed(tmp_path: Path) -> None:
    """When torchrun itself was killed, its ranks once trained on for ever."""
    assert exit_code(start(parent_of_a_rank, tmp_path)) == -signal.SIGKILL
    wait_for((tmp_path / "stopped").exists, 20)
