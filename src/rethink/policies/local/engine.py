"""One thread that owns a live decoder, and the calls of other threads that wait for its replies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue

from rethink.errors import UserError
from rethink.policies.cancel import Cancelled, EngineStoppedError
from rethink.policies.local.live import Failed, LiveDecoder, NewToken
from rethink.policies.token_policy import Generation, Request
from rethink.types import Sampling

Item = tuple[int, int, int | Generation]
"""What happened: the place of a request in its call, the index of the reply, and its next token or the whole reply."""


class EngineCall:
    """Requests that one thread has submitted and waits for."""

    def __init__(self, n_replies: int) -> None:
        self.n_replies = n_replies
        self.numbers: list[int] = []  # of the decoder's requests; only the engine's thread uses them
        self.is_closed = False
        self._items: SimpleQueue[Item | BaseException] = SimpleQueue()

    def put(self, item: Item | BaseException) -> None:
        self._items.put(item)

    def items(self) -> Iterator[Item]:
        """Yield what happens until all replies are complete. Raise the engine's error, or Cancelled."""
        for items in self.batches():
            yield from items

    def batches(self) -> Iterator[list[Item]]:
        """Yield the same, in lists of what has happened since the last one: a busy thread wakes up less often."""
        n_replies = self.n_replies
        while n_replies:
            found: list[Item] = []
            error: BaseException | None = None
            while error is None and (not found or not self._items.empty()):
                item = self._items.get()
                if isinstance(item, BaseException):
                    error = item
                else:
                    n_replies -= isinstance(item[2], Generation)
                    found.append(item)
            if found:
                yield found  # what has happened before an error is yielded before it, too
            if error is not None:
                raise error


class Engine:
    """Decodes the requests of many threads together, in a thread that starts at once. Close it at the end.

    If a request fails, its call gets the error. If a step fails, so does every request that is running or waiting, and a
    new decoder takes over. If that cannot be opened either, the engine is closed."""

    def __init__(self, open_decoder: Callable[[], LiveDecoder]) -> None:
        self.n_sampled_tokens = 0
        self.decoder = open_decoder()
        self._open_decoder = open_decoder
        self._actions: list[Callable[[], None]] = []  # asked for by other threads
        self._pending: list[Callable[[], None]] = []  # of these, what the engine's thread has taken but not done yet
        self._changed = threading.Condition()
        self._is_closed = False
        self._error: Exception | None = None  # why it has ended
        self._calls: dict[int, tuple[EngineCall, int]] = {}  # by number: the call, and the request's place in it
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def has_failed(self) -> bool:
        """Whether an error has closed the engine."""
        return isinstance(self._error, EngineStoppedError)

    @property
    def n_running(self) -> int:
        """The number of replies that are being sampled."""
        return self.decoder.n_running

    @property
    def n_waiting(self) -> int:
        """The number of requests that wait for free rows."""
        return len(self.decoder.waiting)

    def submit(self, requests: list[tuple[Request, Sampling]], watch: bool = False) -> EngineCall:
        """Queue requests, in order. With `watch`, each token is reported. Raise UserError if the engine is closed."""
        call = EngineCall(sum(request.n for request, _ in requests))
        self._do(partial(self._add, call, requests, watch))
        return call

    def cancel(self, call: EngineCall) -> None:
        """Stop what is left of a call; the thread that waits for it gets Cancelled."""
        call.put(Cancelled())
        with self._changed:
            if not self._is_closed:
                self._actions.append(partial(self._drop, call))
                self._changed.notify()

    def close(self) -> None:
        """Cancel all calls and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _do(self, action: Callable[[], None]) -> None:
        with self._changed:
            if self._is_closed:
                if self.has_failed:  # a new error each time: one that is raised again gets a longer traceback
                    raise EngineStoppedError(str(self._error))
                raise UserError("the engine has been closed")
            self._actions.append(action)
            self._changed.notify()

    def _add(self, call: EngineCall, requests: list[tuple[Request, Sampling]], watch: bool) -> None:
        if call.is_closed:
            return
        if self._error is not None:
            call.put(self._error)
            return
        try:
            for place, (request, sampling) in enumerate(requests):
                number = self.decoder.add(request, sampling, watch)
                self._calls[number] = call, place
                call.numbers.append(number)
        except Exception as err:
            call.put(err)
            self._drop(call)

    def _drop(self, call: EngineCall) -> None:
        call.is_closed = True
        for number in call.numbers:
            if self._calls.get(number, (None, 0))[0] is call:  # a new decoder gives the same numbers again
                self.decoder.cancel(number)
                del self._calls[number]

    def _run(self) -> None:
        try:
            while self._turn():
                pass
            self._end(Cancelled())
        except Exception as err:  # not even a new decoder could be opened
            self._end(EngineStoppedError(f"the engine has stopped: {err}"))

    def _turn(self) -> bool:
        """Do what was asked for, then a step. Return False once the engine is closed."""
        with self._changed:
            self._changed.wait_for(self._has_work)
            self._pending += self._actions
            self._actions = []
            is_closed = self._is_closed
        try:
            while self._pending:
                self._pending.pop(0)()
            if not is_closed and not self.decoder.is_done:
                self._step()
        except Exception as err:
            self._fail(err)
            self.decoder = self._open_decoder()
        return not is_closed

    def _end(self, error: Exception) -> None:
        """Fail all calls, those that were submitted in the meantime, too."""
        with self._changed:
            self._is_closed, self._error = True, error
            actions, self._actions, self._pending = [*self._pending, *self._actions], [], []
        self._fail(error)
        for action in actions:
            action()

    def _has_work(self) -> bool:
        return bool(self._actions) or self._is_closed or not self.decoder.is_done

    def _step(self) -> None:
        self.decoder.step()
        events = self.decoder.take_events()
        for event in events:
            call, place = self._calls.get(event.request, (None, 0))
            if call is None:  # another request of its call has failed
                continue
            if isinstance(event, Failed):
                call.put(event.error)
                self._drop(call)
            elif isinstance(event, NewToken):
                call.put((place, event.index, event.token))
            else:
                self.n_sampled_tokens += len(event.reply.ids)
                call.put((place, event.index, event.reply))
        for event in events:
            if event.request not in self.decoder.requests:
                self._calls.pop(event.request, None)

    def _fail(self, error: BaseException) -> None:
        calls, self._calls = self._calls, {}
        for call, _ in calls.values():
            call.is_closed = True
            call.numbers = []
            call.put(error)
