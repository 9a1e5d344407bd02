"""How a family changes its logits after the output layer: a scale and a limit, read from its configuration."""

from __future__ import annotations

from typing import Any

SOFTCAPS = "final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"
"""Gemma's name, and those of RecurrentGemma and xLSTM."""

FACTORS = "logit_scale", "lm_head_multiplier", "output_multiplier"
"""The names of Cohere and of Falcon-H1, among others."""

DIVISOR = "logits_scaling"
"""Granite's name. HyperCLOVA X uses it for a factor."""


def logit_scale(module: Any) -> float:
    """Return the factor that the model multiplies into its logits; 1 for most."""
    config = module.config.get_text_config()
    for name in FACTORS:
        value = getattr(config, name, None)
        if isinstance(value, int | float):
            return float(value)
    value = getattr(config, DIVISOR, None)
    if not isinstance(value, int | float):
        return 1.0
    return float(value) if config.model_type == "hyperclovax" else 1 / float(value)


def logit_softcap(module: Any) -> float | None:
    """Return the limit of the model's logits, which become softcap * tanh(logits / softcap); None without one."""
    config = module.config.get_text_config()
    for name in SOFTCAPS:
        value = getattr(config, name, None)
        if value:
            return float(value)
    return None


def changes_logits(module: Any) -> bool:
    """Return whether the logits are not just the product with the output layer."""
    return logit_scale(module) != 1 or logit_softcap(module) is not None
