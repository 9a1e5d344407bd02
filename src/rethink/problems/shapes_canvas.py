"""The images of shapes: what is drawn, remembered as plain values, and the drawing of it."""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass
from typing import Any

from rethink.errors import UserError, install_extra

SIZE = 96
KINDS = ("circle", "square", "triangle", "star")
COLORS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 79, 200),
    "yellow": (240, 200, 20),
    "black": (20, 20, 20),
    "purple": (148, 60, 189),
}
INK = (60, 60, 60)
GAP = 2
"""Pixels between two scattered shapes."""


@dataclass(frozen=True)
class Item:
    """Something drawn: its kind, color and size, and its place in pixels. For scales, `size` is the radius and `values`
    what it shows."""

    kind: str
    color: str
    size: int
    x: int
    y: int
    values: tuple[int, ...] = ()


class Canvas:
    """What an image shows. `png` draws it."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self.drawn: list[Item] = []

    def put(self, kind: str, color: str, size: int, x: int, y: int) -> Item:
        """Add a shape at a place."""
        self.drawn.append(Item(kind, color, size, x, y))
        return self.drawn[-1]

    def scatter(self, kind: str, color: str, size: int) -> None:
        """Add a shape where there is room; leave it out if there is none."""
        for _ in range(200):
            x, y = (self._draw.randint(size + 1, SIZE - size - 2) for _ in "xy")
            if all(math.hypot(x - item.x, y - item.y) > 1.2 * (size + item.size) + GAP for item in self.drawn):
                self.put(kind, color, size, x, y)
                return

    def chart(self, colors: list[str], heights: list[int], most: int) -> None:
        """Add a bar chart with an axis from 0 to `most`."""
        self.drawn.append(Item("axis", "black", 0, 14, 88, (most,)))
        width = 70 // len(colors)
        for n, (color, height) in enumerate(zip(colors, heights, strict=True)):
            self.drawn.append(Item("bar", color, width - 6, 20 + n * width, 88, (height, most)))

    def clock(self, hour: int, minute: int, radius: int) -> None:
        """Add a clock face with two hands, of which the short one is black."""
        x, y = (self._draw.randint(radius + 1, SIZE - radius - 2) for _ in "xy")
        color = self._draw.choice([name for name in COLORS if name != "black"])
        self.drawn.append(Item("clock", color, radius, x, y, (hour, minute)))

    def dial(self, value: int, radius: int) -> None:
        """Add a half circle with a scale from 0 to 100 and a needle."""
        x, y = self._draw.randint(radius + 1, SIZE - radius - 2), self._draw.randint(radius + 1, SIZE - 4)
        self.drawn.append(Item("dial", self._draw.choice(list(COLORS)), radius, x, y, (value,)))

    def pil_image(self) -> Any:
        """Return the image as Pillow's."""
        try:
            import PIL.Image
            import PIL.ImageDraw
        except ImportError as err:
            raise UserError(f"shapes are drawn with Pillow: {install_extra('vision')}") from err
        pil_image = PIL.Image.new("RGB", (SIZE, SIZE), "white")
        pen = PIL.ImageDraw.Draw(pil_image)
        for item in self.drawn:
            _DRAW.get(item.kind, _draw_shape)(pen, item)
        return pil_image

    def png(self) -> bytes:
        """Return the image as a PNG file."""
        stream = io.BytesIO()
        self.pil_image().save(stream, "PNG")
        return stream.getvalue()


def _draw_shape(pen: Any, item: Item) -> None:
    x, y, r = item.x, item.y, item.size
    color = COLORS[item.color]
    if item.kind == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=color)
    elif item.kind == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=color)
    elif item.kind == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=color)
    else:
        corners = [_around(x, y, (r, 0.45 * r)[n % 2], 36 * n) for n in range(10)]
        pen.polygon(corners, fill=color)


def _draw_axis(pen: Any, item: Item) -> None:
    (most,) = item.values
    pen.line((item.x, 8, item.x, item.y, SIZE - 4, item.y), fill=INK)
    for n in range(most + 1):
        y = _height(n, most)
        pen.line((item.x - (5 if n % 5 == 0 else 3), y, item.x, y), fill=INK)
        if n % 5 == 0:
            pen.text((0, y - 6), str(n), fill=INK)


def _draw_bar(pen: Any, item: Item) -> None:
    pen.rectangle((item.x, _height(*item.values), item.x + item.size, item.y - 1), fill=COLORS[item.color])


def _height(value: int, most: int) -> int:
    """Return the place of a value on the axis of a chart."""
    return round(88 - 80 * value / most)


def _draw_clock(pen: Any, item: Item) -> None:
    x, y, r = item.x, item.y, item.size
    hour, minute = item.values
    pen.ellipse((x - r, y - r, x + r, y + r), outline=INK, width=2)
    for n in range(12):
        inner = r - (8 if n % 3 == 0 else 4)
        pen.line((*_around(x, y, inner, 30 * n), *_around(x, y, r - 1, 30 * n)), fill=INK)
    pen.line((x, y, *_around(x, y, 0.5 * r, 30 * hour + minute / 2)), fill=COLORS["black"], width=4)
    pen.line((x, y, *_around(x, y, 0.85 * r, 6 * minute)), fill=COLORS[item.color], width=2)


def _draw_dial(pen: Any, item: Item) -> None:
    x, y, r = item.x, item.y, item.size
    (value,) = item.values
    pen.arc((x - r, y - r, x + r, y + r), 180, 360, fill=INK, width=2)
    for n in range(0, 101, 10):
        inner = r - (8 if n % 50 == 0 else 4)
        pen.line((*_around(x, y, inner, 1.8 * n - 90), *_around(x, y, r, 1.8 * n - 90)), fill=INK)
    pen.line((x, y, *_around(x, y, 0.85 * r, 1.8 * value - 90)), fill=COLORS[item.color], width=3)


def _around(x: float, y: float, radius: float, degrees: float) -> tuple[float, float]:
    """Return the point at a distance from (x, y), clockwise from the top."""
    return x + radius * math.sin(math.radians(degrees)), y - radius * math.cos(math.radians(degrees))


_DRAW = {"axis": _draw_axis, "bar": _draw_bar, "clock": _draw_clock, "dial": _draw_dial}
