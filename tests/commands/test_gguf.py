"""Commands on a model in a GGUF file: their figures say what its weights are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rethink.models.load import load_model
from support.command_line import PLAIN, Rethink, assert_one_message

pytest.importorskip("gguf", reason="the extra gguf is not installed")

from support.gguf_files import random_module, write_gguf

SHORT = [*PLAIN, "evaluation.problems.limit=2", "evaluation.sampling.max_tokens=3"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_gguf(tmp_path / "small.gguf", random_module("llama"), "Q4_1")


def test_figures_name_the_quantization(rethink: Rethink, file: Path, tmp_path: Path) -> None:
    """Guards against figures of dequantized weights that pass for those of the original model."""
    (tmp_path / "p.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    shown = rethink("eval", "small.gguf", "--on", "countdown", *SHORT, "--out", "e")
    assert "small.gguf: weights dequantized from Q4_1; once, which may take minutes" in shown.err
    assert shown.out.startswith("small.gguf (weights dequantized from Q4_1): rates in percent")
    found = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert (found["model"], found["weights"]) == ("small.gguf", "weights dequantized from Q4_1")
    shown = rethink("cross", "small.gguf", "tiny", "--on", "countdown", *SHORT, "--out", "c")
    assert shown.out.splitlines()[-1] == "small.gguf: weights dequantized from Q4_1"


def test_export_writes_an_ordinary_folder(rethink: Rethink, file: Path, tmp_path: Path) -> None:
    """Guards against an export that only a GGUF reader opens, and that no longer says what the weights are."""
    shown = rethink("export", "small.gguf", "--out", "whole", "--dtype", "float32")
    assert shown.code == 0
    assert shown.err.splitlines()[-1] == "exported small.gguf to whole, in float32"
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "| weights | float32; weights dequantized from Q4_1 |" in card
    ours, theirs = (dict(load_model(str(path)).module.named_parameters()) for path in (tmp_path / "whole", file))
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)
    shown = rethink("eval", "whole", "--on", "countdown", *SHORT, "--out", "e")
    assert shown.out.startswith("whole (made from weights dequantized from Q4_1): rates")


def test_plans_need_no_weights(rethink: Rethink, file: Path, tmp_path: Path) -> None:
    """Guards against a plan that dequantizes, and against the words of a library for a file that is cut short."""
    shown = rethink("plan", "demo-grpo", "model.path=small.gguf")
    assert "grpo on small.gguf (" in shown.out
    assert list((tmp_path / "cache").rglob("*.safetensors")) == []
    file.write_bytes(file.read_bytes()[:-100])
    assert_one_message(rethink("plan", "demo-grpo", "model.path=small.gguf"), "small.gguf is cut short: it has")
    assert_one_message(rethink("eval", "small.gguf", "--on", "countdown"), "small.gguf is cut short: it has")
