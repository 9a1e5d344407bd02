"""The trainer's losses and gradients against brute force, over random cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rethink.models.language_model import LanguageModel
from rethink.training import trainer as trainer_module
from rethink.training.optimizer import take_step
from support.brute_force import brute_loss, first_log_probs, has_gradient, make_case, shares
from support.samples import Gradient, apply, gradient_of, make_trainer
from support.trained import moved

TOLERANCE = 1e-4
"""Of the largest entry of the gradient: float32 against float64. A token that is left out changes it by some percent."""


@pytest.fixture(scope="module")
def dense(model_folders: dict[str, Path]) -> dict[str, tuple[Any, Any]]:
    """Two models of each kind in float64, with the attention of transformers: one to train, and a start model."""
    found = {}
    for kind, folder in model_folders.items():
        modules = [AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager") for _ in range(2)]
        found[kind] = (modules[0].double().eval(), modules[1].double().eval())
    return found


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        *(("qwen3", number) for number in range(16)),
        *(pytest.param("qwen3", number, marks=pytest.mark.slow) for number in range(16, 150)),
        *(pytest.param("gpt2", number, marks=pytest.mark.slow) for number in range(150, 200)),
        *(pytest.param("llama", number, marks=pytest.mark.slow) for number in range(200, 250)),
    ],
)
def test_losses_and_gradients(
    loaded: dict[str, LanguageModel], dense: dict[str, tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch,
    kind: str, number: int,
) -> None:  # fmt: skip
    """Guards against any difference from the formulas: ratios, clips, weights, denominators, KL, masks, shares, packing."""
    module, initial = dense[kind]
    start = moved(loaded[kind])
    module.load_state_dict(loaded[kind].module.state_dict())
    initial.load_state_dict(start.module.state_dict())
    case = make_case(number, module)
    first = first_log_probs(module, case.part)
    trainer = make_trainer(loaded[kind], lambda: start, **case.settings)
    # The weights before each optimizer step, and the gradient.
    steps: list[tuple[dict[str, torch.Tensor], Gradient]] = []

    def recorded_step(optimizer: torch.optim.Optimizer) -> None:
        weights = {name: value.clone() for name, value in trainer.model.module.state_dict().items()}
        steps.append((weights, gradient_of(trainer.model.module)))
        take_step(optimizer)

    monkeypatch.setattr(trainer_module, "take_step", recorded_step)
    metrics = apply(trainer, case.part, n_steps=case.n_steps)

    losses: list[float] = []
    for members in shares(case.part, case.n_steps):
        if not has_gradient(case.part, members):
            losses.append(0.0)
            continue
        weights, gradient = steps.pop(0)
        module.load_state_dict(weights)
        module.zero_grad()
        loss = brute_loss(module, initial, case, first, members)
        loss.backward()
        losses.append(loss.item())
        compare(gradient, gradient_of(module))
    assert not steps
    assert metrics["loss"] == pytest.approx(sum(losses) / len(losses), rel=TOLERANCE, abs=TOLERANCE / 10)


def compare(got: Gradient, wanted: Gradient) -> None:
    """Check that all entries agree up to TOLERANCE of the largest one."""
    assert got.keys() == wanted.keys()
    scale = max(float(entry.abs().max()) for entry in wanted.values())
    for name, entry in wanted.items():
        gap = float((got[name].double() - entry).abs().max())
        assert gap <= TOLERANCE * max(scale, 0.01), f"{name}: {gap} of {scale}"
