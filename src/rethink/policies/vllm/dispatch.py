"""Requests for samples dealt out to servers; what a lost server has not answered goes to another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx2

from rethink.errors import UserError
from rethink.policies.endpoint.protocol import Fault
from rethink.policies.event_loop import gather
from rethink.policies.token_policy import Reply, Request
from rethink.policies.vllm.fleet import Fleet
from rethink.policies.vllm.protocol import OTHER_WEIGHTS, generate_body, read_generated
from rethink.policies.vllm.server import Lost, Server
from rethink.types import Sampling

RETRIES = 2
DELAY_S = 0.5
"""A connection may be cut, and a server be busy, once or twice; after that it counts as lost."""


@dataclass(frozen=True)
class Drawing:
    """One call of `sample`: each server works on up to `concurrency` samples, a prompt's all on one of them, where its keys
    and values are kept. `tell` is given the place of a request and its replies."""

    fleet: Fleet
    requests: Sequence[Request]
    sampling: Sampling
    stop_ids: frozenset[int]
    concurrency: int
    tell: Callable[[tuple[int, list[Reply]]], None]

    async def run(self) -> None:
        """To the end. Raises UserError where no server is left, or where one refuses a request."""
        waiting = deque(range(len(self.requests)))
        n_workers = max(1, self.concurrency // max(request.n for request in self.requests))
        while waiting:
            servers = self.fleet.alive()
            share = -(-len(waiting) // len(servers))  # or the first would take all that there is
            works = (self._serve(server, waiting, min(n_workers, share)) for server in servers)
            await gather(works, len(servers))

    async def _serve(self, server: Server, waiting: deque[int], n_workers: int) -> None:
        async with server.client(self.concurrency) as client:
            await gather((self._work(server, client, waiting) for _ in range(n_workers)), n_workers)

    async def _work(self, server: Server, client: httpx2.AsyncClient, waiting: deque[int]) -> None:
        while waiting and not server.lost:
            i = waiting.popleft()
            try:
                replies = await self._group(server, client, self.requests[i])
            except Lost as err:
                waiting.append(i)
                self.fleet.lose(server, str(err))
            else:
                self.tell((i, replies))

    async def _group(self, server: Server, client: httpx2.AsyncClient, request: Request) -> list[Reply]:
        replies: dict[int, Reply] = {}

        async def member(index: int) -> None:
            replies[index] = await self._reply(server, client, request, index)

        await gather((member(request.first + g) for g in range(request.n)), request.n)
        return [replies[index] for index in sorted(replies)]

    async def _reply(self, server: Server, client: httpx2.AsyncClient, request: Request, index: int) -> Reply:
        body = generate_body(request.ids, request.seed, index, self.sampling, self.stop_ids)
        for attempt in range(RETRIES + 1):
            got = await server.ask(client, body)
            answer = (
                got if isinstance(got, Fault) else read_generated(*got, self.fleet.label, self.sampling, self.stop_ids)
            )
            if isinstance(answer, Reply):
                return answer
            if not answer.passing:
                raise UserError(f"{server.url} refuses a request: {answer.kind}: {answer.message}")
            last = answer
            if last.kind == OTHER_WEIGHTS or server.lost:
                break
            if attempt < RETRIES:
                await asyncio.sleep(DELAY_S * 2**attempt)
        raise Lost(f"{last.kind}: {last.message}")
