"""The policy over an endpoint where something fails: what is tried again and when, and what a user gets to read."""

from __future__ import annotations

import json
import threading
import time
from email.utils import formatdate
from typing import Any

import pytest

from rethink.errors import UserError
from support.fake_endpoint import (
    PATIENCE_S,
    Answer,
    Asked,
    FakeEndpoint,
    at_first,
    completion,
    echo,
    make_policy,
    make_prompt,
    refusal,
)


def sample_one(endpoint: FakeEndpoint, **more: Any) -> str:
    """The text of one sample for the question "a"."""
    [[sample]] = make_policy(endpoint, concurrency=1, **more).sample([make_prompt("a")], 1)
    return sample.text


@pytest.mark.parametrize(
    "fault",
    [
        *(refusal(status, "not now") for status in (408, 409, 429, 500, 502, 503, 504, 529)),
        Answer(cut="before"),
        Answer(cut="middle", body="x" * 1000),
        Answer(body="<html>soon back</html>"),
        Answer(body={"object": "chat.completion"}),
        Answer(body={"choices": []}),
        Answer(body={"choices": [{"message": None}]}),
        Answer(body={"choices": [{"message": {"content": 7}}]}),
        Answer(body=[]),
        Answer(body="{", headers={"Content-Type": "application/json"}),
        Answer(body="[" * 100_000, headers={"Content-Type": "application/json"}),
        completion([{"type": "text"}]),
        completion("half a re", finish_reason="error"),
        completion("half a re", finish_reason="abort"),
    ],
    ids=lambda fault: f"{fault.status} {fault.cut} {json.dumps(fault.body)[:40]}",
)
def test_a_fault_that_may_pass_is_tried_again(endpoint: FakeEndpoint, fault: Answer, slept: list[float]) -> None:
    """Guards against an evaluation of hours that ends over one bad moment, and half a reply that passes for a whole one;
    the same request is sent again."""
    endpoint.script = at_first(fault, fault)
    assert sample_one(endpoint) == f"a/{endpoint.asked[0].body['seed']}"
    assert [asked.body for asked in endpoint.asked] == [endpoint.asked[0].body] * 3
    # Half a second and a second, each less up to a quarter of it.
    first, second = slept
    assert 0.375 <= first <= 0.5
    assert 0.75 <= second <= 1


def test_a_server_that_does_not_answer_in_time_is_asked_again(endpoint: FakeEndpoint, slept: list[float]) -> None:
    """Guards against a wait without end; the first request is never answered."""

    def stall(asked: Asked) -> Answer:
        if asked.n == 0:
            endpoint.hold()
        return echo(asked)

    endpoint.script = stall
    assert sample_one(endpoint, timeout_s=0.5).startswith("a/")
    assert len(endpoint.asked) >= 2
    assert len(slept) == len(endpoint.asked) - 1


def test_a_refused_connection_is_tried_again_and_then_reported(slept: list[float]) -> None:
    """Guards against a bare socket error; nothing listens on the discard port."""
    policy = make_policy("http://127.0.0.1:9", retries=3)
    with pytest.raises(UserError, match=r"gave up on http://127\.0\.0\.1:9/v1 after 4 attempts: ConnectError: ."):
        policy.sample([make_prompt("a")], 1)
    assert len(slept) == 3


@pytest.mark.parametrize("status", [408, 429, 503])
def test_retry_after_is_kept_to_in_seconds_and_as_a_date(
    endpoint: FakeEndpoint, status: int, slept: list[float]
) -> None:
    """Guards against attempts that only prolong a ban."""
    date = formatdate(time.time() + 60, usegmt=True)
    endpoint.script = at_first(
        refusal(status, "", headers={"Retry-After": "7"}), refusal(status, "", headers={"Retry-After": date})
    )
    sample_one(endpoint)
    assert slept[0] == 7
    assert 30 < slept[1] <= 60


@pytest.mark.parametrize("header", ["soon", "", "-3", "nan", "0", "Mon, 01 Jan 2001 00:00:00 GMT"])
def test_a_retry_after_without_a_future_leaves_the_usual_delay(
    endpoint: FakeEndpoint, header: str, slept: list[float]
) -> None:
    """Guards against a crash over a strange header, and against six attempts within a millisecond."""
    endpoint.script = at_first(refusal(429, "", headers={"Retry-After": header}))
    sample_one(endpoint)
    assert 0.375 <= slept[0] <= 0.5
    assert len(slept) == 1


def test_a_quota_for_the_day_is_an_error_at_once(endpoint: FakeEndpoint) -> None:
    """Guards against a program that stands still for hours."""
    endpoint.script = lambda asked: refusal(429, "quota used up", headers={"Retry-After": "86400"})
    with pytest.raises(UserError, match=r"after 1 attempt: HTTP 429: quota used up \(Retry-After: 86400\)$"):
        sample_one(endpoint)
    assert len(endpoint.asked) == 1


def test_giving_up_says_after_how_many_attempts_and_why(endpoint: FakeEndpoint, slept: list[float]) -> None:
    """Guards against "connection error" as the whole story."""
    endpoint.script = lambda asked: refusal(503, "overloaded")
    with pytest.raises(UserError) as caught:
        sample_one(endpoint, retries=3)
    assert str(caught.value) == f"gave up on {endpoint.url}/v1 after 4 attempts: HTTP 503: overloaded"
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
