"""One forward pass for sampler and trainer: tokens in a flat sequence, attention as the caller lays it out."""

from rethink.models.forward.attention import AttentionFn, PackedAttention, PackedRow, Span, group_by_length
from rethink.models.forward.fused import FusedWeights
from rethink.models.forward.modules import ModuleWeights
from rethink.models.forward.weights import Weights

__all__ = [
    "AttentionFn",
    "FusedWeights",
    "ModuleWeights",
    "PackedAttention",
    "PackedRow",
    "Span",
    "Weights",
    "group_by_length",
]
