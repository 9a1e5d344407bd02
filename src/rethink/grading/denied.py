"""Say so when a user's function fails because the sandbox denied it something."""

from __future__ import annotations

import errno
import os
import socket
import sys
import traceback
from dataclasses import dataclass, replace

from rethink.types import Verdict

DENIED = "was denied by the sandbox"
"""Every such message has these words."""
_LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.connect", "socket.sendto")


def explain(error: BaseException) -> str:
    """Return what the sandbox denied, if that is where an exception or one of its causes comes from, for the end of a
    message; else nothing.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.EPERM, errno.EACCES):
            return f" (this {DENIED})"
        if isinstance(seen, KeyError) and _is_of_environment(seen):
            return f" (an environment variable; reading it {DENIED})"
        seen = seen.__cause__ or seen.__context__
    return ""


def _is_of_environment(error: KeyError) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename in (os.__file__, "<frozen os>")


@dataclass
class NetworkWatch:
    """Notices that a function asked for the network. Many functions catch the error and return 0, which is no verdict."""

    used: bool = False

    def start(self) -> None:
        """Watch this process until it ends."""
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in _LOOKUPS or (event == "socket.__new__" and arguments[1] in (socket.AF_INET, socket.AF_INET6)):
            self.used = True

    def check(self, name: str, verdict: Verdict) -> Verdict:
        """Return the verdict of a function; not graded, with the reason, if it used the network."""
        if not self.used or DENIED in verdict.reason:
            return verdict
        if verdict.right is None:
            return replace(verdict, reason=f"{verdict.reason} (the network {DENIED})")
        return Verdict(None, f"{name} asked for the network, which {DENIED}")
