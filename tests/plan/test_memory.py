"""The plan's memory: against what torch allocates, and by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from plan_measured import (
    build,
    distillation_of,
    planned_peak,
    planned_sampling,
    planned_training,
    samples,
    sampling_peak,
    training_peak,
    update_of,
)
from rethink.models.load import load_model
from rethink.objectives import Distill, Imitate, PolicyGradient, Prefer, Update
from rethink.plan import memory
from rethink.plan.heaviest_update import heaviest_update
from rethink.plan.memory import FrozenModels, MemorySettings
from rethink.plan.memory_tracker import GRADIENTS, largest_window
from rethink.plan.meta_model import build_meta_model
from rethink.settings import Training
from rethink.training.optimizer import open_optimizer
from rethink.types import Message, Prompt, Sampling
from support.random_models import save_random_model
from support.samples import make_prompt

SIZES = {
    **{"vocab_size": 499, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024},
    **{"pad_token_id": None, "bos_token_id": None, "eos_token_id": 1, "tie_word_embeddings": True},
}

QWEN: dict[str, Any] = {"head_dim": 16}
WIDE = {"hidden_size": 256, "intermediate_size": 768}

TRAINING: dict[str, tuple[str, dict[str, Any], dict[str, Any], tuple[int, int, int, int]]] = {
    # Case: kind, sizes, settings, and samples (prompts, replies to each, tokens of a prompt, tokens of a reply).
    "activations": ("qwen3", QWEN, {}, (4, 4, 32, 64)),
    "bfloat16": ("qwen3", QWEN, {"autocast": "bfloat16"}, (4, 4, 32, 64)),
    "checkpointing": ("qwen3", QWEN, {"gradient_checkpointing": True}, (4, 4, 32, 64)),
    "long rows": ("qwen3", QWEN, {}, (1, 4, 64, 320)),
    "large vocabulary": ("qwen3", {**QWEN, "vocab_size": 9973}, {"chunk_tokens": 128}, (2, 4, 32, 64)),
    "weights": ("qwen3", {**QWEN, **WIDE, "vocab_size": 997}, {"micro_batch_tokens": 64}, (2, 2, 8, 16)),
    "untied head": ("llama", {"tie_word_embeddings": False}, {}, (4, 4, 32, 64)),
    "modules": ("olmo2", {}, {}, (4, 4, 32, 64)),
    "modules, bfloat16": ("olmo2", {}, {"autocast": "bfloat16"}, (4, 4, 32, 64)),
    "modules, checkpointing": ("olmo2", {}, {"gradient_checkpointing": True}, (4, 4, 32, 64)),
}
ADAPTERS = ("activations", "weights", "modules", "modules, bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rank"), [*((name, 0) for name in TRAINING), *((name, 5) for name in ADAPTERS)])
def test_training_takes_what_the_plan_says(name: str, rank: int) -> None:
    """Guards against a plan for another trainer: within 3% of the peak that torch records in two updates."""
    if rank:
        pytest.importorskip("peft", reason="the extra peft is not installed")
    kind, changes, settings, shape = TRAINING[name]
    sizes = {**SIZES, **changes}
    training = Training(**{"autocast": "none", "micro_batch_tokens": 1600, **settings})
    drawn = samples(*shape, sizes["vocab_size"])
    measured = training_peak(kind, sizes, training, drawn, rank)
    assert planned_training(kind, sizes, training, drawn, rank).n_bytes == pytest.approx(measured, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 5])
def test_divergences_take_what_the_plan_says(rank: int) -> None:
    """Guards against a plan without their seven tables of logits, and against one that calls them gradients, which it does
    not count on several GPUs: with adapters, the slopes of the first chunk come before the tables of the second one."""
    if rank:
        pytest.importorskip("peft", reason="the extra peft is not installed")
    sizes = {**SIZES, **QWEN, "vocab_size": 9973}
    training = Training(autocast="none", micro_batch_tokens=1600, chunk_tokens=128)
    drawn = samples(1, 4, 32, 64, 9973)
    measured = training_peak("qwen3", sizes, training, drawn, rank, distillation_of)
    planned = planned_training("qwen3", sizes, training, drawn, rank, distillation_of)
    assert planned.n_bytes == pytest.approx(measured, rel=0.03)
    table = 4 * 128 * 9973
    assert planned.n_bytes > 7 * table
    assert planned.items.get(GRADIENTS, 0.0) < table


SAMPLING: dict[str, tuple[dict[str, object], int, int, int, int]] = {
    # Case: sizes, number of prompts, words of each, replies to each, tokens of a reply. The cache has 40 MB, or 0.6.
    "all at once": ({}, 8, 40, 4, 40),
    "long prompts": ({}, 8, 120, 1, 4),
    "large vocabulary": ({"vocab_size": 9973}, 8, 8, 4, 8),
    "more than fit": ({"num_hidden_layers": 6}, 12, 40, 4, 24),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLING)
def test_sampling_takes_what_the_plan_says(name: str, tmp_path: Path) -> None:
    """Guards against a cache, or other memory of the sampler, that the plan does not know."""
    changes, n_prompts, n_words, n, n_tokens = SAMPLING[name]
    sizes = {**SIZES, **QWEN, "pad_token_id": 0, **changes}
    folder = str(save_random_model(tmp_path / "model", "qwen3", **sizes))
    load_model(folder)  # objects that are created once are not counted
    n_bytes = 40_000_000 if name != "more than fit" else 600_000
    prompts = [prompt_of(i, n_words) for i in range(n_prompts)]
    load = partial(load_model, folder)
    measured, requested = sampling_peak(load, prompts, n, Sampling(max_tokens=n_tokens), n_bytes)
    assert planned_sampling(folder, requested, n_bytes).n_bytes == pytest.approx(measured, rel=0.05)


def prompt_of(i: int, n_words: int) -> Prompt:
    prompt = make_prompt(f"p{i}", seed=i)
    words = " ".join(str((i + k) % 10) for k in range(n_words))
    return Prompt(prompt.problem, "solve", (Message("user", words),), i)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "changes", "n_gpus"), [("qwen3", QWEN, 1), ("olmo2", {}, 2)])
def test_few_layers_give_the_memory_of_many(
    kind: str, changes: dict[str, Any], n_gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a peak that is elsewhere with more layers. Here all 10 layers run, instead of 2 and 4."""
    config = AutoConfig.for_model(kind, **{**SIZES, **changes, "num_hidden_layers": 10})
    update = update_of(samples(2, 4, 32, 64, 499))
    for checkpointing in (False, True):
        choice = MemorySettings(n_gpus=n_gpus, micro_batch_tokens=300, checkpointing=checkpointing)
        few = planned_peak(config, choice, update)
        with monkeypatch.context() as patched:
            every = lambda config, run: largest_window(run(config), run(config), 1.0)  # noqa: E731
            patched.setattr(memory, "_with_all_layers", every)
            assert planned_peak(config, choice, update).items == few.items


def test_weights_and_optimizer_by_hand() -> None:
    """4 bytes per parameter, 8 for averages; with 8 bits 2 (1 + 1 / 64) except for the embedding, V H; sharded. Adapters of
    rank 3 have 3 (inputs + outputs) numbers for each of a layer's seven matrices."""
    config = AutoConfig.for_model("qwen3", **SIZES, **QWEN)
    model = build_meta_model(config)
    h, i, q, k = 64, 192, 64, 32
    n = 499 * h + 4 * (h * (2 * q + 2 * k) + 3 * h * i + 2 * 16 + 2 * h) + h
    assert memory.kept_items(model, MemorySettings(n_gpus=4)) == {"weights": n, "optimizer, adamw": 2 * n}
    eight = memory.kept_items(model, MemorySettings(optimizer="adamw8bit"))
    assert eight["optimizer, adamw8bit"] == 8 * 499 * h + 2 * (1 + 1 / 64) * (n - 499 * h)
    layer = 3 * ((h + q) + 2 * (h + k) + (q + h) + 3 * (h + i))
    shards = memory.sharded_items(model, MemorySettings(n_gpus=4))
    body = n - 499 * h - h
    assert shards == {GRADIENTS: n, "gathered layers": 2 / 4 * (2 + 4) * body}
    pytest.importorskip("peft", reason="the extra peft is not installed")
    adapted = build_meta_model(config, "bfloat16", 3)
    items = memory.kept_items(adapted, MemorySettings(rank=3, base="bfloat16"))
    assert items == {"weights": 2 * n + 4 * 4 * layer, "optimizer, adamw": 8 * 4 * layer}


VISION: dict[str, dict[str, Any]] = {
    # Kind: what its tower has, and the names of its parts.
    "qwen2_5_vl": {"depth": 3, "num_heads": 2, "out_hidden_size": 64, "fullatt_block_indexes": [1]},
    "gemma3": {"num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28},
}


@pytest.mark.parametrize("kind", VISION)
def test_a_vision_tower_is_whole_on_each_gpu(kind: str) -> None:
    """Guards against a tower that is sharded or trained in the plan, or that counts as layers that are gathered, and
    against a plan that fails for models with images. By hand, from the names of the tower's parts."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4}
    if kind == "qwen2_5_vl":
        rope["mrope_section"] = [2, 3, 3]
    text: dict[str, Any] = {**SIZES, "head_dim": 16, "rope_parameters": rope}
    tower: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "patch_size": 14, **VISION[kind]}
    config = AutoConfig.for_model(kind, text_config=text, vision_config=tower, tie_word_embeddings=True)
    model = build_meta_model(config)
    named = dict(model.module.named_parameters())
    frozen = {name for name in named if any(part in name for part in ("visual", "vision", "projector"))}
    n_tower, n_text = (sum(p.numel() for k, p in named.items() if (k in frozen) == w) for w in (True, False))
    assert {name for name, p in named.items() if not p.requires_grad} == frozen
    assert memory.kept_items(model, MemorySettings(n_gpus=4)) == {
        "weights": n_text + 4 * n_tower,
        "optimizer, adamw": 2 * n_text,
    }
    inner = sum(p.numel() for k, p in named.items() if ".layers." in k and k not in frozen)
    shards = memory.sharded_items(model, MemorySettings(n_gpus=4))
    assert shards == {GRADIENTS: n_text, "gathered layers": 2 / 4 * (2 + 4) * inner}
    assert sum(p.numel() for p in memory.root_parameters(model)) == n_text - inner
    choice = MemorySettings(n_gpus=4, micro_batch_tokens=300)
    assert memory.FullModel(config, choice).sampler_bytes == 2 * n_text
    update = update_of(samples(2, 4, 32, 64, 499))
    assert planned_peak(config, choice, update).items["activations"] > 0


@pytest.mark.parametrize(("vision", "names"), [("projector", ["merger"]), ("all", ["visual"])])
def test_a_trained_tower_by_hand(vision: str, names: list[str]) -> None:
    """Guards against a plan without its gradients, 4 bytes per number, and averages, 8 bytes."""
    tower = {"hidden_size": 32, "intermediate_size": 48, "patch_size": 14, **VISION["qwen2_5_vl"]}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    text = {**SIZES, "head_dim": 16, "rope_parameters": rope}
    config = AutoConfig.for_model("qwen2_5_vl", text_config=text, vision_config=tower, tie_word_embeddings=True)
    named = build_meta_model(config).module.named_parameters()
    n = sum(p.numel() for key, p in named if any(part in key for part in names))
    update = update_of(samples(2, 4, 32, 64, 499))
    found = []
    for choice in (MemorySettings(micro_batch_tokens=300), MemorySettings(micro_batch_tokens=300, vision=vision)):
        kept = memory.FullModel(config, choice).items(choice, "training")
        found.append((kept["weights"], kept["optimizer, adamw"], planned_peak(config, choice, update).n_bytes))
    frozen, trained = found
    assert trained == (frozen[0], frozen[1] + 8 * n, frozen[2] + (8 + 4) * n)


@pytest.mark.parametrize("vision", ["frozen", "all"])
def test_the_start_model_shares_a_frozen_tower(vision: str) -> None:
    """Guards against a plan that counts the tower twice, or once where it is trained: 4 N bytes of what is not shared, on
    one GPU or over all of several."""
    tower = {"hidden_size": 32, "intermediate_size": 48, "patch_size": 14, **VISION["qwen2_5_vl"]}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    text = {**SIZES, "head_dim": 16, "rope_parameters": rope}
    config = AutoConfig.for_model("qwen2_5_vl", text_config=text, vision_config=tower, tie_word_embeddings=True)
    update = update_of(samples(2, 4, 32, 64, 499))
    named = dict(build_meta_model(config).module.named_parameters())
    separate = sum(p.numel() for name, p in named.items() if vision == "all" or "visual" not in name)
    n_matrices = sum(p.numel() for name, p in named.items() if "visual" not in name and p.ndim > 1)
    choice = MemorySettings(micro_batch_tokens=300, trainer="float32", vision=vision)
    found: list[float] = []
    for frozen in (FrozenModels(), FrozenModels(compared=True)):
        items = planned_peak(config, replace(choice, frozen=frozen), update).items
        found.append(items.get(memory.FROZEN, 0.0))
    assert found[1] - found[0] == pytest.approx(4 * separate, abs=4 * n_matrices * 0.01)
    if vision == "frozen":
        several = replace(choice, n_gpus=4, frozen=FrozenModels(compared=True))
        assert planned_peak(config, several, update).items[memory.REFERENCE] == separate


def test_bytes_of_8_bit_averages() -> None:
    """Guards against a formula that differs from torchao."""
    pytest.importorskip("torchao", reason="the extra adamw8bit is not installed")
    model = build("qwen3", **{**SIZES, **QWEN, **WIDE})
    module = model.module
    settings = Training(optimizer="adamw8bit")
    optimizer = open_optimizer(list(module.parameters()), settings, exact=[module.get_input_embeddings().weight])
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    with torch.compiler.set_stance("force_eager"):
        optimizer.step()
    found = 0
    for state in optimizer.state.values():
        for average in (state["exp_avg"], state["exp_avg_sq"]):
            some = (average.codes, average.scale) if hasattr(average, "codes") else (average,)
            found += sum(t.numel() * t.itemsize for t in some)
    planned = memory.kept_items(model, MemorySettings(optimizer="adamw8bit"))["optimizer, adamw8bit"]
    assert planned == pytest.approx(found, rel=0.02)  # norms and remainders keep float32


def test_frozen_models_by_hand() -> None:
    """4 N bytes in float32, and a copy in bfloat16 of 2 bytes per number in the layers' matrices; a teacher has the copy
    alone."""
    config = AutoConfig.for_model("qwen3", **SIZES, **QWEN)
    update = update_of(samples(2, 2, 8, 16, 499))
    n = sum(p.numel() for p in build_meta_model(config).module.parameters())
    matrices = 4 * (64 * (2 * 64 + 2 * 32) + 3 * 64 * 192)
    norms = 4 * 4 * (64 + 32)  # of queries and keys, in float32, each head's own
    copy = 2 * (matrices + 499 * 64) + norms  # matrices and output layer are multiplied in bfloat16

    def frozen_bytes(**frozen: bool) -> float:
        found = planned_peak(config, MemorySettings(micro_batch_tokens=64, frozen=FrozenModels(**frozen)), update)
        return found.items.get(memory.FROZEN, 0.0) + found.items.get("working copy of the weights", 0.0)

    alone = frozen_bytes()
    assert frozen_bytes(compared=True) - alone == pytest.approx(4 * n + copy, rel=0.02)
    assert frozen_bytes(teacher_samples=True) - alone == pytest.approx(4 * (n - matrices) + copy, rel=0.02)


def test_the_reference_of_several_gpus_by_hand() -> None:
    """Guards against a start model that counts as whole, or twice under adapters: 4 N bytes over all GPUs, and while both
    heads are read at once, also its embedding and norm in float32."""
    config = AutoConfig.for_model("qwen3", **SIZES, **QWEN)
    n = sum(p.numel() for p in build_meta_model(config).module.parameters())
    drawn = samples(2, 2, 8, 16, 499)
    compared = Update("test", (PolicyGradient(tuple(drawn), (1.0,) * 4, kl_coef=0.1),))
    (read,) = distillation_of(drawn, 0).parts
    assert isinstance(read, Distill)
    read = replace(read, teacher="reference")

    def items(update: Update, frozen: FrozenModels, rank: int = 0) -> dict[str, float]:
        return planned_peak(config, MemorySettings(4, micro_batch_tokens=64, rank=rank, frozen=frozen), update).items

    without = items(compared, FrozenModels())
    found = items(compared, FrozenModels(compared=True))
    assert found == {**without, memory.REFERENCE: n}
    at_once = items(Update("test", (read,)), FrozenModels(compared=True))
    assert at_once[memory.ROOT] - found[memory.ROOT] == 4 * (499 * 64 + 64)
    pytest.importorskip("peft", reason="the extra peft is not installed")
    for frozen, wanted in ((FrozenModels(compared=True), 0), (FrozenModels(compared=True, moves=True), n)):
        assert items(compared, frozen, rank=3).get(memory.REFERENCE, 0) == wanted


def test_an_update_is_cut_down_to_its_longest_rows() -> None:
    """Two micro-batches of 60 tokens hold 5 rows of 8 + 16, or 7 replies of 16 to one prompt of 8; pairs stay pairs."""
    drawn = samples(1, 12, 8, 16, 499)
    update = update_of(drawn)
    choice = MemorySettings(micro_batch_tokens=60)

    def n(some: Update, choice: MemorySettings) -> int:
        cut = heaviest_update([some], choice)
        assert cut is not None
        return len(cut.parts[0].samples)

    assert n(update, choice) == 5
    assert n(update_of([replace(s, prompt_ids=drawn[0].prompt_ids) for s in drawn]), choice) == 7
    assert n(Update("test", update.parts, n_steps=3), choice) == 4
    assert n(update, MemorySettings(n_gpus=4, micro_batch_tokens=60)) == 3
    assert n(Update("test", (Imitate(tuple(drawn), (0.5,) * 12),)), choice) == 5
    # A pair of 2 * 24 tokens: 48, 96, 144.
    assert n(Update("test", (Prefer(tuple(drawn[:6]), tuple(drawn[6:])),)), choice) == 6
    # The teacher reads 6 tokens more, so 8 + 6 + 16: 30, 60, 90, 120.
    shown = [replace(s, prompt_ids=s.prompt_ids + (7,) * 6) for s in drawn]
    assert n(Update("test", (Distill(tuple(drawn), tuple(shown)),)), choice) == 4
    cut = heaviest_update([update_of(samples(1, 30, 8, 5, 499)), update], choice)
    assert cut is not None
    assert len(cut.parts[0].samples[0].ids) == 16
