"""Images on the page: decoded, made smaller, and encoded again, so that no file of a folder reaches a browser as it is."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from rethink.errors import UserError
from rethink.images import read_image
from rethink.run_folder import IMAGES

SIDE, SERVED_SIDE = 1024, 2048
"""The longer side of an image, in pixels at most: in a file, and from a server."""

SHARP_BYTES = 100_000
"""A larger PNG may become a JPEG."""

_NAME = re.compile(r"([0-9a-f]{24})\.[a-z]{3,4}")


class NoImageError(UserError):
    """An image that cannot be shown. The message says why."""


@dataclass(frozen=True)
class Encoded:
    """An image for a browser: its content type, and the file."""

    kind: str
    data: bytes


@dataclass
class ImageShelf:
    """The encoded images of run folders by name, which is a hash of the content: each is decoded once. At most `most_bytes`
    are kept, and the last one; the least recently used are dropped first.

    `side` is the longer side of an image, at most. Many threads may use a shelf; one of them decodes at a time.
    """

    side: int = SIDE
    most_bytes: int = 64 << 20
    _known: OrderedDict[str, Encoded] = field(default_factory=OrderedDict)
    _n_bytes: int = 0
    _lock: Lock = field(default_factory=Lock)

    def get(self, folder: Path, name: str) -> Encoded:
        """Return the image that a record of this folder names. Raise NoImageError if it cannot be shown."""
        with self._lock:
            if name not in self._known:
                self._keep(name, self._encoded(folder, name))
            self._known.move_to_end(name)
            return self._known[name]

    def _keep(self, name: str, found: Encoded) -> None:
        self._known[name] = found
        self._n_bytes += len(found.data)
        while self._n_bytes > self.most_bytes and len(self._known) > 1:
            self._n_bytes -= len(self._known.popitem(last=False)[1].data)

    def _encoded(self, folder: Path, name: str) -> Encoded:
        try:
            return encode(read_image(_read(folder, name), f"{IMAGES}/{name}").open(), name, self.side)
        except NoImageError:
            raise
        except UserError as err:
            raise NoImageError(str(err)) from err


def _read(folder: Path, name: str) -> bytes:
    """Return the file of an image. Raise NoImageError if there is none, or if it is not what its name says."""
    stem = _NAME.fullmatch(name)
    if stem is None:
        raise NoImageError("its record has no valid name of a file")
    file = folder / IMAGES / name
    if not file.is_file():
        raise NoImageError(f"the file {IMAGES}/{name} is missing")
    try:
        data = file.read_bytes()
    except OSError as err:
        raise NoImageError(f"cannot read the file {IMAGES}/{name}: {err.strerror}") from err
    if not hashlib.sha256(data).hexdigest().startswith(stem[1]):
        raise NoImageError(f"the file {IMAGES}/{name} has changed since the run")
    return data


def encode(image: Any, name: str, side: int) -> Encoded:
    """Return Pillow's image for a browser, at most `side` pixels wide and high, without metadata.

    Photos become JPEGs, drawings stay sharp unless that takes much space.
    """
    image.thumbnail((side, side))
    image.info.clear()  # comments, profiles, and the place where a photo was taken
    as_jpeg = _saved(image, "JPEG", quality=85)
    if name.endswith(".jpg"):
        return as_jpeg
    as_png = _saved(image, "PNG")
    is_sharp = len(as_png.data) <= max(SHARP_BYTES, len(as_jpeg.data))
    return as_png if is_sharp else as_jpeg


def _saved(image: Any, kind: str, **options: Any) -> Encoded:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return Encoded(f"image/{kind.lower()}", stream.getvalue())


class Embedded:
    """The images of a page on disk: an element for each, once for all runs. Those of one run have at most `n_letters`."""

    def __init__(self, shelf: ImageShelf, n_letters: int) -> None:
        self._shelf = shelf
        self._n_letters = n_letters
        self._elements: dict[str, str] = {}
        self._held: set[str] = set()

    @property
    def elements(self) -> list[str]:
        return list(self._elements.values())

    def add(self, folder: Path, names: Iterable[str]) -> int:
        """Add the images that records of this folder name, as far as there is room. Return how many are left out."""
        n_letters, n_left_out = 0, 0
        for name in names:
            if name in self._held or not _NAME.fullmatch(name):
                continue
            text = ""
            if n_left_out == 0:
                try:
                    found = self._shelf.get(folder, name)
                except NoImageError as err:
                    self._elements[name] = _element(name, note=str(err))
                    continue
                text = base64.b64encode(found.data).decode()
            if (
                n_left_out or n_letters + len(text) > self._n_letters
            ):  # no later one is read, so that thousands take no time
                n_left_out += 1
                self._elements[name] = _element(name, note="this page has no room for more images")
                continue
            n_letters += len(text)
            self._held.add(name)
            self._elements[name] = _element(name, text, type=found.kind)
        return n_left_out


def _element(name: str, text: str = "", **data: str) -> str:
    attributes: list[str] = []
    for key, value in data.items():
        attributes.append(f' data-{key}="{html.escape(value)}"')
    return f'<script type="text/plain" id="image-{name}"{"".join(attributes)}>{text}</script>'
