"""The logs of a resumed run: whole batches only, each once, and no damage goes unnoticed or costs a line."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.jsonl import append, read_lines
from rethink.run_folder import RunFolder
from rethink.training import logs


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A folder with three finished batches of two updates each, and a sample per update."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    for update in range(6):
        append(folder.metrics, [{"batch": update // 2, "update": update + 1, "phase": "solve"}])
        append(folder.samples, [{"batch": update // 2, "reply": "ä"}])
    return folder


def updates(folder: RunFolder) -> list[int]:
    return [record["update"] for _, record in read_lines(folder.metrics)]


def files(folder: RunFolder) -> list[str]:
    return sorted(p.name for p in folder.path.iterdir())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.EDQUOT, r"cannot write .*metrics.jsonl to disk, nor a checkpoint: .*; once there is space, resume"),
        (errno.ENOSPC, r"cannot write .*metrics.jsonl to disk, nor a checkpoint: .*; once there is space, resume"),
        (
            errno.EIO,
            r"cannot flush and read .*metrics.jsonl, so no checkpoint is written: .*; once that is fixed, resume",
        ),
    ],
)
def test_a_log_that_cannot_be_flushed_is_one_message(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    """Network file systems and quotas fail only when a file is flushed: that was a traceback on rank 0, and the other ranks
    waited for it. Guards against advice to free space for a disk with another fault."""

    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=message):
        logs.measure(run)


@pytest.mark.parametrize("n_batches", [0, 2])
@pytest.mark.parametrize("is_measured", [False, True])
def test_rewind_drops_unfinished_batches(run: RunFolder, n_batches: int, is_measured: bool) -> None:
    """Guards against updates that are logged twice after a resume, and warnings about an ordinary kill."""
    short = RunFolder(run.path.parent / "short")
    short.path.mkdir()
    for name in ("metrics.jsonl", "samples.jsonl"):
        lines = (run.path / name).read_bytes().splitlines(keepends=True)
        (short.path / name).write_bytes(b"".join(lines[: 2 * n_batches]))
    logs.rewind(run, n_batches, logs.measure(short) if is_measured else {}, pytest.fail)
    assert updates(run) == list(range(1, 2 * n_batches + 1))
    assert len(list(read_lines(run.samples))) == 2 * n_batches
    assert files(run) == ["metrics.jsonl", "samples.jsonl"]


LAST = json.dumps({"batch": 2, "update": 7, "reply": "äö"}, ensure_ascii=False).encode()


@pytest.mark.parametrize("n_bytes", [1, len(LAST) - 1, LAST.index("ä".encode()) + 1])
def test_a_line_that_a_crash_cut_short_is_dropped(run: RunFolder, n_bytes: int) -> None:
    """A cut inside a letter once ended the resume with a UnicodeDecodeError; the lines before must all survive."""
    measured = logs.measure(run)
    with run.metrics.open("ab") as out:
        out.write(LAST[:n_bytes])
    logs.rewind(run, 9, measured, pytest.fail)
    assert updates(run) == [1, 2, 3, 4, 5, 6]
    assert run.metrics.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("letter", ["\u2028", "\x85", "\x1c", "\r"])
def test_line_breaks_inside_a_reply_do_not_break_lines(run: RunFolder, letter: str) -> None:
    """A reply with a Unicode line separator once made a resume drop every later line of the log."""
    append(run.samples, [{"batch": 0, "reply": f"a{letter}b"}, {"batch": 0, "reply": "later"}])
    logs.rewind(run, 9, {}, pytest.fail)
    assert [record["reply"] for _, record in read_lines(run.samples)][-2:] == [f"a{letter}b", "later"]


def test_an_evaluation_after_the_checkpoint_stays(run: RunFolder) -> None:
    """An evaluation follows its checkpoint: its record comes after what the checkpoint measured, and is not repeated."""
    measured = logs.measure(run)
    assert not logs.has_evaluation(run, 6)
    append(run.metrics, [{"batch": 2, "update": 6, "phase": "evaluation"}, {"batch": 3, "update": 7, "phase": "solve"}])
    logs.rewind(run, 3, measured, pytest.fail)
    assert updates(run) == [1, 2, 3, 4, 5, 6, 6]
    assert logs.has_evaluation(run, 6)
    assert not logs.has_evaluation(run, 4)


def flip(file: Path, offset: int, value: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= value
    file.write_bytes(bytes(data))


SECOND = len(b'{"batch": 0, "update": 1, "phase": "solve"}\n')
DIGIT = b'{"batch": 0, "update": 1, "phase": "solve"}\n'.index(b"1")
DAMAGES: dict[str, tuple[Callable[[Path], object], str, list[int]]] = {
    "a flipped byte in line 2": (lambda f: flip(f, SECOND, 1), "line 2 cannot be read", [1, 3, 4, 5, 6]),
    "a flipped byte that is no UTF-8": (lambda f: flip(f, SECOND + 3, 128), "line 2 cannot be read", [1, 3, 4, 5, 6]),
    "a line without a batch": (lambda f: flip(f, SECOND + 3, 1), "line 2 cannot be read", [1, 3, 4, 5, 6]),
    "a flipped digit": (lambda f: flip(f, DIGIT, 8), "it has changed since the checkpoint was written", [9, 2, 3, 4, 5, 6]),
    "a lost line break": (lambda f: flip(f, SECOND - 1, 64), "line 1 cannot be read", [3, 4, 5, 6]),
    "lost last lines": (lambda f: f.write_bytes(f.read_bytes()[: 4 * SECOND]), "its end is missing", [1, 2, 3, 4]),
    "a torn last line": (lambda f: f.write_bytes(f.read_bytes()[:-3]), "its end is missing", [1, 2, 3, 4, 5]),
    "an empty file": (lambda f: f.write_bytes(b""), "its end is missing", []),
    "a missing file": (Path.unlink, "it is missing", []),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_reported_and_costs_nothing(run: RunFolder, name: str) -> None:
    """One flipped byte in line 2 once made a resume delete the rest of the history without a word."""
    damage, fault, kept = DAMAGES[name]
    measured = logs.measure(run)
    damage(run.metrics)
    damaged = run.metrics.read_bytes() if run.metrics.exists() else b""
    warnings: list[str] = []
    logs.rewind(run, 3, measured, warnings.append)
    assert [f"{run.metrics} is damaged: {fault}. " in text for text in warnings] == [True]
    assert f"with the {len(kept)} lines that can be read" in warnings[0]
    assert updates(run) == kept
    aside = run.path / "metrics.jsonl.damaged-1"
    assert aside.exists() == bool(damaged)
    if damaged:
        assert aside.read_bytes() == damaged
        assert str(aside) in warnings[0]
    logs.rewind(run, 3, logs.measure(run), pytest.fail)


def test_checkpoints_of_older_versions_say_nothing_about_logs(run: RunFolder) -> None:
    """Guards against a run of an older version that cannot be resumed, or whose damage is not seen at all."""
    warnings: list[str] = []
    flip(run.metrics, SECOND, 1)
    run.samples.unlink()
    logs.rewind(run, 3, {}, warnings.append)
    assert ["line 2 cannot be read" in warnings[0], "samples.jsonl is damaged: it is missing" in warnings[1]] == [
        True
    ] * 2
    assert updates(run) == [1, 3, 4, 5, 6]


def test_files_kept_aside_are_never_overwritten(run: RunFolder) -> None:
    """Guards against the second damaged log that replaces the first."""
    found = [logs.set_aside(run.metrics, "old") for _ in range(3)]
    assert [p.name for p in found if p is not None] == [f"metrics.jsonl.old-{n}" for n in (1, 2, 3)]
    run.samples.write_bytes(b"")
    assert logs.set_aside(run.samples, "old") is None


def test_a_log_that_goes_on_after_a_checkpoint_was_due(run: RunFolder) -> None:
    """Batch 2 began after four updates: with a checkpoint every four, there must have been one."""
    assert logs.n_updates_before_last_batch(run) == 4
    assert logs.n_updates_before_last_batch(RunFolder(run.path / "none")) == 0
