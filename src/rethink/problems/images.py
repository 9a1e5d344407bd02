"""Images of a row: those of its image columns, those in the parts of its messages, and where each belongs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rethink.errors import UserError
from rethink.images import MARK, Image, mark_places, read_image, read_images, without_numbers
from rethink.problems.rows import Row
from rethink.types import Message

USUAL = ("images", "decoded_image", "image")
"""The columns that hold images if the source names none; upper and lower case are the same. MathVista has a path in `image`
beside the image itself in `decoded_image`; MMMU has image_1 to image_7 instead."""

STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")
"""How the files of images start."""

PARTS = ("image", "image_url", "input_image")
"""The types of a message's parts that are images."""

MOST_NUMBERED = 20


def row_images(row: Row, names: str) -> tuple[Image, ...]:
    """Return the images in the row's columns. `names` are separated by commas; "" stands for the usual columns.

    Raise UserError for a column that does not exist, and for an image that is missing or damaged."""
    columns = [name.strip() for name in names.split(",")] if names else _usual(row)
    found: list[Image] = []
    for name in columns:
        if row.has(name) or names:
            where = f"{row.location}: the column {name!r}"
            found += read_images(row.value(name), where, row.folder)
    return tuple(found)


def _usual(row: Row) -> list[str]:
    """Return the columns to read if the source names none. Raise UserError for images in a column of another name."""
    by_name = {str(name).lower(): str(name) for name in row.values}
    found = [f"image_{n}" for n in range(1, MOST_NUMBERED) if row.has(f"image_{n}")]
    for name in USUAL:
        column = by_name.get(name, name)
        if row.has(column) and row.value(column):
            found = [column]
            break
    for name, value in row.values.items():
        if name not in found and str(name).lower() not in USUAL and _is_image(value):
            raise UserError(_which_columns(row.location, found, str(name)))
    return found


def _which_columns(location: str, found: Sequence[str], other: str) -> str:
    """Return the message for a row with an image in a further column."""
    ways = [",".join(names) for names in (found, [*found, other]) if names]
    return (
        f"{location}: the column {other!r} has an image that no prompt would show; name the columns to show with "
        f"problems.images={' or problems.images='.join(ways)} (evaluation.problems.images for an evaluation, "
        "--image-column for rethink answer --file)"
    )


def _is_image(cell: Any) -> bool:
    """Return whether a cell is one of the hub's image columns, or a list of such."""
    if isinstance(cell, list | tuple) and cell:
        return _is_image(cell[0])
    data = cell.get("bytes") if isinstance(cell, dict) and set(cell) == {"bytes", "path"} else None
    return isinstance(data, bytes) and (data.startswith(STARTS) or data[8:12] == b"WEBP")


def part_image(part: Any, where: str, row: Row) -> Image | None:
    """Return the image in a part of a message; None for other parts."""
    if not isinstance(part, dict) or part.get("type") not in PARTS:
        return None
    return read_image({name: value for name, value in part.items() if name != "type"}, where, row.folder)


def place_images(messages: Sequence[Message], images: Sequence[Image], where: str) -> list[Message]:
    """Return a conversation that ends with the question, with the images of its row in it.

    Marks in the texts take them in order; the question takes those that are left, and may have no marks then. Messages
    with images in their parts keep these. Raise UserError if marks and images do not match."""
    left = list(images)
    found: list[Message] = []
    texts = without_numbers([message.content for message in messages], len(images))
    for n, (message, marked) in enumerate(zip(messages, texts, strict=True)):
        is_last = n == len(messages) - 1
        n_own = len(left) if is_last else marked.count(MARK)
        if message.images:
            if is_last and left:
                raise UserError(f"{where} has images in its messages and in another column; leave one of them out")
            own = message.images
        elif n_own > len(left):
            raise UserError(f"{where} has more marks {MARK} than the row has images ({len(images)})")
        else:
            own, left = tuple(left[:n_own]), left[n_own:]
        text = mark_places(marked, len(own), where) if own else message.content
        found.append(replace(message, content=text, images=own))
    return found
