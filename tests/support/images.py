"""Small images for tests."""

from __future__ import annotations

import io

import PIL.Image

from rethink.images import Image, read_image


def png(color: str = "red", size: tuple[int, int] = (50, 40), other: str = "white") -> bytes:
    """Return a PNG file, of which the right half has another color."""
    pil_image = PIL.Image.new("RGB", size, color)
    pil_image.paste(other, (size[0] // 2, 0, size[0], size[1]))
    stream = io.BytesIO()
    pil_image.save(stream, "PNG")
    return stream.getvalue()


def image(color: str = "red", size: tuple[int, int] = (50, 40)) -> Image:
    return read_image(png(color, size), "a test")
