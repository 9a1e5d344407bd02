"""Calls: requests that are answered in worker threads, while the event loop passes on what they say."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from rethink.errors import UserError
from rethink.policies.cancel import Cancellation, Cancelled, EngineStoppedError, NaNLogitsError
from rethink.serving.api_error import ApiError
from rethink.serving.chat_request import ChatRequest
from rethink.serving.completion import Envelope, Said
from rethink.serving.limits import Limits
from rethink.serving.metrics import Metrics
from rethink.serving.passes import Teller, run_choice
from rethink.serving.served_model import ServedModel
from rethink.serving.text_stream import Kind
from rethink.strategies import Attempt, Strategy
from rethink.strategies.attempt import reseed

CLOSE_S = 2.0
"""The seconds that cancelled threads get to end."""


@dataclass(frozen=True)
class Piece:
    """A piece of what a choice says."""

    choice: int
    kind: Kind
    text: str


@dataclass(frozen=True)
class Finished:
    """A choice that is complete."""

    choice: int
    attempt: Attempt


Event = Piece | Finished


class Call:
    """A request that is being answered: one thread per choice. `events` ends when all choices are complete."""

    def __init__(self, service: Service, request: ChatRequest, strategy: Strategy) -> None:
        self.request, self.strategy = request, strategy
        self.cancellation = Cancellation()
        self.attempts: dict[int, Attempt] = {}
        self.said = [Said() for _ in range(request.n)]
        seed = secrets.randbits(53) if request.seed is None else request.seed
        self.envelope = Envelope(request.model or service.model.names[0], seed)
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event | BaseException] = asyncio.Queue()
        self._start = time.monotonic()

    async def events(self) -> AsyncIterator[Event]:
        """Yield what happens. Raise ApiError if a choice has no reply; the others are then cancelled."""
        metrics, has_text = self._service.metrics, False
        try:
            while len(self.attempts) < self.request.n:
                event = await self._queue.get()
                if isinstance(event, BaseException):
                    raise self._service.explain(event) from event
                if isinstance(event, Finished):
                    self.attempts[event.choice] = event.attempt
                else:
                    self.said[event.choice].add(event.kind, event.text)
                    if not has_text:
                        metrics.first_seconds.observe(time.monotonic() - self._start)
                    has_text = True
                yield event
            metrics.seconds.observe(time.monotonic() - self._start)
            metrics.count(self.in_order)
        finally:
            self.cancellation.set()

    @property
    def in_order(self) -> list[Attempt]:
        """The attempts of all choices."""
        return [self.attempts[choice] for choice in range(self.request.n)]

    def work(self, choice: int) -> None:
        """Answer in this thread. Choices have different seeds; the first one has the seed of `rethink answer`."""
        model, limits = self._service.model, self._service.limits
        try:
            self.cancellation.check()
            prompts = reseed(model.make_prompts(self.envelope.seed), "repeat", choice)
            setup = model.setup(self.request, self.strategy, prompts, limits, self.cancellation)
            problem = model.problem(self.request, self.strategy)
            teller = Teller(lambda kind, text: self._put(Piece(choice, kind, text)), self.request.stop, model.thinking)
            attempt = run_choice(self.strategy, setup, problem, teller, self.cancellation, limits)
            self._end(Finished(choice, attempt))
        except BaseException as err:  # also SystemExit: the client waits for a last event
            self._end(err)

    def _end(self, event: Finished | BaseException) -> None:
        """Give the choice's place back before its last event: a client with a complete reply may send the next request."""

        def end() -> None:
            self._service.one_less()
            self._queue.put_nowait(event)

        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(end)

    def _put(self, event: Piece) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)


class Service:
    """Answers requests, at most `limits.concurrency` choices at once; so many more wait as `limits.queue` says.

    `note` gets a line about each fault of the server itself, without texts of prompts or replies."""

    def __init__(self, model: ServedModel, limits: Limits, note: Callable[[str], None] = lambda _: None) -> None:
        self.model, self.limits, self.note = model, limits, note
        self.metrics = Metrics()
        self.is_draining = False
        self._is_noted = False  # that the engine has stopped
        self._n_choices = 0  # running or waiting
        self._calls: set[Call] = set()
        self._threads = ThreadPoolExecutor(limits.concurrency, "choice")
        self._idle = asyncio.Event()
        self._idle.set()
        self.metrics.gauge("rethink_choices", "Choices that are running or waiting", lambda: self._n_choices)

    @property
    def has_failed(self) -> bool:
        """Whether the sampler has failed for good."""
        return self._is_noted or self.model.has_stopped()

    def start(self, request: ChatRequest) -> Call:
        """Start to answer a request. Raise ApiError if it cannot be answered, or not now."""
        self.check_room()
        strategy = self.model.find_strategy(request.model, request.n, self.limits)
        if request.n > self.limits.concurrency + self.limits.queue:
            raise ApiError(400, f"n = {request.n} is more than this server works on", "n")
        self.check_room(request.n)
        call = Call(self, request, strategy)
        loop = asyncio.get_running_loop()
        self._calls.add(call)
        self._idle.clear()
        self._n_choices += request.n
        for choice in range(request.n):
            loop.run_in_executor(self._threads, call.work, choice).add_done_callback(self._never_ran)
        return call

    def check_room(self, n: int = 1) -> None:
        """Raise ApiError if the server is shutting down, or works on too many choices for n more."""
        if self.is_draining:
            raise ApiError(503, "the server is shutting down", retry_after_s=10)
        if self._n_choices + n > self.limits.concurrency + self.limits.queue:
            message = f"{self._n_choices} choices are running or waiting, and no more can; try again later"
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after_s=1)

    def refused(self, status: int) -> None:
        """Count a request that no choice was worked on for, such as one too many."""
        self.metrics.requests.labels("none", str(status)).inc()

    def end(self, call: Call, status: int) -> None:
        """Count an answered call, and cancel what is left of it."""
        call.cancellation.set()
        self._calls.discard(call)
        listed = {name.partition("+")[2] or "solve" for name in self.model.names}
        name = call.strategy.name if call.strategy.name in listed else "other"
        self.metrics.requests.labels(name, str(status)).inc()
        self._check_idle()

    def explain(self, error: BaseException) -> ApiError:
        """Return what the client gets to know about an error."""
        if isinstance(error, ApiError):
            return error
        if isinstance(error, Cancelled):
            return ApiError(503, "the server stopped before the reply was complete", retry_after_s=10)
        if isinstance(error, EngineStoppedError):
            if not self._is_noted:
                self.note(f"{error}; restart the server")
            self._is_noted = True
            return ApiError(503, "the server has failed and must be restarted; its log says why")
        if isinstance(error, NaNLogitsError):
            self.note(f"a request failed: {error}")
            return ApiError(500, "the model's logits for this request are NaN; the server's log says more")
        if isinstance(error, UserError):
            return ApiError(502 if self.model.is_remote else 400, str(error))
        self.note(f"internal error: {where(error)}")
        return ApiError(500, "the server failed; its log says where")

    async def drain(self) -> bool:
        """Refuse new requests, and let running ones end. Return False if some had to be cancelled."""
        self.is_draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), self.limits.grace_s)
            return True
        except TimeoutError:
            for call in list(self._calls):
                call.cancellation.set()
            return False

    def close(self, patience_s: float = CLOSE_S) -> bool:
        """Cancel all calls. Return False if a thread does not end in time."""
        for call in list(self._calls):
            call.cancellation.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        end = time.monotonic() + patience_s
        while time.monotonic() < end and any(thread.is_alive() for thread in self._threads._threads):
            time.sleep(0.01)
        return not any(thread.is_alive() for thread in self._threads._threads)

    def _never_ran(self, future: asyncio.Future[None]) -> None:
        """Count a choice that was cancelled before its thread began."""
        if future.cancelled():
            self.one_less()

    def one_less(self) -> None:
        """Count a choice that is complete, has failed or was cancelled."""
        self._n_choices -= 1
        self._check_idle()

    def _check_idle(self) -> None:
        if not self._n_choices and not self._calls:
            self._idle.set()


def where(error: BaseException) -> str:
    """Return the type of an error and where it was raised; its message may hold a prompt."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" in {trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}"
    return f"{type(error).__name__}{place}"
