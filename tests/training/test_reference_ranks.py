"""The reference model on several ranks: where it moves to, the role that samples or scores with it, and resumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink.models.sharded_weights import is_sharded
from rethink.training.reference import FILE, FOLDER
from support.processes import light
from support.ranks import assert_success
from support.ranks_runs import (
    WEIGHTS,
    assert_same_records,
    checkpoint_weights,
    lines,
    max_gap,
    records,
    run_settings,
    train,
    train_on_ranks,
)

pytestmark = pytest.mark.slow

_light = pytest.fixture(scope="module", autouse=True)(light)

MOVING = ("training.reference_every=1", "training.reference_mixup=0.5", "training.lr=0.01")


def assert_same(ours: Path, theirs: Path, n: int) -> None:
    assert lines(ours / "samples.jsonl") == lines(theirs / "samples.jsonl")
    assert_same_records(records(ours), records(theirs))
    assert max_gap(checkpoint_weights(ours, n), checkpoint_weights(theirs, n)) <= WEIGHTS


def test_a_moving_reference_resumes_on_another_number_of_ranks(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Guards against a reference that a resumed run begins at the start model, and shards that only as many ranks can read:
    two ranks, one process and three ranks in turn."""
    settings = run_settings(tmp_path, model_folders["qwen3"], *MOVING)
    whole = train(settings, tmp_path / "whole")
    assert all(r["kl_to_reference_nats"] > 1e-4 for r in records(whole) if r["phase"] == "refine")
    parts = tmp_path / "parts"
    assert_success(train_on_ranks(2, settings, parts, "updates=2"))
    train(settings, parts, "updates=4", resume=True)
    assert_success(train_on_ranks(3, settings, parts, "--resume"))
    written = [parts / "checkpoints" / f"{n:06d}" for n in (2, 4, 6)]
    assert [is_sharded(checkpoint / FOLDER) for checkpoint in written] == [True, False, True]
    assert [(checkpoint / FILE).is_file() for checkpoint in written] == [False, True, False]
    assert_same(parts, whole, 6)


def test_the_role_follows_a_sharded_reference(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Guards against a teacher that stays at the start model on several ranks, also after a resume."""
    settings = run_settings(tmp_path, model_folders["qwen3"], *MOVING)
    settings = [s for s in settings if not s.startswith(("method", "training.old"))]
    settings += ["method={name = 'self_distillation', form = 'sampled', n_solve = 4}", "updates=4"]
    settings += ["method.hints={ask = '{question}{hint}', sibling = ' ? {reply}'}"]
    whole, parts = train(settings, tmp_path / "whole"), tmp_path / "parts"
    assert all(r["grad_norm"] > 0 for r in records(whole))
    assert_success(train_on_ranks(2, settings, parts, "updates=2"))
    assert_success(train_on_ranks(2, settings, parts, "--resume"))
    assert_same(parts, whole, 4)
