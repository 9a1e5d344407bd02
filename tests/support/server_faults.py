"""A corpus of faults of OpenAI-compatible servers, and a server on loopback that commits them.

`faulty_server` answers correctly, except for the requests that `when` chooses: those get the fault. `FAULTS` says what must
become of a prompt whose request fails once and is answered when it is repeated.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal

from support.fake_endpoint import LoopbackServer

HOLD_S = 20.0
"""The longest that the server keeps a silent connection, so broken code fails a test instead of hanging it."""

Outcome = Literal["answered", "not graded", "skipped", "cut", "empty", "error"]
"""What a prompt is after one fault: answered by a retry or by the odd answer itself; recorded without a grade, with the
reason; over-long; a reply that is cut or empty; or a message that ends the command at once."""


@dataclass(frozen=True)
class Connection:
    """An open connection on which a request has arrived; `reply` is the right answer to it."""

    handler: BaseHTTPRequestHandler
    reply: str
    released: threading.Event

    def send(self, data: bytes) -> None:
        self.handler.wfile.write(data)
        self.handler.wfile.flush()

    def hold(self) -> None:
        self.released.wait(HOLD_S)

    def reset(self) -> None:
        """End the connection with a reset instead of an orderly close."""
        self.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.handler.connection.close()


Fault = Callable[[Connection], None]


def http(status: int, content: bytes, headers: dict[str, str] | None = None) -> bytes:
    """Return a whole answer of HTTP."""
    given = {"Content-Type": "application/json", "Content-Length": str(len(content)), "Connection": "close"}
    lines = [f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in (given | (headers or {})).items() if v)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def completion(reply: Any, **more: Any) -> dict[str, Any]:
    """Return a right body; `more` replaces parts of its choice, and "usage" its usage."""
    usage = more.pop("usage", {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8})
    choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop", **more}
    return {"object": "chat.completion", "choices": [choice], "usage": usage}


def with_status(status: int, message: str = "no", headers: dict[str, str] | None = None, **more: Any) -> Fault:
    content = json.dumps({"error": {"message": message, **more}}).encode()
    return lambda c: c.send(http(status, content, headers))


def with_content(content: bytes, headers: dict[str, str] | None = None) -> Fault:
    return lambda c: c.send(http(200, content, headers))


def with_body(make: Callable[[str], Any]) -> Fault:
    """Return a fault that answers with this body, made from the right reply."""
    return lambda c: c.send(http(200, json.dumps(make(c.reply)).encode()))


def with_reply(reply: Any = "ha", **more: Any) -> Fault:
    return with_body(lambda _: completion(reply, **more))


def right(**more: Any) -> Fault:
    """Return an answer with the right reply, which is odd only in these parts."""
    return with_body(lambda reply: completion(reply, **more))


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def hang(c: Connection) -> None:
    c.hold()


def hang_in_the_body(c: Connection) -> None:
    c.send(HEAD + b'Content-Length: 999\r\n\r\n{"choices": ')
    c.hold()


def drip(c: Connection) -> None:
    c.send(HEAD + b"Content-Length: 999999\r\n\r\n")
    until = time.monotonic() + HOLD_S
    while time.monotonic() < until and not c.released.wait(0.02):
        c.send(b" ")


def drip_headers(c: Connection) -> None:
    c.send(HEAD)
    until = time.monotonic() + HOLD_S
    while time.monotonic() < until and not c.released.wait(0.02):
        c.send(b"X-Wait: 1\r\n")


def without_end(c: Connection) -> None:
    c.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    block = b"10000\r\n" + b" " * 65536 + b"\r\n"
    for _ in range(2000):
        c.send(block)


def reset_in_the_body(c: Connection) -> None:
    c.send(HEAD + b'Content-Length: 999\r\n\r\n{"choices": ')
    time.sleep(0.02)
    c.reset()


def gzip_bomb(c: Connection) -> None:
    c.send(http(200, gzip.compress(b" " * 100_000_000, 1), {"Content-Encoding": "gzip"}))


def compressed(c: Connection) -> None:
    content = gzip.compress(json.dumps(completion(c.reply)).encode())
    c.send(http(200, content, {"Content-Encoding": "gzip"}))


def until_the_end_of_the_connection(c: Connection) -> None:
    c.send(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + json.dumps(completion(c.reply)).encode())


def past_date(c: Connection) -> None:
    with_status(429, "slow", {"Retry-After": formatdate(time.time() - 3600, usegmt=True)})(c)


def redirect(status: int, target: str) -> Fault:
    return lambda c: c.send(http(status, b"", {"Location": target}))


def out_of_order(reply: str) -> dict[str, Any]:
    body = completion(reply)
    body["choices"] = [{**body["choices"][0], "index": 1, "message": {"content": "other"}}, *body["choices"]]
    return body


FILTER = "The response was filtered due to the prompt triggering the content management policy"
TOO_LONG = "This model's maximum context length is 9 tokens. However, your messages resulted in 17 tokens."
TOO_LONG_A_REPLY = (
    "'max_tokens' is too large: 9. This model's maximum context length is 9 and your request has 3 input tokens"
)

TRANSPORT: dict[str, tuple[Outcome, Fault]] = {
    "closed at once": ("answered", lambda c: None),
    "reset at once": ("answered", Connection.reset),
    "reset in the body": ("answered", reset_in_the_body),
    "closed in the headers": ("answered", lambda c: c.send(b"HTTP/1.1 200 OK\r\nContent-Ty")),
    "closed in the body": ("answered", lambda c: c.send(HEAD + b'Content-Length: 999\r\n\r\n{"choices": ')),
    "hangs": ("answered", hang),
    "hangs in the body": ("answered", hang_in_the_body),
    "drips the body": ("answered", drip),
    "drips headers": ("answered", drip_headers),
    "no HTTP": ("answered", lambda c: c.send(b"\x16\x03\x01 garbage\r\n\r\n")),
    "garbage chunks": ("answered", lambda c: c.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n")),
    "a chunk without end": ("answered", lambda c: c.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\nfffffff\r\n{")),
    "a negative length": ("answered", lambda c: c.send(HEAD + b"Content-Length: -5\r\n\r\n{}")),
    "two lengths": ("answered", lambda c: c.send(HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}")),
    "endless headers": ("answered", lambda c: c.send(HEAD + b"X-Y: " + b"z" * 1_000_000)),
    "a body without end": ("answered", without_end),
    "a compression bomb": ("answered", gzip_bomb),
    "compressed": ("answered", compressed),
    "compressed garbage": ("answered", with_content(b"garbage", {"Content-Encoding": "gzip"})),
    "compressed in an unknown way": ("answered", with_content(b"garbage", {"Content-Encoding": "zstd"})),
    "HTTP/1.0 without a length": ("answered", until_the_end_of_the_connection),
}

STATUSES: dict[str, tuple[Outcome, Fault]] = {
    "204": ("answered", lambda c: c.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")),
    "302 to nowhere": ("answered", redirect(302, "http://127.0.0.1:9/")),
    "307 to nowhere": ("answered", redirect(307, "http://127.0.0.1:9/")),
    "307 to itself": ("answered", redirect(307, "/v1/chat/completions")),
    "308 without a target": ("error", lambda c: c.send(http(308, b""))),
    "400 content filter": ("not graded", with_status(400, FILTER, code="content_filter")),
    "400 over-long": ("skipped", with_status(400, TOO_LONG)),
    "400 too long with its reply": ("not graded", with_status(400, TOO_LONG_A_REPLY)),
    "400 cut in thinking": ("cut", with_status(400, "Could not finish: max_tokens or model output limit was reached.")),
    "400 temperature": ("error", with_status(400, "temperature must be 1", param="temperature")),
    "400 model": ("error", with_status(400, "Model Not Exist")),
    "401": ("error", with_status(401)),
    "402": ("error", with_status(402, "Insufficient Balance")),
    "403": ("error", with_status(403)),
    "403 moderation": ("not graded", with_status(403, "your input was flagged by moderation")),
    "404": ("error", with_status(404)),
    "405 HTML": ("error", lambda c: c.send(http(405, b"<h1>nginx</h1>", {"Content-Type": "text/html"}))),
    "413": ("not graded", with_status(413)),
    "422": ("not graded", with_status(422)),
    "451": ("not graded", with_status(451)),
    "429": ("answered", with_status(429)),
    "429 in seconds": ("answered", with_status(429, headers={"Retry-After": "1"})),
    "429 garbage": ("answered", with_status(429, headers={"Retry-After": "soon"})),
    "429 negative": ("answered", with_status(429, headers={"Retry-After": "-1"})),
    "429 NaN": ("answered", with_status(429, headers={"Retry-After": "nan"})),
    "429 past date": ("answered", past_date),
    "429 tomorrow": ("error", with_status(429, "quota", headers={"Retry-After": "86400"})),
    **{f"{n}": ("answered", with_status(n)) for n in (408, 409, 500, 503, 504, 524, 529)},
    "502 HTML": ("answered", lambda c: c.send(http(502, b"<h1>Bad</h1>", {"Content-Type": "text/html"}))),
    "500 empty": ("answered", lambda c: c.send(http(500, b""))),
    "600": ("answered", with_status(600)),
    "503 terminal escapes": ("answered", with_status(503, "\x1b[31mred\x07\u202e")),
}

UNFINISHED: tuple[Any, ...] = ("error", "abort", "cancelled", None, "", [])
UNKNOWN: tuple[Any, ...] = ("content_filter", "repetition", 7)
COMPLETE: tuple[Any, ...] = ("eos", "stop_sequence", "STOP", {"type": "stop"})
NO_COUNTS: tuple[Any, ...] = (10**400, -1, "many", None, True, 1.5, [], float("nan"), float("inf"))

BODIES: dict[str, tuple[Outcome, Fault]] = {
    "HTML": ("answered", with_content(b"<html>soon back</html>", {"Content-Type": "text/html"})),
    "HTML as JSON": ("answered", with_content(b"<html>soon back</html>")),
    **{
        f"body {content[:9]!r}": ("answered", with_content(content))
        for content in (
            b"",
            b"null",
            b"7",
            b'"text"',
            b"[]",
            b"{}",
            b"[[]]",
            b'{"choices',
            b"NaN",
            b"\xff\xfe",
            b"[" * 99_999,
        )
    },
    "a long number": ("answered", with_content(b'{"choices": ' + b"9" * 9999 + b"}")),
    "an error": ("answered", with_body(lambda _: {"error": {"message": "busy", "code": 503}})),
    "an error as text": ("answered", with_body(lambda _: {"error": "busy"})),
    "no choices": ("answered", with_body(lambda _: {"choices": []})),
    "choices null": ("answered", with_body(lambda _: {"choices": None})),
    "choices an object": ("answered", with_body(lambda _: {"choices": {"0": 1}})),
    "a choice that is none": ("answered", with_body(lambda _: {"choices": [7]})),
    "no message": ("answered", with_body(lambda _: {"choices": [{"finish_reason": "stop"}]})),
    "a message that is none": ("answered", right(message=None)),
    "content a number": ("answered", with_reply(7)),
    "content of odd parts": ("answered", with_reply([{"type": "text"}])),
    "content of parts": ("answered", with_body(lambda reply: completion([{"type": "text", "text": reply}]))),
    "content null": ("empty", with_reply(None)),
    "only reasoning": ("not graded", right(message={"content": None, "reasoning_content": "hm"})),
    "only reasoning, cut": ("cut", right(message={"content": "", "reasoning": "hm"}, finish_reason="length")),
    "a call of a tool": ("not graded", right(message={"content": None}, finish_reason="tool_calls")),
    "an error in the choice": ("answered", with_reply(error={"message": "provider lost"})),
    **{f"finish reason {reason!r}": ("answered", with_reply(finish_reason=reason)) for reason in UNFINISHED},
    **{f"finish reason {reason!r}": ("not graded", with_reply(finish_reason=reason)) for reason in UNKNOWN},
    **{f"finish reason {reason!r}": ("cut", with_reply(finish_reason=reason)) for reason in ("length", "max_tokens")},
    **{f"finish reason {reason!r}": ("answered", right(finish_reason=reason)) for reason in COMPLETE},
    **{
        f"usage {str(n)[:12]}": ("answered", right(usage={"prompt_tokens": n, "completion_tokens": n}))
        for n in NO_COUNTS
    },
    "usage a list": ("answered", right(usage=[])),
    "choices out of order": ("answered", with_body(out_of_order)),
}

FAULTS = {**TRANSPORT, **STATUSES, **BODIES}
"""What must become of a prompt whose request fails once in this way, and the fault."""

UNREACHABLE = (
    "http://127.0.0.1:9/v1",
    "http://no-such-host.invalid/v1",
    "https://127.0.0.1:{port}/v1",
    "http://[::1]:9/v1",
)
"""Addresses at which nothing answers; {port} is that of a server without TLS."""

TIMES: dict[str, Callable[[int, str], bool]] = {
    "first": lambda n, question: n == 0,
    "third": lambda n, question: n == 2,
    "every other": lambda n, question: n % 2 == 0,
    "always": lambda n, question: True,
}
"""Which requests fail, by their number and their last message. "every other" fails no request twice at concurrency 1."""


@dataclass
class FaultyServer:
    """The server's address, and the last messages of all requests."""

    url: str
    port: int
    asked: list[str]


@contextlib.contextmanager
def faulty_server(
    name: str,
    when: Callable[[int, str], bool] = TIMES["first"],
    answer: Callable[[str], str] = lambda question: question,
) -> Iterator[FaultyServer]:
    """Run a server that answers the last message by `answer`, and commits the fault `name` when `when(number, message)`."""
    fault = FAULTS[name][1]
    released = threading.Event()
    lock = threading.Lock()
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = body["messages"][-1]["content"]
            with lock:
                number = len(asked)
                asked.append(question)
            connection = Connection(self, answer(question), released)
            if when(number, question):
                fault(connection)
            else:
                right()(connection)
            self.close_connection = True

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    server = LoopbackServer(("127.0.0.1", 0), Handler)
    port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield FaultyServer(f"http://127.0.0.1:{port}/v1", port, asked)
    finally:
        released.set()
        server.shutdown()
        server.server_close()
        thread.join()
