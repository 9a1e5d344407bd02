"""The policy over an endpoint where something fails: what is tried again and when, and what a user gets to read."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest

from fake_endpoint import (
    PATIENCE_S,
    Answer,
    Asked,
    Clock,
    FakeEndpoint,
    at_first,
    completion,
    echo,
    make_policy,
    make_prompt,
    make_prompts,
    refusal,
)
from rethink.errors import UserError


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with FakeEndpoint().running() as server:
        yield server


def sample_one(endpoint: FakeEndpoint, clock: Clock | None = None, **more: Any) -> str:
    """The text of one sample for the question "a"."""
    [[sample]] = make_policy(endpoint, clock, concurrency=1, **more).sample([make_prompt("a")], 1)
    return sample.text


@pytest.mark.parametrize(
    "fault",
    [
        *(refusal(status, "not now") for status in (408, 409, 425, 429, 500, 502, 503, 504, 529)),
        Answer(cut="before"),
        Answer(cut="middle", body="x" * 1000),
        Answer(body="<html>soon back</html>"),
        Answer(body={"object": "chat.completion"}),
        Answer(body={"choices": []}),
        Answer(body={"choices": [{"message": None}]}),
        Answer(body={"choices": [{"message": {"content": 7}}]}),
        Answer(body=[]),
        Answer(body="[" * 100_000),
        completion([{"type": "text"}]),
    ],
    ids=lambda fault: f"{fault.status} {fault.cut} {json.dumps(fault.body)[:40]}",
)
def test_a_fault_that_may_pass_is_tried_again(endpoint: FakeEndpoint, fault: Answer) -> None:
    """Guards against an evaluation of hours that ends over one bad moment; the same request is sent again."""
    endpoint.script = at_first(fault, fault)
    clock = Clock()
    assert sample_one(endpoint, clock) == f"a/{endpoint.asked[0].body['seed']}"
    assert [asked.body for asked in endpoint.asked] == [endpoint.asked[0].body] * 3
    # 1 s and 2 s, each less up to half of it.
    first, second = clock.slept
    assert 0.5 < first <= 1
    assert 1 < second <= 2


def test_delays_double_up_to_a_minute_and_repeat_exactly(endpoint: FakeEndpoint) -> None:
    """Guards against jitter of a global generator, and against requests of one call that all come back at once."""
    endpoint.script = at_first(*[refusal(500, "")] * 8)
    runs = []
    for question in ("a", "a", "b"):
        endpoint.asked.clear()
        clock = Clock()
        make_policy(endpoint, clock, concurrency=1, retries=8).sample([make_prompt(question)], 1)
        runs.append(clock.slept)
    caps = [1, 2, 4, 8, 16, 32, 60, 60]
    assert all(cap / 2 < slept <= cap for cap, slept in zip(caps, runs[0], strict=True))
    assert runs[0] == runs[1]
    assert all(a != b for a, b in zip(runs[0], runs[2], strict=True))
    assert len({slept / cap for cap, slept in zip(caps, runs[0], strict=True)}) == 8


def test_a_server_that_does_not_answer_in_time_is_asked_again(endpoint: FakeEndpoint) -> None:
    """Guards against a wait without end; the first request is never answered."""

    def stall(asked: Asked) -> Answer:
        if asked.n == 0:
            endpoint.hold()
        return echo(asked)

    endpoint.script = stall
    clock = Clock()
    assert sample_one(endpoint, clock, timeout_s=0.5).startswith("a/")
    assert len(endpoint.asked) >= 2
    assert len(clock.slept) == len(endpoint.asked) - 1


def test_a_refused_connection_is_tried_again_and_then_reported(endpoint: FakeEndpoint) -> None:
    """Guards against a bare socket error; nothing listens on the discard port."""
    clock = Clock()
    policy = make_policy("http://127.0.0.1:9", clock, retries=3)
    with pytest.raises(UserError, match=r"gave up on http://127\.0\.0\.1:9/v1/chat/completions after 4 attempts: Conn"):
        policy.sample([make_prompt("a")], 1)
    assert len(clock.slept) == 3


@pytest.mark.parametrize("status", [408, 429, 503])
def test_retry_after_is_kept_to_in_seconds_and_as_a_date(endpoint: FakeEndpoint, status: int) -> None:
    """Guards against attempts that only prolong a ban."""
    clock = Clock()
    date = formatdate(clock.now + 7 + 23, usegmt=True)
    endpoint.script = at_first(
        refusal(status, "", headers={"Retry-After": "7"}), refusal(status, "", headers={"Retry-After": date})
    )
    sample_one(endpoint, clock)
    # The date lies 23 s behind the end of the first wait.
    assert clock.slept == [7, 23]


@pytest.mark.parametrize("header", ["soon", "", "-3", "nan", "0", "Mon, 01 Jan 2001 00:00:00 GMT"])
def test_a_retry_after_without_a_future_leaves_the_usual_delay(endpoint: FakeEndpoint, header: str) -> None:
    """Guards against a crash over a strange header, and against six attempts within a millisecond."""
    endpoint.script = at_first(refusal(429, "", headers={"Retry-After": header}))
    clock = Clock()
    sample_one(endpoint, clock)
    assert sum(clock.slept) == pytest.approx(clock.slept[0])
    assert 0.5 < clock.slept[0] <= 1


class StoppedClock(Clock):
    """Time that stands still until `n` sleepers have come, then passes for all of them."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.now = 0.0  # sums with it are exact
        self.n = n
        self.asleep = threading.Event()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.asleep.set()
        async with asyncio.timeout(PATIENCE_S):
            while len(self.slept) < self.n:
                await asyncio.sleep(0.001)
        self.now = max(self.slept)


@pytest.mark.parametrize("header", [{"Retry-After": "31"}, {}])
def test_after_429_everyone_waits(endpoint: FakeEndpoint, header: dict[str, str]) -> None:
    """Guards against a rate limit that only the refused request respects. Of three requests under way the first is
    refused; the others are answered while it waits, and their workers must then wait as well before they go on."""
    clock = StoppedClock(3)
    times: list[float] = []

    def script(asked: Asked) -> Answer:
        times.append(clock.now)
        if asked.n == 0:
            return refusal(429, "slow down", headers=header)
        if asked.n < 3:
            assert clock.asleep.wait(PATIENCE_S)
        return echo(asked)

    endpoint.script = script
    prompts = make_prompts(7)
    groups = make_policy(endpoint, clock, concurrency=3).sample(prompts, 1)
    assert [g[0].text.partition("/")[0] for g in groups] == [p.problem.id for p in prompts]
    wait = 31.0 if header else clock.slept[0]
    assert times == [0.0] * 3 + [wait] * 5
    assert clock.slept == [wait] * 3


def test_a_later_call_waits_as_well(endpoint: FakeEndpoint) -> None:
    """Guards against a limit that is forgotten between calls: one that fails leaves 31 s to wait."""
    endpoint.script = at_first(refusal(429, "", headers={"Retry-After": "31"}), refusal(400, "no"))
    clock, told = Clock(), list[str]()
    policy = make_policy(endpoint, clock, warn=told.append)

    async def give_up(seconds: float) -> None:
        raise UserError("enough")

    policy._sleep = give_up
    with pytest.raises(UserError, match="enough"):
        policy.sample([make_prompt("a")], 1)
    policy._sleep = clock.sleep
    with pytest.raises(UserError, match="HTTP 400: no"):
        policy.sample([make_prompt("a")], 1)
    assert (clock.slept, told) == ([31], [])


def test_long_waits_are_told_once_and_a_lost_day_is_an_error(endpoint: FakeEndpoint) -> None:
    """Guards against a program that stands still for no visible reason."""
    endpoint.script = at_first(refusal(429, "", headers={"Retry-After": "90"}))
    told: list[str] = []
    sample_one(endpoint, warn=told.append)
    assert told == ["the endpoint asks to wait 90 s before the next request"]
    endpoint.script = lambda asked: refusal(429, "quota used up", headers={"Retry-After": "86400"})
    with pytest.raises(UserError, match=r"HTTP 429 and asks to wait 86400 s: quota used up"):
        sample_one(endpoint)


def test_surrender_says_what_happened_how_often_and_where(endpoint: FakeEndpoint) -> None:
    """Guards against "connection error" as the whole story."""
    faults = [refusal(500, ""), Answer(cut="before"), refusal(500, ""), Answer(body={"error": {"message": "busy"}})]
    endpoint.script = at_first(*faults)
    with pytest.raises(UserError) as caught:
        sample_one(endpoint, retries=3)
    assert str(caught.value) == (
        f"gave up on {endpoint.url}/v1/chat/completions after 4 attempts: HTTP 500 (2 times), "
        "RemoteProtocolError, an answer that is no chat completion; the last: busy"
    )
    assert len(endpoint.asked) == 4


def test_a_failure_for_good_drops_what_is_under_way_and_what_is_not_begun(endpoint: FakeEndpoint) -> None:
    """Guards against a call that first finishes a hopeless batch: the other two under way are answered only when it has
    raised, and of the eleven samples no other is asked for."""
    begun = threading.Barrier(3)
    held: list[bool] = []

    def script(asked: Asked) -> Answer:
        begun.wait(PATIENCE_S)
        if asked.n == 1:
            return refusal(404, "no such model")
        held.append(endpoint.hold())
        return echo(asked)

    endpoint.script = script
    with pytest.raises(UserError, match="no such model"):
        make_policy(endpoint, concurrency=3).sample([make_prompt("a")], 11)
    assert held == []
    assert len(endpoint.asked) == 3
