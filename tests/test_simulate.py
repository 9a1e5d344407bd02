"""The arithmetic of `benchmarks/simulate.py` by hand, so that its predictions are those of the model that it states."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rethink.policies.local import dispatch
from rethink.policies.token_policy import Request


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    return importlib.import_module("simulate")


@pytest.mark.parametrize(("n_prompts", "n_ranks"), [(7, 1), (7, 2), (7, 5), (2, 5), (2, 13), (3, 29)])
def test_pieces_are_dealt_as_the_sampler_deals_them(n_prompts: int, n_ranks: int, simulate: Any) -> None:
    """Guards against a simulator of another sampler: the same pieces in the same shares."""
    requests = [Request((i,), 11, 5) for i in range(n_prompts)]
    ours = dispatch.deal(requests, range(n_prompts), n_ranks, room=1000)
    assert [[(i, r.first, r.first + r.n) for i, r in one] for one in ours] == [
        one for one in simulate.deal(n_prompts, 11, n_ranks) if one
    ]


def test_rows_and_tokens_of_each_step_by_hand(simulate: Any) -> None:
    """Two slots for replies of 3, 1 and 2 tokens to prompts of 10, 20 and 30: the third starts at step 1, when the second
    has ended. Tokens: 10 + 20, then 11 + 30, then 12 + 31."""
    rows, tokens = simulate.running(np.array([10.0, 20.0, 30.0]), np.array([3.0, 1.0, 2.0]), 2)
    assert rows.tolist() == [2, 2, 2]
    assert tokens.tolist() == [30, 41, 43]
    rows, tokens = simulate.running(np.array([10.0, 20.0, 30.0]), np.array([3.0, 1.0, 2.0]), 3)
    assert rows.tolist() == [3, 2, 1]
    assert tokens.tolist() == [60, 42, 12]


def test_seconds_by_hand(simulate: Any) -> None:
    """A model of 1,000 parameters at 2 bytes, 5 bytes of cache a token: a step of one row with a prompt of 7 reads 2,035
    bytes, the next 2,040. Eight ranks take in 800 bytes, 700 from others, at 100 bytes/s, after three hops of 2 s."""
    cluster = simulate.Cluster("c", 1e9, 1000.0, 1e9, 4, 200.0, 100.0, 2.0, 0.5, 0.0, 0.0, 1)
    work = simulate.Work("w", 1000.0, 3, 5.0, simulate.observed([2]), 7, 1, n_samples=1, cache_bytes=1e6)
    assert simulate.decode_s(cluster, work, np.array([7.0]), np.array([2.0])) == pytest.approx(2.035 + 2.04 + 2 * 0.5)
    assert cluster.collective_s(800.0, 8) == pytest.approx(700 / 100 + 2 * 3)
    assert cluster.collective_s(800.0, 2) == pytest.approx(400 / 200 + 2)
    assert cluster.collective_s(800.0, 1) == 0
    # 24 trained tokens in 4 optimizer steps: 8 operations per parameter and token, and 28 bytes per parameter and step.
    trained, sent = simulate.train_s(replace(cluster, flops=100.0), work, 24.0, 1)
    assert trained == pytest.approx(8 * 1000 * 24 / 100 + 4 * 28 * 1000 / 1000)
    assert sent == 0


def test_one_rank_waits_for_nobody_and_more_ranks_lose_no_work(simulate: Any) -> None:
    """Guards against tokens that get lost on the way to more ranks, and against a wait that is none."""
    cluster, work = simulate.CLUSTERS["h100"], simulate.WORKS["qwen3-4b"]
    one, many = (simulate.simulate(cluster, work, n, n_draws=2) for n in (1, 13))
    assert one["n_tokens"] == many["n_tokens"]
    assert one["train"] == pytest.approx(13 * many["train"])
    assert one["prefill"] == pytest.approx(13 * many["prefill"])
    assert {one[name] for name in ("wait", "gather", "send", "publish")} == {0}
    assert many["wait"] > 0
