"""Distribute sampling jobs over servers; the open jobs of a lost server go to the others."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx2

from rethink.errors import UserError
from rethink.policies.endpoint.faults import Fault
from rethink.policies.event_loop import gather
from rethink.policies.vllm.fleet import Fleet
from rethink.policies.vllm.protocol import WRONG_WEIGHTS
from rethink.policies.vllm.server import Server, ServerLost

RETRIES = 2
DELAY_S = 0.5
"""A request is retried, because a server may be busy or cut a connection; then the server counts as lost."""

T = TypeVar("T")


@dataclass(frozen=True)
class SampleJob(Generic[T]):
    """Requests for one server: the samples of a prompt, whose keys and values are cached there. `read` turns the status
    and content of an answer into the result."""

    bodies: Sequence[dict[str, Any]]
    read: Callable[[int, bytes], T | Fault]


async def dispatch(
    fleet: Fleet, jobs: Sequence[SampleJob[T]], concurrency: int, emit: Callable[[tuple[int, list[T]]], None]
) -> None:
    """Emit (i, results) for each job i as soon as it is done; each server works on up to `concurrency` requests.

    Raise UserError if no server is left, or if a server refuses a request."""
    waiting = deque(range(len(jobs)))
    largest = max(len(job.bodies) for job in jobs)
    n_workers = max(1, concurrency // largest)

    async def work(server: Server, client: httpx2.AsyncClient) -> None:
        while waiting and not server.lost_reason:
            i = waiting.popleft()
            try:
                results = await _run_job(server, client, jobs[i])
            except ServerLost as err:
                waiting.append(i)
                fleet.mark_lost(server, str(err))
            else:
                emit((i, results))

    async def serve(server: Server, n: int) -> None:
        async with server.client(concurrency) as client:
            await gather((work(server, client) for _ in range(n)), n)

    while waiting:
        servers = fleet.alive()
        share = -(-len(waiting) // len(servers))  # otherwise the first server would take all jobs
        await gather((serve(server, min(n_workers, share)) for server in servers), len(servers))


async def _run_job(server: Server, client: httpx2.AsyncClient, job: SampleJob[T]) -> list[T]:
    results: dict[int, T] = {}

    async def request(k: int) -> None:
        results[k] = await _request(server, client, job.bodies[k], job.read)

    n = len(job.bodies)
    await gather((request(k) for k in range(n)), n)
    return [results[k] for k in range(n)]


async def _request(
    server: Server, client: httpx2.AsyncClient, body: dict[str, Any], read: Callable[[int, bytes], T | Fault]
) -> T:
    """Send one request and return its result.

    Raise ServerLost if the server keeps failing, UserError if it refuses the request."""
    fault = Fault("no answer", "")
    for attempt in range(RETRIES + 1):
        answer = await server.generate(client, body)
        result = answer if isinstance(answer, Fault) else read(*answer)
        if not isinstance(result, Fault):
            return result
        fault = result
        if not fault.is_transient:
            raise UserError(f"{server.url} refuses a request: {fault.kind}: {fault.message}")
        if fault.kind == WRONG_WEIGHTS or server.lost_reason or attempt == RETRIES:
            break
        await asyncio.sleep(DELAY_S * 2**attempt)
    raise ServerLost(f"{fault.kind}: {fault.message}")
