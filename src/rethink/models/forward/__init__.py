"""The forward pass of sampler and trainer: tokens in one flat sequence, with attention supplied by the caller."""

from rethink.models.forward.attention import AttentionFn, PackedAttention, PackedRow, Span, Variant, group_by_length
from rethink.models.forward.fused import FusedWeights
from rethink.models.forward.modules import ModuleWeights
from rethink.models.forward.plain import PlainWeights
from rethink.models.forward.weights import Head, Weights

__all__ = [
    "AttentionFn",
    "FusedWeights",
    "Head",
    "ModuleWeights",
    "PackedAttention",
    "PackedRow",
    "PlainWeights",
    "Span",
    "Variant",
    "Weights",
    "group_by_length",
]
