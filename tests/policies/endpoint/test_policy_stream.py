"""Streamed replies: pieces as they arrive, and streams that fail."""

from __future__ import annotations

import gc
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.types import Sample, Sampling
from support.fake_endpoint import (
    DONE,
    PATIENCE_S,
    USAGE,
    Answer,
    Asked,
    FakeEndpoint,
    at_first,
    chunk,
    completion,
    event,
    make_policy,
    make_prompt,
    refusal,
    streamed,
)


def stream_one(endpoint: FakeEndpoint, **more: Any) -> tuple[Sample, list[str]]:
    """Return one streamed sample for the question "a", and its pieces."""
    pieces: list[str] = []
    sample = make_policy(endpoint, **more).stream(make_prompt("a"), None, pieces.append)
    assert sample is not None
    assert "".join(pieces) == sample.text
    assert "" not in pieces
    return sample, pieces


def test_a_streamed_reply_gives_the_same_sample(endpoint: FakeEndpoint) -> None:
    """Guards against samples that differ by how they arrived, and a request without usage."""
    endpoint.script = lambda asked: streamed("a b", " c") if "stream" in asked.body else completion("a b c")
    policy, prompt, sampling = make_policy(endpoint, key="k-1"), make_prompt("a"), Sampling(0.5, 7, top_k=3)
    pieces: list[str] = []
    assert policy.stream(prompt, sampling, pieces.append) == policy.sample([prompt], 1, sampling)[0][0]
    assert pieces == ["a b", " c"]
    first, second = (asked.body for asked in endpoint.asked)
    assert first == second | {"stream": True, "stream_options": {"include_usage": True}}
    sample, _ = stream_one(endpoint)
    assert (sample.stop, sample.usage, sample.index, sample.sampling) == ("stop", (3, 5), 0, Sampling(max_tokens=11))


def test_pieces_arrive_before_the_reply_is_complete(endpoint: FakeEndpoint) -> None:
    """Guards against a stream that is read to its end first: the server sends each piece when the last has arrived."""
    arrived = threading.Semaphore(0)

    def send() -> Iterator[bytes]:
        for word in ("a", "b", "c"):
            yield chunk(word)
            assert arrived.acquire(timeout=PATIENCE_S)
        yield from (chunk(None, "stop"), DONE)

    endpoint.script = lambda asked: Answer(pieces=send())
    sample = make_policy(endpoint).stream(make_prompt("a"), None, lambda piece: arrived.release())
    assert sample is not None
    assert sample.text == "abc"


def test_packets_and_lines_may_end_anywhere(endpoint: FakeEndpoint) -> None:
    """Guards against packets taken for events: packets of one byte, Windows line ends, an event of several lines."""
    text = "\u00e4\u20ac\U0001f600"
    raw = b": hi\r\n\r\n" + b"".join([chunk(c).replace(b"\n", b"\r\n") for c in text])
    lines = json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=False, indent=1).splitlines()
    raw += "".join(f"data: {line}\n" for line in lines).encode() + b"\n" + chunk("", "length") + DONE
    endpoint.script = lambda asked: Answer(pieces=[raw[n : n + 1] for n in range(len(raw))])
    sample, pieces = stream_one(endpoint)
    assert (sample.stop, pieces) == ("length", [*text, text])


def choice(**delta: Any) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": None}


@pytest.mark.parametrize(
    "payload",
    [
        {"choices": [choice(content=None)]},
        {"choices": [{"index": 0, "delta": None, "finish_reason": ""}]},
        {"choices": [choice(reasoning_content="hm", content="")]},
        {"choices": [choice(content=[{"type": "thinking", "thinking": "hm"}])]},
        {"choices": [choice(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "{"}}])]},
        {"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "length"}, choice()]},
        {"choices": [], "prompt_filter_results": []},
        {"choices": None, "usage": {}},
    ],
)
def test_only_the_content_of_the_first_choice_counts(endpoint: FakeEndpoint, payload: Any) -> None:
    """Guards against thinking, calls or another choice's text in the reply, and intermediate usage."""
    early = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    pieces = (event(payload), chunk("b"), event(payload), early, chunk("c\ud83d"), chunk("", "stop"), USAGE, DONE)
    endpoint.script = lambda asked: Answer(pieces=pieces)
    sample, found = stream_one(endpoint)
    assert (found, sample.stop, sample.usage) == (["b", "c\ufffd"], "stop", (3, 5))


@pytest.mark.parametrize(("reason", "done"), [("stop", DONE), ("length", b"data:[DONE] \n\n")])
def test_a_stream_ends_with_done(endpoint: FakeEndpoint, reason: str, done: bytes) -> None:
    """Guards against complete replies taken for cut ones, and a wait for a server that keeps the connection open."""

    def hold() -> Iterator[bytes]:
        yield from (chunk("b"), chunk("", reason), done)
        held.append(endpoint.hold())

    held: list[bool] = []
    endpoint.script = lambda asked: Answer(pieces=hold())
    sample, _ = stream_one(endpoint)
    assert (sample.text, sample.stop, sample.usage) == ("b", reason, (None, None))
    assert held == []


@pytest.mark.parametrize(
    ("last", "cut"),
    [(b"", ""), (b"", "middle"), (event({"error": "late"}), ""), (b"data: {\n\n", ""), (b"data: [DO", "")],
)
def test_a_reply_with_its_finish_reason_is_complete(endpoint: FakeEndpoint, last: bytes, cut: Any) -> None:
    """Guards against a reply that is lost because only its usage is missing."""
    endpoint.script = lambda asked: Answer(pieces=[p for p in (chunk("b", "stop"), last) if p], cut=cut)
    sample, _ = stream_one(endpoint)
    assert (sample.text, sample.usage) == ("b", (None, None))
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize("content", ["a b", None])
def test_a_server_that_does_not_stream_is_accepted(endpoint: FakeEndpoint, content: str | None) -> None:
    """Guards against servers that ignore "stream": a reply is one piece, an empty one none."""
    body = json.dumps(completion(content, finish_reason="length").body, indent=1)
    endpoint.script = lambda asked: Answer(body=body, headers={"Content-Type": "application/json; charset=utf-8"})
    sample, pieces = stream_one(endpoint)
    assert (sample.stop, sample.usage, pieces) == ("length", (3, 5), ["a b"] if content else [])


def test_unsupported_stream_options_are_left_out(endpoint: FakeEndpoint) -> None:
    """Guards against older servers that cannot be used because of usage."""

    def strict(asked: Asked) -> Answer:
        if "stream_options" in asked.body:
            return refusal(400, "Unrecognized request argument supplied: stream_options")
        return Answer(pieces=[chunk("b", "stop"), DONE])

    endpoint.script = strict
    warnings: list[str] = []
    policy = make_policy(endpoint, retries=0, warn=warnings.append)
    samples = [policy.stream(make_prompt("a"), None, lambda piece: None) for _ in range(2)]
    assert [s and (s.text, s.usage) for s in samples] == [("b", (None, None))] * 2
    assert [a.body.keys() & {"stream", "stream_options"} for a in endpoint.asked[1:]] == [{"stream"}] * 2
    [message] = warnings
    assert "does not support stream_options" in message


# Failures

OVERLONG = "The input (17 tokens) is longer than the model's context length (13 tokens)."


@pytest.mark.parametrize(
    "fault",
    [
        refusal(503, "not now"),
        Answer(cut="before"),
        Answer(body="<html>soon back</html>"),
        Answer(body={"error": {"message": "busy"}}),
        Answer(503, pieces=[chunk("x", "stop"), DONE]),
        Answer(pieces=[]),
        Answer(pieces=[USAGE, DONE]),
        Answer(pieces=[chunk("")], cut="middle"),
        Answer(pieces=[chunk("")], headers={"Connection": "close"}),
        Answer(pieces=[chunk(""), event({"error": {"message": "busy", "code": 503}})]),
        Answer(pieces=[event({"error": "busy"})]),
        Answer(pieces=[b"data: {\n\n", chunk("x", "stop")]),
        Answer(pieces=[event([]), chunk("x", "stop")]),
        Answer(pieces=[event({"choices": [{"delta": {"content": 7}}]})]),
        Answer(pieces=[event({"choices": {"0": 1}})]),
        Answer(pieces=[b"data: " + b"[" * 100_000 + b"\n\n"]),
    ],
)
def test_a_fault_before_the_first_piece_is_retried(endpoint: FakeEndpoint, fault: Answer, slept: list[float]) -> None:
    """Guards against streams without the retries of whole replies, and text that is repeated."""
    endpoint.script = lambda asked: at_first(fault, fault)(asked) if asked.n < 2 else streamed("b")
    sample, pieces = stream_one(endpoint)
    assert (sample.usage, pieces) == ((3, 5), ["b"])
    first, second = slept  # 0.5 and 1 s, each less up to a quarter
    assert 0.375 <= first <= 0.5
    assert 0.75 <= second <= 1


@pytest.mark.parametrize(
    ("last", "changes", "match"),
    [
        (b"", {"cut": "middle"}, "RemoteProtocolError"),
        (b"", {}, "an unfinished stream: it ends without a finish reason"),
        (b"", {"headers": {"Connection": "close"}}, "an unfinished stream"),
        (event({"error": {"message": "out of\nmemory", "code": 500}}), {}, "an error event: out of memory"),
        (event({"error": {"message": OVERLONG, "code": 400}}), {}, "an error event: The input"),
        (b"data: <html>\n\n", {}, "a malformed event: JSONDecodeError"),
        (event({"choices": [7]}), {}, "a malformed event"),
    ],
)
def test_a_fault_after_the_first_piece_is_an_error(
    endpoint: FakeEndpoint, last: bytes, changes: Any, match: str
) -> None:
    """Guards against a beginning that is repeated, and half a reply that passes for a complete one."""
    endpoint.script = lambda asked: Answer(pieces=[p for p in (chunk("b", ""), last) if p], **changes)
    pieces: list[str] = []
    with pytest.raises(UserError, match=rf"in the middle of a reply; a retry would repeat text: {match}"):
        make_policy(endpoint).stream(make_prompt("a"), None, pieces.append)
    assert pieces == ["b"]
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize("silent", [True, False])
def test_a_reply_has_a_time_limit(endpoint: FakeEndpoint, silent: bool, slept: list[float]) -> None:
    """Guards against a server that keeps a caller waiting, silently or with empty pieces, after a piece or before."""

    def send(first: bytes) -> Iterator[bytes]:
        yield first
        while not (silent and endpoint.hold()):
            yield chunk("")

    endpoint.script = lambda asked: Answer(pieces=send(chunk("b")))
    with pytest.raises(UserError, match=r"repeat text: (time-out: no whole answer within 0\.3 s|ReadTimeout)"):
        stream_one(endpoint, timeout_s=0.3)
    endpoint.script = lambda asked: Answer(pieces=send(b": wait\n"))
    with pytest.raises(UserError, match=r"after 2 attempts: (time-out: no whole|ReadTimeout)"):
        stream_one(endpoint, timeout_s=0.2, retries=1)


@pytest.mark.parametrize(
    "answer",
    [refusal(400, OVERLONG), Answer(pieces=[event({"error": {"message": OVERLONG, "code": 400}})])],
)
def test_an_overlong_prompt_is_skipped_and_counted(endpoint: FakeEndpoint, answer: Answer) -> None:
    """Guards against retries of what cannot fit, also with servers that notice after they have sent status 200."""
    endpoint.script = lambda asked: answer
    warnings: list[str] = []
    policy = make_policy(endpoint, warn=warnings.append)
    assert policy.stream(make_prompt("a"), None, pytest.fail) is None
    assert (policy.n_overlong, len(warnings), len(endpoint.asked)) == (1, 1, 1)
    with pytest.raises(UserError, match="too long for tiny"):
        stream_one(endpoint, overlong="refuse")


@pytest.mark.parametrize(
    "pieces",
    [
        [chunk("b"), event({"error": {"message": "Bearer k-123 expired"}})],
        [chunk("b"), b"data: k-123\n\n"],
        [event({"error": {"message": "Bearer k-123 expired", "code": 401}})],
    ],
)
def test_the_key_is_not_shown(endpoint: FakeEndpoint, pieces: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    """Guards against a key that the server repeats in an event."""
    caplog.set_level(logging.INFO)
    endpoint.script = lambda asked: Answer(pieces=pieces)
    with pytest.raises(UserError) as caught:
        make_policy(endpoint, key="k-123").stream(make_prompt("a"), None, lambda piece: None)
    assert "[key]" in str(caught.value) or "JSONDecodeError" in str(caught.value)
    assert "k-123" not in f"{caught.value!r}{caught.value.__context__!r}{caplog.text}"


@pytest.mark.parametrize("error", [TimeoutError("mine"), ValueError("mine"), KeyboardInterrupt("mine")])
def test_errors_of_the_callback_are_raised(endpoint: FakeEndpoint, error: BaseException) -> None:
    """Guards against the caller's failure taken for the server's, and an event loop that stays open."""

    def fail(piece: str) -> None:
        raise error

    endpoint.script = lambda asked: streamed("b", "c")
    with pytest.raises(type(error), match="mine"):
        make_policy(endpoint).stream(make_prompt("a"), None, fail)
    assert len(endpoint.asked) == 1
    gc.collect()  # a loop that is not closed warns, which is an error here
