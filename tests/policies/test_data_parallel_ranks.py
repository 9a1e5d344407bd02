"""Methods that continue replies, or put them after other prompts, on two ranks: the run of one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink.models.language_model import LanguageModel
from support.fake_vllm import computing_server
from support.processes import light
from support.ranks import assert_success
from support.ranks_runs import (
    WEIGHTS,
    assert_same_records,
    checkpoint_weights,
    lines,
    max_gap,
    run_settings,
    train,
    train_on_ranks,
    update_records,
)

pytestmark = pytest.mark.slow

_light = pytest.fixture(scope="module", autouse=True)(light)

METHODS = {
    "vl_rethinker": [
        "method.rethink={share = 1.0, easy = 1.0, cut_before = ['1'], min_tokens = 1, max_kept = 9, triggers = [' 7']}",
        *("method.n_solve=3", "problems_per_batch=11", "method.replay.updates=2", "sampling.max_tokens=31"),
    ],
    "critique_grpo": [
        *("prompts.critique=why", "prompts.improve=again", "method.critic.source=policy", "method.n_kept=2"),
        *("method.n_solve=5", "method.solve.n_steps=2"),
    ],
}


def settings_of(method: str, folder: Path, model: Path) -> list[str]:
    general = [setting for setting in run_settings(folder, model) if not setting.startswith("method")]
    return [*general, f"method.name={method}", *METHODS[method], "updates=4"]


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_make_the_run_of_one_process(method: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Guards against continued replies, or a replay buffer, that each rank has for itself."""
    settings = settings_of(method, tmp_path, model_folders["qwen3"])
    one, two = train(settings, tmp_path / "one"), tmp_path / "two"
    assert_success(train_on_ranks(2, settings, two))
    assert_same_edits(two, one)


def test_two_ranks_with_one_vllm_server(qwen: LanguageModel, model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Guards against ranks that continue all replies, or get only their own."""
    settings = settings_of("vl_rethinker", tmp_path, model_folders["qwen3"])
    with computing_server(qwen) as server:
        more = ("sampler.engine=vllm", f'sampler.urls=["{server.url}"]', "sampling.max_tokens=11")
        one = train(settings, tmp_path / "one", *more)
        n_of_one = len(server.requests)
        assert_success(train_on_ranks(2, settings, tmp_path / "two", *more))
        n_of_two = len(server.requests) - n_of_one
    assert n_of_two == n_of_one + 4, "the check before the run has 4 prompts per rank; no reply is continued twice"
    assert_same_edits(tmp_path / "two", one)


def assert_same_edits(ours: Path, theirs: Path) -> None:
    """Assert that both runs are the same, and that their methods kept edited replies."""
    assert lines(ours / "samples.jsonl") == lines(theirs / "samples.jsonl")
    records = update_records(theirs)
    assert sum(record["method/n_kept"] for record in records) > 1
    assert sum(record.get("method/n_replayed", 1) for record in records) > 0
    assert_same_records(update_records(ours), records)
    assert max_gap(checkpoint_weights(ours, 4), checkpoint_weights(theirs, 4)) <= WEIGHTS
