"""The lock: one process at a time, whatever happened to the one before."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.lock import Lock
from support.processes import exit_code, start, wait_for


def hold(path: Path) -> None:
    """Lock a path, say so, and wait to be killed."""
    sys.argv = ["/bin/rethink", "train", "endpoint.key_env=secret"]
    held = Lock(path, pytest.fail)
    (path.parent / "ready").touch()
    signal.pause()
    held.release()


def lock_and_fork(path: Path) -> None:
    """Lock a path, fork a child that lives on, and be killed."""
    held = Lock(path, pytest.fail)
    child = os.fork()
    if child == 0:
        signal.pause()
    (path.parent / "child").write_text(str(child))
    os.kill(os.getpid(), signal.SIGKILL)
    held.release()


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        Lock(path, pytest.fail)
    return str(caught.value)


@pytest.fixture(params=["folder", "file"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a file, or a file that is not there yet."""
    path = tmp_path / "runs" / request.param
    path.parent.mkdir()
    if request.param == "folder":
        path.mkdir()
    return path


@pytest.mark.slow
def test_a_second_process_is_refused_until_the_first_is_killed(path: Path) -> None:
    """Two resumes of one run once both trained and wrote. The message names the owner, and no secrets."""
    process = start(hold, path)
    wait_for((path.parent / "ready").exists)
    message = refused(path)
    assert message.startswith(f"{path} is in use by process {process.pid} on ")
    assert message.endswith(" (rethink train); wait until that has ended, or end it")
    process.kill()
    assert exit_code(process) == -signal.SIGKILL
    with Lock(path, pytest.fail):
        pass


@pytest.mark.slow
def test_a_child_of_a_killed_process_does_not_keep_the_lock(path: Path) -> None:
    """A forked child inherits open files, and with them the lock."""
    assert exit_code(start(lock_and_fork, path)) == -signal.SIGKILL
    child = int((path.parent / "child").read_text())
    try:
        Lock(path, pytest.fail)
    finally:
        os.kill(child, signal.SIGKILL)


def test_nothing_is_left_behind(path: Path) -> None:
    """Guards against lock files next to a user's results."""
    with Lock(path, pytest.fail):
        assert any(p.name.endswith(".lock") for p in path.parent.rglob("*"))
    assert not any(p.name.endswith(".lock") for p in path.parent.rglob("*"))


def is_locked(path: Path) -> bool:
    """Return whether a lock file is locked, as another process sees it."""
    file = path / ".lock" if path.is_dir() else path.with_name(f".{path.name}.lock")
    if not file.exists():
        return False
    with file.open() as other:
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_one_process_shares_a_lock(path: Path) -> None:
    """In a notebook, a run is opened again while the first object is still there. The last one releases the lock."""
    first, second = Lock(path, pytest.fail), Lock(path, pytest.fail)
    first.release()
    assert is_locked(path)
    second.release()
    assert not is_locked(path)


def test_a_lost_reference_releases_the_lock(path: Path) -> None:
    """Guards against a run that nobody has any more and that still blocks others."""
    Lock(path, pytest.fail)
    gc.collect()
    assert not is_locked(path)


def test_a_removed_lock_file_is_made_again(path: Path) -> None:
    """Guards against a lock on a folder that was deleted and made anew."""
    first = Lock(path, pytest.fail)
    for file in path.parent.rglob("*.lock"):
        file.unlink()
    second = Lock(path, pytest.fail)
    assert is_locked(path)
    first.release()
    assert is_locked(path)
    second.release()


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        (errno.EAGAIN, "in use by another process"),
        (errno.EACCES, "in use by another process"),
        (errno.ENOLCK, "cannot lock"),
        (errno.ENOSYS, "cannot lock"),
        (errno.EOPNOTSUPP, "cannot lock"),
    ],
)
def test_file_systems_without_locks(number: int, outcome: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have no flock: the command warns and continues."""
    monkeypatch.setattr(fcntl, "flock", failing(number))
    warnings: list[str] = []
    try:
        Lock(path, warnings.append)
    except UserError as err:
        warnings.append(str(err))
    assert [outcome in text for text in warnings] == [True]


def failing(number: int) -> Callable[..., None]:
    def flock(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_folders_that_cannot_be_written_to(number: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's own write fails, with its own message; a command that only reads continues."""

    def no_file(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("rethink.lock.os.open", no_file)
    Lock(path, pytest.fail)


def test_an_owner_cannot_send_terminal_escapes(tmp_path: Path) -> None:
    """Guards against a lock file that controls the terminal of whoever reads its owner."""
    with (tmp_path / ".lock").open("w") as other:
        other.write("process 1\x1b[2J\n\u202e")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "in use by process 1[2J; wait" in refused(tmp_path)
