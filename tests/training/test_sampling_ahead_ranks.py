"""Sampling ahead on two ranks: the run of one process, and an end for all ranks when one fails."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from rethink.models.language_model import LanguageModel
from rethink.training import checkpoint
from support import ranks_sampling_ahead as faults
from support.fake_vllm import computing_server
from support.processes import light
from support.ranks import RankExit, RankProcesses, assert_lost, assert_refused, assert_success, report, run_ranks
from support.ranks_runs import (
    WEIGHTS,
    arguments,
    assert_same_records,
    assert_same_run,
    checkpoint_weights,
    evaluation_settings,
    lines,
    max_gap,
    records,
    run_settings,
    train,
    train_on_ranks,
    update_records,
)

pytestmark = pytest.mark.slow

_light = pytest.fixture(scope="module", autouse=True)(light)

N = 8
"""Updates of the whole run, two per batch. The last two batches are sampled during an update with a KL term."""


@pytest.fixture(scope="module")
def settings(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("problems")
    more = (*evaluation_settings(folder), "async_level=1", f"updates={N}")
    return run_settings(folder, model_folders["qwen3"], *more)


@pytest.fixture(scope="module")
def one_process_run(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, in which batches are sampled ahead and the model learns."""
    out = train(settings, tmp_path_factory.mktemp("one") / "run")
    updates = update_records(out)
    assert [r["lag_updates"] for r in updates] == [0, 0, 0, 0, 1, 0, 1, 0]
    assert all(0 < r["reward"] < 1 and r["grad_norm"] > 0 for r in updates)
    assert max_gap(checkpoint_weights(out, 4), checkpoint_weights(out, N)) > 50 * WEIGHTS
    return out


@pytest.fixture(scope="module")
def interrupted_run(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two ranks, one of which was interrupted while both sampled the batch after the second one."""
    out = tmp_path_factory.mktemp("interrupted") / "run"
    exits = run_with_fault("interrupts", settings, out, "checkpoint_every=1000")
    assert [e.code for e in exits] == [130, 130], report(exits)
    assert "stopped after 2 problem batches and saved" in exits[0].text
    return out


def run_with_fault(fault: str, settings: Sequence[str], out: Path, *more: str) -> list[RankExit]:
    """Run two ranks with a fault during the last update of the second batch."""
    given = arguments(settings, out, *more)
    return run_ranks(2, faults.failing, fault, 3, *given, folder=out.with_suffix(".output"))


def sampled_ahead(out: Path, n: int) -> list[Any]:
    """Return what a checkpoint holds of each batch that is sampled ahead: version, prompts and replies."""
    found: list[Any] = []
    for ahead in json.loads((out / "checkpoints" / f"{n:06d}" / "counters.json").read_text())["sampled_ahead"]:
        found.append(ahead["version"])
        for call in ahead["calls"]:
            found.append(call["asked"])
            for i, group in sorted(call["groups"], key=itemgetter(0)):
                found.append((i, [(sample["ids"], sample["text"]) for sample in group]))
    return found


# The same run.


def test_two_ranks_make_the_run_of_one_process(settings: list[str], one_process_run: Path, tmp_path: Path) -> None:
    """Guards against exchanges that meet those of another thread, samples of wrong weights, and of one rank only."""
    out = tmp_path / "run"
    assert_success(run_ranks(2, faults.reordered, *arguments(settings, out), folder=tmp_path / "output"))
    assert_same_run(out, one_process_run, N)
    for n in range(2, N + 1, 2):
        ours = sampled_ahead(out, n)
        assert bool(ours) == (n > 2)
        assert ours == sampled_ahead(one_process_run, n)
    n_bytes = [r["n_bytes_gathered"] for r in lines(out / "metrics.jsonl") if r["phase"] != "evaluation"]
    assert max(n_bytes[4], n_bytes[6]) < 2000 < min(n_bytes[:3]), "samples count when they are drawn"
    # The second update is the first with a KL term: rank 0 sends the empty modules of the start model.
    assert max(n_bytes[0], n_bytes[2]) < 7000 < min(n_bytes[3], n_bytes[5], n_bytes[7]), "two phases during training"


def test_two_batches_ahead(settings: list[str], tmp_path: Path) -> None:
    """Guards against ranks that publish or sample at different times where sampling overlaps with several updates, and
    recordings that depend on the number of ranks: two ranks, resumed by one process."""
    one = train(settings, tmp_path / "one", "async_level=2")
    assert [r["lag_updates"] for r in update_records(one)] == [0, 0, 0, 0, 1, 0, 3, 0]
    out = tmp_path / "two"
    assert_success(train_on_ranks(2, settings, out, "async_level=2", "updates=6"))
    assert len(sampled_ahead(out, 6)) > len(sampled_ahead(out, 2)) == 0
    train(settings, out, "async_level=2", resume=True)
    assert_same_run(out, one, N)
    for n in range(2, N + 1, 2):
        assert sampled_ahead(out, n) == sampled_ahead(one, n)


@pytest.mark.parametrize("level", [1, 2])
def test_ranks_that_share_a_vllm_server_sample_ahead(
    level: int, settings: list[str], qwen: LanguageModel, tmp_path: Path
) -> None:
    """Guards against a server that gets new weights during sampling, and ranks that do not get its samples."""
    with computing_server(qwen) as server:
        more = ("sampler.engine=vllm", f'sampler.urls=["{server.url}"]', "updates=6", f"async_level={level}")
        one = train(settings, tmp_path / "one", *more)
        labels = set[str]()
        server.on_generate = lambda n: labels.add(server.label)
        assert_success(train_on_ranks(2, settings, tmp_path / "two", *more))
    assert_same_run(tmp_path / "two", one, 6)
    assert update_records(one)[4]["lag_updates"] == 1
    assert len(labels) == 7, "every version was sampled, under its own label"


# Stopped and resumed.


@pytest.mark.parametrize("n", [1, 3])
def test_a_stopped_run_resumes_on_any_number_of_ranks(
    n: int, settings: list[str], interrupted_run: Path, one_process_run: Path, tmp_path: Path
) -> None:
    """Guards against ranks that stop in different batches, and samples ahead that are lost or need as many ranks."""
    assert sampled_ahead(interrupted_run, 4)[0] == 3
    out = Path(shutil.copytree(interrupted_run, tmp_path / "run"))
    if n == 1:
        train(settings, out, resume=True)
    else:
        assert_success(train_on_ranks(n, settings, out, "--resume"))
    assert_same_run(out, one_process_run, N)


def test_an_interrupt_between_batches_stops_all_ranks(
    settings: list[str], one_process_run: Path, tmp_path: Path
) -> None:
    """Guards against a rank that stops or saves while the other begins the next batch."""
    out = tmp_path / "run"
    exits = run_ranks(2, faults.interrupted_in_save, *arguments(settings, out), folder=tmp_path / "output")
    assert [e.code for e in exits] == [130, 130], report(exits)
    newest = checkpoint.newest(out / "checkpoints", pytest.fail)
    assert newest is not None
    assert int(newest.name) == 2  # the evaluation after this checkpoint was the last thing that ran
    ours = records(out)
    assert_same_records(ours, records(one_process_run)[: len(ours)])


# Failures.


def test_an_error_in_sampling_on_one_rank_is_reported_once(settings: list[str], tmp_path: Path) -> None:
    """Guards against a rank that ends alone while the other waits for it. The update in the other thread is logged."""
    exits = run_with_fault("refuses", settings, tmp_path / "run")
    assert_refused(exits, "rank 1: no server is left")
    assert [r["update"] for r in update_records(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_loss_that_is_not_finite_is_reported_once(settings: list[str], tmp_path: Path) -> None:
    """Guards against one message per rank, and ranks that wait for each other's samples."""
    exits = run_with_fault("training explodes", settings, tmp_path / "run")
    assert_refused(exits, "stopped: the loss is nan", "in the 'refine' update of problem batch 1 ", "Start a new run")


@pytest.mark.parametrize(("fault", "thread"), [("breaks", "sampling"), ("training breaks", "training")])
def test_an_exception_on_one_rank_ends_the_others(fault: str, thread: str, settings: list[str], tmp_path: Path) -> None:
    """Guards against a lost traceback, and a rank that waits for one which has failed in either thread."""
    exits = run_with_fault(fault, settings, tmp_path / "run")
    assert exits[1].code == 1, report(exits)
    assert f"RuntimeError: {thread} has run out of memory" in exits[1].text
    assert_lost(exits[0])
    out = tmp_path / "run"
    assert [r["update"] for r in update_records(out)] == [1, 2, 3], "the failed update is not published"
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["000002"]


def test_a_rank_that_hangs_in_sampling_ends_the_others_in_time(settings: list[str], tmp_path: Path) -> None:
    """Guards against a rank whose sampling hangs while its training continues."""
    out = tmp_path / "run"
    given = arguments(settings, out, "distributed.timeout_s=8")
    ranks = RankProcesses(2, faults.failing, "hangs", 3, *given, folder=tmp_path / "output")
    assert_lost(ranks.wait([0])[0])
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["000002"]
