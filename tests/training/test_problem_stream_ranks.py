"""Batches that are filled up from the next problems (dynamic sampling), on several ranks: the run of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.processes import light
from support.ranks import assert_success
from support.ranks_runs import (
    WEIGHTS,
    assert_same_run,
    checkpoint_weights,
    evaluation_settings,
    max_gap,
    run_settings,
    train,
    train_on_ranks,
    update_records,
)

pytestmark = pytest.mark.slow

_light = pytest.fixture(scope="module", autouse=True)(light)

N = 8
"""Updates of the whole run, one per batch."""

FILLED = [
    *("method={name = 'grpo'}", "method.n_solve=2", "method.fill_rounds=1", "problems_per_batch=3", f"updates={N}"),
    "method.solve={n_steps = 1, zero_std_groups = 'drop'}",
]
SCHEDULES = {"synchronous": "seed=8", "one-step off-policy": "seed=11"}
"""With these seeds, some batches have enough useful groups at once, some are filled up, and one has no useful group."""


@pytest.fixture(scope="module", params=SCHEDULES)
def settings(
    request: pytest.FixtureRequest, model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    folder = tmp_path_factory.mktemp("problems")
    given = run_settings(folder, model_folders["qwen3"], n_problems=17)
    general = [setting for setting in given if not setting.startswith("method")]
    schedule = f"async_level={int(request.param != 'synchronous')}"
    return [*general, *evaluation_settings(folder), *FILLED, SCHEDULES[request.param], schedule]


@pytest.fixture(scope="module")
def one_process_run(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, which learns and goes through more than two passes."""
    out = train(settings, tmp_path_factory.mktemp("one") / "run")
    updates = update_records(out)
    assert {r["method/n_trained_groups"] for r in updates} >= {0, 2, 3}
    assert len({r["n_samples"] for r in updates}) > 1
    assert max_gap(checkpoint_weights(out, 2), checkpoint_weights(out, N)) > 50 * WEIGHTS
    positions = [counters["position"] for counters in all_counters(out)]
    assert {pass_number for pass_number, _ in positions} == {0, 1, 2}
    return out


def all_counters(out: Path) -> list[dict[str, Any]]:
    """Return the counters of each checkpoint."""
    files = sorted((out / "checkpoints").glob("0*/counters.json"))
    return [json.loads(file.read_text()) for file in files]


def assert_same_filling(ours: Path, theirs: Path) -> None:
    """Assert that the runs are the same, and took the same problems for every batch, also for one sampled ahead."""
    assert_same_run(ours, theirs, N)
    for got, want in zip(all_counters(ours), all_counters(theirs), strict=True):
        assert got["position"] == want["position"]
        assert asked(got) == asked(want)


def asked(counters: dict[str, Any]) -> list[list[str]]:
    """Return the prompts of the batches that are sampled ahead, by call."""
    return [call["asked"] for ahead in counters["sampled_ahead"] for call in ahead["calls"]]


def test_two_ranks_make_the_run_of_one_process(settings: list[str], one_process_run: Path, tmp_path: Path) -> None:
    """Guards against ranks that count useful groups or take problems for themselves, and that wait for one without any."""
    out = tmp_path / "run"
    assert_success(train_on_ranks(2, settings, out))
    assert_same_filling(out, one_process_run)


def test_a_run_resumes_on_another_number_of_ranks(settings: list[str], one_process_run: Path, tmp_path: Path) -> None:
    """Guards against a position in the problems that one process or rank 0 alone restores: two ranks, then one process,
    then three ranks, which are more than the useful groups of some batches."""
    out = tmp_path / "run"
    assert_success(train_on_ranks(2, settings, out, "updates=4"))
    train(settings, out, "updates=6", resume=True)
    assert_success(train_on_ranks(3, settings, out, "--resume"))
    assert_same_filling(out, one_process_run)
