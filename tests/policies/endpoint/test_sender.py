"""Time limits and pauses of requests, without a server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rethink.credentials import ApiKey
from rethink.policies.endpoint.faults import Fault
from rethink.policies.endpoint.sender import LONGEST_DELAY_S, LONGEST_MESSAGE, Sender
from rethink.settings import Endpoint


def send_until(sender: Sender, answers: list[Any]) -> tuple[Any, list[float]]:
    """Return the last answer to a request and the time limits of its attempts. A number is the seconds that one takes."""
    limits: list[float] = []
    clock = 100.0

    async def send(sent: dict[str, Any], until: float) -> Any:
        nonlocal clock
        limits.append(until - clock)
        answer = answers.pop(0)
        if not isinstance(answer, float):
            return answer
        clock += min(answer, until - clock)
        raise TimeoutError

    async def run() -> Any:
        loop = asyncio.get_running_loop()
        real, loop.time = loop.time, lambda: clock  # type: ignore[method-assign]
        try:
            return await sender.request(lambda unsupported: {}, send)
        finally:
            loop.time = real  # type: ignore[method-assign]

    return asyncio.run(run())[1], limits


def make_sender(**settings: Any) -> Sender:
    return Sender(Endpoint("http://h.invalid", **settings), ApiKey("k-1234567"), lambda kind, message: None)


def test_all_attempts_together_take_twice_the_time_of_one(slept: list[float]) -> None:
    """Guards against a silent server that costs hours: ten retries of ten minutes each."""
    found, limits = send_until(make_sender(timeout_s=10), [60.0, 60.0, "late"])
    assert (found.kind, found.n_attempts, limits) == ("time-out", 2, [10, 10])
    found, limits = send_until(make_sender(timeout_s=10), [9.0, 9.0, 9.0, "late"])
    assert (found.n_attempts, limits) == (3, [10, 10, 2])
    assert found.message == "no whole answer within 2 s (endpoint.timeout_s)"


def test_fast_failures_use_all_retries(slept: list[float]) -> None:
    """Guards against giving up early, and pauses without a limit."""
    found, _ = send_until(make_sender(retries=10), [Fault("HTTP 503", "no", 503) for _ in range(20)])
    assert found.n_attempts == 11
    assert len(slept) == 10
    assert max(slept) <= LONGEST_DELAY_S
    assert sum(slept) < 60


@pytest.mark.parametrize(("wait_s", "pauses"), [(119.0, [119.0]), (121.0, [])])
def test_a_pause_is_as_long_as_the_server_asks_up_to_two_minutes(
    wait_s: float, pauses: list[float], slept: list[float]
) -> None:
    """Guards against a program that waits for tomorrow's quota."""
    found, _ = send_until(make_sender(), [Fault("HTTP 429", "no", 429, wait_s=wait_s), "answered"])
    assert slept == pauses
    assert (found == "answered") == bool(pauses)


def test_messages_are_short_printable_and_without_the_key() -> None:
    """Guards against escapes that control a terminal, and pages of HTML."""
    text = "\x1b[31m\u202e k-1234567\r\n" + "z" * 9999
    message = make_sender().redact(Fault("HTTP 500", text, 500)).message
    assert message.isprintable()
    assert len(message) <= LONGEST_MESSAGE + 20
    assert "[key]" in message
    assert "k-1234567" not in message
