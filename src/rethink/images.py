"""Images in questions: where they come from, what identifies them, and the ids that stand for them in a prompt.

To the language model, an image is a run of vectors in the prompt. Each vector has an id, far above those of the
vocabulary: a hash of the image's content, and the vector's place in the run. So prompts with the same words and different
images have different ids, and what compares, caches, packs or stores prompts by their ids needs to know nothing more::

    prompt_ids  [<user> V0 V1 V2 V3 What time is it ? <reply>]      V0 = FIRST_ID + (hash of the content) * 2^14 + 0
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from rethink.errors import UserError, install_extra

MARK = "<image>"
"""Stands for an image in a text, as in LLaVA's data; images without marks come before the text."""

FIRST_ID = 1 << 62
PLACE_BITS, KEY_BITS = 14, 48
MAX_VECTORS = 1 << PLACE_BITS

_NUMBERED = re.compile(r"<image[ _]?(\d+)>")
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,(.*)", re.DOTALL)
_ENDINGS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif"}
MOST_PIXELS = 40_000_000
"""The largest image that is decoded, so that a small file cannot fill the memory: 120 MB in RGB."""

USUAL_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
"""Pillow's modes of images that a PNG file holds, and that become RGB without loss."""
ORIENTATION = 0x0112
"""The number of EXIF's entry that says how an image must be turned."""
TRANSPARENT_MODES = ("LA", "La", "PA", "RGBA", "RGBa")

_known: WeakValueDictionary[int, Image] = WeakValueDictionary()
_lock = threading.Lock()


@dataclass(frozen=True)
class Image:
    """An image by its content. `digest` is the SHA-256 of its file; `source` holds the file's bytes, or where it is.

    >>> from rethink.problems.shapes import draw_example
    >>> image = read_image(draw_example(), "here")
    >>> image.name.endswith(".png"), image.size
    (True, (96, 96))
    """

    digest: str
    kind: str = field(compare=False)
    size: tuple[int, int] = field(compare=False)
    source: bytes | Path = field(repr=False, compare=False)

    @property
    def key(self) -> int:
        """The part of the content's hash that is in the ids."""
        return key_of(self.digest)

    @property
    def name(self) -> str:
        """The name of its file in a run folder."""
        return f"{self.digest[:24]}.{_ENDINGS[self.kind]}"

    def read(self) -> bytes:
        """Return the file's bytes. Raise UserError if the file is gone or has changed."""
        if isinstance(self.source, bytes):
            return self.source
        try:
            data = self.source.read_bytes()
        except OSError as err:
            raise UserError(f"cannot read the image {self.source} again: {err.strerror}") from err
        if hashlib.sha256(data).hexdigest() != self.digest:
            raise UserError(f"the image {self.source} has changed since it was read; restore it, or begin again")
        return data

    def open(self) -> Any:
        """Return the image as Pillow has it, in RGB and upright. What is transparent becomes white."""
        pillow, ops = _pillow()
        try:
            pil_image = pillow.open(io.BytesIO(self.read()))
            _scale_transparency(pil_image)
            return _in_rgb(ops.exif_transpose(pil_image))
        except (OSError, SyntaxError, ValueError) as err:
            raise UserError(f"the image {self._where()} is damaged or cut short: {err}") from err

    def data_url(self) -> str:
        """Return the image as a data URL, as chat servers take it."""
        return f"data:image/{self.kind.lower()};base64,{base64.b64encode(self.read()).decode()}"

    def rgb_url(self) -> str:
        """Return what `open` returns as a data URL, for servers that would not turn it upright or make white what is
        transparent."""
        pillow, _ = _pillow()
        with pillow.open(io.BytesIO(self.read())) as own:
            is_upright = own.getexif().get(ORIENTATION, 1) == 1
            is_plain = own.mode == "RGB" and is_upright and "transparency" not in own.info
        if is_plain and self.kind in ("JPEG", "PNG"):
            return self.data_url()
        stream = io.BytesIO()
        self.open().save(stream, "PNG", compress_level=1)
        return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"

    def _where(self) -> str:
        return self.name if isinstance(self.source, bytes) else str(self.source)


def read_image(value: Any, where: str, folder: Path | None = None) -> Image:
    """Return the image in a value: a path (relative to `folder`), bytes, Pillow's image, a data URL, an `image_url` part,
    or a cell of the hub's image columns ({"bytes", "path"}).

    `where` names the value in messages. Raise UserError for a file that is missing, damaged, or no image."""
    value = _unwrapped(value)
    if isinstance(value, Path) or (isinstance(value, str) and not value.startswith("data:")):
        return _read_file(str(value), where, folder)
    if isinstance(value, str):
        found = _DATA_URL.match(value)
        try:
            data = base64.b64decode(found[1], validate=True) if found else b""
        except ValueError:  # binascii.Error, and text that is not ASCII
            data = b""
        if not data:
            raise UserError(f"{where} is a data URL, but not data:image/...;base64,... with valid base64")
        return _checked(data, data, where)
    if isinstance(value, bytes | bytearray | memoryview):
        return _checked(bytes(value), bytes(value), where)
    if hasattr(value, "save") and hasattr(value, "getbands"):  # Pillow's image
        fault = _fault_of_mode(value)
        if fault:
            raise UserError(f"{where} {fault}")
        stream = io.BytesIO()
        (value if value.mode in USUAL_MODES else _in_rgb(value)).save(stream, "PNG")
        return _checked(stream.getvalue(), stream.getvalue(), where)
    raise UserError(f"{where} is no image, but {type(value).__name__}; give a path, bytes, or a data URL")


def read_images(value: Any, where: str, folder: Path | None = None) -> tuple[Image, ...]:
    """Return the images in a cell: one, a list of them, or none."""
    is_nothing = value is None or value is False or (isinstance(value, float) and value != value)
    if is_nothing or (isinstance(value, str | list | dict) and not value):
        return ()
    if not isinstance(value, list | tuple):
        return (read_image(value, where, folder),)
    found: list[Image] = []
    for n, item in enumerate(value):
        found.append(read_image(item, f"{where}, image {n + 1}", folder))
    return tuple(found)


def mark_places(text: str, n_images: int, where: str) -> str:
    """Return a text with a mark for each image, or without marks if all images come before the text.

    Marks with numbers ("<image 2>") must be in order. Raise UserError if a text has marks, but not one per image."""
    numbers = [int(n) for n in _NUMBERED.findall(text)]
    if numbers and numbers != list(range(1, n_images + 1)):  # used like words: "is <image 1> or <image 2> larger?"
        text = numbers_as_words(text)
    text = _NUMBERED.sub(MARK, text)
    n_marks = text.count(MARK)
    if n_marks and n_marks != n_images:
        raise UserError(f"{where} has {n_marks} times {MARK}, but the row has {n_images} images")
    stripped = text.lstrip()
    while stripped.startswith(MARK):
        stripped = stripped[len(MARK) :].lstrip()
    return stripped if MARK not in stripped else text


def without_numbers(texts: Sequence[str], n_images: int) -> list[str]:
    """Return the texts of a conversation with plain marks in place of "<image 1>" to "<image n>", if these are in order
    over the whole conversation; otherwise as they are.

    >>> without_numbers(["<image 1> What?", "And <image 2>?"], 2)
    ['<image> What?', 'And <image>?']
    """
    numbers = [int(n) for text in texts for n in _NUMBERED.findall(text)]
    if numbers != list(range(1, n_images + 1)):
        return list(texts)
    return [_NUMBERED.sub(MARK, text) for text in texts]


def numbers_as_words(text: str) -> str:
    """Return a text with words in place of marks with numbers.

    >>> numbers_as_words("Is <image 2> larger?")
    'Is image 2 larger?'
    """
    return _NUMBERED.sub(r"image \1", text)


def one_mark_each(text: str, n_images: int) -> str:
    """Return a text that may show a question several times with one mark per image: those after them become words."""
    parts = text.split(MARK)
    if n_images < 1 or len(parts) <= n_images + 1:
        return text
    return MARK.join(parts[: n_images + 1]) + "".join(f"(the image above){part}" for part in parts[n_images + 1 :])


def as_words(text: str) -> str:
    """Return a text without marks, for what stands beside a question with images: a mark there is a model's word."""
    return text.replace(MARK, "(image)")


def known_image(image: Image) -> Image:
    """Return the image, or the equal one that is known already. As long as it is in use, `find` knows it by its key."""
    with _lock:
        other = _known.setdefault(image.key, image)
    if other.digest != image.digest:
        raise UserError(f"two images have the same short hash ({image.digest}, {other.digest}); leave one out")
    return other


def ids_of(image: Image, n: int) -> list[int]:
    """Return the ids of an image's n vectors."""
    first = FIRST_ID + (image.key << PLACE_BITS)
    return list(range(first, first + n))


def find(digest: str) -> Image:
    """Return an image that is in memory, by its digest or the start of it. Raise UserError if there is none."""
    image = _known.get(key_of(digest))
    if image is None:
        raise UserError(f"the image {digest[:24]} of a sample is in none of the problems: were they changed?")
    return image


def key_of(digest: str) -> int:
    """Return the part of a digest that is in the ids."""
    return int(digest[: KEY_BITS // 4], 16)


def check_pixels(bounds: tuple[int, ...]) -> tuple[int, ...]:
    """Return the bounds. Raise ValueError unless there are none, or two in order."""
    if bounds and (len(bounds) != 2 or bounds[0] > bounds[1]):
        raise ValueError("must be the fewest and the most pixels of an image, such as [3136, 501760], or empty")
    return bounds


def has_images(ids: Sequence[int]) -> bool:
    """Return whether there are ids of images among these."""
    return max(ids, default=0) >= FIRST_ID


def split_id(i: int) -> tuple[int, int]:
    """Return an image's key, and the place in its run, from an id."""
    return (i - FIRST_ID) >> PLACE_BITS, (i - FIRST_ID) % MAX_VECTORS


def find_by_key(key: int) -> Image:
    """Return an image that is in memory by its key; see `find`."""
    return find(f"{key:0{KEY_BITS // 4}x}")


def without_images(ids: Sequence[int]) -> list[int]:
    """Return the ids that are tokens."""
    return [i for i in ids if i < FIRST_ID]


def store(folder: Path, images: Iterable[Image]) -> None:
    """Write the images' files to a folder, each once, under their names. Raise UserError if that fails."""
    for image in images:
        file = folder / image.name
        if file.is_file():
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".writing-{image.name}")
            temporary.write_bytes(image.read())
            temporary.replace(file)
        except OSError as err:
            raise UserError(f"cannot write {file}: {err.strerror}") from err


def _unwrapped(value: Any) -> Any:
    """Return the bytes, path or URL in a cell or part that is a mapping; other values as they are."""
    if not isinstance(value, Mapping):
        return value
    for name in ("bytes", "path", "image_url", "image", "url", "base64"):
        inner = value.get(name)
        if inner:
            return f"data:image/any;base64,{inner}" if name == "base64" else _unwrapped(inner)
    return value


def _read_file(name: str, where: str, folder: Path | None) -> Image:
    if name.startswith(("http://", "https://")):
        raise UserError(f"{where} is a web address ({name[:80]}); download the image and give its path")
    file = Path(name.removeprefix("file://"))
    file = file if folder is None or file.is_absolute() else folder / file
    try:
        data = file.read_bytes()
    except ValueError as err:  # a NUL in the name
        raise UserError(f"{where}: {name[:80]!r} is no path of a file") from err
    except OSError as err:
        reason = "there is no file" if isinstance(err, FileNotFoundError) else f"cannot read ({err.strerror})"
        raise UserError(f"{where}: {reason} {file}") from err
    return _checked(data, file, where)


def _checked(data: bytes, source: bytes | Path, where: str) -> Image:
    """Return the image. Raise UserError if its bytes are no image that can be decoded."""
    digest = hashlib.sha256(data).hexdigest()
    known = _known.get(key_of(digest))
    if known is not None and known.digest == digest:
        if isinstance(known.source, Path):  # that file may be gone since
            object.__setattr__(known, "source", source)
        return known
    pillow, _ = _pillow()
    name = "" if isinstance(source, bytes) else f" {source}"
    fault = ""
    too_large = f"{where}: the image{name} has more than {MOST_PIXELS // 10**6} million pixels; make it smaller"
    try:
        with pillow.open(io.BytesIO(data), formats=list(_ENDINGS)) as pil_image:
            kind, size = str(pil_image.format), pil_image.size
            if size[0] * size[1] <= MOST_PIXELS:
                pil_image.verify()
        if size[0] * size[1] <= MOST_PIXELS:
            with pillow.open(io.BytesIO(data), formats=list(_ENDINGS)) as pil_image:  # verify() decodes no JPEG
                pil_image.load()
                fault = _fault_of_mode(pil_image)
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as err:
        raise UserError(too_large) from err
    except Exception as err:  # Pillow raises many types
        raise UserError(
            f"{where}: the image{name} is damaged or no image ({len(data)} bytes); {', '.join(_ENDINGS)} can be read"
        ) from err
    if size[0] * size[1] > MOST_PIXELS:
        raise UserError(too_large)
    if fault:
        raise UserError(f"{where}: the image{name} {fault}")
    kind = "JPEG" if kind == "MPO" else kind  # a JPEG with more images after the first, from phones
    return known_image(Image(digest, kind, size, source))


def _fault_of_mode(pil_image: Any) -> str:
    """Return what is wrong with an image that cannot become RGB; "" for others."""
    if pil_image.mode in USUAL_MODES:
        return ""
    try:
        _in_rgb(pil_image)
    except ValueError as err:
        return f"cannot be converted to RGB (Pillow's mode {pil_image.mode}: {err}); convert it to 8 bits per channel"
    return ""


def _in_rgb(pil_image: Any) -> Any:
    """Return an image in RGB, over white where it is transparent. Raise ValueError if this is not possible."""
    pillow, _ = _pillow()
    mode = pil_image.mode
    if mode == "F":
        raise ValueError("no range of its numbers is known")
    if mode.startswith("I"):
        pil_image = _in_8_bits(pil_image)
    if mode in ("La", "RGBa"):  # colors times alpha
        pil_image = pil_image.convert({"La": "LA", "RGBa": "RGBA"}[mode])
    if pil_image.mode in TRANSPARENT_MODES or "transparency" in pil_image.info:
        pil_image = pil_image.convert("RGBA")
        below = pillow.new("RGBA", pil_image.size, "white")
        pil_image = pillow.alpha_composite(below, pil_image)
    return pil_image.convert("RGB")


def _in_8_bits(pil_image: Any) -> Any:
    """Return an image of 16-bit numbers in shades of gray: Pillow's own conversion makes everything above 255 white."""
    import numpy as np  # only for these

    numbers = pil_image.convert("I")
    low, high = numbers.getextrema()
    if low < 0 or high > 0xFFFF:
        raise ValueError(f"numbers from {low} to {high} are not of 16 bits")
    gray = numbers.point(lambda number: number * (1 / 256)).convert("L")
    clear = gray.info.pop("transparency", None)
    if clear is not None:  # a number of 16 bits
        gray.putalpha(_pillow()[0].fromarray(np.where(np.asarray(numbers) == clear, 0, 255).astype(np.uint8)))
    return gray


def _scale_transparency(pil_image: Any) -> None:
    """Scale the transparent color of a PNG to 8 bits, as Pillow does its pixels, but not that color. In RGB of 16 bits,
    colors that are equal in 8 bits count as equal."""
    bits, clear = str(pil_image.tile[0][3]) if pil_image.tile else "", pil_image.info.get("transparency")
    if isinstance(clear, tuple) and "16" in bits:
        pil_image.info["transparency"] = tuple(number >> 8 for number in clear)
    elif isinstance(clear, int) and bits in ("L;2", "L;4"):
        pil_image.info["transparency"] = clear * (85 if bits == "L;2" else 17)


def _pillow() -> tuple[Any, Any]:
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as err:
        raise UserError(f"images need Pillow: {install_extra('vision')}") from err
    return PIL.Image, PIL.ImageOps
