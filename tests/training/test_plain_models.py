"""Training models that keep their own attention: all weights or an adapter, with and without gradient checkpointing."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from rethink.models import lora
from rethink.models.language_model import LanguageModel
from rethink.objectives import Clip, PolicyGradient, Update
from rethink.settings import Lora, Training
from rethink.training.trainer import Trainer
from support.model_families import build_family
from support.samples import make_sample, reference_log_probs

IDS = [(5, 7, 11), (13, 17, 19, 23), (29, 31)]


def step(model: LanguageModel, gradient_checkpointing: bool) -> tuple[dict[str, float], Tensor]:
    """Take one step; return its metrics and the new weights."""
    samples = []
    for ids in IDS:
        sample = make_sample(ids)
        log_probs = tuple(reference_log_probs(model.module, sample).tolist())
        samples.append(dataclasses.replace(sample, log_probs=log_probs))
    settings = Training(gradient_checkpointing=gradient_checkpointing, micro_batch_tokens=9, lr=1e-2)
    trainer = Trainer(model, settings, 1, lambda: model)
    metrics = trainer.apply(Update("solve", (PolicyGradient(tuple(samples), (1.0, -0.5, 2.0), surrogate=Clip(0.2)),)))
    return metrics, torch.cat([p.detach().flatten() for p in model.module.parameters()])


@pytest.mark.parametrize("rank", [0, 2])
def test_steps_with_and_without_checkpointing(rank: int) -> None:
    """Guards against a trainer whose log-probs are not the model's, an adapter that is left out, and a state that is
    carried into the recomputation of a layer."""
    found: list[Tensor] = []
    for gradient_checkpointing in (False, True):
        model = build_family("LFM2")
        if rank:
            model = lora.add_adapter(model, Lora(rank), 0)
            with torch.no_grad():
                for name, p in model.module.named_parameters():
                    if ".lora_B." in name:
                        p.fill_(0.1)
        before = torch.cat([p.detach().flatten() for p in model.module.parameters()])
        metrics, after = step(model, gradient_checkpointing)
        assert metrics["ratio"] == pytest.approx(1, abs=1e-5)
        assert not torch.equal(before, after)
        found.append(after)
    assert torch.equal(*found)
