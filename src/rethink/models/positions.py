"""How many positions a model has."""

from __future__ import annotations

from typing import Any


def max_positions(config: Any) -> int | None:
    """Return the longest sequence that a model with this text configuration has positions for; None if it does not say.

    LongRoPE rotates all tokens of a row by other angles once it is longer than the original positions. Log-probs of sampler
    and trainer would then disagree, so the original positions are the limit."""
    limit = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        limit = rope.get("original_max_position_embeddings") or limit
    return int(limit) if limit else None
