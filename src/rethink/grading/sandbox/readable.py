"""Which files code in the sandbox may read."""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rethink.grading.sandbox.kernel import EXECUTE, READ, READ_DIR, READ_FILE, WRITE_FILE

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime")
_DEVICES = ("/dev/null", "/dev/urandom", "/dev/random")  # not zero: its mappings are memory that no limit counts
_MACHINE = ("/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system")
_NEVER = ("/proc", "/sys", "/dev", "/run", "/var/run", "/boot", "/root", "/home", "/lost+found")
"""Folders with processes, devices, sockets and the files of users."""
_DOWNLOADED = (
    ".cache/huggingface/hub",
    ".cache/huggingface/datasets",
    ".cache/torch",
    ".cache/matplotlib",
    ".local/lib",
)
"""What libraries keep in hidden folders of one's home folder. Tokens lie elsewhere."""
_MOST_ENTRIES = 10_000


def python_files() -> dict[str, int]:
    """Return rights to read what this Python and its loaded packages consist of, and nothing else."""
    paths = sysconfig.get_paths()
    granted = dict.fromkeys(
        [paths["stdlib"], paths["platstdlib"], paths["purelib"], paths["platlib"], *_LIBRARIES], READ
    )
    for path in list(sys.modules.values()):
        file = getattr(path, "__file__", None)
        if file and os.path.isabs(file):
            is_package = Path(file).stem == "__init__"
            granted[os.path.dirname(file) if is_package else file] = READ
    return granted | dict.fromkeys(_DEVICES, READ_FILE)


def all_but_secrets() -> dict[str, int]:
    """Return rights to read and run everything but secrets: no hidden entry of one's home folder, of the current
    one or of those above them, nothing of other users or for root only, and nothing about other processes.
    """
    rights = READ | EXECUTE
    home = os.path.realpath(os.path.expanduser("~"))
    guarded = {home, os.path.realpath(os.getcwd())}
    granted = dict.fromkeys(_visible("/", guarded, _for_root_only("/etc")), rights)
    granted |= dict.fromkeys(_LIBRARIES, rights)
    for path in (sys.prefix, sys.base_prefix, *sys.path):
        if path and not _holds_any(os.path.realpath(path), guarded):
            granted[path] = rights
    granted |= {os.path.join(home, name): rights for name in _DOWNLOADED}
    granted |= dict.fromkeys(guarded, READ_DIR)  # to list names
    granted |= dict.fromkeys(_MACHINE, READ)
    return granted | dict.fromkeys(_DEVICES, READ_FILE) | {"/dev/null": READ_FILE | WRITE_FILE}


def _for_root_only(folder: str) -> set[str]:
    """Return what others may not read below a folder. Only for root does the kernel not see to that."""
    found: set[str] = set()
    for place, folders, files in os.walk(folder) if os.geteuid() == 0 else ():
        for path in (os.path.join(place, name) for name in (*folders, *files)):
            with suppress(OSError):
                if not os.lstat(path).st_mode & stat.S_IROTH:
                    found.add(path)
    return found


def _visible(folder: str, guarded: set[str], secret: set[str]) -> Iterator[str]:
    """Yield what may be read whole below a folder that holds a guarded or secret one, or is a guarded one itself."""
    try:
        entries = sorted(os.scandir(folder), key=lambda e: e.name)[:_MOST_ENTRIES]
    except OSError:
        return
    for entry in entries:
        path = os.path.join(folder, entry.name)
        if path in secret:
            continue
        if _holds_any(path, guarded | secret):
            yield from _visible(path, guarded, secret)
        elif folder in _NEVER or path in _NEVER or entry.is_symlink():
            continue
        elif folder == "/" or not entry.name.startswith("."):  # containers keep libraries in /.singularity.d
            yield path


def _holds_any(path: str, guarded: set[str]) -> bool:
    return any(f"{place}/".startswith(f"{path.rstrip('/')}/") for place in guarded)
