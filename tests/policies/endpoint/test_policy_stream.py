"""The policy over an endpoint that streams: pieces as they come, and what becomes of a stream that goes wrong."""

from __future__ import annotations

import gc
import json
import logging
import threading
from collections.abc import Iterable, Iterator
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


def hear(endpoint: FakeEndpoint, **more: Any) -> tuple[Sample, list[str]]:
    """One streamed sample for the question "a", and its pieces."""
    pieces: list[str] = []
    sample = make_policy(endpoint, **more).stream(make_prompt("a"), None, pieces.append)
    assert sample is not None
    assert "".join(pieces) == sample.text
    assert "" not in pieces
    return sample, pieces


def answer_with(endpoint: FakeEndpoint, *pieces: bytes) -> None:
    endpoint.script = lambda asked: Answer(pieces=pieces)


# --- streams


def test_a_streamed_reply_is_the_sample_that_a_whole_one_gives(endpoint: FakeEndpoint) -> None:
    """Guards against samples that differ by how they came, and against a request without usage."""
    endpoint.script = lambda asked: streamed("a b", " c") if "stream" in asked.body else completion("a b c")
    policy, prompt, sampling = make_policy(endpoint, key="k-1"), make_prompt("a"), Sampling(0.5, 7, top_k=3)
    pieces: list[str] = []
    assert policy.stream(prompt, sampling, pieces.append) == policy.sample([prompt], 1, sampling)[0][0]
    assert pieces == ["a b", " c"]
    first, second = (asked.body for asked in endpoint.asked)
    assert first == second | {"stream": True, "stream_options": {"include_usage": True}}
    sample, _ = hear(endpoint)
    assert (sample.stop, sample.usage, sample.index, sample.sampling) == ("stop", (3, 5), 0, Sampling(max_tokens=11))


def test_pieces_are_told_before_the_reply_is_complete(endpoint: FakeEndpoint) -> None:
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


def test_packets_may_end_anywhere(endpoint: FakeEndpoint) -> None:
    """Guards against packets taken for events; here each has one byte, and each line the end of Windows."""
    text = "\u00e4\u20ac\U0001f600"
    raw = b": hi\r\n\r\n" + b"".join([chunk(c).replace(b"\n", b"\r\n") for c in text]) + chunk("", "length") + DONE
    plain = "data: " + json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=False) + "\n\n"
    raw = plain.encode() + raw
    answer_with(endpoint, *(raw[n : n + 1] for n in range(len(raw))))
    sample, pieces = hear(endpoint)
    assert (sample.stop, pieces) == ("length", [text, *text])


def test_an_event_may_have_several_lines(endpoint: FakeEndpoint) -> None:
    """Guards against JSON that is read line by line."""
    lines = json.dumps({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}, indent=1).splitlines()
    answer_with(endpoint, *(f"data: {line}\n".encode() for line in lines), b"\n", USAGE)
    assert hear(endpoint)[0].usage == (3, 5)


def choice(**delta: Any) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": None}


@pytest.mark.parametrize(
    "payload",
    [
        {"choices": [choice(content=None)]},
        {"choices": [choice(content="")]},
        {"choices": [choice(content=[])]},
        {"choices": [choice(role="assistant")]},
        {"choices": [{"index": 0, "delta": None, "finish_reason": ""}]},
        {"choices": [choice(reasoning_content="hm", content=None)]},
        {"choices": [choice(reasoning="hm")]},
        {"choices": [choice(content=[{"type": "thinking", "thinking": "hm"}])]},
        {"choices": [choice(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "{"}}])]},
        {"choices": [choice(refusal="no")]},
        {"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "length"}]},
        {"choices": [], "prompt_filter_results": []},
        {"choices": None, "usage": {}},
        {"choices": [choice()], "error": None},
    ],
    ids=lambda payload: json.dumps(payload)[:70],
)
def test_only_the_content_of_the_first_choice_counts(endpoint: FakeEndpoint, payload: Any) -> None:
    """Guards against thinking, calls or another choice's text in the reply, and empty pieces."""
    answer_with(endpoint, event(payload), chunk("b"), event(payload), chunk("c"), chunk("", "stop"), USAGE, DONE)
    sample, pieces = hear(endpoint)
    assert (pieces, sample.stop, sample.usage) == (["b", "c"], "stop", (3, 5))


def test_the_last_usage_that_is_stated_counts(endpoint: FakeEndpoint) -> None:
    """Guards against counts of a server that states them as it goes: those so far, or none behind the last."""
    first, last = (json.loads(USAGE[6:]) for _ in range(2))
    first["usage"] = {"prompt_tokens": 3, "completion_tokens": 2}
    answer_with(endpoint, chunk("b"), event(first), event(last), chunk("", "stop"), DONE)
    assert hear(endpoint)[0].usage == (3, 5)


def test_two_choices_in_one_event(endpoint: FakeEndpoint) -> None:
    """Guards against the two being mixed: choices are told apart by index, not by place."""
    both = [{"index": 1, "delta": {"content": "x"}}, {"index": 0, "delta": {"content": "b"}, "finish_reason": "length"}]
    answer_with(endpoint, event({"choices": both}), DONE)
    sample, pieces = hear(endpoint)
    assert (pieces, sample.stop) == (["b"], "length")


def test_half_of_a_pair_is_replaced(endpoint: FakeEndpoint) -> None:
    """Guards against text that no file can hold."""
    endpoint.script = lambda asked: streamed("a\ud83d", "b")
    assert hear(endpoint)[1] == ["a\ufffd", "b"]


@pytest.mark.parametrize("done", [DONE, b"data:[DONE] \n\n"])
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_stream_may_end_in_several_ways(endpoint: FakeEndpoint, reason: str, done: bytes) -> None:
    """Guards against whole replies taken for cut ones; with [DONE] the server need not hang up, and says no more."""

    def hold() -> Iterator[bytes]:
        yield from (chunk("b"), chunk("", reason), done)
        held.append(endpoint.hold())

    held: list[bool] = []
    endpoint.script = lambda asked: Answer(pieces=hold())
    sample, _ = hear(endpoint)
    assert (sample.text, sample.stop, sample.usage) == ("b", reason, (None, None))
    assert held == []


@pytest.mark.parametrize("cut", ["", "middle"])
@pytest.mark.parametrize("last", [b"", event({"error": "late"}), b"data: {\n\n", b"data: [DO"])
def test_with_a_finish_reason_a_reply_is_whole(endpoint: FakeEndpoint, cut: Any, last: bytes) -> None:
    """Guards against a reply that is thrown away for the sake of its usage."""
    endpoint.script = lambda asked: Answer(pieces=[p for p in (chunk("b", "stop"), last) if p], cut=cut)
    sample, _ = hear(endpoint)
    assert (sample.text, sample.usage) == ("b", (None, None))
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize("content", ["a b", "", None])
@pytest.mark.parametrize("indent", [None, 1])
def test_a_server_that_does_not_stream_is_accepted(endpoint: FakeEndpoint, content: str | None, indent: Any) -> None:
    """Guards against servers that ignore "stream"; a reply is one piece, an empty one none."""
    body = json.dumps(completion(content, finish_reason="length").body, indent=indent)
    endpoint.script = lambda asked: Answer(body=body, headers={"Content-Type": "application/json; charset=utf-8"})
    sample, pieces = hear(endpoint)
    assert (sample.stop, sample.usage, pieces) == ("length", (3, 5), ["a b"] if content else [])


def test_a_server_without_stream_options_is_asked_again(endpoint: FakeEndpoint) -> None:
    """Guards against older servers that cannot be used for the sake of usage."""

    def strict(asked: Asked) -> Answer:
        if "stream_options" in asked.body:
            return refusal(400, "Unrecognized request argument supplied: stream_options")
        return Answer(pieces=[chunk("b", "stop"), DONE])

    endpoint.script = strict
    told: list[str] = []
    policy = make_policy(endpoint, retries=0, warn=told.append)
    samples = [policy.stream(make_prompt("a"), None, lambda piece: None) for _ in range(2)]
    assert [s and (s.text, s.usage) for s in samples] == [("b", (None, None))] * 2
    assert [a.body.keys() & {"stream", "stream_options"} for a in endpoint.asked[1:]] == [{"stream"}] * 2
    [message] = told
    assert "does not support stream_options" in message


# --- faults

OVERLONG = "The input (17 tokens) is longer than the model's context length (13 tokens)."


@pytest.mark.parametrize(
    "fault",
    [
        *(refusal(status, "not now") for status in (429, 503)),
        Answer(cut="before"),
        Answer(cut="middle", body="x" * 1000),
        Answer(body="<html>soon back</html>"),
        Answer(body={"error": {"message": "busy"}}),
        Answer(503, pieces=[chunk("x", "stop"), DONE]),
        Answer(pieces=[]),
        Answer(pieces=[b": wait\n\n"]),
        Answer(pieces=[DONE]),
        Answer(pieces=[USAGE, DONE]),
        Answer(pieces=[chunk("")]),
        Answer(pieces=[chunk("")], cut="middle"),
        Answer(pieces=[chunk("")], headers={"Connection": "close"}),
        Answer(pieces=[chunk(""), event({"error": {"message": "busy", "code": 503}})]),
        Answer(pieces=[event({"error": "busy"})]),
        Answer(pieces=[event({"object": "error", "message": "busy"})]),
        Answer(pieces=[b"data: {\n\n", chunk("x", "stop")]),
        Answer(pieces=[event([]), chunk("x", "stop")]),
        Answer(pieces=[event({"choices": [{"delta": {"content": 7}}]})]),
        Answer(pieces=[event({"choices": {"0": 1}})]),
        Answer(pieces=[b"data: " + b"[" * 100_000 + b"\n\n"]),
    ],
    ids=lambda fault: f"{fault.status} {fault.cut} {fault.body or fault.pieces}"[:60],
)
def test_before_the_first_piece_a_fault_is_tried_again(
    endpoint: FakeEndpoint, fault: Answer, slept: list[float]
) -> None:
    """Guards against a stream without the patience that whole replies get; nothing is said twice."""
    endpoint.script = lambda asked: at_first(fault, fault)(asked) if asked.n < 2 else streamed("b")
    sample, pieces = hear(endpoint)
    assert (sample.usage, pieces) == ((3, 5), ["b"])
    # Half a second and a second, each less up to a quarter of it.
    first, second = slept
    assert 0.375 <= first <= 0.5
    assert 0.75 <= second <= 1


@pytest.mark.parametrize(
    ("last", "cut", "match"),
    [
        (b"", "middle", "RemoteProtocolError"),
        (b"", "", "an unfinished stream: it ends without a finish reason"),
        (event({"error": {"message": "out of\nmemory", "code": 500}}), "", "an error event: out of memory"),
        (event({"error": {"message": OVERLONG, "code": 400}}), "", "an error event: The input"),
        (b"data: <html>\n\n", "", "a malformed event: JSONDecodeError"),
        (event({"choices": [7]}), "", "a malformed event"),
    ],
    ids=lambda value: value.decode()[:40] if isinstance(value, bytes) else None,
)
def test_after_the_first_piece_a_fault_is_an_error(endpoint: FakeEndpoint, last: bytes, cut: Any, match: str) -> None:
    """Guards against a beginning that is said twice, and against half a reply that passes for a whole one, also where the
    server puts an empty finish reason into every chunk."""
    endpoint.script = lambda asked: Answer(pieces=[p for p in (chunk("b", ""), last) if p], cut=cut)
    pieces: list[str] = []
    with pytest.raises(UserError, match=rf"in the middle of a reply; a retry would repeat text: {match}"):
        make_policy(endpoint).stream(make_prompt("a"), None, pieces.append)
    assert pieces == ["b"]
    assert len(endpoint.asked) == 1


def test_a_connection_that_ends_early_without_a_word_is_an_error(endpoint: FakeEndpoint) -> None:
    """Guards against half a reply from servers that state no length."""
    endpoint.script = lambda asked: Answer(pieces=[chunk("b")], headers={"Connection": "close"})
    with pytest.raises(UserError, match="an unfinished stream"):
        hear(endpoint)


@pytest.mark.parametrize("silent", [True, False])
def test_the_whole_reply_has_its_time(endpoint: FakeEndpoint, silent: bool) -> None:
    """Guards against a server that holds a caller for ever, be it silent or with pieces that say nothing."""

    def send() -> Iterator[bytes]:
        yield chunk("b")
        while not (silent and endpoint.hold()):
            yield chunk("")

    endpoint.script = lambda asked: Answer(pieces=send())
    with pytest.raises(UserError, match=r"repeat text: (time-out: no whole answer within 0\.5 s|ReadTimeout)"):
        hear(endpoint, timeout_s=0.5)


def test_a_stream_of_nothing_ends_as_well(endpoint: FakeEndpoint, slept: list[float]) -> None:
    """Guards against the same before the first piece, where it is tried again."""

    def send(noise: bytes) -> Iterator[bytes]:
        while True:
            yield noise

    endpoint.script = lambda asked: Answer(pieces=send([chunk(""), b": wait\n"][asked.n % 2]))
    with pytest.raises(UserError, match="after 2 attempts: time-out: no whole"):
        hear(endpoint, timeout_s=0.5, retries=1)


@pytest.mark.parametrize(
    "answer",
    [
        refusal(400, OVERLONG),
        Answer(pieces=[event({"error": {"message": OVERLONG, "code": 400}})]),
    ],
    ids=["at once", "as an event"],
)
def test_an_overlong_prompt_is_skipped_and_counted(endpoint: FakeEndpoint, answer: Answer) -> None:
    """Guards against six attempts at what cannot fit, also with servers that find out after they have said 200."""
    endpoint.script = lambda asked: answer
    told: list[str] = []
    policy = make_policy(endpoint, warn=told.append)
    assert policy.stream(make_prompt("a"), None, told.append) is None
    assert (policy.n_overlong, len(told), len(endpoint.asked)) == (1, 1, 1)
    with pytest.raises(UserError, match="too long for tiny"):
        hear(endpoint, overlong="refuse")


def test_other_refusals_end_at_once(endpoint: FakeEndpoint) -> None:
    """Guards against messages without reason or remedy."""
    endpoint.script = lambda asked: refusal(401, "who are you")
    with pytest.raises(UserError, match="HTTP 401: who are you; check MY_KEY"):
        hear(endpoint, key="k-123", key_env="MY_KEY")
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    "pieces",
    [
        [chunk("b"), event({"error": {"message": "Bearer k-123 expired"}})],
        [chunk("b"), b"data: k-123\n\n"],
        [event({"error": {"message": "Bearer k-123 expired", "code": 401}})],
    ],
)
def test_the_key_is_not_shown(
    endpoint: FakeEndpoint, pieces: Iterable[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """Guards against the server's echo of it in an event."""
    caplog.set_level(logging.INFO)
    endpoint.script = lambda asked: Answer(pieces=pieces)
    with pytest.raises(UserError) as caught:
        make_policy(endpoint, key="k-123").stream(make_prompt("a"), None, lambda piece: None)
    assert "[key]" in str(caught.value) or "JSONDecodeError" in str(caught.value)
    assert "k-123" not in f"{caught.value!r}{caught.value.__context__!r}{caplog.text}"


@pytest.mark.parametrize(
    "error",
    [
        *(TimeoutError("mine"), ValueError("mine"), TypeError("mine"), BrokenPipeError("mine")),
        *(KeyboardInterrupt("mine"), SystemExit("mine")),
    ],
)
def test_what_the_listener_raises_is_raised(endpoint: FakeEndpoint, error: BaseException) -> None:
    """Guards against the listener's failure being taken for the server's, and a loop that is left open."""

    def fail(piece: str) -> None:
        raise error

    endpoint.script = lambda asked: streamed("b", "c")
    with pytest.raises(type(error), match="mine"):
        make_policy(endpoint).stream(make_prompt("a"), None, fail)
    assert len(endpoint.asked) == 1
    gc.collect()  # a loop that is not closed warns, which is an error here
