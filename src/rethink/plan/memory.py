"""Bytes by item, at the moments of an update at which a GPU holds the most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rethink.plan.shape import Shape

FLOAT = 4
GIB = 2**30


@dataclass(frozen=True)
class Item:
    """Something that takes memory on each GPU."""

    name: str
    n_bytes: float


@dataclass(frozen=True)
class Moment:
    """What there is on each GPU at one time. The largest moment of a stage is what the stage needs."""

    stage: Literal["sampling", "training"]
    name: str
    items: tuple[Item, ...]

    @property
    def n_bytes(self) -> float:
        return sum(item.n_bytes for item in self.items)


@dataclass(frozen=True)
class Setup:
    """The settings that memory depends on. `matrix` and `sampler` are bytes per number of the trainer's and the sampler's
    matrices, `attention` and `sampler_cache` of their keys and values; `rank` is that of adapters, 0 without, and `base`
    the bytes per number of the weights under them. `frozen` counts models beside the policy that are kept here, `start`
    those of them that are the start weights, and `frozen_sampled` those that answer, too. With `shared_masks` all layers
    read the same mask.

    With several GPUs the trained model is sharded (FSDP2) and runs through its modules, and each GPU has a whole copy of
    the weights to sample with.
    """

    shape: Shape
    n_gpus: int = 1
    matrix: int = 2
    sampler: int = 2
    attention: int = 2
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    recompute: bool = False
    chunk_tokens: int = 4096
    cache_bytes: int = GIB
    rank: int = 0
    base: int = FLOAT
    frozen: int = 0
    start: int = 0
    frozen_sampled: int = 0
    sampler_cache: int = 2
    shared_masks: bool = True

    @property
    def fused(self) -> bool:
        """Whether the trainer works on fused weights."""
        return self.shape.fused and self.n_gpus == 1

    @property
    def n_trained(self) -> int:
        """Parameters that have a gradient."""
        return self.shape.n_adapter(self.rank) if self.rank else self.shape.n_parameters

    def with_(self, **changes: object) -> Setup:
        return replace(self, **changes)  # type: ignore[arg-type]


def weights(setup: Setup) -> Item:
    """The float32 weights that the optimizer knows: 4 N / GPUs. With adapters they are 4 bytes each beside a base of 4 N,
    or of 2 N, over the same GPUs."""
    n_bytes = setup.base * setup.shape.n_parameters + (FLOAT * setup.n_trained if setup.rank else 0)
    return Item(f"weights, {'float32' if setup.base == FLOAT else 'bfloat16'}", n_bytes / setup.n_gpus)


def optimizer(setup: Setup) -> Item:
    """Two averages of each trained parameter: 8 bytes, or two of 8 bits and for each 256 of them a float32 scale; of the
    embedding always 8 bytes."""
    n_exact = setup.n_trained if setup.optimizer == "adamw" else 0 if setup.rank else setup.shape.n_embedding
    n_bytes = 2 * (FLOAT * n_exact + (1 + FLOAT / 256) * (setup.n_trained - n_exact))
    return Item(f"optimizer, {setup.optimizer}", n_bytes / setup.n_gpus)


def gradients(setup: Setup) -> Item:
    """4 bytes for each trained parameter / GPUs."""
    return Item("gradients", FLOAT * setup.n_trained / setup.n_gpus)


def sampler_copy(setup: Setup) -> Item:
    """What the sampler does not share with the trainer: fused weights in float32 are new for the joined matrices alone;
    in bfloat16, or with adapters merged into them, for all matrices; and with several GPUs for all weights and, in float32,
    embedding and head."""
    shape = setup.shape
    if setup.n_gpus > 1:
        n_bytes = setup.sampler * shape.n_parameters + (FLOAT * shape.n_embedding if setup.sampler < FLOAT else 0)
        return Item("sampler's weights, whole", n_bytes)
    merged = FLOAT * shape.n_plain if setup.rank and shape.fused and setup.sampler == FLOAT else 0
    return Item("sampler's copy of the weights", untrained_copy(shape, setup.sampler) + merged)


def sampler_joined(setup: Setup) -> Sequence[Item]:
    """With several GPUs the sampler's matrices are joined from its whole weights, while it works: these once more."""
    if setup.n_gpus == 1 or not setup.shape.fused:
        return ()
    return (Item("sampler's joined matrices", setup.sampler * setup.shape.n_joined),)


def untrained_copy(shape: Shape, itemsize: int) -> int:
    """Bytes of weights that are only read, beside float32 ones."""
    if shape.fused:
        return itemsize * (shape.n_joined + (shape.n_plain if itemsize < FLOAT else 0))
    return itemsize * shape.n_parameters + FLOAT * shape.n_embedding if itemsize < FLOAT else 0


def frozen(setup: Setup) -> Sequence[Item]:
    """Models beside the policy, whole on each GPU: float32 weights, the trainer's working copy, the sampler's. On one GPU
    the start weights are the base of the adapters, where there are any."""
    if not setup.frozen:
        return ()
    start = 0 if setup.rank and setup.n_gpus == 1 else setup.start * setup.base
    own = (start + FLOAT * (setup.frozen - setup.start)) * setup.shape.n_parameters
    copies = setup.frozen * untrained_copy(setup.shape, setup.matrix)
    sampled = setup.frozen_sampled * sampler_copy(setup).n_bytes
    return (Item("frozen models beside it", own + copies + sampled),)


def trainer_copy(setup: Setup) -> Sequence[Item]:
    """Fused weights with the graph that leads back to the parameters: the joined matrices in the trainer's dtype, and once
    more in float32 for the backward pass (to adapters nothing of that size leads back); in bfloat16 the others, too."""
    if not setup.fused:
        return ()
    shape = setup.shape
    own = setup.matrix * (shape.n_joined + (shape.n_plain if setup.matrix < FLOAT else 0))
    back = () if setup.rank else (Item("its way back to the parameters", FLOAT * shape.n_joined),)
    return (Item("trainer's copy of the weights", own), *back)


def gathered(setup: Setup) -> Sequence[Item]:
    """With several GPUs: of two layers at a time whole weights in the trainer's dtype, and gradients in float32 of what is
    trained; embedding and head whole in float32, with their gradient unless they are frozen."""
    if setup.n_gpus == 1:
        return ()
    shape = setup.shape
    trained = setup.n_trained if setup.rank else shape.n_body
    whole = shape.n_body + (trained if setup.rank else 0)
    layers = 2 / shape.n_layers * (setup.matrix * whole + FLOAT * trained)
    ends = FLOAT * shape.n_embedding * (1 if shape.tied else 2)
    return (Item("gathered layers", layers), Item("gathered embedding and head", ends * (1 if setup.rank else 2)))
