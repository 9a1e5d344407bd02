"""The HTTP client: proxies, time limits, and a limit on the size of an answer."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai

from rethink.credentials import ApiKey
from rethink.errors import UserError
from rethink.policies.endpoint.protocol import is_loopback
from rethink.policies.tls import tls_context
from rethink.settings import Endpoint

CONNECT_S = 30.0

BASE_BYTES = 1 << 20
BYTES_PER_TOKEN = 1 << 10
"""An answer may have this many bytes, and this many more per token: two or three times what streamed events need."""


class AnswerTooLarge(httpx2.TransportError):
    """An answer exceeds the limit; the rest of it is not read."""


class PostRedirected(httpx2.TransportError):
    """A redirect that would turn a request into a GET without its messages, so it is not followed."""


def open_client(
    endpoint: Endpoint, base_url: httpx2.URL, query: dict[str, str], key: ApiKey, n_tokens: int
) -> openai.AsyncOpenAI:
    """Return a client for answers of about `n_tokens` tokens each. It does not retry: `EndpointPolicy` does.

    Raise UserError for a proxy variable that is not valid."""
    max_bytes = BASE_BYTES + BYTES_PER_TOKEN * n_tokens

    async def check(response: httpx2.Response) -> None:
        target = response.headers.get("location", "")
        if target and response.request.method == "POST" and response.status_code in (301, 302, 303):
            raise PostRedirected(f"it redirects to {target}, where the messages would be lost; use that URL")
        response.stream = LimitedBody(response, max_bytes)

    # Whole requests have a time limit elsewhere.
    timeout = httpx2.Timeout(None, connect=min(endpoint.timeout_s, CONNECT_S))
    trust_env = not is_loopback(base_url.host)  # proxies from the environment are for other machines
    try:
        http = openai.DefaultAsyncHttpxClient(
            timeout=timeout,
            trust_env=trust_env,
            verify=tls_context(trust_env),
            headers={"Accept-Encoding": "gzip, deflate"},
            event_hooks={"response": [check]},
            limits=httpx2.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency),
        )
    except (ValueError, ImportError, httpx2.InvalidURL):
        http = None
    if http is None:  # raised here, because the error above may hold a proxy's password
        raise UserError("the proxy in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is not valid; correct or unset it")
    return openai.AsyncOpenAI(
        api_key=key.value or "none",
        base_url=base_url,
        default_query=query,
        max_retries=0,
        timeout=timeout,
        http_client=http,
    )


class LimitedBody(httpx2.AsyncByteStream):
    """The decompressed body of a response. Raise AnswerTooLarge as soon as it exceeds the limit.

    httpx2 would decompress each packet as a whole: a few kilobytes may become gigabytes."""

    def __init__(self, response: httpx2.Response, max_bytes: int) -> None:
        self._body: Any = response.stream
        self._max_bytes = max_bytes
        self._coding = response.headers.pop("content-encoding", "identity").strip().lower()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise httpx2.DecodingError(f"the answer is compressed as {self._coding[:40]!r}, which was not asked for")
        decoder = None if self._coding in ("", "identity") else zlib.decompressobj(zlib.MAX_WBITS | 32)
        n_bytes = 0
        async for packet in self._body:
            try:
                data = packet if decoder is None else decoder.decompress(packet, self._max_bytes - n_bytes + 1)
            except zlib.error as err:
                raise httpx2.DecodingError(f"the answer cannot be decompressed: {err}") from err
            n_bytes += len(data)
            if n_bytes > self._max_bytes:
                raise AnswerTooLarge(f"the answer is larger than {self._max_bytes:,} bytes")
            yield data

    async def aclose(self) -> None:
        await self._body.aclose()
