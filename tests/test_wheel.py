"""The built wheel works by itself: the tiny model and the recipes travel in it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rethink import recipes

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent

PROGRAM = """
import rethink, rethink.models.bundled, rethink.recipes
from rethink.models.load import load_model
model = load_model(str(rethink.models.bundled.TINY_MODEL))
print(rethink.__file__, sum(p.numel() for p in model.module.parameters()), rethink.recipes.find("demo-grpo").name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_carries_the_tiny_model_and_every_recipe(wheel: Path) -> None:
    """A package that works from the source tree alone."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "rethink/models/tiny/model.safetensors" in names
    assert "rethink/py.typed" in names
    assert wheel.name.startswith("rethink_rl-")
    assert {f"rethink/recipes/{file.name}" for file in recipes.FOLDER.glob("*.toml")} <= names


def test_the_tiny_model_loads_from_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """A path that only exists in the source tree."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.split()
    assert Path(found[0]).parent.parent == tmp_path
    # Embedding (tied with the head) 113 x 128; three layers of attention 4 x 128 x 128, feed-forward 3 x 128 x 384 and
    # norms 2 x 128 + 2 x 32; the last norm 128.
    assert int(found[1]) == 113 * 128 + 3 * (4 * 128**2 + 3 * 128 * 384 + 2 * 128 + 2 * 32) + 128
    assert found[2] == "demo-grpo.toml"
