"""Models on the Hugging Face hub, and what is in its cache when the hub cannot be reached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from huggingface_hub import (
    HfApi,
    constants,
    get_session,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)

from rethink.errors import UserError

TIMEOUT_S = 10

Choose = Callable[[list[str]], str]
"""Returns the file that is wanted, of those in a repository."""


def folder_if_offline(name: str) -> str:
    """Return a hub name unchanged if the hub answers, else the folder of the model in the cache.

    Raise UserError if it is not there either: the library would try again and again for a minute."""
    error = _error_of_hub()
    if error is None:
        return name
    cached = cached_folder(name)
    if cached is None:
        raise UserError(
            f"there is no model folder {name}, and the hub ({constants.ENDPOINT}) cannot be reached to look for "
            f"a model of that name ({error}); check the path, or download the model first: hf download {name}"
        ) from error
    return cached


def get_file(repository: str, choose: Choose) -> str:
    """Return the path of a file of a repository on the hub: from the cache if the hub does not answer, or else downloaded.

    Raise UserError if it cannot be had."""
    error = _error_of_hub()
    if error is not None:
        try:
            found = _in_cache(repository, choose)
        except UserError as err:
            raise UserError(
                f"{err}. Only the cache was searched: the hub ({constants.ENDPOINT}) cannot be reached ({error})"
            ) from error
        if found is None:
            raise UserError(
                f"there is no such file on this machine, and the hub ({constants.ENDPOINT}) cannot be reached to look for "
                f"it in the repository {repository} ({error}); check the path, or download the file first: hf download "
                f"{repository} FILE"
            ) from error
        return found
    try:
        return str(hf_hub_download(repository, choose(HfApi().list_repo_files(repository))))
    except UserError:
        raise
    except Exception as err:  # a repository that does not exist or needs a token, a broken connection, a full disk
        raise UserError(f"cannot get a file of the repository {repository} on the hub: {err}") from err


def cached_file(repository: str, choose: Choose) -> str | None:
    """Return the path of a file of a repository in the cache; None if it is not there."""
    try:
        return _in_cache(repository, choose)
    except UserError:  # other files of the repository are there
        return None


def _in_cache(repository: str, choose: Choose) -> str | None:
    """Return what `choose` chooses in the cache; None if nothing of the repository is there."""
    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
    except Exception:  # not in the cache, or not a valid name
        return None
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    return str(folder / choose(names))


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


def _error_of_hub() -> Exception | None:
    """Return why the hub does not answer; None if it does."""
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_S)
    except Exception as err:  # whatever the library's HTTP client raises
        return err
    return None
