"""The embeddings of a flat sequence: of tokens from the model's table, of images from the vectors of its vision tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor
from torch.nn import Parameter

from rethink.images import FIRST_ID

PROJECTORS = ("aligner", "connector", "deepstack_merger_list", "merger", "multi_modal_projector")
"""What `transformers` calls the part of a model that maps what its vision tower has computed to embeddings."""


class Embedded(NamedTuple):
    """A flat sequence in which there are images.

    x_T_H        embeddings, with the images' vectors at their places
    mask_T       these places
    deep         what some models add to the first layers' results at these places, layer by layer [N, H]
    offsets_3_T  how far the three rotary positions of each place are from that of its image; None for models with one
    image_T      the number of the image at each place, -1 elsewhere; None if images attend causally (`Variant`)
    """

    x_T_H: Tensor
    mask_T: Tensor
    deep: list[Tensor]
    offsets_3_T: Tensor | None
    image_T: Tensor | None


class ImageSource(Protocol):
    """Where the vectors of images come from. With `has_grids`, an image takes fewer positions than vectors, and each
    vector has three: time, row and column."""

    has_grids: bool

    def insert(self, x_T_H: Tensor, ids_T: Tensor, mask_T: Tensor) -> Embedded:
        """Return a flat sequence with the images' vectors at the places of the mask."""
        ...

    def positions(self, ids: Sequence[int]) -> tuple[Sequence[int], int]:
        """Return the position of each id of a prompt (for a vector, that of its image), and that of what comes next."""
        ...


def embed_images(
    ids_T: Tensor, table: Callable[[Tensor], Tensor], image_vectors: ImageSource | None, attend: object
) -> Embedded | None:
    """Return a flat sequence in which there are images; None for one of text.

    Sampled tokens are text: to look for images among them (`attend.only_tokens`) would wait for the GPU at each step."""
    if image_vectors is None or getattr(attend, "only_tokens", False):
        return None
    mask_T = ids_T >= FIRST_ID
    return image_vectors.insert(table(ids_T.masked_fill(mask_T, 0)), ids_T, mask_T) if bool(mask_T.any()) else None


def positions_of(ids: Sequence[int], image_vectors: ImageSource | None) -> tuple[Sequence[int], int]:
    """Return the position of each id of a prompt, and that of what comes next."""
    if image_vectors is None or not image_vectors.has_grids:
        return range(len(ids)), len(ids)
    return image_vectors.positions(ids)


def has_vision_tower(config: Any) -> bool:
    """Return whether a configuration is that of a model with a vision tower beside its language model."""
    return getattr(config, "vision_config", None) is not None and config.get_text_config() is not config


def tower_parameters(module: Any) -> list[Parameter]:
    """Return the parameters of a vision tower and its projector: all but those of language model and output layer. A model
    of text has none."""
    if not has_vision_tower(module.config):
        return []
    own = {*body(module).parameters(), *module.get_output_embeddings().parameters()}
    return [p for p in module.parameters() if p not in own]


def projector_parameters(module: Any) -> list[Parameter]:
    """Return those of a tower's parameters that are its projector's; none if no part has a name that is known."""
    found: set[Parameter] = set()
    for name, part in module.named_modules():
        if name.rpartition(".")[2] in PROJECTORS:
            found.update(part.parameters())
    return [p for p in tower_parameters(module) if p in found]


def put_tower(module: Any, tower: Sequence[Parameter]) -> None:
    """Put the parameters of the tower of another module of this kind in place of a module's own, whose memory is freed."""
    other = dict(zip(tower_parameters(module), tower, strict=True))
    for part in module.modules():
        for name, p in part._parameters.items():
            if p in other:
                part._parameters[name] = other[p]


def trained_tower(module: Any) -> list[Parameter]:
    """Return those of a tower's parameters that are trained: none, unless `training.vision` says so."""
    return [p for p in tower_parameters(module) if p.requires_grad]


def tower_names(module: Any) -> frozenset[str]:
    """Return the names of the tower's weights in a state dict, buffers included."""
    if not has_vision_tower(module.config):
        return frozenset()
    own: set[Tensor] = set()
    for part in (body(module), module.get_output_embeddings()):
        own.update(part.state_dict(keep_vars=True).values())
    return frozenset(name for name, tensor in module.state_dict(keep_vars=True).items() if tensor not in own)


def decoder_layers(module: Any) -> list[Any]:
    """Return the layers of the language model, which training in several processes gathers one at a time."""
    names = set(getattr(module, "_no_split_modules", None) or ())
    return [part for part in body(module).modules() if type(part).__name__ in names]


def has_grids(config: Any) -> bool:
    """Return whether the vectors of an image have three rotary positions each."""
    return bool((getattr(config.get_text_config(), "rope_parameters", None) or {}).get("mrope_section"))


def body(module: Any) -> Any:
    """Return the module's language model, without its output layer."""
    if has_vision_tower(module.config):
        return module.get_decoder()
    base = module.base_model
    return base if base is not module else module.model  # the prefix of Llama 4 is that of a part it does not have
