"""Closed and full outputs: a command does its work, whether or not somebody reads what it prints."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rethink.commands.console import print_result, warn
from rethink.commands.output_streams import LastingStream, lasting_output
from rethink.printable import align_columns


class Broken(io.StringIO):
    """A stream on a descriptor of its own; writing to it fails with this error."""

    def __init__(self, number: int, descriptor: int) -> None:
        super().__init__()
        self.number, self.descriptor = number, descriptor

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def fileno(self) -> int:
        return self.descriptor


def _work(done: list[str]) -> None:
    with lasting_output():
        print("result")
        print_result("result")
        done.append("report")
        sys.exit(0)


@pytest.mark.parametrize(("number", "code"), [(errno.EPIPE, 0), (errno.ENOSPC, 2), (errno.EIO, 2)])
def test_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    """Guards against a closed pipe that ends a command before its report is written, and a full disk that nobody hears
    of."""
    descriptor = os.open(tmp_path / "out", os.O_CREAT | os.O_WRONLY)
    messages = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Broken(number, descriptor))
    monkeypatch.setattr(sys, "stderr", messages)
    worked: list[str] = []
    with pytest.raises(SystemExit) as ended:
        _work(worked)
    os.close(descriptor)
    assert (worked, ended.value.code) == (["report"], code)
    assert ("cannot write to standard output" in messages.getvalue()) == (code == 2)


def test_letters_that_the_terminal_lacks(tmp_path: Path) -> None:
    """Guards against a UnicodeEncodeError on an ASCII terminal."""
    with (tmp_path / "out").open("w", encoding="ascii") as out:
        LastingStream(out).write("ü ≤ \udcff")
    assert (tmp_path / "out").read_text() == r"\xfc \u2264 \udcff"


def test_messages_and_tables_escape_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a printing function that passes them on, and against columns that move because of escapes."""
    table = align_columns([["", "n"], ["a\n\x1b[1m", "7"], ["b", "11"]])
    assert table.splitlines() == [" " * 13 + "n", r"a\n\x1b[1m   7", "b" + " " * 11 + "11"]
    print_result("\x1b[2J[red]")
    warn("\u202e")
    assert capsys.readouterr() == ("\\x1b[2J[red]\n", "warning: \\u202e\n")


@pytest.mark.slow
@pytest.mark.parametrize("redirect", ["| true", "2>&1 | true", ">&- 2>&-", "<&- >&- 2>&-", "| head -1 >/dev/null"])
def test_nobody_reads(tmp_path: Path, redirect: str) -> None:
    """Guards against exit code 1 in a pipe, and a file of results that gets the number of a closed stdout."""
    (tmp_path / "replies.jsonl").write_text('{"response": "\\\\boxed{7}", "answer": "7"}\n')
    command = (
        f"{sys.executable} -m rethink grade replies.jsonl --out verdicts.jsonl {redirect}; echo ${{PIPESTATUS[0]}}"
    )
    found = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert found.stdout == "0\n"
    assert (tmp_path / "verdicts.jsonl").read_text().count('"right"') == 1
    assert "Traceback" not in found.stderr


@pytest.mark.slow
def test_odd_surroundings(tmp_path: Path) -> None:
    """Guards against tracebacks for a current folder that is gone, names that are no UTF-8, and no home."""
    program = f"{sys.executable} -m rethink"
    script = f"{program} grade $'\\xff' --out v; mkdir d; cd d; rmdir ../d; HOME=/none TMPDIR=/none {program} --version"
    found = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "is not valid UTF-8; rename the file or folder" in found.stderr
    assert "the current folder no longer exists" in found.stderr
    assert "Traceback" not in found.stderr
