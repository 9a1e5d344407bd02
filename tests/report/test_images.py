"""The images on the page: which it holds, in which form, and what never reaches it."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from rethink.jsonl import append
from rethink.report.folders import Source, find_sources
from rethink.report.images import SIDE, ImageShelf, NoImageError
from rethink.report.page import write_page, write_report
from rethink.report.replies import Limits, ReplyTable
from support.images import png
from support.report_runs import answer, embedded, put_image, sample, step, training_folder

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="window.hacked = 5"><script>window.hacked = 6</script></svg>'
ELEMENT = re.compile(r'<script type="text/plain" id="image-([^"]*)" data-(\w+)="([^"]*)">([^<]*)</script>')


def folder_with(path: Path, *images: str) -> Path:
    """A training run with one evaluated question about these images."""
    run = training_folder(path, n_answers=0)
    reply = step("solve", "a", "right")
    append(path / "eval" / "000006.jsonl", [answer("p", reply, reply, images=list(images))])
    return run.path


def elements(page: str) -> dict[str, tuple[str, str, bytes]]:
    """Return the elements of a page that hold images: by name, an attribute, its value, and the file."""
    found = ELEMENT.findall(page)
    assert len(found) == page.count('id="image-')
    assert len({name for name, *_ in found}) == len(found)
    return {name: (key, value, base64.b64decode(text)) for name, key, value, text in found}


def pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_each_image_is_on_the_page_once(tmp_path: Path) -> None:
    """Guards against a copy for each reply or run, and against drawings that lose their pixels."""
    red, blue = (put_image(tmp_path / "a", png(color)) for color in ("red", "blue"))
    put_image(tmp_path / "b", png("red"))
    folder_with(tmp_path / "a", red, blue, red)
    folder_with(tmp_path / "b", red)
    page = write_page(find_sources([tmp_path]), tmp_path / "out.html").read_text()
    found = elements(page)
    assert list(found) == [red, blue]
    for name, color in ((red, "red"), (blue, "blue")):
        key, kind, data = found[name]
        assert (key, kind) == ("type", "image/png")
        assert pixels(data) == pixels(png(color))
    first, second = embedded(page, "replies-0"), embedded(page, "replies-1")
    assert (first["images"], first["rows"]["images"][0]) == ([red, blue], [0, 1, 0])
    assert (second["images"], second["rows"]["images"][0]) == ([red], [0])
    assert set(map(str, first["rows"]["images"][1:])) == {"None"}


def test_a_photo_becomes_small_and_says_nothing_of_its_place(tmp_path: Path) -> None:
    """Guards against pages of megabytes per photo, and against places and comments of photos in a page that is shared."""
    photo = Image.effect_noise((1500, 1000), 60).convert("RGB")
    exif = Image.Exif()
    exif[0x010E] = "secret description"
    stream = io.BytesIO()
    photo.save(stream, "JPEG", exif=exif, comment=b"secret comment", icc_profile=b"secret profile")
    assert stream.getvalue().count(b"secret") == 3
    name = put_image(tmp_path, stream.getvalue(), "jpg")
    found = ImageShelf().get(tmp_path, name)
    assert found.kind == "image/jpeg"
    assert b"secret" not in found.data
    assert Image.open(io.BytesIO(found.data)).size == (SIDE, round(SIDE * 2 / 3))
    noise = io.BytesIO()
    photo.save(noise, "PNG")
    assert ImageShelf(side=600).get(tmp_path, put_image(tmp_path, noise.getvalue())).kind == "image/jpeg"


def test_a_page_has_room_for_so_many_images(tmp_path: Path) -> None:
    """Guards against a page that no browser opens, and against images that are left out in silence."""
    names = [put_image(tmp_path, png("red", (10 + n, 10))) for n in range(5)]
    folder_with(tmp_path, *names)
    each = [len(base64.b64encode(ImageShelf().get(tmp_path, name).data)) for name in names]
    limits = Limits(n_image_letters=sum(each[:3]) + each[3] - 1)
    page = write_page([Source(tmp_path, "run")], tmp_path / "out.html", limits).read_text()
    assert [key for key, *_ in elements(page).values()] == ["type"] * 3 + ["note"] * 2
    assert "no room for more images" in elements(page)[names[4]][1]
    assert embedded(page, "replies-0")["n_images_left_out"] == 2
    assert limits.share(3).n_image_letters == limits.n_image_letters // 3
    whole = write_report(training_folder(tmp_path / "other").path).read_text()
    assert embedded(whole, "replies-0")["n_images_left_out"] == 0


def test_what_is_no_image_never_reaches_the_page(tmp_path: Path) -> None:
    """Guards against a drawing that runs scripts, files outside the folder, and files that are not those of the run."""
    active = put_image(tmp_path, SVG)
    cut = put_image(tmp_path, png()[:60])
    changed = put_image(tmp_path, png("red"))
    (tmp_path / "images" / changed).write_bytes(png("blue"))
    missing = "0" * 24 + ".png"
    text = hashlib.sha256((tmp_path / "images" / active).read_bytes()).hexdigest()[:24] + ".svg"
    (tmp_path / "images" / text).write_bytes(SVG)
    odd = ["../config.toml", "/etc/passwd", '"><script>window.hacked = 7</script>', "", "a" * 24 + "/x.png"]
    folder_with(tmp_path, active, cut, changed, missing, text, *odd)
    page = write_page([Source(tmp_path, "run")], tmp_path / "out.html").read_text()
    found = elements(page)
    assert {name: key for name, (key, *_) in found.items()} == dict.fromkeys(
        [active, cut, changed, missing, text], "note"
    )
    notes = [value for _, value, _ in found.values()]
    for note, words in zip(notes, ("no image", "no image", "has changed", "is missing", "no image"), strict=True):
        assert words in note
    assert str(tmp_path) not in "".join(notes)
    assert "window.hacked" not in page
    assert embedded(page, "replies-0")["n_images_left_out"] == 0
    for name in (*odd, "\ud800"):
        with pytest.raises(NoImageError, match="no valid name"):
            ImageShelf().get(tmp_path, name)


def test_an_image_is_decoded_once_for_all_pages_of_a_run(tmp_path: Path) -> None:
    """Guards against a run that spends its time on its page, and against a shelf that grows with the run."""
    names = [put_image(tmp_path, png("red", (10 + n, 10))) for n in range(4)]
    shelf = ImageShelf()
    first = shelf.get(tmp_path, names[0])
    (tmp_path / "images" / names[0]).unlink()
    assert shelf.get(tmp_path, names[0]) is first
    small = ImageShelf(most_bytes=1)
    held: Sequence[object] = [small.get(tmp_path, name) for name in names[1:]]
    assert small.get(tmp_path, names[3]) is held[2]
    assert small.get(tmp_path, names[1]) is not held[0]


def test_a_shelf_drops_what_was_not_used_for_longest(tmp_path: Path) -> None:
    """Guards against a shelf that forgets images in use, that keeps more than its limit, or that loses count of it when
    threads of the server ask for the same image at once."""
    names = [put_image(tmp_path, png("red", (10 + n, 10))) for n in range(4)]
    sizes = [len(ImageShelf().get(tmp_path, name).data) for name in names]
    shelf = ImageShelf(most_bytes=sum(sizes) - 1)
    for name in (*names[:3], names[0], names[3]):
        shelf.get(tmp_path, name)
    assert list(shelf._known) == [names[2], names[0], names[3]]
    many = ImageShelf(most_bytes=sum(sizes) - 1)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: many.get(tmp_path, names[n % 4]), range(64)))
    assert [image.data for image in found[:4]] == [ImageShelf().get(tmp_path, name).data for name in names]
    assert many._n_bytes == sum(len(image.data) for image in many._known.values()) <= many.most_bytes


def test_images_stay_with_their_turns() -> None:
    """Guards against an image in another turn than the model saw it in, and marks of models that become images."""
    table = ReplyTable(Limits())
    turns = [["user", "<image> or <image>?", "b.png", "a.png"], ["assistant", "<image>"], ["user", "again"]]
    table.add_sample(
        sample("p", "new", 3, phase="refine", prompt=turns, draft_verdict="wrong", images=["a.png", "b.png"])
    )
    found = table.data(1)
    assert found["images"] == ["b.png", "a.png"]
    assert found["rows"]["images"] == [[1, 0]]
    shown = found["replies"]["prompt"][found["rows"]["final"][0]]
    assert [(role, found["texts"][text], images) for role, text, *images in shown] == [
        ("user", "<image> or <image>?", [0, 1]),
        ("assistant", "<image>", []),
        ("user", "again", []),
    ]
