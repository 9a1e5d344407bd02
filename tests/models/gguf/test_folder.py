"""Folders of GGUF files in the cache."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rethink.errors import UserError
from rethink.models.gguf import folder, tensors
from rethink.models.gguf.folder import announce, describe, info_folder, model_folder, origin
from rethink.models.load import load_model
from rethink.models.model_info import read_model_info
from rethink.plan.meta_model import read_config
from rethink.settings import Lora, ModelSource
from support.processes import exit_code, start

pytest.importorskip("gguf", reason="the extra gguf is not installed")

from support.gguf_files import TOKENIZER, random_module, write_gguf


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "small.gguf", random_module("llama"), "Q4_1")


def forbid(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError(f"{name} was called")

    monkeypatch.setattr(tensors, name, fail)


def test_a_file_is_dequantized_once(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against minutes at each start, against the copy of a file that has changed since, and against a shared cache
    that only one user can read."""
    assert "once, which may take minutes: the copy (0.0 GiB) is kept in" in announce(file)
    first = model_folder(file)
    assert announce(file) == f"{file}: weights dequantized from Q4_1; using the copy in {first}"
    assert first.parent.parent == cache
    assert {part.stat().st_mode for part in first.iterdir()} == {file.stat().st_mode}
    with monkeypatch.context() as patch:
        forbid(patch, "convert")
        assert model_folder(file) == info_folder(file) == first
    write_gguf(file, random_module("llama", rms_norm_eps=1e-3), "Q4_1")
    assert model_folder(file) != first
    assert load_model(str(file)).config.rms_norm_eps == 1e-3


def test_what_is_known_before_loading_needs_no_weights(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against dequantizing for a plan or a dry run, and against another chat or limit than the loaded model has."""
    with monkeypatch.context() as patch:
        forbid(patch, "convert")
        info = read_model_info(ModelSource(str(file)))
        assert read_config(str(file)).num_hidden_layers == 2
    assert info is not None
    model = load_model(str(file))
    assert info.max_positions == model.max_positions == 512
    assert info.chat.tokenizer.chat_template == model.chat.tokenizer.chat_template == TOKENIZER.chat_template
    assert model.chat.stop_ids == {TOKENIZER.eos_token_id}
    text = "x = 12\n<|im_end|> é"
    assert model.chat.tokenizer.encode(text) == info.chat.tokenizer.encode(text) == TOKENIZER.encode(text)


def test_failed_conversions_leave_nothing(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against half a folder that the next command takes for a whole one, and a full disk's traceback."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(folder, "save_file", full)
        with pytest.raises(UserError, match=r"cannot keep the dequantized copy .*No space left .*set XDG_CACHE_HOME"):
            model_folder(file)
    assert [p for p in cache.iterdir() if p.is_dir()] == []
    left = cache / f".writing-{model_folder(file).parent.name}-model-1"
    assert model_folder(file).is_dir()
    left.mkdir()  # by a process that was killed
    os.utime(file, ns=(1, 1))
    assert model_folder(file).is_dir()


def test_large_models_have_several_files(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against holding a whole model in memory, and against tensors that no file has."""
    monkeypatch.setattr(folder, "SHARD_BYTES", 60_000)
    several = model_folder(file)
    assert len(list(several.glob("model-*-of-*.safetensors"))) > 2
    monkeypatch.undo()
    found = load_model(str(several)).module.state_dict()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file.parent / "other"))
    for name, tensor in load_model(str(file)).module.state_dict().items():
        assert torch.equal(found[name], tensor)


def test_what_figures_say_of_weights(file: Path, tmp_path: Path) -> None:
    """Guards against figures of dequantized weights that pass for those of the original, also after an export."""
    assert origin(str(file)) == describe(file) == "weights dequantized from Q4_1"
    load_model(str(file)).module.save_pretrained(tmp_path / "saved")
    assert origin(str(tmp_path / "saved")) == "made from weights dequantized from Q4_1"
    assert origin("tiny") == origin(str(tmp_path)) == ""
    half = write_gguf(tmp_path / "half.gguf", random_module("llama"), "F16")
    assert origin(str(half)) == "weights converted from F16"
    assert "dequantized_from" not in json.loads((info_folder(half) / "config.json").read_text())


def test_adapters_keep_the_file_as_their_base(file: Path, tmp_path: Path) -> None:
    """Guards against an adapter whose base is a folder in the cache, which may be removed."""
    pytest.importorskip("peft", reason="the extra peft is not installed")
    from rethink.models import lora

    lora.save(lora.add_adapter(load_model(str(file)), Lora(2), 0), tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(file)
    load_model(str(file)).chat.tokenizer.save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).base is not None
    assert read_model_info(ModelSource(str(tmp_path))) is not None
    assert origin(str(tmp_path)) == "an adapter of weights dequantized from Q4_1"


def make(file: Path, cache: str) -> None:
    os.environ["XDG_CACHE_HOME"] = cache
    print(model_folder(file))


@pytest.mark.slow
def test_processes_make_one_folder(file: Path, cache: Path, tmp_path: Path) -> None:
    """Guards against a process that reads what another is still writing, or that fails because another was first."""
    outputs = [tmp_path / f"output-{i}" for i in range(3)]
    started = [start(make, file, os.environ["XDG_CACHE_HOME"], output=output) for output in outputs]
    assert [exit_code(process) for process in started] == [0, 0, 0]
    assert [output.read_text() for output in outputs] == [f"{model_folder(file)}\n"] * 3
    assert [p.name for p in cache.iterdir() if p.name.startswith(".writing")] == []


def test_the_package_is_named_if_it_is_missing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an ImportError in place of the command that installs it."""
    folder._read_header.cache_clear()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"needs the package gguf: pip install 'rethink-rl\[gguf\]'"):
        load_model(str(file))
