"""Names of GGUF files, on this machine and on the hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from rethink.errors import UserError
from rethink.models import hub
from rethink.models.bundled import resolve
from rethink.models.gguf.locate import find, find_here, is_gguf
from rethink.models.model_info import read_model_info
from rethink.settings import ModelSource

FILES = ["README.md", "model-Q4_K_M.gguf", "model-Q8_0.gguf", "imatrix/model-IQ4_XS.gguf", "model-UD-Q8_0.gguf"]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in the hub's cache, without a network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "_error_of_hub", lambda: OSError("offline"))
    folder = tmp_path / "models--org--name" / "snapshots" / "abc"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"GGUF")
    (folder.parent.parent / "refs").mkdir()
    (folder.parent.parent / "refs" / "main").write_text("abc")
    return folder


def test_files_and_folders(tmp_path: Path) -> None:
    """Guards against a folder named like a file, a file of another name (Ollama's), and a hub's model with a dot."""
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "sha256-0f3a").write_bytes(b"GGUF")
    (tmp_path / "config.json").write_text("{}")
    named = {"folder.gguf": False, "sha256-0f3a": True, "config.json": False, "missing.gguf": True, "Qwen2.5": False}
    assert {name: is_gguf(str(tmp_path / name)) for name in named} == named
    assert resolve(str(tmp_path / "sha256-0f3a")) == str(tmp_path / "sha256-0f3a")
    with pytest.raises(UserError, match=r"there is no file .*missing\.gguf$"):
        resolve(str(tmp_path / "missing.gguf"))
    with pytest.raises(UserError, match=r"there is no file missing\.gguf$"):
        resolve("missing.gguf")
    with pytest.raises(UserError, match=r"config\.json is a file, but not a GGUF file; name the folder that it is in"):
        resolve(str(tmp_path / "config.json"))


def test_files_on_the_hub(repository: Path) -> None:
    """Guards against another quantization than the one that was named, and against a path with three parts as a folder."""
    for name, file in {
        "org/name/model-Q4_K_M.gguf": "model-Q4_K_M.gguf",
        "org/name/imatrix/model-IQ4_XS.gguf": "imatrix/model-IQ4_XS.gguf",
        "org/name:Q4_K_M": "model-Q4_K_M.gguf",
        "org/name:iq4_xs": "imatrix/model-IQ4_XS.gguf",
    }.items():
        assert is_gguf(name)
        assert resolve(name) == name
        assert find(name) == find_here(name) == repository / file


def test_files_that_the_hub_does_not_have(repository: Path) -> None:
    """Guards against an arbitrary file of several, and against an error that does not say what there is."""
    with pytest.raises(
        UserError, match=r"org/name:Q8_0: the repository has 2 files of that name; .*model-UD-Q8_0\.gguf"
    ):
        find("org/name:Q8_0")
    with pytest.raises(
        UserError, match=r"has no file of that name; its GGUF files are: imatrix/.*, model-Q4_K_M\.gguf"
    ):
        find("org/name/model.gguf")
    with pytest.raises(
        UserError, match=r"cannot be reached to look for it in the repository org/other .*hf download org/other"
    ):
        find("org/other/model.gguf")
    with pytest.raises(UserError, match=r"has no file of that name; .*Only the cache was searched: the hub .*offline"):
        find("org/name:Q5_K_M")
    assert find_here("org/other/model.gguf") is find_here("org/name:Q5_K_M") is None
    assert read_model_info(ModelSource("org/other:Q4_0")) is None


def test_files_are_downloaded(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against asking the hub for a quantization as if it were a file."""
    asked: list[tuple[str, str]] = []

    class Api:
        def list_repo_files(self, name: str) -> list[str]:
            return FILES

    def download(name: str, file: str) -> str:
        asked.append((name, file))
        return str(repository / file)

    monkeypatch.setattr(hub, "_error_of_hub", lambda: None)
    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert find("org/name:Q4_K_M") == repository / "model-Q4_K_M.gguf"
    assert asked == [("org/name", "model-Q4_K_M.gguf")]
