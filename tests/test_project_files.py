"""What the repository says about itself: versions, container, citation, and the forms of issues."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from rethink.version import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
KINDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def load(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def test_the_classifiers_name_tested_pythons() -> None:
    """Guards against a classifier for a Python on which no test ran, and one without the lowest that is required."""
    named = re.findall(r"^Programming Language :: Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
    assert f">={named[0]}" == PROJECT["requires-python"]
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert here in named, f"the tests run on {here}: once they pass, add its classifier"


def test_the_citation_is_of_this_version() -> None:
    """Guards against a citation that stays behind, or lacks what its schema requires (cff-version 1.2.0)."""
    found = load(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= found.keys()
    assert (found["version"], found["license"]) == (__version__, PROJECT["license"])
    assert found["abstract"] == PROJECT["description"]
    assert all(author["name"] for author in found["authors"])


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, with continued lines joined and comments left out."""
    lines = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    found: list[tuple[str, str]] = []
    for line in re.sub(r"\\\n\s*", "", lines).splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            found.append((name, rest))
    return found


def is_ignored(name: str) -> bool:
    """Return whether .dockerignore leaves a file out: the last pattern that fits decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if line and not line.startswith("#") and fnmatch.fnmatch(name, pattern):
            ignored = not line.startswith("!")
    return ignored


def test_the_dockerfile_copies_what_is_there() -> None:
    """Guards against an image that cannot be built: a file that is missing or ignored, and one as root or for GPUs."""
    found = instructions()
    assert found[0] == ("FROM", f"python:{PROJECT['requires-python'].removeprefix('>=')}-slim")
    assert ("ARG", "TORCH=cpu") in found
    assert ("ENTRYPOINT", '["rethink"]') in found
    assert [rest for name, rest in found if name == "USER"] == ["1000"]
    copied = [word for name, rest in found if name == "COPY" for word in rest.split()[:-1]]
    assert {"pyproject.toml", "src", "README.md", "LICENSE", "constraints.txt"} == {*copied}
    assert [name for name in copied if is_ignored(name) or not (ROOT / name).exists()] == []
    assert all(map(is_ignored, (".git", "runs", "tests", ".venv", "__pycache__")))
    known = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in found} == known


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_the_dockerfile_passes_hadolint() -> None:
    """Guards against what the linter of Dockerfiles knows."""
    found = subprocess.run(["hadolint", str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("file", [f for f in FORMS if f.stem != "config"], ids=lambda f: f.stem)
def test_a_form_is_valid(file: Path) -> None:
    """Guards against a form that is not shown: without a label, with two fields of one id, or a choice without options."""
    form = load(file)
    assert {"name", "description", "body"} <= form.keys() <= {"name", "description", "body", "labels", "title"}
    ids: list[str] = []
    for field in form["body"]:
        assert field.keys() <= {"type", "id", "attributes", "validations"}
        assert field["type"] in KINDS
        if field["type"] == "markdown":
            assert field["attributes"].keys() == {"value"}
            continue
        ids.append(field["id"])
        assert field["attributes"]["label"]
        assert ("options" in field["attributes"]) == (field["type"] in ("dropdown", "checkboxes"))
        assert field.get("validations", {"required": True}) == {"required": True}
    assert len({*ids}) == len(ids) > 1


def test_the_forms_are_those_that_texts_name() -> None:
    """Guards against a text that sends people to a form that is not there."""
    names = {load(file)["name"] for file in FORMS if file.stem != "config"}
    assert names == {"Bug report", "Wrong verdict", "New method"}
    security = (ROOT / "SECURITY.md").read_text()
    assert '"Wrong verdict"' in security
    assert (ROOT / "docs" / "security.md").is_file()
    for text in (security, *(file.read_text() for file in FORMS), (ROOT / "CITATION.cff").read_text()):
        assert not re.search(r"https?://|\w@\w", text)  # none that we made up
