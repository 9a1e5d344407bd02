"""Models on the Hugging Face hub, and what is in its cache when the hub cannot be reached."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, get_session, try_to_load_from_cache

from rethink.errors import UserError

TIMEOUT_S = 10


def folder_if_offline(name: str) -> str:
    """Return a hub name unchanged if the hub answers, else the folder of the model in the cache.

    Raise UserError if it is not there either: the library would try again and again for a minute."""
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_S)
    except Exception as err:  # whatever the library's HTTP client raises
        cached = cached_folder(name)
        if cached is None:
            raise UserError(
                f"there is no model folder {name}, and the hub ({constants.ENDPOINT}) cannot be reached to look for "
                f"a model of that name ({err}); check the path, or download the model first: hf download {name}"
            ) from err
        return cached
    return name


def cached_folder(name: str) -> str | None:
    """Return the folder in the cache that holds a model of the hub; None if it is not there."""
    for file in ("config.json", "adapter_config.json"):
        try:
            found = try_to_load_from_cache(name, file)
        except ValueError:  # not a valid hub name
            return None
        if isinstance(found, str):
            return str(Path(found).parent)
    return None
