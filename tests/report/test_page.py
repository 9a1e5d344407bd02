"""The page of a run as a file: what it holds, and that nothing in it runs or loads."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

import rethink
from rethink.commands.report import report
from rethink.errors import UserError
from rethink.jsonl import append
from rethink.report.folders import find_sources
from rethink.report.page import LivePage, pack, page, web_file, write_page, write_report
from rethink.report.replies import Limits
from support.report_runs import HOSTILE, embedded, held_out, training_folder


def test_the_page_holds_the_documents_and_no_text_of_a_model(tmp_path: Path) -> None:
    """Guards against a reply that becomes part of the page's markup, and against data that cannot be unpacked."""
    found = write_report(training_folder(tmp_path / "<b>run").path).read_text()
    assert "<title>&lt;b&gt;run</title>" in found
    assert "window.hacked" not in found
    assert embedded(found, "document")["runs"][0]["n_updates"] == 6
    texts = embedded(found, "replies-0")["texts"]
    assert [text in texts for text in HOSTILE] == [True] * len(HOSTILE)


def test_only_the_script_of_the_page_may_run_and_nothing_may_load(tmp_path: Path) -> None:
    """Guards against a policy that does not fit the script, which would leave the page empty, or that allows more."""
    found = write_report(training_folder(tmp_path / "run").path).read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', found)
    (script,) = re.findall(r"<script>(.*)</script>\n</body>", found, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed == {
        "default-src": "'none'",
        "script-src": f"'sha256-{digest}'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "connect-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert "</script" not in script


def test_a_text_that_is_no_unicode_does_not_end_the_page() -> None:
    """Guards against half of a surrogate pair, which a server's JSON may hold and UTF-8 cannot."""
    assert embedded(page("x", {"document": pack({"a": "\u00e4", "b": float("nan")})}), "document") == {
        "a": "\u00e4",
        "b": None,
    }
    assert len(pack({"a": "\ud800"})) > 0


def test_the_bundle_is_small_and_names_its_licenses() -> None:
    """Guards against a page of megabytes, and libraries that are shipped without their licenses."""
    assert len(web_file("page.js")) + len(web_file("page.css")) < 400_000
    assert re.findall(r"(?m)^(\w+) [\d.]+ \((\w+)\)$", web_file("LICENSES.txt")) == [
        ("preact", "MIT"),
        ("temml", "MIT"),
        ("uplot", "MIT"),
    ]


def test_several_folders_share_the_limits(tmp_path: Path) -> None:
    """Guards against a page of a hundred runs that no browser opens."""
    for name in ("a", "b"):
        training_folder(tmp_path / name)
    file = write_page(find_sources([tmp_path]), tmp_path / "out.html", Limits(n_records=20))
    for name in ("replies-0", "replies-1"):
        found = embedded(file.read_text(), name)
        assert (found["n_records"], found["n_total"]) == (10, 40 + len(HOSTILE))


def test_the_page_from_python_is_that_of_the_command(tmp_path: Path) -> None:
    """Guards against two pages of one folder, and against a path whose letters are taken for folders."""
    for name in ("a", "b"):
        training_folder(tmp_path / name)
    report([tmp_path / "a", tmp_path / "b"], tmp_path / "both.html", None, None, None)
    found = rethink.write_report([str(tmp_path / "a"), tmp_path / "b"], str(tmp_path / "same.html"))
    assert found == tmp_path / "same.html"
    assert found.read_bytes() == (tmp_path / "both.html").read_bytes()
    assert rethink.write_report(str(tmp_path)) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_bytes() == found.read_bytes()
    with pytest.raises(UserError, match="write_report needs the folder of a run"):
        rethink.write_report([])


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    """Guards against an empty page for a wrong path."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no run"):
        find_sources([tmp_path / "empty"])
    with pytest.raises(UserError, match="is not a folder"):
        find_sources([tmp_path / "missing"])


def test_the_page_of_a_run_under_way_is_written_when_something_is_new(tmp_path: Path) -> None:
    """Guards against a page that is missing after an error, or written twice for the same numbers."""
    folder = training_folder(tmp_path / "run")
    file = folder.path / "report.html"
    warnings: list[str] = []
    written: list[int] = []

    def fail() -> None:
        with LivePage(folder, lambda: True, warnings.append) as live:
            live.write()
            written.append(file.stat().st_mtime_ns)
            append(folder.metrics, [held_out(8, 0.6)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    runs = embedded(file.read_text(), "document")["runs"]
    assert [record["update"] for record in runs[0]["evaluations"]] == [6, 8]
    assert file.stat().st_mtime_ns > written[0]
    with LivePage(folder, lambda: True, warnings.append) as live:
        live.write()
        third = file.stat().st_mtime_ns
    assert file.stat().st_mtime_ns == third
    assert warnings == []


def test_a_page_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    """Guards against hours of training lost to a damaged log, and against a page from every rank."""
    folder = training_folder(tmp_path / "run")
    warnings: list[str] = []
    with LivePage(folder, lambda: False, warnings.append) as live:
        live.write()
    assert not (folder.path / "report.html").exists()
    append(folder.metrics, [{"update": 9}])
    with LivePage(folder, lambda: True, warnings.append) as live:
        live.write()
    assert len(warnings) >= 1
    assert "cannot write report.html" in warnings[0]
