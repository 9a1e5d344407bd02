"""Runs on several ranks: the run of one process on any number of them, and what happens when a rank fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.models.sharded_weights import is_sharded
from rethink.training import checkpoint
from support import random_models
from support import ranks_faults as faults
from support.command_line import command_line
from support.processes import light, wait_for
from support.ranks import (
    RankProcesses,
    assert_refused,
    assert_success,
    report,
    run_ranks,
    torchrun,
)
from support.ranks_runs import (
    WEIGHTS,
    arguments,
    assert_same_records,
    assert_same_run,
    begun,
    checkpoint_weights,
    evaluation_settings,
    file_contents,
    lines,
    max_gap,
    records,
    run_settings,
    train,
    train_on_ranks,
    two_updates,
    update_records,
)

__all__ = ["begun", "two_updates"]

pytestmark = pytest.mark.slow

_light = pytest.fixture(scope="module", autouse=True)(light)


@pytest.fixture(scope="module")
def settings(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("problems")
    return run_settings(folder, model_folders["qwen3"], *evaluation_settings(folder))


@pytest.fixture(scope="module")
def one_process_run(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process; weights move by fifty times the rounding, every update has a reward and a gradient."""
    out = train(settings, tmp_path_factory.mktemp("one") / "run")
    assert max_gap(checkpoint_weights(out, 2), checkpoint_weights(out, 6)) > 50 * WEIGHTS
    assert all(0 < r["reward"] < 1 and r["grad_norm"] > 0 for r in update_records(out))
    return out


def test_four_ranks_make_the_run_of_one_process(settings: list[str], one_process_run: Path, tmp_path: Path) -> None:
    """Guards against another run on more processes."""
    out = tmp_path / "run"
    assert_success(train_on_ranks(4, settings, out))
    assert_same_run(out, one_process_run)
    updates = [r for r in lines(out / "metrics.jsonl") if r["phase"] != "evaluation"]
    assert {r["n_ranks"] for r in updates} == {4}
    assert all(r["n_bytes_gathered"] > 0 for r in updates)


def test_a_run_resumes_on_another_number_of_ranks(settings: list[str], one_process_run: Path, begun: Path) -> None:
    """Guards against checkpoints that only as many ranks can read: two ranks, one process and three ranks in turn."""
    train(settings, begun, "updates=4", resume=True)
    assert_success(train_on_ranks(3, settings, begun, "--resume"))
    assert [is_sharded(begun / "checkpoints" / f"{k:06d}") for k in (2, 4, 6)] == [True, False, True]
    assert_same_run(begun, one_process_run)


def test_torchrun_restarts_a_run_after_a_killed_rank(
    settings: list[str], one_process_run: Path, tmp_path: Path
) -> None:
    """Guards against a restart that starts from the beginning, trains an update twice, or asks for --resume."""
    out = tmp_path / "run"
    env = {faults.RUN: str(out)}
    ended = torchrun(2, *arguments(settings, out), options=["--max-restarts=1"], env=env)
    assert ended.code == 0, ended.text
    assert (out / "has failed").exists()
    assert f"model: {out / 'checkpoints' / '000006'}" in ended.text
    assert_same_run(out, one_process_run)


def test_a_killed_rank_ends_the_run_without_restarts(settings: list[str], one_process_run: Path, begun: Path) -> None:
    """Guards against survivors that wait forever, an exit code of success, and a damaged checkpoint."""
    before = file_contents(begun / "checkpoints")
    # torchrun checks its processes so rarely here that the survivor has to notice by itself.
    options, env = ["--max-restarts=0", "--monitor-interval=5"], {faults.RUN: str(begun)}
    ended = torchrun(2, *arguments(settings, begun, "--resume"), options=options, env=env)
    assert ended.code not in (0, None), ended.text
    assert "rethink: rank 0 got no answer from the others: one has ended, or took longer than" in ended.text
    assert "the last checkpoint is untouched, resume from it with --resume" in ended.text
    assert file_contents(begun / "checkpoints") == before
    assert_same_run(train(settings, begun, resume=True), one_process_run)


def test_ranks_with_different_updates_end_the_run(settings: list[str], tmp_path: Path) -> None:
    """Guards against ranks that train different updates: here advantages that differ by 1e-9 on one of three."""
    more = ["method={name = 'support.ranks_faults:UnequalAdvantages'}", "method.n_solve=4"]
    exits = train_on_ranks(3, [s for s in settings if not s.startswith("method")], tmp_path / "run", *more)
    what = "the ranks differ in the 'solve' update of problem batch 0 (its hash): "
    assert_refused(exits, what, " on rank 0, 2; ", " on rank 1. The updates of a method must ")
    run = tmp_path / "run"
    assert not (run / "checkpoints").exists()
    assert (run / "metrics.jsonl").read_text() == (run / "samples.jsonl").read_text() == "", "nothing was trained"


def test_ctrl_c_on_one_rank_stops_all_after_the_batch(settings: list[str], one_process_run: Path, begun: Path) -> None:
    """Guards against ranks that handle the signal in different batches, and then wait for each other."""
    given = arguments(settings, begun, "--resume", "updates=1000")
    ranks = RankProcesses(2, command_line, *given, folder=begun.with_suffix(".output"))
    wait_for(lambda: (begun / "metrics.jsonl").read_bytes().count(b"\n") > 3)
    os.kill(int(ranks.processes[1].pid or 0), signal.SIGINT)
    exits = ranks.wait()
    assert [e.code for e in exits] == [130, 130], report(exits)
    assert "to resume:" in exits[0].text
    newest = checkpoint.newest(begun / "checkpoints", pytest.fail)
    assert newest is not None
    ours, theirs = records(begun), records(one_process_run)
    assert ours[-1]["update"] == int(newest.name) >= 4
    n = min(len(ours), len(theirs))
    assert_same_records(ours[:n], theirs[:n])


REFUSED: dict[str, tuple[Callable[..., None], tuple[object, ...], list[str], list[str]]] = {
    "more ranks than problems": (
        command_line,
        (),
        ["problems_per_batch=1"],
        ["2 ranks share the problems of a batch, but problems_per_batch is only 1: start fewer ranks"],
    ),
    "another version on one rank": (
        faults.other_version,
        (1,),
        [],
        ["the ranks differ in the version of rethink: ", "0.0.0 on rank 1. Install the same"],
    ),
    "no model": (command_line, (), [f"model.path={Path(__file__).parent}"], ["is not a model folder"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_starts_are_refused_once(case: str, settings: list[str], tmp_path: Path) -> None:
    """Guards against one message per rank, ranks that report rank 0 as dead, and a folder without a run."""
    target, first, more, words = REFUSED[case]
    given = arguments(settings, tmp_path / "run", *more)
    assert_refused(run_ranks(2, target, *first, *given, folder=tmp_path / "output"), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("env", [None, {"TORCHELASTIC_RESTART_COUNT": "1", "TORCHELASTIC_RUN_ID": "another start"}])
def test_nothing_is_overwritten(env: dict[str, str] | None, settings: list[str], begun: Path) -> None:
    """Guards against a run lost to a mistake, and --max-restarts that turns a refused start into a resume."""
    before = file_contents(begun)
    assert_refused(
        train_on_ranks(2, settings, begun, "updates=4", env=env),
        "holds a run or an evaluation; resume it with --resume",
    )
    assert file_contents(begun) == before


def test_resuming_does_not_need_the_start_weights(settings: list[str], begun: Path, tmp_path: Path) -> None:
    """Guards against a resume that fails, or trains another model, if the start model's folder has changed."""
    folder = random_models.save_random_model(tmp_path / "model", "llama")
    config = (begun / "config.toml").read_text()
    original = settings[0].removeprefix("model.path=")
    assert original in config
    (begun / "config.toml").write_text(config.replace(original, str(folder)).replace("kl_coef = 0.1", "kl_coef = 0.0"))
    more = [f"model.path={folder}", "method.refine={n_steps = 1, kl_coef = 0.0}", "updates=4"]
    assert_success(train_on_ranks(2, settings, begun, "--resume", *more))
    assert checkpoint_weights(begun, 4).keys() == checkpoint_weights(begun, 2).keys()


def test_a_damaged_shard_is_detected(begun: Path) -> None:
    """Guards against a resume from a damaged checkpoint: the hashes have to cover the shards."""
    shards = sorted((begun / "checkpoints" / "000002" / "sharded").glob("*.distcp"))
    assert len(shards) == 2
    data = bytearray(shards[1].read_bytes())
    data[len(data) // 2] ^= 1
    shards[1].write_bytes(data)
    warnings: list[str] = []
    assert checkpoint.newest(begun / "checkpoints", warnings.append) is None
    assert ["sharded/__1_0.distcp has changed since it was written" in text for text in warnings] == [True]


@pytest.mark.parametrize(("file", "rank"), [("config", 0), ("shards", 1)])
def test_a_checkpoint_that_cannot_be_written_ends_the_run(
    file: str, rank: int, settings: list[str], begun: Path
) -> None:
    """Guards against ranks that wait for one whose disk is full, and the loss of the checkpoint before."""
    before = file_contents(begun / "checkpoints" / "000002")
    given = arguments(settings, begun, "--resume", "updates=4", "distributed.timeout_s=20")
    exits = run_ranks(2, faults.full_disk, file, rank, *given, folder=begun.with_suffix(".output"))
    kept = f"the last good checkpoint, {begun / 'checkpoints' / '000002'}, is untouched"
    assert_refused(exits, f"cannot write the checkpoint {begun / 'checkpoints' / '000004'}: ", "No space left", kept)
    assert sorted(p.name for p in (begun / "checkpoints").glob("0*")) == ["000002"]
    assert file_contents(begun / "checkpoints" / "000002") == before
