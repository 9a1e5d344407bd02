"""Send requests: retries, time limits, and parameters that a server does not know."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Set
from dataclasses import replace
from typing import Any, TypeVar

import openai

from rethink.credentials import ApiKey
from rethink.errors import UserError
from rethink.policies.endpoint.faults import (
    LONGEST_WAIT_S,
    TIME_OUT,
    UNKNOWN_PARAMETER,
    Fault,
    named_parameter,
    read_error,
)
from rethink.policies.endpoint.protocol import OPTIONAL
from rethink.printable import printable
from rethink.settings import Endpoint

DELAY_S = 0.5
LONGEST_DELAY_S = 8.0
"""The first and the longest delay before a request is repeated, if the server does not ask for another one."""

LONGEST_MESSAGE = 500

T = TypeVar("T")

Send = Callable[[dict[str, Any], float], Awaitable[T | Fault]]
"""Send a request with these parameters; give up at this time of the event loop."""


class Sender:
    """Sends requests until they are answered or fail for good. `unsupported` are parameters that are left out."""

    def __init__(self, endpoint: Endpoint, key: ApiKey, warn_once: Callable[[str, str], None]) -> None:
        self.endpoint = endpoint
        self.key = key
        self.warn_once = warn_once
        self.unsupported: frozenset[str] = frozenset()

    async def request(
        self, make_parameters: Callable[[Set[str]], dict[str, Any]], send: Send[T]
    ) -> tuple[dict[str, Any], T | Fault]:
        """Send a request and return the parameters that were sent last, and the answer.

        Retry without each parameter that the server does not know (`make_parameters` gets their names), and after
        transient faults. All attempts together take at most twice `timeout_s`, apart from the pauses between them."""
        timeout_s = self.endpoint.timeout_s
        clock = asyncio.get_running_loop().time  # monotonic
        n_attempts, left_s = 0, 2 * timeout_s
        while True:
            sent = make_parameters(self.unsupported)
            start = clock()
            limit_s = min(timeout_s, left_s)
            answer = await self.attempt(send, sent, limit_s)
            left_s -= min(limit_s, clock() - start)
            if not isinstance(answer, Fault):
                return sent, answer
            unknown = answer.blames_request and UNKNOWN_PARAMETER.search(answer.message)
            name = named_parameter(answer, OPTIONAL.keys() & sent.keys()) if unknown else None
            if name is not None:
                self.unsupported |= {name}
                self.warn_once(name, OPTIONAL[name])
                continue
            n_attempts += 1
            is_last = n_attempts > self.endpoint.retries or left_s < timeout_s / 100 or answer.wait_s > LONGEST_WAIT_S
            if is_last or not answer.is_transient:
                return sent, replace(answer, n_attempts=n_attempts)
            delay = min(DELAY_S * 2.0 ** min(n_attempts - 1, 10), LONGEST_DELAY_S)
            await asyncio.sleep(answer.wait_s or delay * random.uniform(0.75, 1))

    async def attempt(self, send: Send[T], sent: dict[str, Any], limit_s: float) -> T | Fault:
        """Send a request once. The exceptions of openai hold the request with the key, so they are not passed on."""
        try:
            answer = await send(sent, asyncio.get_running_loop().time() + limit_s)
        except UserError:  # a ValueError, caught below otherwise
            raise
        except TimeoutError:
            answer = Fault(TIME_OUT, f"no whole answer within {limit_s:.3g} s (endpoint.timeout_s)")
        except openai.APIError as err:
            answer = read_error(err)
        except (ValueError, RecursionError) as err:
            answer = Fault("not JSON", f"{type(err).__name__}: {err}", 200)
        return self.redact(answer) if isinstance(answer, Fault) else answer

    def redact(self, fault: Fault) -> Fault:
        """Return the fault without secrets and control characters, on one line of limited length.

        Redact before truncating, or half a key could leak."""
        line = printable(" ".join(self.key.scrub(fault.message).split()))
        return replace(fault, message=line if len(line) <= LONGEST_MESSAGE else line[:LONGEST_MESSAGE] + "...")
