"""One forward pass for sampler and trainer: tokens in a flat sequence, attention as the caller lays it out."""

from rethink.forward.attend import Attend, Packed, Row, Stretch
from rethink.forward.fused import FusedWeights
from rethink.forward.modules import ModuleWeights
from rethink.forward.weights import Weights

__all__ = ["Attend", "FusedWeights", "ModuleWeights", "Packed", "Row", "Stretch", "Weights"]
