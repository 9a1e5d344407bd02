"""What the sandbox asks of Linux: Landlock (which files), seccomp (which system calls) and capabilities, by ctypes."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from functools import cache
from typing import Any

MACHINE = platform.machine() if sys.platform == "linux" and sys.byteorder == "little" else ""

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on all machines
_CAPABILITIES_VERSION, _READ_ANY_FILE = 0x20080522, 1 << 1 | 1 << 2

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
READ = READ_FILE | READ_DIR
_FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14
_N_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""The number of rights over files that a version of Landlock knows; 16 from version 5 on."""
_NO_TCP, _NO_SIGNALS_OR_SOCKETS_OUTSIDE = 0b11, 0b11


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _syscall(number: int, *arguments: Any) -> int:
    return int(_libc().syscall(ctypes.c_long(number), *arguments))


def _prctl(option: int, *arguments: int) -> int:
    return int(_libc().prctl(option, *(ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4])))


@cache
def landlock_version() -> int:
    """Return the version of Landlock, or 0 if the kernel has none."""
    if MACHINE not in _SYS_CAPSET:
        return 0
    return max(0, _syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


@cache
def has_seccomp() -> bool:
    """Return whether system calls can be filtered."""
    if MACHINE not in _SYS_CAPSET:
        return False
    # The kernel reads the filter before it refuses a null one, so this changes nothing.
    return _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, 0) == -1 and ctypes.get_errno() == 14


def all_rights() -> int:
    """Return every right over files that this kernel's Landlock can grant."""
    return int((1 << _N_RIGHTS.get(landlock_version(), 16)) - 1)


def create_ruleset(granted: dict[str, int]) -> int:
    """Return a file descriptor of rules that grant these rights under these paths, and nothing else.

    They also forbid TCP, and signals to processes outside, as far as the kernel knows how. Missing paths are left out.
    """
    version = landlock_version()
    attributes = struct.pack("QQQ", all_rights(), _NO_TCP, _NO_SIGNALS_OR_SOCKETS_OUTSIDE)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _check(_syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0)), "landlock")
    for path, rights in granted.items():
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        if not os.path.isdir(path):
            rights &= _FILE_RIGHTS
        rule = struct.pack("=Qi", rights & all_rights(), place)
        _check(_syscall(_ADD_RULE, ctypes.c_int(ruleset), 1, rule, ctypes.c_uint32(0)), "landlock")
        os.close(place)
    return ruleset


def restrict_files(ruleset: int) -> None:
    """Apply a ruleset to this thread and to all processes that it will start."""
    _check(_syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)), "landlock")


def filter_system_calls(program: bytes) -> None:
    """Apply a filter (see `seccomp.program`) to this thread and to all processes that it will start."""
    code = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(code)))
    _check(_prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(header)), "seccomp")


def forbid_new_privileges() -> None:
    """Make programs with a setuid bit ordinary ones, and give up all capabilities but those to read files."""
    _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")
    if os.geteuid() == 0:
        header = struct.pack("Ii", _CAPABILITIES_VERSION, 0)
        kept = struct.pack("6I", _READ_ANY_FILE, _READ_ANY_FILE, 0, 0, 0, 0)
        _syscall(_SYS_CAPSET[MACHINE], header, kept)  # fails if there is less to give up


def end_with_parent() -> None:
    """Have this process killed when the process that started it ends."""
    if MACHINE:
        _prctl(_PR_SET_PDEATHSIG, 9)


def adopt_orphans() -> None:
    """Become the parent of processes whose parent ends before them, so that they can be waited for."""
    if MACHINE:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
