"""The modes of the files that a model is written to."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def allow_as_usual(folder: Path) -> None:
    """Give all files in a folder the mode that new files have here: those that safetensors writes can be read by their
    owner only, whatever the umask is.
    """
    probe = folder / ".mode"
    probe.touch()
    usual = probe.stat().st_mode & 0o777
    probe.unlink()
    for file in folder.rglob("*"):
        if file.is_file():
            with suppress(PermissionError):  # some file systems have no modes
                file.chmod(usual)
