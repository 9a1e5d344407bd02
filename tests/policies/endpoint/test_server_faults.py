"""Every fault of the corpus, once and for ever: what was answered is kept, nothing hangs, and the reason is said."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.problems.rewards import grade
from rethink.types import Sample
from support.fake_endpoint import make_policy, make_prompts
from support.server_faults import FAULTS, UNREACHABLE, faulty_server

LIMIT_S = 10.0
"""Far more than any request here may take, and far less than a server of the corpus holds one."""

HARMLESS = {
    *("compressed", "HTTP/1.0 without a length", "content of parts", "choices out of order", "finish reason 'eos'"),
    *("finish reason 'stop_sequence'", "finish reason 'STOP'", "finish reason {'type': 'stop'}"),
}
"""Odd answers that are right, as are those with an odd usage."""


def options(name: str) -> dict[str, Any]:
    slow = "hang" in name or "drip" in name
    return {"concurrency": 1, "timeout_s": 1 if slow else 5, "retries": 2, "warn": lambda text: None}


def outcome(group: tuple[Sample, ...]) -> str:
    if not group:
        return "skipped"
    (sample,) = group
    assert sample.verdict is not None
    if sample.verdict.right is None:
        assert sample.verdict.reason
        return "not graded"
    if sample.right:
        return "answered"
    return "cut" if sample.stop == "length" else "empty" if not sample.text else f"wrong: {sample.text}"


@pytest.mark.parametrize("name", FAULTS)
def test_one_fault_costs_at_most_one_answer(name: str, slept: list[float]) -> None:
    """Guards against wrong answers, lost ones, tracebacks and waits: the second of four prompts meets the fault."""
    start = time.monotonic()
    with faulty_server(name, lambda n, question: n == 1) as server:
        policy = make_policy(server.url, **options(name))
        if FAULTS[name][0] == "error":
            with pytest.raises(UserError, match=r"refuses a request|gave up on"):
                policy.sample(make_prompts(4), 1)
        else:
            groups = grade(policy.sample(make_prompts(4), 1))
            assert [outcome(group) for group in groups] == ["answered", FAULTS[name][0], "answered", "answered"]
    assert time.monotonic() - start < LIMIT_S


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (expected, _) in FAULTS.items() if expected == "answered"])
def test_a_prompt_that_always_fails_is_not_graded(name: str, slept: list[float]) -> None:
    """Guards against one prompt of many that ends an evaluation, and that ends it again after each --resume."""
    start = time.monotonic()
    with faulty_server(name, lambda n, question: question == "q1") as server:
        policy = make_policy(server.url, **options(name))
        if name.startswith("429"):
            with pytest.raises(UserError, match=r"gave up on|refuses a request"):
                policy.sample(make_prompts(4), 1)
        else:
            groups = grade(policy.sample(make_prompts(4), 1))
            assert [outcome(group) for group in groups][2:] == ["answered"] * 2
            assert outcome(groups[1]) in ("not graded", "answered")
    assert time.monotonic() - start < LIMIT_S


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, (expected, _) in FAULTS.items() if expected not in ("cut", "empty")])
def test_a_server_that_answers_nothing_is_an_error(name: str, slept: list[float]) -> None:
    """Guards against an evaluation of nothing that ends well."""
    start = time.monotonic()
    with faulty_server(name, lambda n, question: True) as server:
        policy = make_policy(server.url, **options(name))
        if name in HARMLESS or name.startswith("usage"):
            assert {outcome(group) for group in grade(policy.sample(make_prompts(6), 1))} == {"answered"}
        else:
            with pytest.raises(UserError) as caught:
                policy.sample(make_prompts(6), 1)
            assert len(str(caught.value)) < 1000
            assert str(caught.value).isprintable()
    assert time.monotonic() - start < LIMIT_S


@pytest.mark.parametrize("url", UNREACHABLE)
def test_an_address_without_a_server_is_an_error(url: str, slept: list[float]) -> None:
    """Guards against a traceback or a wait: nothing listens, no such host, no TLS."""
    with (
        faulty_server("HTML") as server,
        pytest.raises(UserError, match=r"gave up on .* after 2 attempts: \w+: ."),
    ):
        # A single prompt: httpcore2 leaks the socket of a TLS handshake that is cancelled, as a second one's might be.
        make_policy(url.format(port=server.port), retries=1).sample(make_prompts(1), 1)
