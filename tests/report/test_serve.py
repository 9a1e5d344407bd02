"""The server of `rethink view`, over HTTP on this machine."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from rethink.errors import UserError
from rethink.jsonl import Record, append
from rethink.report.serve import PageServer, Viewer
from support.images import png
from support.report_runs import put_image, sample, training_folder, update_record


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    """A server of a folder with one run."""
    training_folder(tmp_path / "runs" / "one")
    with PageServer(Viewer([tmp_path / "runs"]), "127.0.0.1", 0) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(server: PageServer, path: str, host: str = "localhost", method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request(method, path, headers={"Host": host})
    response = connection.getresponse()
    found = response.status, response.read()
    connection.close()
    return found


def document(server: PageServer, path: str) -> Record:
    status, packed = get(server, path)
    assert status == 200
    return json.loads(gzip.decompress(packed))


def test_new_lines_and_new_runs_change_the_answers(server: PageServer, tmp_path: Path) -> None:
    """Guards against a page that stands still, and runs that change their numbers when another one appears."""
    stamp = get(server, "/api/stamp")
    (run,) = document(server, "/api/document")["runs"]
    assert (run["name"], run["n_updates"]) == ("one", 6)
    assert document(server, "/api/replies?run=0")["n_records"] == 45
    assert get(server, "/api/stamp") == stamp
    append(tmp_path / "runs" / "one" / "metrics.jsonl", [update_record(7)])
    append(tmp_path / "runs" / "one" / "samples.jsonl", [sample("new", "text", 7)])
    training_folder(tmp_path / "runs" / "a-second")
    assert get(server, "/api/stamp") != stamp
    runs = document(server, "/api/document")["runs"]
    assert [(one["name"], one["n_updates"]) for one in runs] == [("one", 7), ("a-second", 6)]
    assert document(server, "/api/replies?run=0")["n_records"] == 46
    assert document(server, "/api/replies?run=1")["n_records"] == 45


def test_a_folder_is_served_before_its_first_record(tmp_path: Path) -> None:
    """Guards against a page that cannot be opened before the run has begun, and one that does not fill later; a path that
    is not there is still a mistake."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    viewer = Viewer([tmp_path / "first", tmp_path / "second"])
    assert viewer.waiting == [tmp_path / "first", tmp_path / "second"]
    assert runs_of(viewer) == []
    training_folder(tmp_path / "second")
    assert viewer.answer("/api/stamp") != Viewer([tmp_path / "first"]).answer("/api/stamp")
    training_folder(tmp_path / "first" / "run")
    assert [(run["name"], run["n_updates"]) for run in runs_of(viewer)] == [("second", 6), ("first/run", 6)]
    with pytest.raises(UserError, match="third is not a folder"):
        Viewer([tmp_path / "first", tmp_path / "third"])


def test_a_folder_that_vanishes_leaves_the_others(tmp_path: Path) -> None:
    """Guards against a page that stops because one of its folders was moved away."""
    training_folder(tmp_path / "one")
    training_folder(tmp_path / "two")
    viewer = Viewer([tmp_path / "one", tmp_path / "two"])
    assert viewer.waiting == []
    (tmp_path / "one").rename(tmp_path / "elsewhere")
    gone, two = runs_of(viewer)
    assert (gone["name"], gone["suites"], two["name"], two["n_updates"]) == ("one", {}, "two", 6)
    (tmp_path / "elsewhere").rename(tmp_path / "one")
    assert [run["n_updates"] for run in runs_of(viewer)] == [6, 6]


def runs_of(viewer: Viewer) -> list[Record]:
    """Return the runs of a page that has just asked whether there is something new."""
    assert viewer.answer("/api/stamp") is not None
    found = viewer.answer("/api/document")
    assert found is not None
    return list(json.loads(gzip.decompress(found[1]))["runs"])


def test_a_line_under_way_is_not_read(server: PageServer, tmp_path: Path) -> None:
    """Guards against an error while the run writes a line."""
    file = tmp_path / "runs" / "one" / "metrics.jsonl"
    with file.open("a") as lines:
        lines.write('{"update": 7, "pha')
    (run,) = document(server, "/api/document")["runs"]
    assert run["n_updates"] == 6


@pytest.mark.parametrize("path", ["/api/replies", "/api/replies?run=1", "/api/replies?run=../x", "/etc/passwd", "//x"])
def test_nothing_else_is_served(server: PageServer, path: str) -> None:
    """Guards against a server of files."""
    assert get(server, path) == (404, b"not found")


def test_images_are_served_by_name(server: PageServer, tmp_path: Path) -> None:
    """Guards against a server of files, files that a browser takes for something else, and pages of the web with our
    images."""
    folder = tmp_path / "runs" / "one"
    red, active = put_image(folder, png("red", (5000, 20))), put_image(folder, b"<svg onload='alert(1)'/>")
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request("GET", f"/api/image?run=0&name={red}")
    response = connection.getresponse()
    shown = Image.open(io.BytesIO(response.read()))
    connection.close()
    assert (response.status, shown.format, shown.size) == (200, "PNG", (2048, 8))
    headers = {name: response.headers[name] for name in ("Content-Type", "X-Content-Type-Options")}
    assert headers == {"Content-Type": "image/png", "X-Content-Type-Options": "nosniff"}
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    status, why = get(server, f"/api/image?run=0&name={active}")
    assert (status, b"no image" in why) == (404, True)
    for name in ("../config.toml", "..%2Fconfig.toml", "%2Fetc%2Fpasswd", f"images%2F{red}", "0" * 24 + ".png", ""):
        assert get(server, f"/api/image?run=0&name={name}")[0] == 404, name
    assert get(server, f"/api/image?run=1&name={red}") == (404, b"not found")
    assert get(server, f"/api/image?run=0&name={red}", host="evil.example")[0] == 403


def test_only_names_of_this_machine_are_answered(server: PageServer) -> None:
    """Guards against a page of the web whose name leads here (DNS rebinding), and against anything but reading."""
    port = server.server_address[1]
    for host, status in (
        ("evil.example", 403),
        (f"evil.example:{port}", 403),
        (f"127.0.0.1:{port}", 200),
        ("[::1]", 200),
    ):
        assert get(server, "/api/stamp", host)[0] == status, host
    assert get(server, "/api/stamp", method="POST")[0] == 501
    _, page = get(server, "/")
    assert b"img-src 'self'; connect-src 'self'" in page
    assert b'type="text/plain" id=' not in page


def test_a_folder_that_cannot_be_read_leaves_the_others(server: PageServer, tmp_path: Path) -> None:
    """Guards against one damaged folder that hides all runs."""
    file = tmp_path / "runs" / "foreign" / "metrics.jsonl"
    file.parent.mkdir()
    file.write_text('{"loss": 1}\n')
    samples = tmp_path / "runs" / "one" / "samples.jsonl"
    samples.write_text("[1]\n")
    one, foreign = document(server, "/api/document")["runs"]
    assert (one["name"], one["n_updates"], foreign["name"], foreign["suites"]) == ("one", 6, "foreign", {})
    assert "foreign: its files are damaged, or of another program or version" in foreign["notes"][0]
    assert document(server, "/api/replies?run=0")["n_records"] == 0
    assert document(server, "/api/replies?run=1")["n_records"] == 0


def test_a_new_run_is_added_once(tmp_path: Path) -> None:
    """Guards against a run that two requests at once both add."""
    training_folder(tmp_path / "one")
    viewer = Viewer([tmp_path])
    for n in range(20):
        (tmp_path / f"new-{n}").mkdir()
        (tmp_path / f"new-{n}" / "metrics.jsonl").touch()
    threads = [threading.Thread(target=viewer.answer, args=("/api/stamp",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(viewer.sources) == 21


def test_a_closed_page_is_no_error(server: PageServer, capfd: pytest.CaptureFixture[str]) -> None:
    """Guards against a traceback for each page that is closed while it loads."""
    for _ in range(5):
        connection = socket.create_connection(("127.0.0.1", server.server_address[1]))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not end
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.close()
    assert get(server, "/api/stamp")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_an_address_of_version_6(server: PageServer) -> None:
    """Guards against `--host ::1`, which this machine allows by name, but could not listen on."""
    try:
        other = PageServer(server.viewer, "::1", 0)
    except UserError:
        pytest.skip("this machine has no IPv6")
    with other:
        assert other.url == f"http://[::1]:{other.server_address[1]}/"


def test_a_port_in_use_is_named(server: PageServer) -> None:
    """Guards against a traceback."""
    with pytest.raises(UserError, match=r"cannot listen on .* choose another --port"):
        PageServer(server.viewer, "127.0.0.1", server.server_address[1])
