"""Images in requests: a server process with a tiny vision-language model, and the real openai client."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from rethink.serving.api_error import ApiError
from rethink.serving.chat_request import read_chat_request
from rethink.serving.limits import Limits
from rethink.types import Message
from support.images import png
from support.processes import exit_code
from support.serving_process import Running, start_server
from support.vision_models import save_vision_model


def part(color: str, data: bytes | None = None) -> dict[str, Any]:
    text = base64.b64encode(png(color) if data is None else data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}", "detail": "high"}}


def words(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def ask(*parts: dict[str, Any]) -> Any:
    return [{"role": "user", "content": list(parts)}]


def read(messages: Any, limits: Limits | None = None) -> Message:
    return read_chat_request(json.dumps({"messages": messages}).encode(), limits or Limits()).question


def test_numbered_marks_are_words() -> None:
    """Guards against an image that stands where a client's text only speaks of it, and an error of the server."""
    found = read(ask(part("red"), part("blue"), words("Is <image 1> or <image_2> larger?")))
    assert found.content == "Is image 1 or image 2 larger?"
    assert [image.read() for image in found.images] == [png("red"), png("blue")]
    assert read([{"role": "user", "content": "What is <image>?"}]) == Message("user", "What is <image>?")


def test_a_request_has_so_many_images() -> None:
    """Guards against a small body that keeps the server decoding for minutes."""
    parts = [part("red")] * 3
    assert len(read(ask(*parts, words("?")), Limits(max_images=3)).images) == 3
    with pytest.raises(ApiError, match="at most 2 images"):
        read(ask(*parts, words("?")), Limits(max_images=2))
    with pytest.raises(ApiError, match="at most 2 images"):
        read([*ask(parts[0], words("?")), *ask(*parts[1:], words("?"))], Limits(max_images=2))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("server")
    model = save_vision_model(folder / "model", "Idefics3")
    settings = "model.device=cpu", "prompts.solve={question}", "evaluation.sampling.max_tokens=12"
    running = start_server(folder, model, "--name", "vlm", "--max-body", 400_000, *settings)
    yield running
    running.process.terminate()
    assert exit_code(running.process) == 0


@pytest.mark.slow
def test_the_openai_client_sends_images(server: Running) -> None:
    """Guards against images that are dropped, mixed up, or shown to another request: replies depend on images and order."""
    create: Any = server.client().chat.completions.create

    def reply(*parts: dict[str, Any]) -> str:
        found = create(model="vlm", messages=ask(*parts), temperature=0)
        return f"{found.usage.prompt_tokens} {found.choices[0].message.content}"

    red, blue, text = part("red"), part("blue"), words("What color?")
    replies = [reply(text), reply(red, text), reply(blue, text), reply(red, blue, text), reply(blue, red, text)]
    assert len(set(replies)) == 5
    assert reply(red, blue, text) == replies[3]
    chunks = create(model="vlm", messages=ask(red, blue, text), temperature=0, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert replies[3].partition(" ")[2] == streamed


@pytest.mark.slow
def test_images_that_are_refused(server: Running) -> None:
    """Guards against a server that fetches addresses or reads files for its clients, and images that fill its memory."""
    create: Any = server.client().chat.completions.create
    for url in ("http://169.254.169.254/latest", "https://example.org/a.png", "file:///etc/passwd", "/etc/passwd"):
        with pytest.raises(openai.BadRequestError, match="fetches no addresses and no files") as found:
            create(model="vlm", messages=ask({"type": "image_url", "image_url": {"url": url}}, words("?")))
        assert found.value.param == "messages[0].content"
    stream = io.BytesIO()
    Image.new("1", (8000, 6000)).save(stream, "PNG")
    assert len(stream.getvalue()) < 100_000
    with pytest.raises(openai.BadRequestError, match="more than 40 million pixels"):
        create(model="vlm", messages=ask(part("", stream.getvalue()), words("?")))
    with pytest.raises(openai.BadRequestError, match="damaged or no image"):
        create(model="vlm", messages=ask(part("", b"<svg/>"), words("?")))
    noise = io.BytesIO()
    Image.effect_noise((800, 600), 60).save(noise, "PNG")
    with pytest.raises(openai.APIStatusError, match="the server's --max-body") as large:
        create(model="vlm", messages=ask(part("", noise.getvalue()), words("?")))
    assert large.value.status_code == 413
    assert create(model="vlm", messages=ask(part("red"), words("?"))).choices


@pytest.mark.slow
def test_a_text_model_says_that_it_takes_no_images(tmp_path: Path) -> None:
    """Guards against questions that are answered without their images."""
    running = start_server(tmp_path, "tiny-signs", "--recipe", "demo-gsr")
    try:
        create: Any = running.client().chat.completions.create
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="takes none: it has no vision tower"):
                list(create(model="tiny-signs", messages=ask(part("red"), words("1 2 -> 3")), stream=stream))
    finally:
        running.process.terminate()
        exit_code(running.process)
