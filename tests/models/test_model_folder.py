"""Files that are missing, damaged or not downloaded are named, and code in a folder never runs."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rethink.errors import UserError
from rethink.models.load import load_model
from support.random_models import save_random_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 988097824\n"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("whole"), "qwen3")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


def split(folder: Path) -> dict[str, str]:
    """Split the weights into two files with an index. Return the index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    file_of = {name: SHARDS[i % 2] for i, name in enumerate(sorted(tensors))}
    for shard in SHARDS:
        save_file({name: t for name, t in tensors.items() if file_of[name] == shard}, folder / shard, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": file_of}))
    return file_of


def without_shard(folder: Path) -> None:
    split(folder)
    (folder / SHARDS[1]).unlink()


def without_index(folder: Path) -> None:
    split(folder)
    (folder / INDEX).unlink()


def with_index(text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        split(folder)
        (folder / INDEX).write_text(text)

    return change


def two_sets(folder: Path) -> None:
    split(folder)
    shutil.copy(folder / SHARDS[0], folder / WEIGHTS)


def without_vocabulary(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def as_gguf(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.gguf").write_bytes(b"GGUF")


def inside(folder: Path) -> None:
    shutil.copytree(folder, folder / "checkpoint-500")
    (folder / "config.json").unlink()


def put(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    *((put(name, POINTER), f"{name} is a git-lfs pointer") for name in (WEIGHTS, "config.json", "tokenizer.json")),
    (put("pytorch_model.bin", POINTER), r"pytorch_model\.bin is a git-lfs pointer"),
    (without_shard, f"{SHARDS[1]} is missing, which {INDEX} names"),
    (without_index, "cannot load the model"),
    (with_index("{"), f"cannot read .*{INDEX}"),
    (with_index("[]"), f"{INDEX} is not a JSON object"),
    (with_index("{}"), f"{INDEX} has no weight_map"),
    (
        two_sets,
        f"two sets of weights: {WEIGHTS}, and the files that {INDEX} names",
    ),
    (put(WEIGHTS, ""), f"{WEIGHTS} is damaged or cut short"),
    (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), f"{WEIGHTS} is damaged or cut short"),
    (lambda f: (f / WEIGHTS).unlink(), "cannot load the model .*no file named model.safetensors"),
    (put("config.json", "[]"), "config.json is not a JSON object"),
    (put("generation_config.json", "{"), "cannot read .*generation_config.json"),
    (put("tokenizer.json", "{"), "cannot read .*tokenizer.json"),
    (lambda f: (f / "config.json").unlink(), "is not a model folder: it has no config.json$"),
    (without_vocabulary, "has no tokenizer: copy its files"),
    (as_gguf, r"name the file: .*model\.gguf"),
    (inside, "did you mean .*checkpoint-500"),
]


@pytest.mark.parametrize(("change", "complaint"), FAULTS)
def test_faulty_files_are_named(folder: Path, change: Callable[[Path], object], complaint: str) -> None:
    """Guards against tracebacks, messages that do not name the file, an empty tokenizer, and end tokens that are lost."""
    change(folder)
    with pytest.raises(UserError, match=complaint):
        load_model(str(folder))


def test_split_weights_load(folder: Path) -> None:
    """Guards against refusing a whole folder."""
    split(folder)
    load_model(str(folder))


def test_a_damaged_checkpoint_is_no_model(folder: Path) -> None:
    """Regression: eval, answer and teachers used weights with flipped bytes. The optimizer's state may be missing."""
    from rethink.models.checkpoint_files import hash_file

    (folder / "counters.json").write_text("{}")
    hashes = {file.name: hash_file(file) for file in folder.iterdir()}
    (folder / "manifest.json").write_text(json.dumps({**hashes, "optimizer.pt": "0"}))
    load_model(str(folder))
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-7] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(UserError, match=rf"is damaged \({WEIGHTS} has changed"):
        load_model(str(folder))


class Payload:
    """Runs code, which writes a file, when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_code_does_not_run(folder: Path, tmp_path: Path) -> None:
    """Guards against a folder whose weights run code, and a traceback instead of a message."""
    marker = tmp_path / "marker"
    (folder / WEIGHTS).unlink()
    torch.save({"model.norm.weight": Payload(marker)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="damaged or contain code, which is never run"):
        load_model(str(folder))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(UserError, match="damaged or contain code, which is never run"):
        load_model(str(folder))
    assert not marker.exists()


def test_code_that_a_configuration_names_does_not_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against the library's question whether to run it, which a script may answer."""
    monkeypatch.setattr("builtins.input", lambda _: "y")
    marker = tmp_path / "marker"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')\n")
    for name, key in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        file = folder / name
        text = file.read_text()
        changes = {"auto_map": {key: ["code.A", None] if "Tok" in key else "code.A"}, "model_type": "new"}
        file.write_text(json.dumps({**json.loads(text), **changes, "tokenizer_class": "A"}))
        if key == "AutoConfig":
            with pytest.raises(UserError, match="code of models is never run"):
                load_model(str(folder))
        else:
            load_model(str(folder))  # its vocabulary is in tokenizer.json
        file.write_text(text)
    assert not marker.exists()
