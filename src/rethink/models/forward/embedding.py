"""The embeddings of a flat sequence: of tokens from the model's table, of pictures from the vectors of its tower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from rethink.pictures import FIRST_ID


class Pictures(Protocol):
    """Where the vectors of pictures come from."""

    def put(self, x_T_H: Tensor, ids_T: Tensor, mask_T: Tensor) -> Tensor:
        """Return embeddings [T, H] with the pictures' vectors at the places of the mask."""
        ...


def embed(ids_T: Tensor, table: Callable[[Tensor], Tensor], pictures: Pictures | None) -> Tensor:
    """Return the embeddings [T, H]. The vectors of pictures are constants, without a gradient."""
    if pictures is None:
        return table(ids_T)
    mask_T = ids_T >= FIRST_ID
    if not bool(mask_T.any()):
        return table(ids_T)
    return pictures.put(table(ids_T.masked_fill(mask_T, 0)), ids_T, mask_T)


def can_see(config: Any) -> bool:
    """Return whether a configuration is that of a model with a vision tower beside its language model."""
    return getattr(config, "vision_config", None) is not None and config.get_text_config() is not config


def body(module: Any) -> Any:
    """Return the module's language model, without its output layer."""
    if can_see(module.config):
        return module.get_decoder()
    base = module.base_model
    return base if base is not module else module.model  # the prefix of Llama 4 is that of a part it does not have
