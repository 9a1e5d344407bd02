"""Small images for tests."""

from __future__ import annotations

import io

from PIL import Image

from rethink.pictures import Picture, read_picture


def png(color: str = "red", size: tuple[int, int] = (50, 40), other: str = "white") -> bytes:
    """Return a PNG file, of which the right half has another color."""
    image = Image.new("RGB", size, color)
    image.paste(other, (size[0] // 2, 0, size[0], size[1]))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def picture(color: str = "red", size: tuple[int, int] = (50, 40)) -> Picture:
    return read_picture(png(color, size), "a test")
