"""The HTTP server: routes, keys, and answers as JSON or as a stream of events."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from rethink.serving.api_error import ApiError
from rethink.serving.chat_request import read_chat_request
from rethink.serving.service import Call, Finished, Piece, Service

Handler = Callable[[Request], Awaitable[Response]]

ROUTES = "/v1/chat/completions, /v1/models, /health and /metrics"

DECODING = 4
"""The requests whose images are decoded at once: one may hold images of 120 MB each."""

LOCAL_HOSTS = {"localhost", "127.0.0.1", "[::1]"}


class App:
    """The routes over a service. `key` is asked of every client ("" for none), `hosts` are the names that it may use.

    With `hosts`, a web page in the user's browser cannot reach a server on loopback by another name (DNS rebinding).
    """

    def __init__(self, service: Service, key: str = "", hosts: frozenset[str] | None = None) -> None:
        self.service, self.hosts = service, hosts
        self._key = key.encode()
        self._decoding = asyncio.Semaphore(DECODING)

    def build(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route("/v1/chat/completions", self._answering(self._complete, self.service.refused), methods=["POST"]),
            Route("/v1/models", self._answering(self._models), methods=["GET"]),
            Route("/v1/models/{name:path}", self._answering(self._model), methods=["GET"]),
            Route("/metrics", self._answering(self._metrics), methods=["GET"]),
            Route("/health", self._health, methods=["GET"]),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _no_such_route})

    def _answering(self, handle: Handler, on_error: Callable[[int], None] = lambda _: None) -> Handler:
        """Return a handler that checks the key, and answers errors in OpenAI's format; `on_error` gets their status."""

        async def answer(request: Request) -> Response:
            try:
                self._check_client(request)
                return await handle(request)
            except Exception as err:
                error = self.service.explain(err)
                on_error(error.status)
                return error_response(error)

        return answer

    def _check_client(self, request: Request) -> None:
        host = request.headers.get("host", "").rpartition(":")
        name = host[0] if host[1] and host[2].isdigit() else "".join(host)
        if self.hosts is not None and name.lower() not in self.hosts:
            raise ApiError(
                403, "this host name is not served: use localhost or 127.0.0.1, or start the server with a key"
            )
        if self._key:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            is_same = hmac.compare_digest(given.strip().encode("latin-1"), self._key)
            if scheme.lower() != "bearer" or not is_same:
                raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")

    async def _complete(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "send JSON, with the header Content-Type: application/json")
        body, limits = await self._read_body(request), self.service.limits
        if b"image" in body or b"\\u" in body:  # decoding takes time; meanwhile, other requests continue
            async with self._decoding:
                self.service.check_room()
                asked = await asyncio.to_thread(read_chat_request, body, limits)
        else:
            asked = read_chat_request(body, limits)
        call = self.service.start(asked)
        return CompletionResponse(self.service, call)

    async def _read_body(self, request: Request) -> bytes:
        """Return the body. Raise ApiError if it is too large or too slow."""
        most, parts, size = self.service.limits.body_bytes, [], 0
        too_large = ApiError(413, f"the body is larger than {most:,} bytes, the server's --max-body")
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > most:
            raise too_large
        try:
            async with asyncio.timeout(self.service.limits.body_s):
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    if size > most:
                        raise too_large
        except ClientDisconnect as err:
            raise ApiError(400, "the client left before the body was complete") from err
        except TimeoutError as err:
            raise ApiError(408, "the body did not arrive in time") from err
        return b"".join(parts)

    async def _models(self, request: Request) -> Response:
        models = [_model_json(name) for name in self.service.model.names]
        return json_response({"object": "list", "data": models})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.service.model.find_strategy(name, 1, self.service.limits)
        return json_response(_model_json(name))

    async def _health(self, request: Request) -> Response:
        if self.service.is_draining:
            return json_response({"status": "shutting down"}, 503)
        if self.service.has_failed:
            return json_response({"status": "failed"}, 503)
        return json_response({"status": "ok"})

    async def _metrics(self, request: Request) -> Response:
        text = generate_latest(self.service.metrics.registry)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


class CompletionResponse(Response):
    """The answer to a call, which is cancelled when the client leaves.

    An error before the first text has its own HTTP status; one in the middle of a stream is its last event."""

    def __init__(self, service: Service, call: Call) -> None:
        self.service, self.call = service, call
        self.status_code = 200
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = asyncio.ensure_future(self._answer(scope, receive, send))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                self.status_code = 499
        finally:
            self.call.cancellation.set()
            answering.cancel()
            leaving.cancel()
            faults = await asyncio.gather(answering, leaving, return_exceptions=True)
            self.service.end(self.call, self.status_code)
        for fault in faults:
            if isinstance(fault, Exception) and not isinstance(fault, OSError):
                raise fault

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.call.request.stream:
            await self._send_stream(scope, receive, send)
            return
        try:
            async for _ in self.call.events():
                pass
            response = json_response(self.call.envelope.completion(self.call.said, self.call.in_order))
        except ApiError as err:
            response = error_response(err)
        self.status_code = response.status_code
        await response(scope, receive, send)

    async def _send_stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = self._parts()
        try:
            first = await anext(parts)
        except ApiError as err:
            self.status_code = err.status
            await error_response(err)(scope, receive, send)
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            await send(_event(first))
            async for part in parts:
                await send(_event(part))
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})
        except ApiError as err:
            self.status_code = err.status
            await send({**_event(err.as_json()), "more_body": False})

    async def _parts(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks of a streamed completion. Trailing blank lines of the reasoning are left out."""
        call, begun = self.call, set()
        blank = [""] * call.request.n
        async for event in call.events():
            delta: dict[str, Any] = {}
            if event.choice not in begun:
                begun.add(event.choice)
                delta = {"role": "assistant", "content": ""}
            if isinstance(event, Piece) and event.kind == "reasoning":
                text = blank[event.choice] + event.text
                kept = text.rstrip()
                blank[event.choice] = text[len(kept) :]
                delta["reasoning_content"] = kept
            elif isinstance(event, Piece):
                delta["content"] = event.text
            elif isinstance(event, Finished):
                yield call.envelope.chunk(event.choice, delta, event.attempt.answers[0].stop)
                continue
            if any(delta.values()):
                yield call.envelope.chunk(event.choice, delta)
        if call.request.include_usage:
            yield call.envelope.usage_chunk(call.in_order)


async def _disconnected(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _no_such_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    message = f"{request.method} {request.url.path[:200]} is not served; there are {ROUTES}"
    return error_response(ApiError(status, message))


def _event(part: dict[str, Any]) -> AsgiMessage:
    return {"type": "http.response.body", "body": f"data: {json.dumps(part)}\n\n".encode(), "more_body": True}


def json_response(content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer. Characters beyond ASCII are escaped, so any text can be sent."""
    return Response(json.dumps(content), status, headers, media_type="application/json")


def error_response(error: ApiError) -> Response:
    """Return an error in OpenAI's format."""
    return json_response(error.as_json(), error.status, error.headers)


def _model_json(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "rethink"}
