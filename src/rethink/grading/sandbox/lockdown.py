"""The sandbox: what a process gives up before it scores a reply, and which guard this machine has for it."""

from __future__ import annotations

import math
import os
import platform
from contextlib import suppress
from dataclasses import dataclass

from rethink.grading.sandbox import kernel, seccomp
from rethink.grading.sandbox.readable import all_but_secrets, python_files

_MAX_FILE_BYTES = 2**28
_MAX_OPEN_FILES = 256
_MAX_OPEN_FILES_FOR_USERS = 4096
"""The kernel keeps what is written to pipes and pairs of sockets, and counts it for nobody."""

FULL = "Landlock and seccomp"


@dataclass(frozen=True)
class Lockdown:
    """What code may do once it is locked in: with `for_users`, what a user's function needs; else nothing but compute.
    `folder` may be written to.
    """

    for_users: bool
    folder: str = ""
    ruleset: int | None = None

    @classmethod
    def prepare(cls, for_users: bool, folder: str = "") -> Lockdown:
        """Return a lockdown that allows what exists now: call this when all modules are imported."""
        if not kernel.landlock_version():
            return cls(for_users, folder)
        granted = all_but_secrets() if for_users else python_files()
        if folder:
            granted[folder] = kernel.all_rights()
        return cls(for_users, folder, kernel.create_ruleset(granted))

    def apply(self, timeout_s: float | None = None) -> None:
        """Lock this process in, for good. `timeout_s` limits the seconds of computing."""
        _set_limits(self.for_users, timeout_s)
        if not kernel.has_seccomp():
            return
        kernel.forbid_new_privileges()
        if self.ruleset is not None:
            kernel.restrict_files(self.ruleset)
        allow_writing = self.for_users and self.ruleset is not None
        kernel.filter_system_calls(seccomp.program(os.getpid(), self.for_users, allow_writing))


def guard() -> str:
    """Return in a few words what keeps code in the sandbox from doing harm on this machine."""
    if not kernel.has_seccomp():
        return f"separate processes with limits only, because {platform.system()} has no seccomp here"
    if not kernel.landlock_version():
        return "seccomp only, so all files can be read, because this kernel has no Landlock"
    return FULL


def lesser_guard() -> str:
    """Return a warning if this machine has not the full guard; else nothing."""
    found = guard()
    return "" if found == FULL else f"what grades replies is guarded by {found} (docs/security.md)"


def _set_limits(for_users: bool, timeout_s: float | None) -> None:
    with suppress(ImportError):
        import resource

        limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: _MAX_FILE_BYTES if for_users else 0}
        if timeout_s is not None:
            limits[resource.RLIMIT_CPU] = math.ceil(timeout_s) * 2 + 1
        limits[resource.RLIMIT_NOFILE] = _MAX_OPEN_FILES_FOR_USERS if for_users else _MAX_OPEN_FILES
        for kind, limit in limits.items():
            with suppress(OSError, ValueError):
                resource.setrlimit(kind, (limit, limit))
