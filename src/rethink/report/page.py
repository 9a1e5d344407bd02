"""The page of runs and evaluations: one HTML file that needs no network, made from their folders alone."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from rethink.errors import UserError
from rethink.jsonl import Record, to_json, write_text
from rethink.printable import printable_line
from rethink.report.document import read_document, read_replies
from rethink.report.folders import Source, find_sources
from rethink.report.images import Embedded, ImageShelf
from rethink.report.replies import Limits
from rethink.run_folder import RunFolder

REPORT_FILE = "report.html"

SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<div id="page"></div>
<noscript>This page needs JavaScript.</noscript>
{data}
<script>{script}</script>
</body>
</html>
"""


def write_report(folders: str | Path | Sequence[str | Path], file: str | Path | None = None) -> Path:
    """Write the page of runs and evaluations as one HTML file, like `rethink report`, and return its path.

    `folders` is the folder of a training run or an evaluation, or one that contains several, or a list of such folders.
    Without `file`, the page is report.html in the (first) folder. Raise UserError for a folder that holds neither, and for
    one that cannot be read.

    >>> import rethink
    >>> from rethink.policies.fake import FakePolicy
    >>> problems = rethink.load_problems(rethink.ProblemSource("countdown", limit=3))
    >>> policy = FakePolicy(lambda prompt, index, version: "1 + 1 = 2 ; 2 + 1 = 3" if prompt.phase == "refine" else "?")
    >>> answers = rethink.evaluate(policy, problems, file="runs/write-report/answers.jsonl")
    >>> print(rethink.write_report("runs/write-report", "page.html"))
    page.html
    """
    named = [Path(one) for one in ([folders] if isinstance(folders, str | Path) else folders)]
    if not named:
        raise UserError("write_report needs the folder of a run or an evaluation")
    return write_page(find_sources(named), named[0] / REPORT_FILE if file is None else Path(file))


def write_page(
    sources: Sequence[Source], file: Path, limits: Limits | None = None, shelf: ImageShelf | None = None
) -> Path:
    """Write a page with all data of these runs and evaluations, and return its path. The limits hold for all together.

    `shelf` has images from an earlier page."""
    share = (limits or Limits()).share(len(sources))
    images = Embedded(shelf or ImageShelf(), share.n_image_letters)
    data = {"document": pack(read_document(sources))}
    for number, source in enumerate(sources):
        replies = read_replies(source, share)
        n_left_out = images.add(source.folder, replies["images"])
        data[f"replies-{number}"] = pack({**replies, "n_images_left_out": n_left_out})
    title = sources[0].name if len(sources) == 1 else f"{len(sources)} runs"
    write_text(file, page(title, data, images.elements))
    return file


def served_page() -> str:
    """Return the page without data, which asks its server for them."""
    return page("rethink view", {})


def page(title: str, data: dict[str, bytes], images: Sequence[str] = ()) -> str:
    """Return the page. `data` are packed documents by the id of the element that holds them, `images` are elements."""
    script, style = web_file("page.js"), web_file("page.css")
    blocks: list[str] = []
    for name, packed in data.items():
        blocks.append(f'<script type="text/plain" id="{name}">{base64.b64encode(packed).decode()}</script>')
    blocks += images
    return SHELL.format(
        policy=_policy(script, is_served=not data),
        title=html.escape(printable_line(title)),
        style=style,
        script=script,
        data="\n".join(blocks),
    )


def pack(data: Record) -> bytes:
    """Return the document as compressed JSON, with null for NaN. A browser shows half of a surrogate pair as a damaged
    letter.
    """
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:  # NaN; to_json takes longer
        text = to_json(data)
    return gzip.compress(text.encode("utf-8", "surrogatepass"), compresslevel=5, mtime=0)


def web_file(name: str) -> str:
    """Return a file of the bundled front end (`web/` in the repository)."""
    return (files("rethink.report") / "web" / name).read_text(encoding="utf-8")


def _policy(script: str, is_served: bool) -> str:
    """Return the content security policy: only this script runs, and nothing is loaded from anywhere else. A page that is
    served may ask its server.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    images, connect = ("'self'", "'self'") if is_served else ("data:", "'none'")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src {images}; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )


class LivePage:
    """report.html of a run under way, as a context. `write` writes it after an evaluation, unless that takes too much time;
    the end of the context writes what is new, also after an error. No fault of the page ends the run.

    `is_due` says whether this process writes the page: rank 0 does.
    """

    LARGEST_SHARE = 0.05

    def __init__(self, folder: RunFolder, is_due: Callable[[], bool], warn: Callable[[str], None]) -> None:
        self._source = Source(folder.path, folder.path.resolve().name)
        self._is_due = is_due
        self._warn = warn
        self._shelf = ImageShelf()
        self._not_before = 0.0
        self._written = ""

    def __enter__(self) -> LivePage:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _traceback: object) -> None:
        if kind is None or issubclass(kind, Exception):  # a second Ctrl-C stops at once
            self._write()

    def write(self) -> None:
        """Write the page, unless the last time was too short ago."""
        if time.monotonic() >= self._not_before:
            self._write()

    def _write(self) -> None:
        started = time.monotonic()
        try:
            stamp = self._source.metrics_stamp() + self._source.replies_stamp()
            if not self._is_due() or stamp == self._written:
                return
            write_page([self._source], self._source.folder / REPORT_FILE, shelf=self._shelf)
            self._written = stamp
        except Exception as err:
            self._warn(
                f"cannot write {REPORT_FILE}: {err}; once the cause is gone: rethink report {self._source.folder}"
            )
        now = time.monotonic()
        self._not_before = now + (now - started) / self.LARGEST_SHARE
