"""Standard output and standard error that may be closed, full or unable to show a letter while a command runs.

A closed pipe (`rethink eval ... | head`) is no error: the command finishes its work, writes its files and exits with 0.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class LastingStream:
    """A text stream that drops what can no longer be written. `error` is why, unless the reader just went away."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an ASCII terminal, or a name that is not UTF-8

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as err:
            self._drop_the_rest(err)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as err:
            self._drop_the_rest(err)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop_the_rest(self, err: OSError) -> None:
        """Connect the stream with the null device, also for libraries and child processes that write to it."""
        if err.errno != errno.EPIPE:
            self.error = err
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Let the block finish its work whatever happens to stdout and stderr.

    If stdout could not be written for another reason than a closed pipe, such as a full disk, exit with 2 at the end.
    """
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    out, err = (LastingStream(stream or open(os.devnull, "w", encoding="utf-8")) for stream in before)  # noqa: SIM115
    sys.stdout, sys.stderr = out, err
    try:
        yield
    except SystemExit as ended:
        out.flush()
        if out.error is not None and not ended.code:
            err.write(f"rethink: cannot write to standard output: {out.error.strerror}\n")
            raise SystemExit(2) from ended
        raise
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _open_closed_descriptors() -> None:
    """Open closed standard descriptors on the null device. Else the next file that is opened, say one of answers, gets
    the number of stdout, and what a library prints goes into it.
    """
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            return
        os.set_inheritable(descriptor, True)
