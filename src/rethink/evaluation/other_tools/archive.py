"""The members of a zip archive, also those compressed with Zstandard, which `zipfile` reads only from Python 3.14 on."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from rethink.errors import UserError

ZSTANDARD = 93
_LOCAL_HEADER = 30
"""The bytes before a member's name; the last four are the lengths of the name and of further fields."""


def member_names(file: Path) -> list[str]:
    """Return the names of the members, in the order in which they were written. Raise UserError if it is no archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError) as err:
        raise UserError(f"{file} is damaged or incomplete: {err}") from err


def read_member(file: Path, name: str) -> bytes:
    """Return the content of a member. Raise UserError if it is damaged."""
    try:
        with zipfile.ZipFile(file) as archive:
            found = archive.getinfo(name)
            if found.compress_type != ZSTANDARD:
                return archive.read(found)
        return _unpack(_packed(file, found))
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, struct.error) as err:
        raise UserError(f"{file}: {name} is damaged, or packed in a way that cannot be read: {err}") from err


def _packed(file: Path, member: zipfile.ZipInfo) -> bytes:
    with file.open("rb") as data:
        data.seek(member.header_offset)
        header = data.read(_LOCAL_HEADER)
        n_name, n_more = struct.unpack("<HH", header[-4:])
        data.seek(n_name + n_more, 1)
        return data.read(member.compress_size)


def _unpack(packed: bytes) -> bytes:
    import pyarrow as pa

    return bytes(pa.input_stream(pa.py_buffer(packed), compression="zstd").read())
