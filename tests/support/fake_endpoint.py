"""A server on loopback that behaves like an OpenAI endpoint, with scripted answers."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from rethink.policies.endpoint.policy import EndpointPolicy
from rethink.seeds import stable_hash
from rethink.settings import Endpoint
from rethink.types import Message, Problem, Prompt, Sampling, Verdict

PATIENCE_S = 20.0
"""The longest that the server holds a request, so broken code fails a test instead of hanging it."""


@dataclass(frozen=True)
class Asked:
    """A request as it arrived, with lower-case header names; `n` counts from 0 in the order of arrival."""

    n: int
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def content(self) -> str:
        return self.body["messages"][-1]["content"]


@dataclass(frozen=True)
class Answer:
    """Status, body (text as it is, everything else as JSON) and headers; or a connection that is cut.

    `pieces` replace the body and are sent one by one. `cut` "before" ends the connection before the headers, "middle"
    within the body or after the pieces. With the header "Connection: close" only the end of the connection
    marks the last piece."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: Literal["", "before", "middle"] = ""
    pieces: Iterable[bytes] | None = None


def completion(content: Any, *, finish_reason: str = "stop", **more: Any) -> Answer:
    """Return a complete answer; its usage is 3 and 5 tokens."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    return Answer(body={"object": "chat.completion", "choices": [choice], "usage": usage, **more})


def event(payload: Any) -> bytes:
    """Return a server-sent event as most servers write it."""
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def chunk(content: Any, finish_reason: str | None = None, index: int = 0) -> bytes:
    """Return an event with a piece of a reply."""
    choice = {"index": index, "delta": {"content": content}, "finish_reason": finish_reason}
    return event({"object": "chat.completion.chunk", "choices": [choice], "usage": None})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}})
DONE = b"data: [DONE]\n\n"


def streamed(*contents: Any, finish_reason: str | None = "stop") -> Answer:
    """Return a reply in these pieces, as vLLM streams it; its usage is 3 and 5 tokens."""
    return Answer(pieces=[chunk(""), *map(chunk, contents), chunk(None, finish_reason), USAGE, DONE])


def refusal(status: int, message: str, *, headers: dict[str, str] | None = None, **more: Any) -> Answer:
    """Return an error in OpenAI's format."""
    return Answer(status, {"error": {"message": message, **more}}, headers or {})


def echo(asked: Asked) -> Answer:
    """Reply with the last message's content and the seed."""
    return completion(f"{asked.content}/{asked.body.get('seed')}")


def at_first(*answers: Answer) -> Callable[[Asked], Answer]:
    """Give these answers to the first requests, and an echo to all others."""
    return lambda asked: answers[asked.n] if asked.n < len(answers) else echo(asked)


class FakeEndpoint:
    """A server that answers by `script`, in a thread per connection. `release` ends the waiting of scripts that `hold`.

    `models` are the names that it lists, if there are any."""

    def __init__(self) -> None:
        self.script: Callable[[Asked], Answer] = echo
        self.asked: list[Asked] = []
        self.models: list[str] = []
        self.max_in_flight = 0
        self.release = threading.Event()
        self._in_flight = 0
        self._lock = threading.Lock()
        self._server = LoopbackServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeEndpoint]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.release.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def hold(self) -> bool:
        """Wait for `release`; return False if it does not come."""
        return self.release.wait(PATIENCE_S)

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Answer:
        with self._lock:
            asked = Asked(len(self.asked), path, headers, body)
            self.asked.append(asked)
            self._in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            return self.script(asked)
        finally:
            with self._lock:
                self._in_flight -= 1


class LoopbackServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the default of 5, connections beyond it come a second late

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


def _handler(endpoint: FakeEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each answer waits for an acknowledgement of its headers

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = endpoint.answer(self.path, headers, body)
            if answer.pieces is not None:
                self._send_pieces(answer, answer.pieces)
            elif answer.cut != "before":
                self._send(answer)
            if answer.cut:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

        def do_GET(self) -> None:
            listed = {"object": "list", "data": [{"id": name, "object": "model"} for name in endpoint.models]}
            self._send(
                Answer(body=listed) if endpoint.models and self.path == "/v1/models" else refusal(404, "nothing")
            )

        def _send(self, answer: Answer) -> None:
            text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
            content = text.encode()
            kind = "text/html" if isinstance(answer.body, str) else "application/json"
            self.send_response(answer.status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if answer.cut else content)

        def _send_pieces(self, answer: Answer, pieces: Iterable[bytes]) -> None:
            chunked = "Connection" not in answer.headers
            self.send_response(answer.status)
            self.send_header("Content-Type", "text/event-stream")
            if chunked:
                self.send_header("Transfer-Encoding", "chunked")
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            for piece in pieces:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            if chunked and not answer.cut:
                self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing: tests read `asked`."""

    return Handler


def make_policy(endpoint: FakeEndpoint | str, **more: Any) -> EndpointPolicy:
    """Return a policy over the server, by default without a key; unless `warn` is given, a warning fails the test."""
    settings: dict[str, Any] = {"url": endpoint if isinstance(endpoint, str) else endpoint.url}
    for name in ("concurrency", "timeout_s", "retries", "key_env"):
        if name in more:
            settings[name] = more.pop(name)
    more.setdefault("key", "")  # not from the environment
    return EndpointPolicy(Endpoint(**settings), "tiny", more.pop("sampling", Sampling(max_tokens=11)), **more)


def make_prompt(question: str, seed: int | None = None) -> Prompt:
    """Return a solve prompt with this question; a reply that repeats it is right."""
    problem = Problem(question, question, question, lambda reply, gold: Verdict(reply == gold))
    return Prompt(problem, "solve", (Message("user", question),), stable_hash(question) if seed is None else seed)


def make_prompts(n: int) -> list[Prompt]:
    return [make_prompt(f"q{i}") for i in range(n)]
