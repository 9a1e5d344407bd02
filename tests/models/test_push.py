"""Models are pushed to the hub whole, to the right repository, and nothing there is replaced unasked."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from rethink.errors import UserError
from rethink.models.push import Repository, find_repository, push
from support.hub_server import TOKEN, HubServer, use_hub

# The library sends files in a way that its HTTP client calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer().running() as server:
        use_hub(monkeypatch, server.url)
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder; its bytes do not matter here."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "README.md").write_text("---\ntags:\n- rethink\n---\n\n# model\n")
    (made / "config.json").write_text("{}\n")
    (made / "model.safetensors").write_bytes(bytes(range(256)) * 11)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_bytes_arrive(hub: HubServer, folder: Path) -> None:
    """Guards against files that are left out or garbled, a repository of another user, a token that goes to storage, and
    another visibility than the one asked for."""
    found = find_repository("model")
    assert (found.name, found.exists, hub.files) == ("someone/model", False, {})
    assert TOKEN not in repr(found)
    assert push(folder, found, False, "a message") == f"{hub.url}/someone/model"
    assert hub.files == {"someone/model": {".gitattributes": b"", **contents(folder)}}
    push(folder, find_repository("team/other"), True, "another")
    assert hub.files["team/other"] == hub.files["someone/model"]
    assert hub.private == {"someone/model": False, "team/other": True}
    assert hub.messages == ["a message", "another"]
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_a_repository_with_files_is_replaced_only_if_asked(hub: HubServer, folder: Path) -> None:
    """Guards against a lost model, and against weights in shards, an adapter, a chat template or an image processor of the
    older model next to the new one."""
    old = {".gitattributes": b"", "model-00001-of-00002.safetensors": b"1", "model.safetensors.index.json": b"{}"}
    for name in ("adapter_config.json", "chat_template.jinja", "preprocessor_config.json", "processor_config.json"):
        old[name] = b"{}"
    hub.files = {"someone/model": {**old, "notes.txt": b"mine"}, "someone/empty": {".gitattributes": b""}}
    with pytest.raises(UserError, match=r"someone/model already has files .*--exist-ok"):
        find_repository("model")
    assert hub.files["someone/model"] == {**old, "notes.txt": b"mine"}
    push(folder, find_repository("someone/empty"), False, "m")  # as after a command that was killed
    push(folder, find_repository("model", exist_ok=True), False, "m")
    assert hub.files["someone/empty"] == {".gitattributes": b"", **contents(folder)}
    assert hub.files["someone/model"] == {".gitattributes": b"", "notes.txt": b"mine", **contents(folder)}
    assert "POST /api/repos/create" not in hub.asked


def test_a_private_model_never_goes_to_a_public_repository(hub: HubServer, folder: Path) -> None:
    """Guards against --private without effect: the visibility of a repository that exists is not changed."""
    hub.files = {"someone/open": {".gitattributes": b""}, "someone/closed": {".gitattributes": b""}}
    hub.private = {"someone/open": False, "someone/closed": True}
    with pytest.raises(
        UserError, match=r"--private: the repository someone/open exists and is public; .* another name"
    ):
        find_repository("open", exist_ok=True, private=True)
    push(folder, find_repository("closed", private=True), True, "m")
    assert hub.files["someone/open"] == {".gitattributes": b""}
    assert hub.files["someone/closed"] == {".gitattributes": b"", **contents(folder)}


REFUSALS = {
    "whoami": (401, "the hub refused the token: run `hf auth login`, or set HF_TOKEN"),
    "/api/models/someone/model": (403, "does not let this token read someone/model"),
    "/create": (403, "refused to create someone/model; may this token write there"),
    "/preupload/": (403, "the upload to someone/model failed; the same command with --exist-ok continues it"),
    "/storage": (403, "the upload to someone/model failed"),
    "/commit": (403, "the upload to someone/model failed"),
}


@pytest.mark.parametrize("word", REFUSALS)
def test_refusals_say_what_to_do(hub: HubServer, folder: Path, word: str) -> None:
    """Guards against a traceback of a library, and against a token in a message: this server's errors repeat it."""
    status, message = REFUSALS[word]
    hub.refuse = {word: status}
    with pytest.raises(UserError, match=message) as refused:
        push(folder, find_repository("model"), False, "m")
    assert TOKEN not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_nothing_is_tried_without_token_network_or_name(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against minutes of retries, and against a push that fails only after the model was exported."""
    for name, message in (
        ("a/b/c", "--push: Repo id must be in the form"),
        ("my model", "--push: Repo id must use"),
        (TOKEN, "takes the name of a repository, not a token"),
    ):
        with pytest.raises(UserError, match=message) as refused:
            find_repository(name)
        assert TOKEN not in str(refused.value)
    with monkeypatch.context() as patched:
        patched.setenv("HF_TOKEN", "")
        with pytest.raises(UserError, match="cannot push without a token: run `hf auth login`, or set HF_TOKEN"):
            find_repository("model")
    with monkeypatch.context() as patched:
        patched.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(UserError, match=r"HF_HUB_OFFLINE .* is set"):
            find_repository("model")
    assert hub.asked == []
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # nobody listens
        use_hub(monkeypatch, f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(UserError, match=r"cannot push: the hub \(http://127.0.0.1:\d+\) cannot be reached"):
            find_repository("model")


def test_a_token_is_not_shown() -> None:
    """Guards against a token in a log of objects."""
    assert TOKEN not in repr(Repository("a/b", True, TOKEN))
