"""The embeddings of a flat sequence: of tokens from the model's table, of pictures from the vectors of its tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from rethink.pictures import FIRST_ID


class Seen(NamedTuple):
    """A flat sequence in which there are pictures.

    x_T_H        embeddings, with the pictures' vectors at their places
    mask_T       these places
    deep         what some models add to the first layers' results at these places, layer by layer [N, H]
    offsets_3_T  how far the three rotary positions of each place are from that of its picture; None for models with one
    """

    x_T_H: Tensor
    mask_T: Tensor
    deep: list[Tensor]
    offsets_3_T: Tensor | None


class Pictures(Protocol):
    """Where the vectors of pictures come from. With `has_grids`, a picture takes fewer positions than vectors, and each
    vector has three: time, row and column."""

    has_grids: bool

    def see(self, x_T_H: Tensor, ids_T: Tensor, mask_T: Tensor) -> Seen:
        """Return a flat sequence with the pictures' vectors at the places of the mask."""
        ...

    def positions(self, ids: Sequence[int]) -> tuple[Sequence[int], int]:
        """Return the position of each id of a prompt (for a vector, that of its picture), and that of what comes next."""
        ...


def see(ids_T: Tensor, table: Callable[[Tensor], Tensor], pictures: Pictures | None, attend: object) -> Seen | None:
    """Return a flat sequence in which there are pictures; None for one of text. The vectors have no gradient.

    Sampled tokens are text: to look for pictures among them (`attend.only_tokens`) would wait for the GPU at each step."""
    if pictures is None or getattr(attend, "only_tokens", False):
        return None
    mask_T = ids_T >= FIRST_ID
    return pictures.see(table(ids_T.masked_fill(mask_T, 0)), ids_T, mask_T) if bool(mask_T.any()) else None


def positions_of(ids: Sequence[int], pictures: Pictures | None) -> tuple[Sequence[int], int]:
    """Return the position of each id of a prompt, and that of what comes next."""
    if pictures is None or not pictures.has_grids:
        return range(len(ids)), len(ids)
    return pictures.positions(ids)


def can_see(config: Any) -> bool:
    """Return whether a configuration is that of a model with a vision tower beside its language model."""
    return getattr(config, "vision_config", None) is not None and config.get_text_config() is not config


def has_grids(config: Any) -> bool:
    """Return whether the vectors of a picture have three rotary positions each."""
    return bool((getattr(config.get_text_config(), "rope_parameters", None) or {}).get("mrope_section"))


def body(module: Any) -> Any:
    """Return the module's language model, without its output layer."""
    if can_see(module.config):
        return module.get_decoder()
    base = module.base_model
    return base if base is not module else module.model  # the prefix of Llama 4 is that of a part it does not have
