"""The FSDP engine on three ranks: log-probs, gradients and steps are those of one process, with and without an adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.utils import logging

from rethink.models.load import load_model
from rethink.plan.memory import REFERENCE, FrozenModels, MemorySettings, kept_items, n_bytes, reference_items
from rethink.plan.meta_model import build_meta_model
from support import random_models
from support.processes import light
from support.ranks import assert_success, run_ranks
from support.ranks_runs import BFLOAT16, FLOAT32, WEIGHTS, max_gap, mean_gap, relative_distance
from support.ranks_trainer import (
    LORA_UPDATES,
    UPDATES,
    Found,
    Job,
    apply_in_one_process,
    apply_on_ranks,
    read_in_one_process,
)
from support.samples import assert_same_gradient

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "gpt2, tied": ("gpt2", {}),
    "phi, with a bias of the head": ("phi", {"partial_rotary_factor": 0.4}),
}

ADAPTERS: dict[str, tuple[str, str | tuple[str, ...]]] = {
    "adapter of qwen3": ("qwen3", "all-linear"),
    "adapter of some layers of gpt2": ("gpt2, tied", ("c_attn", "c_fc")),
}

JOBS = (*MODELS, *ADAPTERS)

Results = dict[str, tuple[Found, Found]]

_light = pytest.fixture(scope="module", autouse=True)(light)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """By the name of the job: the results of the same updates on three ranks and in one process."""
    folder = tmp_path_factory.mktemp("results")
    logging.disable_progress_bar()
    for name, (kind, changes) in MODELS.items():
        saved = random_models.save_random_model(folder / name, kind, **changes)
        model = load_model(str(saved))
        with torch.no_grad():
            for p in model.module.parameters():
                if p.dim() == 1:  # biases of zero would hide that they are missing
                    p.add_(torch.linspace(-0.3, 0.3, len(p)))
        model.module.save_pretrained(saved)
    jobs = {name: Job(folder / name, folder / f"checkpoint {name}") for name in MODELS}
    for name, setting in (("bfloat16", {"autocast": "bfloat16"}), ("checkpointing", {"gradient_checkpointing": True})):
        jobs[name] = Job(folder / "qwen3", folder / f"checkpoint {name}", settings=dict(setting))
    for name, (kind, targets) in ADAPTERS.items():
        jobs[name] = Job(folder / kind, folder / f"checkpoint {name}", targets)
    base = Job(folder / "qwen3", folder / "checkpoint base", "all-linear", "bfloat16", {"gradient_checkpointing": True})
    jobs["adapter, bfloat16 base"] = base
    rounded = load_model(str(folder / "qwen3"), dtype="bfloat16")
    rounded.module.float().save_pretrained(folder / "rounded")
    rounded.chat.tokenizer.save_pretrained(folder / "rounded")
    in_one = {name: apply_in_one_process(job) for name, job in jobs.items()}
    assert_success(run_ranks(3, apply_on_ranks, jobs, folder / "found", folder=folder / "output"))
    on_ranks = torch.load(folder / "found", weights_only=False)
    for name, job in jobs.items():
        in_one[name]["after reading ranks"] = read_in_one_process(job)
    in_one["rounded"] = apply_in_one_process(Job(folder / "rounded", folder / "checkpoint rounded", "all-linear"))
    return {name: (on_ranks.get(name, {}), found) for name, found in in_one.items()}


@pytest.mark.parametrize("job", JOBS)
def test_log_probs_equal_those_of_one_process(job: str, results: Results) -> None:
    """Guards against log-probs in another order, and weights that are not gathered, or not sharded."""
    got, want = results[job]
    assert got["not sharded"] == []
    assert [len(x) for x in got["log-probs"]] == [5, 5, 2, 0, 0, 3]
    for a, b in zip(got["log-probs"], want["log-probs"], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("job", JOBS)
def test_gradients_equal_those_of_one_process(job: str, results: Results) -> None:
    """Guards against means over ranks, one rank's denominators or metrics, and tokens that count twice or not at all."""
    got_all, want_all = results[job]
    for update in UPDATES if job in MODELS else LORA_UPDATES:
        got, want = got_all[update], want_all[update]
        assert got["gradient"].keys() == want_all["trained"]
        assert_same_gradient(got["gradient"], want["gradient"], FLOAT32)
        assert {"loss", "grad_norm", "lr"} <= got["metrics"].keys() == want["metrics"].keys()
        assert got["metrics"] == pytest.approx(want["metrics"], rel=FLOAT32, abs=1e-5), update
        assert want["metrics"]["grad_norm"] > 0.1


@pytest.mark.parametrize("job", JOBS)
def test_optimizer_steps_equal_those_of_one_process(job: str, results: Results) -> None:
    """Guards against a step without a gradient, a clip of a rank's share, and an adapter's base that moves."""
    steps = [found["steps"] for found in results[job]]
    assert steps[0][1]["metrics"]["loss"] == 0.0
    assert "grad_norm" not in steps[0][1]["metrics"]
    for got, want in zip(*steps, strict=True):
        assert got["metrics"] == pytest.approx(want["metrics"], rel=FLOAT32, abs=1e-5)
        assert max_gap(without_key_biases(got["weights"]), without_key_biases(want["weights"])) <= WEIGHTS
    start, end = results[job][1]["start"], steps[0][-1]["weights"]
    assert {name for name, w in start.items() if not torch.equal(end[name], w)} == results[job][1]["trained"]


@pytest.mark.parametrize("job", JOBS)
def test_the_moving_reference_equals_that_of_one_process(job: str, results: Results) -> None:
    """Guards against a reference that averages a rank's shard, or the base without its adapter."""
    got, want = (found["reference"] for found in results[job])
    assert max_gap(without_key_biases(got), without_key_biases(want)) <= WEIGHTS


def without_key_biases(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop biases of keys: softmax ignores them, their gradient is rounding, and Adam scales it up to a full step."""
    return {name: w for name, w in weights.items() if "k_proj.bias" not in name and "c_attn.bias" not in name}


@pytest.mark.parametrize("job", JOBS)
def test_checkpoints_before_the_first_step_are_interchangeable(job: str, results: Results) -> None:
    """Guards against an optimizer that counts a step that was not taken: torch makes up a state where there is none."""
    got, want = results[job]
    for weights in (got["after reading"], want["after reading ranks"]):
        # On average: Adam's first step scales a tiny gradient up to a full one. One step too many would move most weights
        # by a quarter of the learning rate, 2.6e-4.
        assert mean_gap(weights, want["after reading"]) <= 1e-6


def test_gradient_checkpointing_on_ranks(results: Results) -> None:
    """Guards against layers that are recomputed from dropped weights, or while other ranks gather."""
    got, want = results["checkpointing"][0], results["qwen3"][0]
    for update in ("clip", "prefer"):
        for name, gradient in want[update]["gradient"].items():
            torch.testing.assert_close(got[update]["gradient"][name], gradient, rtol=1e-5, atol=1e-6)


def test_bfloat16_on_ranks_is_near_float32(results: Results) -> None:
    """Guards against a head, or sums over ranks, in bfloat16. Ranks also have the norms' weights in bfloat16."""
    exact = results["qwen3"][1]
    got, want = results["bfloat16"]
    for update in UPDATES:
        ours, theirs = (relative_distance(x[update]["gradient"], exact[update]["gradient"]) for x in (got, want))
        # A divergence compares two nearly equal distributions, whose difference has few exact digits.
        assert 1e-3 < ours < (1 if update.startswith("distill") else BFLOAT16), update
        assert ours < 3 * theirs, update
    gaps = [float((a - b).abs().max()) for a, b in zip(got["log-probs"], exact["log-probs"], strict=True) if len(a)]
    assert 1e-3 < max(gaps) < BFLOAT16


@pytest.mark.parametrize("job", ADAPTERS)
def test_published_weights_are_merged(job: str, results: Results) -> None:
    """Guards against `peft`'s names, factors of one shard, and a sampler that gets the base; tied weights come once."""
    got, want = results[job]
    assert [name for name, _ in got["merged"]] == [name for name, _ in want["merged"]]
    assert got["shapes"] == [(name, tuple(weight.shape)) for name, weight in want["merged"]]
    assert got["meta_model"] == [(name, shape, "meta") for name, shape in got["shapes"]]
    for (name, ours), (_, theirs) in zip(got["merged"], want["merged"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(("job", "dtype"), [("adapter of qwen3", "float32"), ("adapter, bfloat16 base", "bfloat16")])
def test_the_plan_counts_the_bytes_of_ranks(job: str, dtype: str, results: Results) -> None:
    """Guards against a base that has moments, is whole on each rank, or has another dtype than the plan says."""
    got, want = results[job]
    items = kept_items(build_meta_model(want["config"], dtype, 3), MemorySettings(n_gpus=3, rank=3, base=dtype))
    assert got["bytes"] == (3 * items["weights"], 3 * items["optimizer, adamw"])
    assert got["bytes of start"] == 0


def test_the_start_model_is_sharded(results: Results) -> None:
    """Guards against ranks that hold it whole, or with gradients, and against a plan that says otherwise."""
    got, want = results["qwen3"]
    model = build_meta_model(want["config"])
    items = reference_items(model, MemorySettings(n_gpus=3, frozen=FrozenModels(compared=True)))
    assert got["bytes of start"] == 3 * items[REFERENCE] == n_bytes(model.module.parameters())


def test_a_bfloat16_base_on_ranks(results: Results) -> None:
    """Guards against an adapter, a head or sums in bfloat16. Compared with the same rounded base in float32."""
    (got, want), exact = results["adapter, bfloat16 base"], results["rounded"][1]
    weights = got["steps"][-1]["weights"]
    assert {name for name, w in weights.items() if w.dtype == torch.float32} == want["trained"]
    assert {w.dtype for name, w in weights.items() if name not in want["trained"]} == {torch.bfloat16}
    for update in LORA_UPDATES:
        assert {g.dtype for g in got[update]["gradient"].values()} == {torch.float32}
        ours, theirs = (relative_distance(x[update]["gradient"], exact[update]["gradient"]) for x in (got, want))
        # A divergence compares two nearly equal distributions, whose difference has few exact digits.
        assert 1e-3 < ours < (1 if update.startswith("distill") else BFLOAT16), update
        assert ours < 3 * theirs, update
    gaps = [float((a - b).abs().max()) for a, b in zip(got["log-probs"], exact["log-probs"], strict=True) if len(a)]
    assert 1e-3 < max(gaps) < BFLOAT16
    for (name, ours), (_, theirs) in zip(got["merged"], exact["merged"], strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-6, msg=name)
