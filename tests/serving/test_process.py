"""A server process on loopback with a tiny model, and the real openai client."""

from __future__ import annotations

import http.client
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from support.processes import exit_code, wait_for
from support.serving_process import Running, start_server

pytestmark = pytest.mark.slow

QUESTION: list[Any] = [{"role": "user", "content": "1 2 3 -> 6 ; 4 5 6 -> 15 ; 7 8 9 -> 24"}]
SIGNS = "tiny-signs", "--recipe", "demo-gsr"

LONG = "model.random=true", "evaluation.sampling.max_tokens=200"
"""Settings with which replies are long: one token of 118 ends a reply of random weights."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_server(tmp_path_factory.mktemp("server"), *SIGNS, "evaluation.sampling.max_tokens=150")
    yield running
    running.process.terminate()
    assert exit_code(running.process) == 0
    assert running.log.read_text().count("stopping") == 1


def test_the_openai_client(server: Running) -> None:
    """Guards against answers that the real client cannot read: completions, choices, usage, streams, models."""
    client = server.client()
    assert [model.id for model in client.models.list()][:2] == ["tiny-signs+refine", "tiny-signs"]
    asked: dict[str, Any] = {"model": "tiny-signs+refine", "messages": QUESTION, "seed": 7, "n": 2, "max_tokens": 60}
    whole = client.chat.completions.create(**asked)
    assert len(whole.choices) == 2
    assert whole.usage is not None
    passes = (whole.usage.model_extra or {})["passes"]
    assert {one["phase"] for one in passes} == {"solve", "refine"}
    assert sum(one["completion_tokens"] for one in passes) == whole.usage.completion_tokens
    texts, reasons = ["", ""], ["", ""]
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] += (choice.delta.model_extra or {}).get("reasoning_content", "")
        if not chunk.choices:
            assert chunk.usage == whole.usage
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [(choice.message.model_extra or {})["reasoning_content"] for choice in whole.choices]
    assert all(reason.startswith("Draft:\n") for reason in reasons)


def test_errors_that_the_openai_client_knows(server: Running) -> None:
    """Guards against errors that the client cannot tell apart."""
    create: Any = server.client().chat.completions.create
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        create(model="gpt-4", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        create(model="tiny-signs", messages=QUESTION, tools=[{"type": "function", "function": {"name": "f"}}])
    long = [{"role": "user", "content": "1 " * 600}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as found:
            create(model="tiny-signs", messages=long, stream=stream)
        assert found.value.code == "context_length_exceeded"
        assert re.search(r"a prompt has at most \d+ tokens here", str(found.value))


def test_a_stop_string_ends_a_reply(server: Running) -> None:
    """Guards against text after a stop string, in a stream, too, and against tokens that nobody wanted."""
    create: Any = server.client().chat.completions.create
    asked = {"model": "tiny-signs", "messages": QUESTION, "temperature": 0}
    whole = create(**asked)
    words = whole.choices[0].message.content.split()
    stop = words[3]
    before = whole.choices[0].message.content.partition(stop)[0]
    cut = create(**asked, stop=[stop])
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (before, "stop")
    assert cut.usage.completion_tokens < whole.usage.completion_tokens
    pieces = [chunk.choices[0].delta.content or "" for chunk in create(**asked, stop=[stop], stream=True)]
    assert "".join(pieces) == before


def test_fifty_streams_at_once(server: Running) -> None:
    """Guards against replies that depend on other requests: each equals the reply to the same request alone."""
    client = server.client()
    create: Any = client.chat.completions.create
    models = ["tiny-signs", "tiny-signs+refine", "tiny-signs+merge:3"]

    def ask(k: int) -> str:
        asked = {"model": models[k % 3], "messages": QUESTION, "seed": k % 10, "temperature": (0, 0.7, 1)[k % 3]}
        text = ""
        for chunk in create(**asked, stream=True):
            delta = chunk.choices[0].delta
            text += (delta.model_extra or {}).get("reasoning_content", "") + (delta.content or "")
        return text

    with ThreadPoolExecutor(50) as threads:
        together = list(threads.map(ask, range(50)))
    alone = [ask(k) for k in range(30)]
    assert together == [alone[k % 30] for k in range(50)]
    assert len(set(alone)) > 15
    wait_for(lambda: server.metric("rethink_choices") == 0, 60)


def test_an_idle_connection_stays_open(server: Running) -> None:
    """Guards against a server that closes a connection just when a client sends a request on it: the connection is used
    again after the 5 seconds for which clients keep one."""
    address = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", "/v1/models")
    assert connection.getresponse().read()
    used = connection.sock
    time.sleep(6)
    connection.request("GET", "/v1/models")
    assert connection.getresponse().status == 200
    assert connection.sock is used
    connection.close()


def test_a_client_that_leaves_stops_its_reply(tmp_path: Path) -> None:
    """Guards against decoding for nobody: 8 choices with 10 long passes each are left after the first event, and others
    before it."""
    server = start_server(tmp_path, *SIGNS, *LONG)
    body: dict[str, Any] = {"model": "tiny-signs+refine:9", "messages": QUESTION, "n": 8}
    url = f"{server.url}/v1/chat/completions"
    try:
        with httpx2.Client(trust_env=False, timeout=60) as client:
            with client.stream("POST", url, json={**body, "stream": True}) as answer:
                lines = answer.iter_lines()  # closing it closes the connection
                next(lines)
                assert server.metric("rethink_choices") == 8
            wait_for(lambda: server.metric("rethink_choices") == 0, 60)
            with pytest.raises(httpx2.ReadTimeout):
                client.post(url, json=body, timeout=1)
            wait_for(lambda: server.metric("rethink_choices") == 0, 60)
        wait_for(lambda: server.metric("rethink_engine_running") == 0, 60)
        assert server.metric('rethink_requests_total{status="499",strategy="other"}') == 2
        assert "rethink_replies_total{" not in httpx2.get(f"{server.url}/metrics", trust_env=False).text
    finally:
        server.process.terminate()
        assert exit_code(server.process) == 0


def test_a_key_and_a_full_queue(tmp_path: Path) -> None:
    """Guards against a server that ignores its key, or queues without a limit. Two choices run or wait; the next request is
    refused, and the client of openai, which knows Retry-After, repeats it until it is answered."""
    options = "--concurrency", 1, "--queue", 1, "--api-key-env", "SERVE_KEY", *LONG
    server = start_server(tmp_path, *SIGNS, *options, environment={"SERVE_KEY": "a-long-key"})
    try:
        with pytest.raises(openai.AuthenticationError):
            server.client("wrong").models.list()
        create: Any = server.client("a-long-key").chat.completions.create
        asked = {"model": "tiny-signs+refine:6", "messages": QUESTION}
        streams = [create(**asked, stream=True)]
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(create, **asked)
            wait_for(lambda: server.metric("rethink_choices", "a-long-key") == 2, 60)
            with pytest.raises(openai.RateLimitError):
                create(**asked)
            patient: Any = server.client("a-long-key").with_options(max_retries=50).chat.completions.create
            assert patient(**asked, max_tokens=1).choices[0].finish_reason == "length"
            assert waiting.result().choices
        assert [chunk.choices[0].finish_reason for chunk in streams[0]][-1] in ("stop", "length")
        assert "a-long-key" not in server.log.read_text()
    finally:
        server.process.terminate()
        exit_code(server.process)


def test_sigterm_lets_running_requests_end(tmp_path: Path) -> None:
    """Guards against replies that are lost when a server is stopped: the running stream ends, and then the process."""
    server = start_server(tmp_path, *SIGNS, *LONG)
    create: Any = server.client().chat.completions.create
    begun = threading.Event()
    reasons: list[str] = []

    def ask() -> None:
        asked = {"model": "tiny-signs+refine:4", "messages": QUESTION, "stream": True}
        for chunk in create(**asked):
            begun.set()
            reasons.extend(filter(None, [chunk.choices[0].finish_reason]))

    thread = threading.Thread(target=ask)
    thread.start()
    assert begun.wait(60)
    assert server.process.pid
    os.kill(server.process.pid, signal.SIGTERM)
    thread.join(120)
    assert reasons in (["stop"], ["length"])
    assert exit_code(server.process, 60) == 0
    with pytest.raises(openai.APIConnectionError):
        create(model="tiny-signs", messages=QUESTION)
