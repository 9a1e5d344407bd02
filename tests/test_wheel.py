"""The built wheel works by itself: the tiny model, the recipes and the page's bundle travel in it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from rethink import recipes
from rethink.models import bundled
from rethink.version import __version__

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent

PROGRAM = """
import rethink, rethink.models.bundled, rethink.recipes
from rethink.models.load import load_model
model = load_model(str(rethink.models.bundled.TINY_MODEL))
print(rethink.__file__, sum(p.numel() for p in model.module.parameters()), rethink.recipes.find("demo-grpo").name)
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What tools/check_wheel.sh leaves, and what it prints."""
    folder = tmp_path_factory.mktemp("wheel") / "checked"
    environment = {**os.environ, "PYTHON": sys.executable, "NO_COLOR": "1"}
    command = [str(ROOT / "tools" / "check_wheel.sh"), str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert found.returncode == 0, found.stderr
    return folder, found.stdout


@pytest.fixture(scope="module")
def wheel(checked: tuple[Path, str]) -> Path:
    (built,) = checked[0].glob("dist/*.whl")
    return built


def test_the_wheel_runs_in_a_new_environment(checked: tuple[Path, str]) -> None:
    """Guards against a wheel that works only where it was built: a missing file, dependency or entry point."""
    folder, shown = checked
    lines = shown.splitlines()
    assert lines.count(__version__) == 1
    assert [name for name in recipes.shipped() if not any(line.startswith(f"{name} ") for line in lines)] == []
    assert lines[-1].startswith("ok: Python 3.")
    assert shown.count("PASSED") == 2  # twine, for wheel and sdist
    assert (folder / "work" / "copy.toml").read_text() == recipes.find("demo-grpo").read_text()
    assert (folder / "work" / "mine.toml").is_file()


def test_the_wheel_carries_what_it_reads_and_nothing_else(wheel: Path) -> None:
    """Guards against a package that works from the source tree alone, and against tests and folders of tools in it."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wheel.name == f"rethink_rl-{__version__}-py3-none-any.whl"
    for model in bundled.MODELS.values():
        assert f"rethink/models/{model.name}/model.safetensors" in names
    assert {f"rethink/report/web/{file}" for file in ("page.js", "page.css", "LICENSES.txt")} <= names
    assert {f"rethink/recipes/{file.name}" for file in recipes.FOLDER.glob("*.toml")} <= names
    info = f"rethink_rl-{__version__}.dist-info"
    assert {"rethink/py.typed", f"{info}/licenses/LICENSE", f"{info}/entry_points.txt"} <= names
    assert {name.partition("/")[0] for name in names} == {"rethink", info}
    tracked = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = {name.removeprefix("src/") for name in tracked.splitlines()}
    assert {name for name in names if name.startswith("rethink/")} == files


def test_the_sdist_builds_the_same_wheel(checked: tuple[Path, str], wheel: Path) -> None:
    """Guards against a source distribution that lacks files of the wheel, or that carries tests and benchmarks."""
    (built,) = checked[0].glob("dist/*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    top = {name.partition("/")[0] for name in names}
    texts = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "SECURITY.md", "constraints.txt"}
    assert top == {"src", "pyproject.toml", "PKG-INFO", ".gitignore", *texts}
    code = {f"src/{name}" for name in zipfile.ZipFile(wheel).namelist() if name.startswith("rethink/")}
    assert code == {name for name in names if name.startswith("src/")}


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
