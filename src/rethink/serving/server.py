"""Run the application: listen, and shut down without losing the requests that are running."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from rethink.errors import UserError
from rethink.serving.service import Service

BACKLOG = 2048
KEEP_ALIVE_S = 75
"""Longer than clients keep idle connections (httpx2: 5 s): one that both sides close at once would fail a request."""


class Server(uvicorn.Server):
    """A uvicorn server that, at the first signal, refuses new requests with HTTP 503 until the running ones have ended.

    A second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, service: Service, note: Callable[[str], None]) -> None:
        super().__init__(config)
        self.service, self.note = service, note
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; uvicorn calls this for SIGINT and SIGTERM."""
        if self.service.is_draining or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self.service.is_draining = True
        self._loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        self.note(f"stopping: new requests are refused, running ones have {self.service.limits.grace_s:g} s to end")
        if not await self.service.drain():
            self.note("some requests did not end in time and were cancelled")
            await asyncio.sleep(0.2)  # their clients get the error
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 is any free one. Raise UserError if that is not possible."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(BACKLOG)
        except OSError:
            found.close()
            raise
    except (OSError, UnicodeError) as err:
        reason = err.strerror if isinstance(err, OSError) else err
        raise UserError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port") from err
    return found


def run(app: Starlette, service: Service, listening: socket.socket, note: Callable[[str], None]) -> None:
    """Serve until a signal comes."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,
    )
    try:
        Server(config, service, note).run([listening])
    finally:
        if not service.close():
            note("a thread still runs; leaving it")
            os._exit(0)  # a normal exit would wait for it
