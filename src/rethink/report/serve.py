"""The server of `rethink view`: the page on this machine, with data that follows the folders."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from rethink.errors import UserError
from rethink.jsonl import Record
from rethink.report.document import read_document, read_replies
from rethink.report.folders import Source, sources_in
from rethink.report.images import SERVED_SIDE, ImageShelf, NoImageError
from rethink.report.page import pack, served_page
from rethink.report.replies import Limits, ReplyTable

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LIMITS = Limits(n_records=50_000, n_letters=100_000_000)
"""A served page holds more than a file: the browser asks for the replies of one run at a time."""

Body = tuple[str, bytes]
"""(content type, content)."""


class Viewer:
    """What the server answers, by path. Documents are read again only when a file of theirs has changed.

    `waiting` are the folders that held no run at the start. Raise UserError for one that is not there.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._read: dict[str, tuple[str, bytes]] = {}
        self._images = ImageShelf(SERVED_SIDE)
        self._lock = threading.Lock()
        self._sources_lock = threading.Lock()
        self.sources: list[Source] = []
        self.waiting = self._add_new_sources(strict=True)

    def answer(self, path: str) -> Body | None:
        """Return what a path names; None if there is no such thing. Raise NoImageError if an image cannot be shown."""
        parts = urlsplit(path)
        if parts.path == "/":
            return "text/html; charset=utf-8", served_page().encode()
        if parts.path == "/api/stamp":
            return "text/plain", self._stamp().encode()
        if parts.path == "/api/document":
            return "application/gzip", self._cached("document", self._stamp(), self._document)
        asked = parse_qs(parts.query)
        number = asked.get("run", [""])[0]
        if not (number.isdecimal() and number.isascii() and int(number) < len(self.sources)):
            return None
        source = self.sources[int(number)]
        if parts.path == "/api/replies":
            read = self._cached(number, source.replies_stamp(), lambda: pack(_replies_of(source)))
            return "application/gzip", read
        if parts.path == "/api/image":
            image = self._images.get(source.folder, asked.get("name", [""])[0])
            return image.kind, image.data
        return None

    def _stamp(self) -> str:
        """Return a text that changes with the files, and when there is a new run."""
        with self._sources_lock:  # two requests at once would both add a new run
            self._add_new_sources()
            sources = list(self.sources)
        stamps: list[str] = []
        for source in sources:
            stamps.append(f"{source.name}:{source.metrics_stamp()}:{source.replies_stamp()}")
        return str(hash(tuple(stamps)))

    def _add_new_sources(self, strict: bool = False) -> list[Path]:
        """Add the runs that are new, at the end, so that runs keep their numbers. Return the folders that hold none.

        If `strict`, raise UserError for a folder that is not there or cannot be read; else leave it out."""
        known = {source.folder.resolve() for source in self.sources}
        empty: list[Path] = []
        for folder in self._folders:
            try:
                inside = sources_in(folder, is_alone=len(self._folders) == 1)
            except UserError:
                if strict:
                    raise
                continue
            if not inside:
                empty.append(folder)
            for source in inside:
                if source.folder.resolve() not in known:
                    self.sources.append(source)
                    known.add(source.folder.resolve())
        return empty

    def _document(self) -> bytes:
        with self._sources_lock:
            sources = list(self.sources)
        return pack(read_document(sources, strict=False))

    def _cached(self, name: str, stamp: str, read: Callable[[], bytes]) -> bytes:
        with self._lock:
            if name not in self._read or self._read[name][0] != stamp:
                self._read[name] = (stamp, read())
            return self._read[name][1]


def _replies_of(source: Source) -> Record:
    """Return the replies of a run; none if they cannot be read, so that the other runs are still shown."""
    try:
        return read_replies(source, LIMITS)
    except UserError:
        return ReplyTable(LIMITS).data(0)


class Handler(BaseHTTPRequestHandler):
    """Answers GET alone, and only under a name of this machine: a page of the web cannot read along."""

    server: PageServer

    def do_GET(self) -> None:
        try:
            if not self.server.allows(self.headers.get("Host", "")):
                self._send(HTTPStatus.FORBIDDEN, ("text/plain", b"this name of the server is not allowed"))
                return
            found = self.server.viewer.answer(self.path)
        except NoImageError as err:
            self._send(HTTPStatus.NOT_FOUND, ("text/plain; charset=utf-8", str(err).encode("utf-8", "replace")))
            return
        except (UserError, OSError, ValueError, KeyError) as err:
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, ("text/plain", str(err).encode("utf-8", "replace")))
            return
        self._send(*((HTTPStatus.OK, found) if found else (HTTPStatus.NOT_FOUND, ("text/plain", b"not found"))))

    def _send(self, status: HTTPStatus, body: Body) -> None:
        kind, content = body
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        # The name of an image is a hash of its content.
        self.send_header("Cache-Control", "private, max-age=86400" if kind.startswith("image/") else "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")  # no page of the web shows the images
        with suppress(ConnectionError):  # the page was closed
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: the page asks every two seconds."""


class PageServer(ThreadingHTTPServer):
    """The server. Port 0 is any free port."""

    daemon_threads = True

    def __init__(self, viewer: Viewer, host: str, port: int) -> None:
        self.viewer = viewer
        self.host = host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except OSError as err:
            raise UserError(f"cannot listen on {host}:{port} ({err.strerror}); choose another --port") from err

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/"

    def allows(self, host: str) -> bool:
        """Return whether the name in a request is one of this machine. Listening elsewhere, any name is."""
        name = urlsplit(f"//{host}").hostname
        return self.host not in LOOPBACK or name in LOOPBACK
