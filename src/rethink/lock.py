"""A lock on a folder or a file, so that two commands never write to it at once.

The lock is the kernel's (`flock`): it ends with the process that holds it, however that ends. The lock file names that
process; what a killed process left in it does not matter.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from weakref import WeakValueDictionary, finalize

from rethink.errors import UserError

LOCK = ".lock"
"""The name of the lock file in a folder. The lock file of a file is `.NAME.lock` next to it."""

HELD_BY_ANOTHER = (errno.EAGAIN, errno.EACCES)


class Lock:
    """An exclusive lock on an existing folder, or on a file, which need not exist.

    Raise UserError, with the owner's process id and command, if another process holds it. Locks of one process on the same
    path share it. It ends with `release`, with the context, with the last reference to it, or with the process.

    A folder that cannot be written to is not locked: the command's own first write fails. If the file system has no locks,
    `warn` gets a warning, and the command continues.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        file = path / LOCK if path.is_dir() else path.with_name(f".{path.name}{LOCK}")
        key = os.path.realpath(file)
        held = _held.get(key)
        if held is None or not _is_same(file, held.handle):
            held = _open(file, path, warn)
            if held is not None:
                _held[key] = held
        self._held = held

    def release(self) -> None:
        """Release the lock, unless another lock of this process shares it."""
        self._held = None

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class _Held:
    """A lock file that this process has locked. The lock ends when nothing refers to this object."""

    def __init__(self, file: Path, handle: int) -> None:
        self.handle = handle
        finalize(self, _close, file, handle, os.getpid())


_held: WeakValueDictionary[str, _Held] = WeakValueDictionary()


def _open(file: Path, path: Path, warn: Callable[[str], None]) -> _Held | None:
    """Return the locked lock file, or None if locks are impossible here."""
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_current = _is_same(file, handle)
        except OSError as err:
            owner = _read(handle)
            os.close(handle)
            if err.errno in HELD_BY_ANOTHER:
                raise UserError(f"{path} is in use by {owner}; wait until that has ended, or end it") from err
            warn(f"cannot lock {path} ({err.strerror}): make sure that no other command writes to it")
            return None
        if is_current:
            _write_owner(handle)
            return _Held(file, handle)
        os.close(handle)  # its owner has just removed it: lock the new one


def _is_same(file: Path, handle: int) -> bool:
    """Return whether the path still leads to the opened file."""
    try:
        return os.path.samestat(file.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _write_owner(handle: int) -> None:
    name = Path(sys.argv[0]).name
    command = " ".join(["rethink" if name == "__main__.py" else name, *sys.argv[1:2]])  # the rest may hold secrets
    owner = f"process {os.getpid()} on {socket.gethostname()} ({command})"
    try:
        os.ftruncate(handle, 0)
        os.write(handle, owner.encode(errors="replace"))
    except OSError:
        pass  # a full disk: the lock holds all the same


def _read(handle: int) -> str:
    """Return the owner that a lock file names."""
    text = os.pread(handle, 2000, 0).decode(errors="replace")
    return "".join(c for c in text if c.isprintable()) or "another process"


def _close(file: Path, handle: int, owner: int) -> None:
    """Remove a lock file and release it."""
    if os.getpid() != owner:
        return  # a forked process, which has closed its copy
    try:
        if _is_same(file, handle):
            file.unlink()
    except OSError:
        pass
    os.close(handle)


def _close_in_child() -> None:
    """Close the lock files that a forked process inherits: the lock must not outlive the process that took it."""
    for held in list(_held.values()):
        os.close(held.handle)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
