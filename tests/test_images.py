"""Images: where they may come from, what identifies them, and the ids that stand for them."""

from __future__ import annotations

import base64
import gc
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from rethink import images
from rethink.errors import UserError
from rethink.images import FIRST_ID, find, ids_of, mark_places, one_mark_each, read_image, read_images, store
from rethink.types import Message
from support.images import image, png

DATA = png()
URL = "data:image/png;base64," + base64.b64encode(DATA).decode()

FORMS: dict[str, Any] = {
    "bytes": DATA,
    "a hub cell": {"bytes": DATA, "path": "gone.png"},
    "a path": "a.png",
    "a hub cell with a path": {"bytes": None, "path": "a.png"},
    "a data URL": URL,
    "a part": {"image_url": {"url": URL}},
    "a part with a text": {"image_url": URL},
    "a part with a path": {"image": "a.png"},
    "base64": {"base64": base64.b64encode(DATA).decode()},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_image(form: str, tmp_path: Path) -> None:
    """Guards against a form that is not read, and against two ids for one content."""
    (tmp_path / "a.png").write_bytes(DATA)
    found = read_image(FORMS[form], "here", tmp_path)
    assert found == image()
    assert found.read() == DATA
    assert found.size == (50, 40)


def test_an_image_of_pillow_is_read_by_its_pixels() -> None:
    """Guards against rows in memory whose decoded images are refused."""
    found = read_image(PIL.Image.new("RGB", (3, 2), "blue"), "here")
    assert (found.size, found.open().getpixel((2, 1))) == ((3, 2), (0, 0, 255))


def jpeg(size: tuple[int, int] = (300, 200), **how: Any) -> bytes:
    stream = io.BytesIO()
    PIL.Image.effect_noise(size, 50).convert("RGB").save(stream, how.pop("format", "JPEG"), **how)
    return stream.getvalue()


def wide_png(width: int) -> bytes:
    """Return a PNG file whose header alone says that it is so wide, and as high."""
    sizes = struct.pack(">II", width, width)
    start = DATA[:16] + sizes + DATA[24:29]
    return start + struct.pack(">I", zlib.crc32(start[12:])) + DATA[33:]


def test_a_photo_of_a_phone_is_a_jpeg() -> None:
    """Guards against photos with a second image (MPO) that are refused, or that no server takes."""
    data = jpeg(format="MPO", save_all=True, append_images=[PIL.Image.new("RGB", (300, 200))])
    with PIL.Image.open(io.BytesIO(data)) as pil_image:
        assert pil_image.format == "MPO"
    found = read_image(data, "here")
    assert (found.kind, found.name[-4:]) == ("JPEG", ".jpg")
    assert found.data_url().startswith("data:image/jpeg;base64,")


BAD: dict[str, tuple[Any, str]] = {
    "no file": ("b.png", "f.jsonl, line 3: the column 'image': there is no file .*b.png"),
    "no image": (b"text", "the image is damaged or no image"),
    "cut short": (DATA[:60], "is damaged or no image"),
    "a JPEG that is cut short": (jpeg()[:-2000], "is damaged or no image"),
    "a bomb": (wide_png(7000), "more than 40 million pixels; make it smaller"),
    "a large bomb": (wide_png(60_000), "more than 40 million pixels; make it smaller"),
    "another format": (jpeg(format="PPM"), "JPEG, PNG, GIF, WEBP, BMP, TIFF can be read"),
    "a URL that is not ASCII": ("data:image/png;base64,\u00e9", "not data:image"),
    "a web address": ("https://x.org/a.png", "web address .* download the image"),
    "a bad URL": ("data:image/png;base64,@@", "not data:image"),
    "a number": (7, "is no image, but int"),
    "an empty cell of the hub": ({"bytes": None, "path": None}, "is no image, but dict"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_an_error_that_names_its_place(name: str, tmp_path: Path) -> None:
    """Guards against a question that is asked without its image, or an error that names no row."""
    value, message = BAD[name]
    with pytest.raises(UserError, match=message) as caught:
        read_image(value, "f.jsonl, line 3: the column 'image'", tmp_path)
    assert str(caught.value).startswith("f.jsonl, line 3: the column 'image'")


def test_a_file_that_changes_later_is_not_used(tmp_path: Path) -> None:
    """Guards against features of one image under the hash of another."""
    file = tmp_path / "a.png"
    file.write_bytes(png("green", (53, 41)))
    found = read_image(file, "here")
    file.write_bytes(png("blue"))
    with pytest.raises(UserError, match="has changed since it was read"):
        found.read()
    file.unlink()
    with pytest.raises(UserError, match=r"cannot read the image .* again"):
        found.read()


def test_an_image_is_read_from_where_it_was_found_last(tmp_path: Path) -> None:
    """Guards against an image of a request that is looked for in a file, which had the same content and is gone."""
    file = tmp_path / "a.png"
    file.write_bytes(png("teal"))
    first = read_image(file, "here")
    file.unlink()
    second = read_image(png("teal"), "here")
    assert first.read() == second.read() == png("teal")


def test_transparent_and_turned_images_look_as_people_see_them() -> None:
    """Guards against black backgrounds, and photographs that lie on their side."""
    stream = io.BytesIO()
    PIL.Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(stream, "PNG")
    assert read_image(stream.getvalue(), "here").open().getpixel((0, 0)) == (255, 255, 255)
    turned = PIL.Image.new("RGB", (6, 4), "red")
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    stream = io.BytesIO()
    turned.save(stream, "JPEG", exif=exif)
    assert read_image(stream.getvalue(), "here").open().size == (4, 6)


def black_but_one(mode: str) -> PIL.Image.Image:
    """Return a black image with one white pixel."""
    if mode.startswith("I"):
        numbers = PIL.Image.new(mode, (3, 2), 0)
        numbers.putpixel((2, 1), 65_535)
        return numbers
    found = PIL.Image.new("L" if mode == "LA" else "RGB", (3, 2), "black")
    found.putpixel((2, 1), 255 if mode == "LA" else (255, 255, 255))
    return found.convert(mode)


def written(pil_image: PIL.Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    pil_image.save(stream, kind)
    return stream.getvalue()


MODES = ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16")
FILES = (
    ("1", "PNG"),
    ("LA", "PNG"),
    ("P", "GIF"),
    ("CMYK", "TIFF"),
    ("YCbCr", "TIFF"),
    ("I;16", "PNG"),
    ("I;16", "TIFF"),
)


@pytest.mark.parametrize(("mode", "kind"), [*((mode, "") for mode in MODES), *FILES])
def test_images_of_all_modes_become_rgb(mode: str, kind: str) -> None:
    """Guards against images of rows in memory that fail with an error of Pillow, such as CMYK, which PNG does not have."""
    given = black_but_one(mode)
    found = read_image(written(given, kind) if kind else given, "here").open()
    assert found.mode == "RGB"
    pixels = {(x, y): found.getpixel((x, y)) for x in range(3) for y in range(2)}
    assert pixels.pop((2, 1)) == (255, 255, 255)
    assert set(pixels.values()) == {(0, 0, 0)}


@pytest.mark.parametrize("kind", ["", "PNG", "TIFF"])
def test_images_of_16_bits_keep_their_shades(kind: str) -> None:
    """Guards against white images: Pillow's own conversion cuts numbers off at 255. 25,600 / 256 is 100."""
    given = PIL.Image.new("I;16", (3, 2), 25_600)
    assert read_image(written(given, kind) if kind else given, "here").open().getpixel((1, 1)) == (100, 100, 100)


def test_a_transparent_color_of_a_palette_is_white() -> None:
    """Guards against a black background where a GIF or a PNG has none."""
    given = PIL.Image.new("P", (3, 2), 0)
    given.putpalette([0, 0, 0, 255, 0, 0])
    given.putpixel((2, 1), 1)
    given.info["transparency"] = 0
    for value in (given, written(given, "PNG")):
        found = read_image(value, "here").open()
        assert (found.getpixel((0, 0)), found.getpixel((2, 1))) == ((255, 255, 255), (255, 0, 0))


def file_of_bits(color: int, bits: int, width: int, row: bytes, clear: bytes) -> bytes:
    """Return a PNG of one row, which Pillow cannot write: color type, bits per number, and the transparent color."""
    found = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, 1, bits, color, 0, 0, 0)
    for kind, data in ((b"IHDR", header), (b"tRNS", clear), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")):
        found += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return found


@pytest.mark.parametrize(
    ("color", "bits", "row", "clear", "expected"),
    [
        (0, 16, "000500060580ffff", "0005", [255, 0, 5, 255]),
        (0, 4, "4f30", "0003", [68, 255, 255, 0]),
        (0, 2, "78", "0003", [85, 255, 170, 0]),
        (2, 16, "102030405060" + "0a0a0a0a0a0a", "102030405060", [255, 10]),
        (2, 8, "102030" + "0a0a0a", "001000200030", [255, 10]),
    ],
)
def test_a_transparent_color_of_any_number_of_bits_is_white(
    color: int, bits: int, row: str, clear: str, expected: list[int]
) -> None:
    """Guards against a transparent color that is compared with pixels of other bits: in a PNG of 16 bits, the background
    stayed as it is in the file, and dark gray became white. Expected by hand."""
    given = file_of_bits(color, bits, len(expected), bytes.fromhex(row), bytes.fromhex(clear))
    found = read_image(given, "here").open()
    assert [found.getpixel((x, 0)) for x in range(len(expected))] == [(value,) * 3 for value in expected]


def test_images_that_cannot_become_rgb_are_refused() -> None:
    """Guards against an error of Pillow without a place, and against heights or depths that all turn white."""
    depths = PIL.Image.new("F", (3, 2), 0.5)
    with pytest.raises(UserError, match=r"here: the image cannot be converted to RGB \(Pillow's mode F: .* 8 bits per"):
        read_image(written(depths, "TIFF"), "here")
    with pytest.raises(UserError, match=r"here cannot be converted to RGB \(Pillow's mode F"):
        read_image(depths, "here")
    with pytest.raises(UserError, match=r"mode I: numbers from 70000 to 70000 are not of 16 bits"):
        read_image(PIL.Image.new("I", (3, 2), 70_000), "here")


def test_ids_depend_on_the_content_alone() -> None:
    """Guards against prompts with other images that look equal, and ids that another process would not give."""
    first = ids_of(image(), 3)
    assert first == [FIRST_ID + int(image().digest[:12], 16) * 2**14 + n for n in range(3)]
    assert not set(first) & set(ids_of(image("blue"), 3))
    assert max(ids_of(image(), images.MAX_VECTORS)) < 2**63


def test_an_image_is_known_as_long_as_an_equal_one_is_in_use() -> None:
    """Guards against a prompt whose image is lost because another row with the same image is gone."""
    first, second = image("purple"), image("purple")
    digest = first.digest
    del first
    gc.collect()
    assert find(digest) is second
    del second
    gc.collect()
    with pytest.raises(UserError, match="is in none of the problems"):
        find(digest)


PLACES = {
    "no mark": ("What?", 1, "What?"),
    "in front": ("<image>\n<image> What?", 2, "What?"),
    "inside": ("Is <image> or <image> larger?", 2, "Is <image> or <image> larger?"),
    "numbered": ("Is <image 1> or <image 2> larger?", 2, "Is <image> or <image> larger?"),
    "numbers as words": ("<image 1> is <image 1>.", 1, "image 1 is image 1."),
    "out of order": ("From <image 2> to <image 1>", 2, "From image 2 to image 1"),
}


@pytest.mark.parametrize("name", PLACES)
def test_places_of_images_in_a_text(name: str) -> None:
    """Guards against images at the wrong place, and marks that the model would read as words."""
    text, n, expected = PLACES[name]
    assert mark_places(text, n, "here") == expected


def test_marks_must_match() -> None:
    """Guards against a question about an image that is not there."""
    with pytest.raises(UserError, match="row 3 has 2 times <image>, but the row has 1 images"):
        mark_places("a <image> b <image>", 1, "row 3")


def test_a_question_that_is_shown_twice_shows_its_images_once() -> None:
    """Guards against more marks than images in prompts that repeat the question."""
    assert one_mark_each("a <image> b, a <image> b", 1) == "a <image> b, a (the image above) b"
    assert one_mark_each("a <image>", 0) == "a <image>"


def test_parts_of_a_message() -> None:
    """Guards against parts in another order than the text says."""
    a, b = image(), image("blue")
    assert Message("user", "What?").parts == ["What?"]
    assert Message("user", "What?", (a, b)).parts == [a, b, "What?"]
    assert Message("user", "Is <image> or <image>?", (a, b)).parts == ["Is ", a, " or ", b, "?"]
    assert Message("user", "Is <image>?", (a, b)).parts == [a, b, "Is <image>?"]


def test_stored_once_under_its_content(tmp_path: Path) -> None:
    """Guards against copies, and files that are written again at every update."""
    store(tmp_path / "images", [image(), image(), image("blue")])
    files = sorted((tmp_path / "images").iterdir())
    assert [f.name for f in files] == sorted({image().name, image("blue").name})
    before = files[0].stat().st_mtime_ns
    store(tmp_path / "images", [image(), image("blue")])
    assert files[0].stat().st_mtime_ns == before
    assert (tmp_path / "images" / image().name).read_bytes() == DATA


def test_cells_with_several_or_no_images() -> None:
    """Guards against lists that are read in part, and empty cells that are refused."""
    assert read_images([DATA, png("blue")], "here") == (image(), image("blue"))
    empty: tuple[Any, ...] = (None, "", [], {}, False, float("nan"))
    assert [read_images(nothing, "here") for nothing in empty] == [()] * 6
    with pytest.raises(UserError, match="here, image 2"):
        read_images([DATA, b"x"], "here")
