"""The size of answers, and credentials that only the environment knows."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from rethink.errors import UserError
from rethink.policies.endpoint.connection import AnswerTooLarge, LimitedBody
from support.fake_endpoint import Answer, FakeEndpoint, completion, make_policy, make_prompt


class Packets(httpx2.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.n_read = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.content), 1000):
            self.n_read += 1
            yield self.content[start : start + 1000]


def read(content: bytes, coding: str, max_bytes: int = 50_000) -> tuple[bytes, int]:
    """Return what is read, and the number of packets that it took."""
    packets = Packets(content)
    response = httpx2.Response(200, headers={"Content-Encoding": coding} if coding else {}, stream=packets)
    response.stream = LimitedBody(response, max_bytes)
    return asyncio.run(response.aread()), packets.n_read


@pytest.mark.parametrize("coding", ["", "identity", "gzip", "x-gzip", "GZIP", "deflate"])
def test_an_answer_within_the_limit_is_read_whole(coding: str) -> None:
    """Guards against servers that compress although nobody asked, and a limit that loses the end."""
    content = bytes(range(250)) * 200
    packed = {"": content, "identity": content, "deflate": zlib.compress(content)}.get(coding) or gzip.compress(content)
    assert read(packed, coding)[0] == content


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_an_answer_over_the_limit_is_not_read_to_its_end(coding: str) -> None:
    """Guards against 16 answers of 100 MB in memory at once, and 300 KB that unpack to 300 MB."""
    content = b" " * 50_000_000
    with pytest.raises(AnswerTooLarge, match=r"the answer is larger than 50,000 bytes"):
        read(gzip.compress(content, 1) if coding else content[:60_000], coding)


@pytest.mark.parametrize(("coding", "match"), [("br", "compressed as 'br'"), ("gzip", "cannot be decompressed")])
def test_what_cannot_be_unpacked_is_an_error_of_the_request(coding: str, match: str) -> None:
    """Guards against a traceback of zlib, and against other codings that are unpacked without a limit."""
    with pytest.raises(httpx2.DecodingError, match=match):
        read(b"garbage", coding)


def test_a_large_answer_is_a_fault(endpoint: FakeEndpoint, slept: list[float]) -> None:
    """Guards against an evaluation that ends, or runs out of memory, because one reply is endless."""
    large = completion("a" * 3_000_000)
    endpoint.script = lambda asked: large if asked.content == "a" else completion("b")
    warnings: list[str] = []
    [[sample]] = make_policy(endpoint, retries=1, warn=warnings.append).sample([make_prompt("a")], 1)
    assert sample.stop == "failed"
    assert sample.verdict is not None
    assert "AnswerTooLarge: the answer is larger than 1,059,840 bytes" in sample.verdict.reason
    assert len(endpoint.asked) == 3, "two attempts, and one question whether the server works"


def test_netrc_is_not_read(endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against a password that is sent although no one has asked for it."""
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login me password pa55\nmachine localhost login me password pa55\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    monkeypatch.setattr("rethink.policies.endpoint.connection.is_loopback", lambda host: False)
    make_policy(endpoint).sample([make_prompt("a")], 1)
    assert "authorization" not in endpoint.asked[0].headers


def test_a_redirect_does_not_carry_the_key(endpoint: FakeEndpoint) -> None:
    """Guards against a key for whoever a server names."""
    with FakeEndpoint().running() as other:
        endpoint.script = lambda asked: Answer(307, "", {"Location": f"{other.url}/v1/chat/completions"})
        make_policy(endpoint, key="k-1234567").sample([make_prompt("a")], 1)
        assert "k-1234567" not in json.dumps(other.asked[0].headers)
        assert endpoint.asked[0].headers["authorization"] == "Bearer k-1234567"


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_lose_the_messages_names_the_new_url(endpoint: FakeEndpoint, status: int) -> None:
    """Guards against the answer of another page as a reply (http instead of https, a moved path)."""
    endpoint.script = lambda asked: Answer(status, "", {"Location": f"{endpoint.url}/v1/models"})
    with pytest.raises(
        UserError, match=r"redirects to http://.*/v1/models, where the messages would be lost; use that URL"
    ):
        make_policy(endpoint, retries=0).sample([make_prompt("a")], 1)
