"""What must be right on a GPU before anything is timed there. Without a GPU the same tests run on the CPU.

`benchmarks/gpu.py` runs them first (`pytest -m gpu`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from rethink.distributed import Ranks
from rethink.models import lora
from rethink.models.forward import PackedAttention, PackedRow, Span, varlen
from rethink.models.forward.token_log_probs import token_log_probs
from rethink.models.forward.weights import Head
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.objectives import PolicyGradient
from rethink.policies.local import LocalPolicy
from rethink.policies.token_policy import Request
from rethink.settings import Lora, Training
from rethink.training.fsdp.shard_model import build
from rethink.training.loop import train as rethink_train
from rethink.training.run import open_run
from rethink.training.trainer import Trainer
from rethink.types import Sample, Sampling
from support.model_families import FAMILIES, V, build_family
from support.runs import Make, assert_same, finished, make, problems
from support.samples import (
    apply,
    assert_same_gradient,
    exact,
    gradient,
    gradient_of,
    make_sample,
    make_trainer,
    no_initial,
    reference_log_probs,
    reference_policy_gradient,
    shared_part,
)

__all__ = ["make", "problems"]  # fixtures

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NAMES: tuple[str, ...] = ("Qwen3", "Mistral", "Gemma 2", "Gemma 3", "GPT-OSS", "Qwen3-MoE", "Qwen3-Next", "Falcon-H1")
"""Families of all three paths: windows, soft caps, sinks, experts, and states beside attention."""
if not torch.cuda.is_available():
    NAMES = ("Qwen3", "Gemma 3", "Falcon-H1")  # one of each path: tests/models/test_families.py compares all on a CPU

PROMPTS = tuple(tuple((7 * k + 3 * i) % (V - 2) + 2 for k in range(n)) for i, n in enumerate((3, 11, 37)))


@pytest.fixture(autouse=True)
def _exact_products() -> Iterator[None]:
    """Compute float32 products in float32: with TF32, nothing could be compared."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@cache
def family(name: str) -> LanguageModel:
    """Return a random model on the device."""
    model = build_family(name)
    model.module.to(DEVICE)
    return model


def on_device(model: LanguageModel) -> LanguageModel:
    """Return a copy of a model on the device."""
    return replace(model, module=copy.deepcopy(model.module).to(DEVICE))


def drawn(model: LanguageModel, **settings: bool) -> list[Sample]:
    """Return sampled replies, two to each prompt."""
    policy = LocalPolicy(model, Sampling(temperature=0.9, max_tokens=13), dtype=torch.float32)
    for name, value in settings.items():
        setattr(policy, name, value)
    found: list[Sample] = []
    for i, replies in sorted(policy.generate([Request(p, 2, seed=i) for i, p in enumerate(PROMPTS)], policy.sampling)):
        for reply in replies:
            sample = make_sample(reply.ids, group=str(i), prompt_ids=PROMPTS[i], temperature=0.9)
            found.append(replace(sample, log_probs=tuple(reply.log_probs)))
    return found


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_sampled_log_probs_are_those_of_a_whole_pass_on_a_cpu(name: str) -> None:
    """Guards against kernels that see other tokens, stale caches, and attention without its window, sink or cap."""
    assert name in FAMILIES
    whole = copy.deepcopy(family(name).module).cpu()
    for sample in drawn(family(name)):
        ours = torch.tensor(sample.log_probs)
        torch.testing.assert_close(ours, reference_log_probs(whole, sample), rtol=0, atol=2e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_greedy_replies_are_those_of_generate(name: str) -> None:
    """Guards against positions or masks that only `generate` has right on this device."""
    model = family(name)
    policy = LocalPolicy(model, Sampling(temperature=0.0, max_tokens=9), dtype=torch.float32)
    found = dict(policy.generate([Request(prompt, 1, seed=0) for prompt in PROMPTS], policy.sampling))
    whole = copy.deepcopy(model.module).cpu()
    whole.config.get_text_config()._attn_implementation = "eager"
    for i, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        settings = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": 1, "pad_token_id": 0}
        out = whole.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        assert found[i][0].ids == out[0, len(prompt) :].tolist()


def test_gradients_are_those_of_float64_on_a_cpu(any_model: LanguageModel) -> None:
    """Guards against a loss, a mask or a sum that is another one on this device."""
    module = exact(any_model)
    part = shared_part(module)
    loss = reference_policy_gradient(module, part)
    loss.backward()
    ours = gradient(make_trainer(on_device(any_model), autocast="none"), part)
    assert_same_gradient({name: grad.cpu() for name, grad in ours.items()}, gradient_of(module), 1e-3)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_output_layer_and_its_gradients(dtype: torch.dtype, softcap: float | None) -> None:
    """Guards against a product of bfloat16 factors that this device sums, or returns, in bfloat16."""
    random = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(37, 64, generator=random), torch.randn(211, 64, generator=random)
    ids, factors = torch.randint(211, (37,), generator=random), torch.randn(37, generator=random)

    def run(device: torch.device) -> list[Tensor]:
        leaves = [x.to(device, copy=True).requires_grad_() for x in (hidden, weight)]
        head = Head(leaves[1], None, softcap, dtype)
        out = token_log_probs(leaves[0], head, ids.to(device), torch.ones(37, device=device), 16)
        return [x.cpu() for x in (out.detach(), *torch.autograd.grad((out * factors.to(device)).sum(), leaves))]

    for ours, theirs in zip(run(DEVICE), run(torch.device("cpu")), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("window", [None, 33])
@pytest.mark.parametrize("n_keys", [8, 2])
def test_attention_without_masks(n_keys: int, window: int | None) -> None:
    """Guards against a kernel for rows of several lengths with another alignment, window or order of heads, and one that is
    not used on a GPU that has it."""
    if DEVICE.type != "cuda" or torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("the kernel needs a GPU of compute capability 8.0; without it, masks would be compared with masks")
    prompt = Span(0, 300)
    replies = [PackedRow((prompt, Span(300 + 200 * i, 200 - 60 * i)), 200 - 60 * i) for i in range(2)]
    n, random = 640, torch.Generator().manual_seed(2)
    leaves = []
    for n_heads in (8, n_keys, n_keys):
        leaf = torch.randn(n, n_heads, 64, generator=random).to(DEVICE, torch.bfloat16)
        leaves.append(leaf.requires_grad_())
    assert varlen.fits(leaves[0], leaves[1], window)
    attend = PackedAttention([[PackedRow((prompt,), 300)], replies], DEVICE)
    results: list[list[Tensor]] = []
    for uses_kernel in (True, False):
        torch.backends.cuda.enable_flash_sdp(uses_kernel)
        try:
            out = attend(0, leaves[0], leaves[1], leaves[2], scale=0.125, window=window)
        finally:
            torch.backends.cuda.enable_flash_sdp(True)
        results.append([out.detach(), *torch.autograd.grad(out.float().square().sum(), leaves)])
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == torch.bfloat16
        assert float((ours.float() - theirs.float()).norm() / theirs.float().norm()) < 0.02


@pytest.mark.skipif(DEVICE.type != "cuda", reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("name", ["Qwen3", "Mistral", "Qwen2"])
def test_graphs_change_no_bit(name: str) -> None:
    """Guards against a recorded step that reads what an earlier one wrote."""
    assert family(name).fused, "only these models have graphs"
    with_graphs, without = (drawn(family(name), cuda_graphs=on) for on in (True, False))
    assert [(s.ids, s.log_probs) for s in with_graphs] == [(s.ids, s.log_probs) for s in without]


def test_log_probs_of_the_trainer_are_the_samplers(qwen: LanguageModel) -> None:
    """Guards against two precisions: as in a run, both choose their dtypes themselves."""
    model = on_device(qwen)
    trainer = make_trainer(model)
    limit = 2e-3 if trainer.dtype == torch.float32 else 0.1
    policy = LocalPolicy(model, Sampling(temperature=0.9, max_tokens=13), dtype=trainer.dtype)
    replies = policy.generate([Request(prompt, 2, seed=3) for prompt in PROMPTS[:2]], policy.sampling)
    samples: list[Sample] = []
    for i, group in replies:
        for reply in group:
            sample = make_sample(reply.ids, group=str(i), prompt_ids=PROMPTS[i], temperature=0.9)
            samples.append(replace(sample, log_probs=tuple(reply.log_probs)))
    for sample, ours in zip(samples, trainer.log_probs(samples), strict=True):
        torch.testing.assert_close(ours.cpu(), torch.tensor(sample.log_probs), rtol=0, atol=limit)


def test_an_adapter_trains_and_merges(qwen: LanguageModel) -> None:
    """Guards against adapters left on another device, and merged weights that are not those that were trained."""
    model = lora.add_adapter(on_device(qwen), Lora(rank=4), seed=1)
    trainer = Trainer(model, Training(lr=1e-2, autocast="none"), 5, no_initial)
    assert all(p.device.type == DEVICE.type for p in model.module.parameters())
    start = [p.detach().clone() for p in trainer.parameters]
    apply(trainer, PolicyGradient(tuple(drawn(model)), (1.0, -1.0, 0.5, -0.5, 2.0, -2.0)))
    assert any(not torch.equal(p, old) for p, old in zip(trainer.parameters, start, strict=True))
    samples = drawn(model)  # from the merged weights after the update
    for sample, ours in zip(samples, trainer.log_probs(samples), strict=True):
        torch.testing.assert_close(ours.cpu(), torch.tensor(sample.log_probs), rtol=0, atol=2e-3)


@pytest.mark.slow
def test_a_resumed_run_continues_with_the_same_weights(make: Make) -> None:
    """Guards against weights, averages or samples that a checkpoint loses on this device. A GPU may round sums differently
    each time, and Adam makes steps of the learning rate from gradients near 0: there, nearly all weights must agree."""
    settings = ("updates=4", "checkpoint_every=2", f"model.device={DEVICE.type}")
    whole = finished(make(*settings, out="whole"))
    half = open_run(make(*settings))
    for record in rethink_train(half):
        half.interrupted = record["update"] >= 2
    assert half.trainer.version < 4
    resumed = open_run(make(*settings), resume=True)
    list(rethink_train(resumed))
    if DEVICE.type == "cpu":
        assert_same(resumed, whole)
    for ours, theirs in zip(resumed.trainer.parameters, whole.trainer.parameters, strict=True):
        assert float(((ours - theirs).abs() < 1e-4).float().mean()) > 0.99


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[Ranks]:
    """The connection of a single process to itself, with the GPU's own communication."""
    backend = "cpu:gloo,cuda:nccl" if DEVICE.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield Ranks()
    dist.destroy_process_group()


def test_sharded_weights_give_the_same_update(one_rank: Ranks, model_folders: dict[str, Path]) -> None:
    """Guards against shards that are gathered in another dtype or on another device, and gradients that are averaged."""
    folder = str(model_folders["qwen3"])
    settings = Training(lr=1e-3, weight_decay=0.0, autocast="none", max_grad_norm=math.inf)
    engine, _ = build(one_rank, lambda: load_model(folder), settings, DEVICE)
    sharded = Trainer(engine.model, settings, 5, no_initial, engine)
    part = shared_part(load_model(folder).module)
    alone = make_trainer(on_device(load_model(folder)), autocast="none")
    for ours, theirs in zip(sharded.log_probs(part.samples), alone.log_probs(part.samples), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs.cpu(), rtol=0, atol=2e-4)
    got, want = apply(sharded, part), apply(alone, part)
    assert got["grad_norm"] == pytest.approx(want["grad_norm"], rel=1e-3)
    assert got["loss"] == pytest.approx(want["loss"], rel=1e-3, abs=1e-5)
    for ours, theirs in zip(sharded.parameters, alone.parameters, strict=True):
        assert isinstance(ours, DTensor)
        gap = (ours.full_tensor() - theirs).abs()
        assert float((gap < 1e-5).float().mean()) > 0.99
