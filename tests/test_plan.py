"""The plan's memory against what torch allocates, and its arithmetic against the code that it stands for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from conftest import save_random_model
from plan_measured import build, peak_bytes, samples, sampling_peak, size, training_peak
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.plan import sampling as planned
from rethink.plan import shape as shapes
from rethink.plan.memory import GIB, Setup, frozen, gathered, gradients, optimizer, untrained_copy, weights
from rethink.plan.read import read_shape, shape_of
from rethink.plan.sampling import Request, sampling_moments, slots
from rethink.plan.seconds import Machine, sampling_s, training_s
from rethink.plan.shape import Batch, Shape
from rethink.plan.training import activations, training_moments
from rethink.policies.local import cache
from rethink.policies.local.decode import room_for, shape_for
from rethink.policies.local.dispatch import shard_requests
from rethink.policies.token_policy import Request as Asked
from rethink.settings import Training
from rethink.train import micro_batch
from rethink.train.micro_batch import TrainingSample, lay_out
from rethink.types import Message, Prompt, Sampling
from samples import make_prompt, reply_of

CONFIGS = Path(__file__).parent / "configs"

SIZES = {
    "vocab_size": 499,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 1,
    "tie_word_embeddings": True,
}

QWEN: dict[str, Any] = {"head_dim": 16}

TRAINING: dict[str, tuple[str, dict[str, Any], dict[str, Any], tuple[int, int, int, int]]] = {
    # What: kind, sizes, settings, and samples (prompts, replies to each, tokens of a prompt, tokens of a reply).
    "activations": ("qwen3", QWEN, {}, (4, 4, 32, 64)),
    "bfloat16": ("qwen3", QWEN, {"autocast": "bfloat16"}, (4, 4, 32, 64)),
    "recomputed": ("qwen3", QWEN, {"gradient_checkpointing": True}, (4, 4, 32, 64)),
    "half the tokens": ("qwen3", QWEN, {"micro_batch_tokens": 400}, (4, 4, 32, 64)),
    "long rows": ("qwen3", QWEN, {}, (1, 4, 64, 320)),
    "large vocabulary": ("qwen3", {**QWEN, "vocab_size": 9973}, {"chunk_tokens": 128}, (2, 4, 32, 64)),
    "weights": (
        "qwen3",
        {**QWEN, "hidden_size": 256, "intermediate_size": 768, "vocab_size": 997},
        {"micro_batch_tokens": 64},
        (2, 2, 8, 16),
    ),
    "head of its own": ("llama", {"tie_word_embeddings": False}, {}, (4, 4, 32, 64)),
    "modules": ("olmo2", {}, {}, (4, 4, 32, 64)),
    "modules, bfloat16": ("olmo2", {}, {"autocast": "bfloat16"}, (4, 4, 32, 64)),
    "modules, recomputed": ("olmo2", {}, {"gradient_checkpointing": True}, (4, 4, 32, 64)),
}


@pytest.mark.parametrize("name", TRAINING)
def test_training_takes_what_the_plan_says(name: str) -> None:
    """Guards against formulas that the code has left behind: within 15% of the peak that torch records, in two updates."""
    kind, changes, settings, some = TRAINING[name]
    sizes = {**SIZES, **changes}
    how = Training(**{"autocast": "none", "micro_batch_tokens": 1600, **settings})
    measured, batch, n = training_peak(kind, sizes, how, samples(*some, sizes["vocab_size"]))
    setup = setup_of(shape_of(AutoConfig.for_model(kind, **sizes)), how)
    found = max(training_moments(setup, batch, n), key=lambda moment: moment.n_bytes)
    assert found.n_bytes == pytest.approx(measured, rel=0.08), found


@pytest.mark.parametrize("name", ["activations", "weights", "modules", "modules, bfloat16"])
def test_training_an_adapter_takes_what_the_plan_says(name: str) -> None:
    """Guards against what only trained weights keep or have: gradients, normalized states, a way back of their size."""
    pytest.importorskip("peft", reason="the extra peft is not installed")
    kind, changes, settings, some = TRAINING[name]
    sizes = {**SIZES, **changes}
    how = Training(**{"autocast": "none", "micro_batch_tokens": 1600, **settings})
    measured, batch, n = training_peak(kind, sizes, how, samples(*some, sizes["vocab_size"]), rank=5)
    setup = setup_of(shape_of(AutoConfig.for_model(kind, **sizes)), how).with_(rank=5)
    found = max(training_moments(setup, batch, n), key=lambda moment: moment.n_bytes)
    assert found.n_bytes == pytest.approx(measured, rel=0.1), found


def setup_of(shape: Shape, how: Training) -> Setup:
    """On this machine: fused attention stays in float32."""
    matrix = 2 if how.autocast == "bfloat16" else 4
    return Setup(
        shape,
        matrix=matrix,
        sampler=4,
        attention=4 if shape.fused else matrix,
        sampler_cache=4,
        recompute=how.gradient_checkpointing,
        chunk_tokens=how.chunk_tokens,
    )


SAMPLING: dict[str, tuple[dict[str, object], int, int, int, int]] = {
    # What: sizes, number of prompts, words of each, replies to each, tokens of a reply; a cache of 40 MB, or of 0.6.
    "all at once": ({}, 8, 40, 4, 40),
    "short prompts": ({}, 8, 2, 4, 40),
    "long prompts": ({}, 8, 120, 1, 4),
    "large vocabulary": ({"vocab_size": 9973}, 8, 8, 4, 8),
    "more than fit": ({"num_hidden_layers": 6}, 12, 40, 4, 24),
}


@pytest.mark.parametrize("name", SAMPLING)
def test_sampling_takes_what_the_plan_says(name: str, tmp_path: Path) -> None:
    """Guards against a cache, or what is computed beside it, that the plan does not know of."""
    changes, n_prompts, n_words, n, n_tokens = SAMPLING[name]
    sizes = {**SIZES, **QWEN, "pad_token_id": 0, **changes}
    folder = str(save_random_model(tmp_path / "model", "qwen3", **sizes))
    load_model(folder)  # what is made once is not counted
    n_bytes = 40_000_000 if name != "more than fit" else 600_000
    prompts = [prompt_of(i, n_words) for i in range(n_prompts)]
    load = partial(load_model, folder)
    measured, request = sampling_peak(load, prompts, n, Sampling(max_tokens=n_tokens), n_bytes)
    setup = setup_of(read_shape(folder), Training(autocast="none")).with_(cache_bytes=n_bytes)
    found = max(sampling_moments(setup, request), key=lambda moment: moment.n_bytes)
    assert found.n_bytes - optimizer(setup).n_bytes == pytest.approx(measured, rel=0.15), found


def prompt_of(i: int, n_words: int) -> Prompt:
    prompt = make_prompt(f"p{i}", seed=i)
    words = " ".join(str((i + k) % 10) for k in range(n_words))
    return Prompt(prompt.problem, "solve", (Message("user", words),), i)


def test_what_is_measured() -> None:
    """Guards the ruler itself: two tensors of 4,000 bytes at a time, of three."""

    def work() -> None:
        a = torch.ones(1000)
        b = a * 2
        del a
        b * 3

    assert peak_bytes(work) == pytest.approx(8000, rel=0.01)  # the 2 and the 3 are there as well


# Arithmetic against code


def test_sizes_of_a_micro_batch_are_those_of_its_layout() -> None:
    """Guards against another padding than the trainer's."""
    lengths = ((40, "a"), (37, "a"), (12, "b"), (9, "b"), (3, "b"), (1, "a"))
    rows = [
        TrainingSample(reply_of(n, group=g, prompt_ids=(2, *range(5, 9 if g == "a" else 30), 3))) for n, g in lengths
    ]
    batch, real = size(rows), lay_out(rows)
    blocks = real.attend.blocks
    assert batch.flat == len(real.ids_F)
    assert batch.trained == len(real.target_T) == sum(n for n, _ in lengths)
    assert batch.queries == sum(b.query_N_R.numel() for b in blocks)
    assert batch.keys == sum(b.key_N_S.numel() for b in blocks)
    masks = [b.mask(None, torch.float32) for b in blocks]
    assert batch.mask == sum(m.numel() for m in masks if m is not None) > 0
    assert micro_batch.BLOCK_RATIO == shapes.BLOCK_RATIO


@pytest.mark.parametrize("cache_tokens", [10, 100, 400, 2000, 10**6])
@pytest.mark.parametrize(("lengths", "n"), [((40, 50, 70), 4), ((5, 6), 3), ((31, 2, 2, 2), 1)])
def test_slots_are_those_of_the_sampler(lengths: tuple[int, ...], n: int, cache_tokens: int) -> None:
    """Guards against another cache than the sampler's: rows, prompts and tokens of its own rule."""
    request = Request("solve", lengths, n, 20, 1)
    found = slots(request, cache_tokens)
    asked = [Asked((1,) * k, n, 0) for k in lengths]
    (pieces,) = shard_requests(asked, range(len(asked)), 1, room_for(max(lengths), 20, cache_tokens))
    real = shape_for([piece for _, piece in pieces], 20, cache_tokens)
    assert (found.n_rows, found.n_prompts, found.n_tokens) == (real.n_rows, real.n_prompts, real.n_tokens)
    assert planned.SHARE_FROM == cache.SHARE_FROM


def test_bytes_of_a_token_are_those_of_the_sampler(any_model: LanguageModel) -> None:
    """Guards against heads that are counted otherwise."""
    assert shape_of(any_model.config).cache_bytes(4) == cache.bytes_per_token(any_model, torch.float32)


def test_sizes_of_known_models() -> None:
    """By hand. Qwen3-4B: V H = 151936 * 2560; a layer is 2560 * (4096 + 2 * 1024 + 4096 + 3 * 9728) + 2 * 128 + 2 * 2560,
    36 of them; and a last norm. Llama-3-8B has 8,030,261,248 parameters and OLMo-2-7B 7,298,617,344."""
    qwen = read_shape("", CONFIGS / "qwen3-4b.json")
    layer = 2560 * (4096 + 2 * 1024 + 4096 + 3 * 9728) + 2 * 128 + 2 * 2560
    assert qwen.n_parameters == 151936 * 2560 + 36 * layer + 2560 == 4_022_468_096
    assert (qwen.tied, qwen.qk_norm, qwen.fused, qwen.n_keys, qwen.n_queries) == (True, True, True, 1024, 4096)
    assert qwen.n_body == 36 * layer + 2560
    assert qwen.n_joined + qwen.n_plain == 36 * 2560 * (4096 + 2 * 1024 + 4096 + 3 * 9728)
    llama = read_shape("", CONFIGS / "llama-8b.json")
    layer = 4096 * (2 * 4096 + 2 * 1024 + 3 * 14336) + 2 * 4096
    assert llama.n_parameters == 2 * 128256 * 4096 + 32 * layer + 4096 == 8_030_261_248
    assert (llama.tied, llama.qk_norm, llama.fused) == (False, False, True)
    olmo = read_shape("", CONFIGS / "olmo2-7b.json")
    layer = 4096 * (4 * 4096 + 3 * 11008) + 4 * 4096
    assert olmo.n_parameters == 2 * 100352 * 4096 + 32 * layer + 4096 == 7_298_617_344
    assert (olmo.qk_norm, olmo.fused) == (True, False)


SHAPE = Shape(
    hidden=8,
    n_layers=2,
    n_heads=2,
    n_kv_heads=1,
    head_dim=4,
    intermediate=16,
    vocabulary=10,
    n_parameters=1000,
    tied=True,
)
BATCH = Batch(flat=10, trained=6, queries=12, keys=20, mask=30)


def test_activations_by_hand() -> None:
    """Per token of 10: two states of 8 and their scale, 72; in bfloat16 again, 32; the output of attention, 16; the mlp,
    96: 216. Per query of 12: 2 * 2 * 8 + 8 = 40; per key of 20: 16. Masks 2 * 30 once."""
    setup = Setup(SHAPE)
    layer = 216 * 10 + 40 * 12 + 16 * 20
    assert activations(setup, BATCH) == 2 * layer + 60
    assert activations(setup.with_(shared_masks=False), BATCH) == 2 * layer + 120
    assert activations(setup.with_(recompute=True), BATCH) == 2 * 32 * 10 + 60


def test_weights_gradients_and_optimizer_by_hand() -> None:
    """4, 4 and 8 bytes per parameter, or with 8 bits 2 (1 + 1 / 64) for all but the 80 of the embedding; shared by the
    GPUs; adapters alone with a rank: of a layer 3 * (8 + 8 + 8 + 4 + 8 + 4 + 8 + 8 + 3 * 24)."""
    setup = Setup(SHAPE, n_gpus=4)
    assert [f(setup).n_bytes for f in (weights, gradients, optimizer)] == [1000, 1000, 2000]
    assert optimizer(setup.with_(optimizer="adamw8bit")).n_bytes == (8 * 80 + 920 * 2 * (1 + 1 / 64)) / 4
    n = 2 * 3 * ((8 + 8) + 2 * (8 + 4) + (8 + 8) + 3 * 24)
    adapted = setup.with_(rank=3)
    assert [f(adapted).n_bytes for f in (weights, gradients, optimizer)] == [1000 + n, n, 2 * n]
    assert weights(adapted.with_(base=2)).n_bytes == 500 + n


def test_adapters_on_several_gpus_by_hand() -> None:
    """Two layers are all there are: 920 numbers in the trainer's bfloat16, and the adapters' 912 with their gradients in
    float32. Embedding and head are one, 4 * 80, without gradient. The start weights, 2 * 1000 for a bfloat16 base, are the
    adapters' own base on one GPU; beside them stands what sampler or trainer make of each model."""
    n = 2 * 3 * ((8 + 8) + 2 * (8 + 4) + (8 + 8) + 3 * 24)
    assert n == 912 - 144
    setup = Setup(SHAPE, n_gpus=4, rank=3, base=2, frozen=1, start=1)
    assert [item.n_bytes for item in gathered(setup)] == [2 * (920 + n) + 4 * n, 320]
    copies = untrained_copy(SHAPE, 2)
    assert [item.n_bytes for item in frozen(setup)] == [2 * 1000 + copies]
    assert [item.n_bytes for item in frozen(setup.with_(n_gpus=1))] == [copies]
    assert [item.n_bytes for item in frozen(setup.with_(n_gpus=1, frozen=2))] == [4 * 1000 + 2 * copies]


def test_seconds_by_hand() -> None:
    """A machine that does 1e13 operations and moves 1e12 bytes per second, reached in full."""
    machine = Machine(10.0, 10.0, 1.0, 1.0, 1.0, launch_s=0.0)
    setup = Setup(SHAPE)
    body = 1000 - 80
    # 6 per parameter and token, attention 2 layers * 8 queries * 5 more; the head 8 * 80 for each trained token.
    expected = (6 * 10 * (body + 2 * 8 * 5) + 8 * 6 * 80) / 1e13
    assert training_s(setup, machine, 10, 6, 0, 5.0) == pytest.approx(expected)
    assert training_s(setup.with_(recompute=True), machine, 10, 6, 0, 5.0) == pytest.approx(
        (8 * 10 * (body + 80) + 8 * 6 * 80) / 1e13
    )
    # 2 prompts of 4 and 3 replies of at most 5 tokens, 24 in all: 5 steps, as all rows fit; a step reads the body in
    # bfloat16, the head in float32, and of 24 / 5 rows 4 / 3 + 2 tokens of 2 * 2 * 4 * 2 bytes.
    request = Request("solve", (4, 4), 3, 5, 24)
    reads = 2 * body + 4 * 80 + 24 / 5 * (4 / 3 + 2) * 32
    found = sampling_s(setup.with_(cache_bytes=GIB), machine, request)
    assert found == pytest.approx(2 * body * 8 / 1e13 + 5 * reads / 1e12)
    # Two GPUs halve it, except for the weights that each reads.
    assert found / 2 < sampling_s(setup.with_(n_gpus=2), machine, request) < found


def test_a_model_that_is_built_for_measuring_is_the_one_that_is_planned() -> None:
    """Guards against figures of two different models."""
    sizes = {**SIZES, **QWEN}
    model = build("qwen3", **sizes)
    assert sum(p.numel() for p in model.module.parameters()) == shape_of(model.config).n_parameters
    assert model.fused == shape_of(model.config).fused
