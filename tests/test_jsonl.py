"""How a file of records is resumed: what is read, what is cut off, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rethink.errors import UserError
from rethink.jsonl import SCHEMA, RecordMismatchError, Resumable, read_lines, refuse_newer_file, write_lines

HEADER = {"settings": "a"}
BATCHES = [["x", "y"], ["ä"], ["z", "w", "v"]]


def fill(file: Path, batches: list[list[str]] = BATCHES, header: dict[str, Any] = HEADER) -> list[str]:
    """Write what is lacking; return what had to be made."""
    records = Resumable(file, header, lambda record: {"id": record["id"]})
    made: list[str] = []
    for batch in batches:
        if records.read_batch([{"id": name} for name in batch]) is None:
            records.append([{"id": name, "value": 7} for name in batch])
            made += batch
    records.close()
    return made


@given(st.integers(0, 400))
def test_a_file_cut_anywhere_is_made_whole_again(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """Guards against torn lines that stay, whole batches that are made twice, and half ones that are taken for whole."""
    file = tmp_path_factory.mktemp("r") / "f"
    assert fill(file) == ["x", "y", "ä", "z", "w", "v"]
    whole = file.read_bytes()
    file.write_bytes(whole[:cut])
    n_lines = len(list(read_lines(file)))  # a last line that lacks only its end is whole
    made = fill(file)
    assert file.read_bytes() == whole
    assert made == ["x", "y", "ä", "z", "w", "v"][{0: 0, 1: 0, 2: 2, 3: 3, 4: 3, 5: 3, 6: 6}[n_lines] :]


@pytest.mark.parametrize(
    ("batches", "header", "complaint"),
    [
        ([["x", "q"]], HEADER, "id was 'y', now 'q'"),
        (BATCHES, {"settings": "b"}, "settings was 'a', now 'b'"),
        (BATCHES[:2], HEADER, "has more records than this command would write"),
        (BATCHES, {"model": "m"}, "not a file that this command can resume"),
    ],
)
def test_other_records_are_refused_and_kept(
    tmp_path: Path, batches: list[list[str]], header: dict[str, Any], complaint: str
) -> None:
    """Guards against records of two settings in one file, and against a file that is emptied as it is not understood."""
    fill(tmp_path / "f")
    before = (tmp_path / "f").read_bytes()
    with pytest.raises(RecordMismatchError, match=complaint):
        fill(tmp_path / "f", batches, header)
    assert (tmp_path / "f").read_bytes() == before


@pytest.mark.parametrize("text", ["precious", '{"id": "x"}\nand notes\n', "7\n", '{"id": "x", "settings": 1'])
def test_files_of_another_kind_are_refused_and_kept(tmp_path: Path, text: str) -> None:
    """Guards against somebody's notes that are cut off as a torn line; a torn record alone may be begun again."""
    (tmp_path / "f").write_text(text)
    if text.startswith('{"id": "x", "settings"'):
        assert len(fill(tmp_path / "f")) == 6
        return
    with pytest.raises(RecordMismatchError, match="not a file that this command can resume") as refused:
        fill(tmp_path / "f")
    assert ("line 2 is damaged, and the lines after it would be lost" in str(refused.value)) == ("notes" in text)
    assert (tmp_path / "f").read_text() == text


def test_write_lines_creates_the_folder_and_follows_links(tmp_path: Path) -> None:
    """Guards against work that is lost for want of a folder, and a link that is replaced by a file."""
    write_lines(tmp_path / "new" / "f", ["a", "b"])
    (tmp_path / "link").symlink_to(tmp_path / "new" / "f")
    write_lines(tmp_path / "link", ["c"])
    assert (tmp_path / "new" / "f").read_text() == "c\n"
    assert (tmp_path / "link").is_symlink()


def test_two_processes_may_write_one_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`rethink report` beside the run that writes its page: both wrote to one temporary file, and one of them failed."""
    file = tmp_path / "page"

    def lines() -> Iterator[str]:
        yield "first"
        with monkeypatch.context() as other:
            other.setattr(os, "getpid", lambda: 1)
            write_lines(file, ["from the other"])
            assert file.read_text() == "from the other\n"
        yield "last"

    write_lines(file, lines())
    assert file.read_text() == "first\nlast\n"
    assert list(tmp_path.iterdir()) == [file]


def test_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    """Guards against copies that add up as runs are killed, and against the removal of other files: of a process that is
    still writing, here or on another machine, and of a person."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, fresh, others = f"f[1].{ended.pid}.tmp", f"f[1].0{ended.pid}.tmp", f"g.{ended.pid}.tmp"
    kept = [fresh, others, f"f[1].{os.getppid()}.tmp", "f[1].notes.tmp", "f[1].tmp"]
    for name in (left, *kept):
        (tmp_path / name).write_text("")
        if name != fresh:
            os.utime(tmp_path / name, (0, 0))
    write_lines(tmp_path / "f[1]", ["a"])
    assert {file.name for file in tmp_path.iterdir()} == {"f[1]", *kept}
    assert (tmp_path / "f[1]").read_text() == "a\n"


def test_write_lines_refuses_other_kinds_at_once(tmp_path: Path) -> None:
    """Guards against a folder or a device that is found to be one only after all lines are made."""
    for other in (tmp_path, Path("/dev/null")):
        with pytest.raises(UserError, match=r"cannot write .*name a file"):
            write_lines(other, iter(lambda: pytest.fail("a line was made"), None))
    with pytest.raises(UserError, match=r"cannot write .*File name too long"):
        write_lines(tmp_path / ("x" * 300), [])


@pytest.mark.parametrize("schema", [None, 0, SCHEMA, "x", True])
def test_records_that_are_known_are_read(tmp_path: Path, schema: Any) -> None:
    """Guards against a refusal of files without a version, and of those of other programs."""
    write_lines(tmp_path / "f", ["{}", json.dumps({"schema": schema}), "[]"])
    assert len(list(read_lines(tmp_path / "f"))) == 3


def test_records_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    """Guards against numbers whose meaning has changed since, and against a file that is cut off where they begin."""
    file = tmp_path / "f"
    write_lines(file, ['{"id": "x", "schema": 1}', json.dumps({"id": "y", "schema": SCHEMA + 1})])
    before = file.read_bytes()
    message = f"f was written by a newer version of rethink .*schema {SCHEMA + 1}; this version knows up to {SCHEMA}"
    with pytest.raises(UserError, match=message):
        refuse_newer_file(file)
    with pytest.raises(UserError, match=message):
        Resumable(file, {"schema": SCHEMA}, lambda record: {"id": record["id"]})
    assert file.read_bytes() == before
