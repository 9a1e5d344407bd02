"""The committed bundle is what the sources in web/ give."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from rethink.report.page import web_file

pytestmark = pytest.mark.slow
WEB = Path(__file__).parent.parent.parent / "web"


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_the_committed_bundle_is_built_from_the_sources(tmp_path: Path) -> None:
    """Guards against a page that lacks a change of its sources, types that do not fit, and libraries of other versions."""
    web = tmp_path / "web"
    shutil.copytree(WEB, web, ignore=shutil.ignore_patterns("node_modules"))
    for command in (["npm", "ci"], ["npm", "run", "check"], ["node", "build.mjs", str(tmp_path / "out")]):
        done = subprocess.run(command, cwd=web, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    for name in ("page.js", "page.css", "LICENSES.txt"):
        assert (tmp_path / "out" / name).read_text() == web_file(name), f"run `npm run build` in web/: {name} differs"
