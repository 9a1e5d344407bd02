"""Folders of data: shards in files of one kind, and what `datasets` writes with `save_to_disk`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.problems.splits import ALIASES, pick_split
from rethink.problems.tables import dataset_rows

METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")
"""Files that `datasets` and the hub put beside the data."""

_WORDS = {name: name for name in ("train", "validation", "test")}
_WORDS |= {alias: name for name, aliases in ALIASES.items() for alias in aliases}


def is_saved_dataset(folder: Path) -> bool:
    """Return whether `save_to_disk` of `datasets` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def saved_rows(folder: Path, splits: Sequence[str]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the rows of a folder that `save_to_disk` wrote."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as err:  # the library raises many types
        raise UserError(f"{folder} is not a data set that can be loaded: {err}") from err
    if isinstance(loaded, dict):
        loaded = loaded[pick_split(folder, list(loaded), splits)]
    for n, values in enumerate(dataset_rows(loaded)):
        yield f"row {n}", values, ""


def data_files(
    folder: Path, splits: Sequence[str], suffix_of: Callable[[Path], str], kinds: Sequence[str]
) -> list[Path]:
    """Return the data files of one split in a folder and the folders in it, in the order of their names.

    A split is a word of a file's or a folder's name, as on the hub ("data/train-00000-of-00002.parquet"). Raise UserError
    if there are none, of several kinds, or only other splits.
    """
    found: list[Path] = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
        if suffix_of(path) in kinds and path.name not in METADATA and not hidden and path.is_file():
            found.append(path)
    if not found:
        raise UserError(f"{folder} is a folder without data files; it holds {_listing(folder)}")
    suffixes = sorted({suffix_of(path) for path in found})
    if len(suffixes) > 1:
        raise UserError(
            f"{folder} holds {' and '.join(suffixes)} files; name one of the files, or a folder with one kind"
        )
    by_split: dict[str, list[Path]] = {}
    for path in found:
        by_split.setdefault(_split_of(path.relative_to(folder)), []).append(path)
    if len(by_split) == 1 and "" in by_split:
        return found
    if "" in by_split:
        raise UserError(
            f"{folder} holds files of the splits {', '.join(filter(None, by_split))} and {by_split[''][0].name}, which "
            "is of none; name the file"
        )
    return by_split[pick_split(folder, list(by_split), splits)]


def _split_of(path: Path) -> str:
    words = re.split(r"[^a-z]+", str(path).lower())
    found = {_WORDS[word] for word in words if word in _WORDS}
    return found.pop() if len(found) == 1 else ""


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more if names else "nothing"
