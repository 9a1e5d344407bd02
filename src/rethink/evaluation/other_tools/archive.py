"""The members of a zip archive, also those compressed with Zstandard, which `zipfile` reads only from Python 3.14 on."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rethink.errors import UserError

ZSTANDARD = 93
LARGEST = 1 << 30
"""Bytes. A member that unpacks to more is none that a tool wrote: a few megabytes may hold gigabytes."""
_LOCAL_HEADER = 30
"""The bytes before a member's name; the last four are the lengths of the name and of further fields."""


class Archive:
    """An archive that is open. A name that is there twice is that of the last member, as in `zipfile`."""

    def __init__(self, file: Path, zipped: zipfile.ZipFile) -> None:
        self._file = file
        self._zipped = zipped

    @property
    def names(self) -> list[str]:
        """The names of the members, each once, in the order in which they were written."""
        return list(dict.fromkeys(self._zipped.namelist()))

    def read(self, name: str) -> bytes:
        """Return the content of a member. Raise UserError if it is damaged, or has more than `LARGEST` bytes."""
        try:
            found = self._zipped.getinfo(name)
            if found.file_size > LARGEST:
                raise UserError(
                    f"{self._file}: {name} would unpack to {found.file_size / 2**30:.3g} GiB, more than any sample has"
                )
            if found.compress_type != ZSTANDARD:
                return self._zipped.read(found)
            return _unpack(_packed(self._file, found), found.file_size)
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            OSError,
            NotImplementedError,
            RuntimeError,
            struct.error,
        ) as err:
            raise UserError(f"{self._file}: {name} is damaged, or packed in a way that cannot be read: {err}") from err


@contextmanager
def open_archive(file: Path) -> Iterator[Archive]:
    """Open an archive. Raise UserError if it is none."""
    try:
        zipped = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError) as err:
        raise UserError(f"{file} is damaged or incomplete: {err}") from err
    with zipped:
        yield Archive(file, zipped)


def _packed(file: Path, member: zipfile.ZipInfo) -> bytes:
    with file.open("rb") as data:
        data.seek(member.header_offset)
        header = data.read(_LOCAL_HEADER)
        n_name, n_more = struct.unpack("<HH", header[-4:])
        data.seek(n_name + n_more, 1)
        return data.read(member.compress_size)


def _unpack(packed: bytes, size: int) -> bytes:
    """Return what is packed, which has this many bytes. Raise OSError if it has not."""
    import pyarrow as pa

    found = bytes(pa.input_stream(pa.py_buffer(packed), compression="zstd").read(size + 1))
    if len(found) != size:
        raise OSError(f"it does not have the {size} bytes that the archive names")
    return found
