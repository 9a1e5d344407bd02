"""Sampler and trainer on the meta device, where mixing it with the CPU or reading a number is an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.objectives import CISPO, GMPO, SAPO, AdvantageAwareShaping, Clip, Imitate, Part, PolicyGradient, Prefer
from rethink.policies.local.decode import Decoder
from rethink.policies.local.graphs import Graphs, Recorded, Work
from rethink.policies.local.kv_cache import Cache, CacheShape
from rethink.policies.local.prefill import Prefiller
from rethink.training.losses import LossSettings, loss_of
from rethink.training.losses.forward import trained_log_probs
from rethink.training.metrics import Statistics
from rethink.training.micro_batch import MicroBatch, TrainingSample, lay_out
from rethink.types import Sampling
from support.local_sampling import LONG, SHORT
from support.random_models import save_random_model
from support.samples import make_sample

KINDS = ("qwen3", "mistral")
"""Kinds of models with our own forward pass; the modules of others may read numbers."""

SAMPLINGS = (Sampling(max_tokens=9), Sampling(0.0, max_tokens=9), Sampling(0.7, top_k=5, top_p=0.9, max_tokens=9))


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A model on the meta device; one kind has a sliding window."""
    changes = {"num_key_value_heads": 2, "sliding_window": 7} if request.param == "mistral" else {}
    folder: Path = save_random_model(tmp_path_factory.mktemp("meta"), request.param, **changes)
    found = load_model(str(folder))
    found.module.to("meta")
    assert found.device.type == "meta"
    return found


def move_to_meta(holder: Any) -> None:
    """Move all tensors of an object to the meta device, also those in lists and tuples."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to("meta")
        if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
            return type(value)(map(moved, value))
        return torch.device("meta") if isinstance(value, torch.device) else value

    for name, value in vars(holder).items():
        setattr(holder, name, moved(value))


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("n_prompt_columns", [7, 40])
@torch.inference_mode()
def test_attention_of_a_decoding_step(model: LanguageModel, n_prompt_columns: int, recorded: bool) -> None:
    weights = model.weights()
    prefilled = Prefiller()._compute(weights, [(1, 2, 3), (4, 5)])
    cache = Cache(CacheShape(4, 2, n_prompt_columns, 5), prefilled, recorded=recorded)
    cache.n_rows, cache.n_prompts = 4, 2
    cache.members, cache.member_of_row = (torch.zeros(4, dtype=torch.long, device="meta") for _ in range(2))
    cache._update_views()
    cache.begin_step()
    ids = torch.zeros(4, dtype=torch.long, device="meta")
    cache.write_positions(ids)
    assert weights.hidden(ids, ids, cache).device.type == "meta"


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["sampled", "greedy", "restricted"])
@pytest.mark.parametrize("requests", [SHORT, LONG], ids=["copied", "shared"])
@torch.inference_mode()
def test_decoding_step(requests: Any, sampling: Sampling, qwen: LanguageModel) -> None:
    """The batch has taken its first step on the CPU."""

    def record(work: Work) -> Recorded:
        raise AssertionError("recording is not expected here")

    batch = Decoder(qwen.weights(), qwen.chat, requests, sampling, Prefiller(), 10**6, Graphs(record))
    batch.step()
    assert batch.cache is not None
    batch.cache.begin_step()
    qwen.module.to("meta")
    batch.weights = qwen.weights()
    move_to_meta(batch.cache)
    move_to_meta(batch)
    assert batch._advance().device.type == "meta"


def losses(micro: MicroBatch, log_probs_T: Tensor) -> Tensor:
    """Return the sum of all losses in all their forms."""
    total = torch.zeros((), device="meta")
    clips = [Clip(0.2, 0.28, 3.0, level) for level in ("token", "sequence")]
    shapings = [AdvantageAwareShaping(gamma) for gamma in ("none", "constant", "aware", "released")]
    others = (GMPO(), CISPO(), SAPO())
    parts: list[Part] = [PolicyGradient((), (), how, kl_coef=0.5) for how in (*clips, *shapings, *others)]
    for part in (*parts, Imitate((), ()), Prefer((), ())):
        for mode in ("token_truncate", "token_mask", "sequence_mask"):
            total = total + loss_of(part).compute(micro, log_probs_T, part, LossSettings(mode)).loss
    return total


@pytest.mark.parametrize(
    ("dtype", "on"),
    [
        (torch.float32, False),
        (torch.bfloat16, True),
        pytest.param(torch.float32, True, marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, False, marks=pytest.mark.slow),
    ],
)
def test_micro_batch(model: LanguageModel, dtype: torch.dtype, on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, for replies of several lengths to one prompt."""
    monkeypatch.setattr(Statistics, "mean", lambda *_: None)  # there are no values to add
    rows = [TrainingSample(make_sample(tuple(range(3, 3 + n))), 1.0, 0.5) for n in (2, 5, 9, 0)]
    micro = lay_out(rows, "meta")
    micro = replace(micro, reference_T=micro.sampler_T)
    weights = replace(model, gradient_checkpointing=on).weights(dtype, trainable=True)
    gradients = torch.autograd.grad(
        losses(micro, trained_log_probs(weights, 4, micro)), weights.leaves, allow_unused=True
    )
    assert {g.device.type for g in gradients if g is not None} == {"meta"}
    weights.backward_to_parameters(gradients)
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in model.module.parameters())
