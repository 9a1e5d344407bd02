"""Which columns a query may look at: real ones, not later than itself, and within a sliding window where there is one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rethink.errors import UserError

KNOWN_LAYERS = {"full_attention", "sliding_attention"}


def attention_mask(config: Any, query_N_T: Tensor, key_N_T: Tensor) -> Any:
    """Boolean mask [N, 1, T query, T key], True = may look, from the positions of queries and keys (-1 = padding).

    For models whose layers differ it is a dict with one mask per kind of layer, as `transformers` takes it.
    """
    query, key = query_N_T[:, None, :, None], key_N_T[:, None, None, :]
    full = (key >= 0) & (key <= query)
    # A padding query would see nothing, and a softmax over nothing is NaN; it may see padding, nobody reads the result.
    full = full | (query < 0)
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    kinds = set(getattr(config, "layer_types", None) or [])
    if kinds - KNOWN_LAYERS:
        raise UserError(f"models with {', '.join(sorted(kinds - KNOWN_LAYERS))} layers are not supported")
    if kinds == {"full_attention"} or window is None:
        return dict.fromkeys(kinds, full) if len(kinds) > 1 else full
    sliding = full & ((query - key < window) | (query < 0))
    if not kinds or kinds == {"sliding_attention"}:
        return sliding
    return {"full_attention": full, "sliding_attention": sliding}
