"""Headers of GGUF files: what is in them, and files that are damaged, cut short or parts of a model."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.models.gguf.header import read_header

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")

from support.gguf_files import random_module, write_gguf  # noqa: E402


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf", random_module("llama"), "Q4_1")


@pytest.mark.filterwarnings("ignore")
def test_the_header_is_what_the_package_reads(whole: Path) -> None:
    """Guards against a wrong value, shape, type or place: `gguf` has another reader."""
    found, wanted = read_header(whole), gguf.GGUFReader(whole)
    fields = {key: f.contents() for key, f in wanted.fields.items() if not key.startswith("GGUF.")}
    assert found.metadata == fields
    rows = [
        (t.name, tuple(map(int, t.shape[::-1])), t.tensor_type.name, t.data_offset, t.n_bytes) for t in wanted.tensors
    ]
    assert [(t.name, t.shape, t.kind, t.start, t.n_bytes) for t in found.tensors] == rows
    assert (found.architecture, found.file_type, found.is_quantized) == ("llama", "Q4_1", True)


def test_files_that_are_cut_short_are_refused(whole: Path, tmp_path: Path) -> None:
    """Guards against a traceback, and against weights of what happens to lie in memory, wherever a download stopped."""
    data = whole.read_bytes()
    copy = tmp_path / "cut.gguf"
    for n_bytes in [4, 7, 23, 100, *range(200, len(data), len(data) // 50), len(data) - 1]:
        copy.write_bytes(data[:n_bytes])
        with pytest.raises(UserError, match=r"cut\.gguf is (damaged or )?cut short"):
            read_header(copy)


def test_what_is_no_gguf_file_is_named(whole: Path, tmp_path: Path) -> None:
    """Guards against reading an HTML page, a pointer of git-lfs or a file of another version as a model."""
    data = whole.read_bytes()
    for content, complaint in [
        (b"", "does not begin with GGUF"),
        (b"<html>", "does not begin with GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (data[:4] + struct.pack("<I", 1) + data[8:], "GGUF version 1;"),
        (data[:4] + struct.pack(">I", 3) + data[8:], "GGUF version 50331648;"),
        (data[:8] + struct.pack("<Q", 2**60) + data[16:], "damaged or cut short"),
        (data[:16] + struct.pack("<Q", 2**60) + data[24:], "damaged or cut short"),
        (data[:24] + struct.pack("<Q", 2**63) + data[32:], "damaged or cut short"),
    ]:
        file = tmp_path / "wrong.gguf"
        file.write_bytes(content)
        with pytest.raises(UserError, match=complaint):
            read_header(file)


def test_parts_of_a_model_are_refused(whole: Path, tmp_path: Path) -> None:
    """Guards against a third of a model, which would be reported as missing tensors."""
    part = tmp_path / "model-00001-of-00003.gguf"
    part.write_bytes(whole.read_bytes())
    with pytest.raises(
        UserError, match=r"one of 3 parts of a model, which must be joined first: .*llama-gguf-split --merge"
    ):
        read_header(part)
