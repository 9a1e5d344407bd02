"""What cannot be sharded is refused before weights are distributed."""

from __future__ import annotations

import pytest
import torch

from rethink.distributed import SINGLE_PROCESS
from rethink.errors import UserError
from rethink.settings import Training
from rethink.training.fsdp.shard_model import build
from support.model_families import build_family


def test_a_model_with_its_own_attention_is_refused() -> None:
    """Guards against rows that see each other: the sharded engine lays samples out for our attention."""
    with pytest.raises(UserError, match=r"LFM2 cannot be trained in several processes.*without torchrun"):
        build(SINGLE_PROCESS, lambda: build_family("LFM2"), Training(), torch.device("cpu"))
