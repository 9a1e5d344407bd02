"""`rethink plan`: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rethink.commands.plan import _tokens
from rethink.objectives import Update
from rethink.plan.token_counts import BatchCounts, SampleRequest
from rethink.types import Sampling
from support.command_line import Rethink, assert_one_message

CONFIGS = Path(__file__).parent.parent / "support" / "configs"
QWEN = ["plan", "thinktwice-qwen3-4b", "--config", CONFIGS / "qwen3-4b.json", "--out", "plan.json"]


def test_a_plan_that_fits(rethink: Rethink) -> None:
    """The tiny model on its generated problems."""
    shown = rethink("plan", "demo-think-twice", "--out", "plan.json")
    assert shown.code == 0
    plan = json.loads(Path("plan.json").read_text())
    assert plan["fits"]
    assert "combined" not in plan
    assert "FITS: needs 1." in shown.out
    assert "the first 32 problems of countdown" in shown.out
    # 32 problems, 8 samples of at most 24 tokens, half of it expected; each phase is in one update of two.
    assert plan["updates"]["most"]["sampled"] == {"solve": 32 * 8 * 24 / 2, "refine": 32 * 8 * 24 / 2}
    assert plan["updates"]["mean"]["sampled"]["solve"] == 32 * 8 * 12 / 2


def test_each_call_of_a_phase_counts() -> None:
    """Regression: of several calls of a phase, as in rounds of merging, the table showed the last one."""
    calls = [SampleRequest(phase, (9,), 1, Sampling(), n) for phase, n in (("solve", 70), ("merge", 30), ("merge", 11))]
    found = _tokens(BatchCounts(calls, [Update("one", ()), Update("two", ())]))
    assert found["sampled"] == {"solve": 35, "merge": 20.5}


@pytest.mark.slow
def test_a_plan_that_does_not_fit(rethink: Rethink) -> None:
    """Guards against a table without its verdict, and numbers on the screen that differ from the file's."""
    shown = rethink(*QWEN, "--gpus", 2, "--gpu-memory", 40, "sampling.max_tokens=100", "problems_per_batch=4")
    assert shown.code == 0
    plan = json.loads(Path("plan.json").read_text())
    assert not plan["fits"]
    assert f"DOES NOT FIT: needs {plan['needed_gib']:.1f} of 40 GiB per GPU" in shown.out
    assert all(change["setting"] in shown.out for change in plan["changes"])
    assert f"fits with: {' '.join(plan['combined']['settings'])} (" in shown.out
    for stage in ("sampling", "training"):
        items = plan["memory"][stage]["gib"]
        assert all(name in shown.out for name in items)
        assert sum(items.values()) * 1.05 + 1 <= plan["needed_gib"] * 1.001
    assert {"gathered layers", "sampler's weights, unsharded"} <= plan["memory"]["training"]["gib"].keys()
    assert "2 GPUs of 40 GiB" in shown.out


@pytest.mark.slow
@pytest.mark.parametrize(("gib", "expected"), [(0, 3), (2, 2)])
def test_the_default_cache_is_a_third_of_the_gpu(
    rethink: Rethink, monkeypatch: pytest.MonkeyPatch, gib: int, expected: float
) -> None:
    """Guards against the cache of a CPU. It is filled with whole groups of 0.5 GiB."""
    monkeypatch.setattr("rethink.plan.advice.changes", lambda found, memory: [])
    monkeypatch.setattr("rethink.plan.advice.first_fit", lambda found, memory, limit: ([], found.estimate(memory)))
    settings = ["sampling.max_tokens=400", "problems_per_batch=20", f"sampler.cache_gib={gib}"]
    assert rethink(*QWEN, "--gpu-memory", 9, *settings).code == 0
    found = json.loads(Path("plan.json").read_text())["memory"]["sampling"]["gib"]["KV cache"]
    assert expected - 0.6 < found <= expected


MISTAKES = {
    ("--gpus", "0"): "--gpus must be at least 1, not 0",
    ("--gpu-memory", "nan"): "--gpu-memory must be above 0 (GiB of one GPU), not nan",
    ("--reply-share", "0"): "--reply-share must be above 0 and at most 1",
    ("--question-tokens", "0"): "--question-tokens at least 1",
    ("--config", "nowhere.json"): "there is no file nowhere.json",
    ("model.path=no/such-model",): "cannot read the configuration of 'no/such-model'",
    ("--gpus", "64"): "64",
    ("problems_per_batch=5000",): "problems_per_batch is 5000, but there are only",
    ("sampling.max_tokens=500",): "sampling.max_tokens = 500 leaves no room for a prompt in the model's 128 positions",
    ("--gpus", "2", "lora.rank=4", "training.optimizer=adamw8bit"): "adamw8bit",
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.items(), ids=map(" ".join, MISTAKES))
def test_mistakes(rethink: Rethink, arguments: tuple[str, ...], message: str) -> None:
    """Guards against a traceback, and a plan of nonsense."""
    assert_one_message(rethink("plan", "demo-grpo", *arguments), message)
