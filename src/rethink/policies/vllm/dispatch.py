"""Jobs dealt out to servers; what a lost server has not answered goes to another."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx2

from rethink.errors import UserError
from rethink.policies.endpoint.protocol import Fault
from rethink.policies.event_loop import gather
from rethink.policies.vllm.fleet import Fleet
from rethink.policies.vllm.protocol import OTHER_WEIGHTS
from rethink.policies.vllm.server import Lost, Server

RETRIES = 2
DELAY_S = 0.5
"""A connection may be cut, and a server be busy, once or twice; after that it counts as lost."""

T = TypeVar("T")


@dataclass(frozen=True)
class SampleJob(Generic[T]):
    """Requests that belong on one server: a prompt's samples, since its keys and values are kept there. `read` makes of
    status and content of an answer what is wanted."""

    bodies: Sequence[dict[str, Any]]
    read: Callable[[int, bytes], T | Fault]


async def dispatch(
    fleet: Fleet, jobs: Sequence[SampleJob[T]], concurrency: int, tell: Callable[[tuple[int, list[T]]], None]
) -> None:
    """Tell (i, answers) of each job i as soon as it is done; each server works on up to `concurrency` requests.

    Raises UserError where no server is left, or where one refuses a request."""
    waiting = deque(range(len(jobs)))
    largest = max(len(job.bodies) for job in jobs)
    n_workers = max(1, concurrency // largest)

    async def work(server: Server, client: httpx2.AsyncClient) -> None:
        while waiting and not server.lost:
            i = waiting.popleft()
            try:
                answers = await _answers(server, client, jobs[i])
            except Lost as err:
                waiting.append(i)
                fleet.lose(server, str(err))
            else:
                tell((i, answers))

    async def serve(server: Server, n: int) -> None:
        async with server.client(concurrency) as client:
            await gather((work(server, client) for _ in range(n)), n)

    while waiting:
        servers = fleet.alive()
        share = -(-len(waiting) // len(servers))  # or the first would take all that there is
        await gather((serve(server, min(n_workers, share)) for server in servers), len(servers))


async def _answers(server: Server, client: httpx2.AsyncClient, job: SampleJob[T]) -> list[T]:
    found: dict[int, T] = {}

    async def ask(k: int) -> None:
        found[k] = await _answer(server, client, job.bodies[k], job.read)

    n = len(job.bodies)
    await gather((ask(k) for k in range(n)), n)
    return [found[k] for k in range(n)]


async def _answer(
    server: Server, client: httpx2.AsyncClient, body: dict[str, Any], read: Callable[[int, bytes], T | Fault]
) -> T:
    """Raises Lost where the server keeps failing, UserError where it refuses the request."""
    fault = Fault("no answer", "")
    for attempt in range(RETRIES + 1):
        got = await server.ask(client, body)
        answer = got if isinstance(got, Fault) else read(*got)
        if not isinstance(answer, Fault):
            return answer
        fault = answer
        if not fault.passing:
            raise UserError(f"{server.url} refuses a request: {fault.kind}: {fault.message}")
        if fault.kind == OTHER_WEIGHTS or server.lost or attempt == RETRIES:
            break
        await asyncio.sleep(DELAY_S * 2**attempt)
    raise Lost(f"{fault.kind}: {fault.message}")
