"""What is retried and when, which failures cost one sample, and what a user reads about the others."""

from __future__ import annotations

import json
import logging
import threading
import time
import traceback
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.problems.rewards import grade
from rethink.types import Message, Sampling, Verdict
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
    make_prompts,
    refusal,
)


def sample_one(endpoint: FakeEndpoint, **more: Any) -> str:
    """Return the text of one sample for the question "a"."""
    [[sample]] = make_policy(endpoint, concurrency=1, **more).sample([make_prompt("a")], 1)
    return sample.text


# Retries


@pytest.mark.parametrize(
    "fault",
    [
        refusal(429, "not now"),
        refusal(529, "not now"),
        Answer(cut="before"),
        Answer(cut="middle", body="x" * 1000),
        Answer(body="<html>soon back</html>"),
        Answer(body={"choices": []}),
        Answer(body={"choices": [{"message": {"content": 7}}]}),
        Answer(body=[]),
        Answer(body="{", headers={"Content-Type": "application/json"}),
        Answer(body="[" * 100_000, headers={"Content-Type": "application/json"}),
        completion([{"type": "text"}]),
        completion("half a re", finish_reason="error"),
    ],
)
def test_transient_faults_are_retried(endpoint: FakeEndpoint, fault: Answer, slept: list[float]) -> None:
    """Guards against an evaluation that ends over one bad moment. Delays: 0.5 and 1 s, each less up to a quarter."""
    endpoint.script = at_first(fault, fault)
    assert sample_one(endpoint) == f"a/{endpoint.asked[0].body['seed']}"
    assert [asked.body for asked in endpoint.asked] == [endpoint.asked[0].body] * 3
    first, second = slept
    assert 0.375 <= first <= 0.5
    assert 0.75 <= second <= 1


def test_a_silent_server_is_asked_again(endpoint: FakeEndpoint, slept: list[float]) -> None:
    """Guards against a wait without end; the first request is never answered."""

    def stall(asked: Asked) -> Answer:
        if asked.n == 0:
            endpoint.hold()
        return echo(asked)

    endpoint.script = stall
    assert sample_one(endpoint, timeout_s=0.3).startswith("a/")
    assert len(endpoint.asked) >= 2
    assert len(slept) == len(endpoint.asked) - 1


def test_giving_up_says_after_how_many_attempts_and_why(endpoint: FakeEndpoint, slept: list[float]) -> None:
    """Guards against "connection error" without more; nothing listens on the discard port."""
    endpoint.script = lambda asked: refusal(503, "overloaded")
    with pytest.raises(UserError) as caught:
        sample_one(endpoint, retries=3)
    assert str(caught.value) == f"gave up on {endpoint.url}/v1 after 4 attempts: HTTP 503: overloaded"
    assert len(endpoint.asked) == 4 + 1, "a last request shows whether the server answers anything"
    with pytest.raises(UserError, match=r"gave up on http://127\.0\.0\.1:9/v1 after 2 attempts: ConnectError: ."):
        make_policy("http://127.0.0.1:9", retries=1).sample([make_prompt("a")], 1)


def test_retry_after_is_honored(endpoint: FakeEndpoint, slept: list[float]) -> None:
    """Guards against attempts that only prolong a ban, and a program that waits for hours for tomorrow's quota."""
    date = formatdate(time.time() + 60, usegmt=True)
    endpoint.script = at_first(*(refusal(429, "", headers={"Retry-After": value}) for value in ("7", date)))
    sample_one(endpoint)
    assert slept[0] == 7
    assert 30 < slept[1] <= 60
    endpoint.script = lambda asked: refusal(429, "quota used up", headers={"Retry-After": "86400"})
    with pytest.raises(UserError, match=r"after 1 attempt: HTTP 429: quota used up \(Retry-After: 86400\)$"):
        sample_one(endpoint)


@pytest.mark.parametrize("header", ["soon", "-3", "nan", "0", "Mon, 01 Jan 2001 00:00:00 GMT"])
def test_a_useless_retry_after_is_ignored(endpoint: FakeEndpoint, header: str, slept: list[float]) -> None:
    """Guards against a crash, and against all attempts within a millisecond."""
    endpoint.script = at_first(refusal(429, "", headers={"Retry-After": header}))
    sample_one(endpoint)
    assert [0.375 <= delay <= 0.5 for delay in slept] == [True]


def test_a_permanent_failure_cancels_all_requests(endpoint: FakeEndpoint) -> None:
    """Guards against a call that first finishes a hopeless batch: two other requests are pending, eight not yet sent."""
    all_sent = threading.Barrier(3)
    held: list[bool] = []

    def script(asked: Asked) -> Answer:
        all_sent.wait(PATIENCE_S)
        if asked.n == 1:
            return refusal(404, "no such model")
        held.append(endpoint.hold())
        return echo(asked)

    endpoint.script = script
    with pytest.raises(UserError, match="no such model"):
        make_policy(endpoint, concurrency=3).sample([make_prompt("a")], 11)
    assert held == []
    assert len(endpoint.asked) == 3


# Failures that concern every request


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (refusal(400, "bad temperature", code="bad"), r"bad temperature \(bad\); see sampling.temperature \("),
        (refusal(400, "top_p and temperature", param="top_p"), r"see sampling.top_p \("),
        (refusal(400, "Unsupported value: 'temperature' must be 1"), "refuses a request: HTTP 400"),
        (refusal(400, "seed must be below 7"), "refuses a request: HTTP 400"),
        (refusal(401, "who are you"), r"HTTP 401: who are you; check MY_KEY$"),
        (refusal(401, "who are you"), "no key was given: set MY_KEY"),
        (refusal(404, "no such model"), r"HTTP 404: no such model; check the model's name, 'tiny', and the URL$"),
        (refusal(404, "unknown model 'seed' of context length 5"), r"HTTP 404: unknown model 'seed'"),
        (Answer(405, "<p>\n nginx</p>"), r"HTTP 405: <p> nginx</p>$"),
        (Answer(405, "y" * 9999), r"HTTP 405: y{500}\.\.\.$"),
    ],
)
def test_other_refusals_end_at_once_with_the_servers_words(endpoint: FakeEndpoint, answer: Answer, match: str) -> None:
    """Guards against retries of what can never work, messages without the reason, and settings that change silently."""
    endpoint.script = lambda asked: answer
    with pytest.raises(UserError, match=match):
        sample_one(endpoint, key="" if "no key" in match else "k-123", key_env="MY_KEY")
    assert len(endpoint.asked) == 1


# Failures that concern one prompt


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refusal(400, "flagged", code="content_policy"), "HTTP 400: flagged (content_policy)"),
        (refusal(413, "tokens per minute"), "HTTP 413: tokens per minute"),
        (Answer(body={"error": {"message": "busy"}}), "not a chat completion: busy"),
    ],
)
def test_a_refused_prompt_is_not_graded(endpoint: FakeEndpoint, answer: Answer, words: str, slept: list[float]) -> None:
    """Guards against an evaluation that one prompt ends, and a refusal that counts as a wrong answer."""
    endpoint.script = lambda asked: answer if asked.content in ("q1", "q4") else echo(asked)
    warnings: list[str] = []
    groups = grade(make_policy(endpoint, concurrency=1, retries=1, warn=warnings.append).sample(make_prompts(7), 2))
    assert [[s.right for s in group] for group in groups] == [[None if i in (1, 4) else False] * 2 for i in range(7)]
    what = "gives no reply to" if "busy" in words else "refuses"
    reason = f"the endpoint {what} this prompt: {words}"
    assert {(s.text, s.verdict) for s in groups[1] + groups[4]} == {("", Verdict(None, reason))}
    assert warnings == [f"problem q1 is not graded (reported once): {reason}"]


def test_several_refused_prompts_in_a_row_are_an_error(endpoint: FakeEndpoint) -> None:
    """Guards against an evaluation in which nothing is graded. A prompt counts once, and a reply restarts the count."""
    refused = set(range(7)) - {3}
    endpoint.script = lambda asked: refusal(400, "no") if int(asked.content[1:]) in refused else echo(asked)
    policy = make_policy(endpoint, concurrency=1, warn=lambda text: None)
    policy.sample(make_prompts(7), 3)
    refused.update(range(50))
    with pytest.raises(UserError, match=r"HTTP 400: no \(the same for 5 prompts in a row\)$"):
        policy.sample(make_prompts(50), 1)


def test_a_filtered_reply_is_not_graded(endpoint: FakeEndpoint) -> None:
    """Guards against half a reply that is graded as a complete one."""
    endpoint.script = lambda asked: completion("half a re", finish_reason="content_filter")
    warnings: list[str] = []
    [[sample]] = grade(make_policy(endpoint, warn=warnings.append).sample([make_prompt("half a re")], 1))
    assert sample.text == "half a re"
    assert sample.verdict == Verdict(None, "the server ended the reply with 'content_filter'")
    assert warnings == [
        "problem half a re is not graded (reported once): the server ended the reply with 'content_filter'"
    ]


def test_overlong_prompts_are_skipped_and_counted(endpoint: FakeEndpoint) -> None:
    """Guards against one long problem that ends an evaluation, or vanishes silently."""
    words = "maximum context length is 13 tokens"
    endpoint.script = lambda asked: refusal(400, words) if asked.content in ("q1", "q4") else echo(asked)
    warnings: list[str] = []
    policy = make_policy(endpoint, concurrency=1, warn=warnings.append)
    assert [len(group) for group in policy.sample(make_prompts(5), 3)] == [3, 0, 3, 3, 0]
    assert policy.n_overlong == 2
    assert warnings == [f"a prompt is too long for the endpoint; such prompts are skipped and counted: {words}"]
    assert len(endpoint.asked) == 3 * 3 + 2
    with pytest.raises(UserError, match=r"solve prompt of problem q1 is too long for tiny at .*: maximum context.*set"):
        make_policy(endpoint, overlong="refuse").sample(make_prompts(2), 1)


def test_an_overlong_prompt_counts_once_for_several_requests(endpoint: FakeEndpoint) -> None:
    """Guards against a count of samples, where other policies count prompts."""
    all_sent = threading.Barrier(3)

    def script(asked: Asked) -> Answer:
        if asked.content != "a":
            return echo(asked)
        all_sent.wait(PATIENCE_S)
        return refusal(400, "too long", code="context_length_exceeded")

    endpoint.script = script
    warnings: list[str] = []
    policy = make_policy(endpoint, concurrency=3, warn=warnings.append)
    assert policy.sample([make_prompt("a")], 3) == [()]
    assert (policy.n_overlong, len(warnings)) == (1, 1)


# Unsupported parameters


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("seed", refusal(400, "Unrecognized request argument supplied: seed")),
        ("seed", Answer(422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "input": 1}]})),
        ("seed", Answer(400, [{"error": {"message": 'Unknown name "seed": Cannot find field.'}}])),
        ("top_k", refusal(400, "did you mean 'seed'? property 'top_k' is unsupported", param="top_k")),
        ("top_k", refusal(400, "this server does not support parameters: {'top_k': 5}")),
        ("max_tokens", refusal(400, "Unsupported: 'max_tokens'. Use 'max_completion_tokens'.", param="max_tokens")),
    ],
)
def test_unsupported_parameters_are_left_out(endpoint: FakeEndpoint, name: str, answer: Answer) -> None:
    """Guards against endpoints that one optional parameter makes useless, and samples with settings that were not used."""
    endpoint.script = lambda asked: answer if name in asked.body else echo(asked)
    warnings: list[str] = []
    sampling = Sampling(max_tokens=11, top_k=5)
    policy = make_policy(endpoint, sampling=sampling, concurrency=5, retries=0, warn=warnings.append)
    groups = policy.sample(make_prompts(5), 2)
    n_asked = len(endpoint.asked)
    assert [len(g) for g in groups] == [2] * 5
    assert {s.sampling.top_k for g in groups for s in g} == {0 if name == "top_k" else 5}
    policy.sample(make_prompts(3), 1)
    assert len(endpoint.asked) == n_asked + 3
    [message] = warnings
    assert f"does not support {name}:" in message
    body = endpoint.asked[-1].body
    sent = {"seed", "top_k", "max_tokens", "model", "messages", "temperature"} - {name}
    assert body.keys() == sent | ({"max_completion_tokens"} if name == "max_tokens" else set())
    assert 11 in (body.get("max_tokens"), body.get("max_completion_tokens"))


def test_several_unsupported_parameters_are_left_out_in_turn(endpoint: FakeEndpoint) -> None:
    """Guards against a policy that gives up after the first one, and an endless exchange about what is no longer sent."""

    def strict(asked: Asked) -> Answer:
        unknown = next((n for n in ("max_tokens", "top_k", "seed") if n in asked.body), None)
        return refusal(400, f"unknown parameter {unknown}") if unknown else echo(asked)

    endpoint.script = strict
    warnings: list[str] = []
    assert sample_one(endpoint, sampling=Sampling(top_k=3), warn=warnings.append) == "a/None"
    assert (len(warnings), len(endpoint.asked)) == (3, 4)
    endpoint.script = lambda asked: refusal(400, "unknown parameter: seed")
    with pytest.raises(UserError, match="unknown parameter: seed"):
        sample_one(endpoint, warn=lambda text: None)
    assert len(endpoint.asked) == 4 + 2


@pytest.mark.parametrize("streamed", [False, True])
def test_a_server_that_cannot_continue_a_turn_is_an_error(endpoint: FakeEndpoint, streamed: bool) -> None:
    """Guards against a new turn that passes for the rest of an old one; other unsupported parameters are left out first."""

    def script(asked: Asked) -> Answer:
        return refusal(400, f"unknown parameter: {'seed' if 'seed' in asked.body else 'continue_final_message'}")

    endpoint.script = script
    prompt = replace(make_prompt("a"), messages=(Message("user", "a"), Message("assistant", "b")))
    policy = make_policy(endpoint, warn=lambda text: None)
    with pytest.raises(UserError, match=r"cannot continue an assistant turn: use vLLM, SGLang or a local model$"):
        policy.stream(prompt, None, print) if streamed else policy.sample([prompt], 1)
    assert len(endpoint.asked) == 2


# Secrets

KEY = "sk-\"a/b+c'7"
"""A key that JSON and URLs spell in other ways."""


def all_text(error: BaseException | None) -> str:
    """Everything that a program may print of an exception and its causes, with the local variables of our code."""
    if error is None:
        return ""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown.stack = traceback.StackSummary.from_list([frame for frame in shown.stack if frame.filename != __file__])
    assert any(frame.locals for frame in shown.stack)
    return "".join(shown.format()) + repr(error) + all_text(error.__context__)


@pytest.mark.parametrize(
    "answer",
    [
        refusal(401, f"Incorrect API key provided: {KEY}."),
        refusal(500, f"Bearer {KEY}"),
        Answer(400, "<pre>Bearer " + json.dumps(KEY)[1:-1] + "</pre>"),
        Answer(400, "?key=sk-%22a%2Fb%2Bc%277"),
        Answer(400, "z" * (500 - len(KEY) // 2) + KEY),
        Answer(body=f"not JSON {KEY}"),
        Answer(cut="before"),
    ],
)
def test_the_key_is_shown_nowhere(
    endpoint: FakeEndpoint, answer: Answer, slept: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Guards against a key in a log file or a bug report, also where the server repeats it."""
    caplog.set_level(logging.INFO)
    endpoint.script = lambda asked: answer
    warnings: list[str] = []
    policy = make_policy(endpoint, key=f" {KEY}\n", retries=1, warn=warnings.append)
    with pytest.raises(UserError) as caught:
        policy.sample(make_prompts(5), 1)
    assert endpoint.asked[0].headers["authorization"] == f"Bearer {KEY}"
    shown = "".join(warnings) + all_text(caught.value) + repr(policy) + repr(vars(policy)) + policy.url + caplog.text
    for part in (KEY, KEY[: len(KEY) // 2], "a%2Fb", json.dumps(KEY)[1:-1]):
        assert part not in shown


def test_secrets_in_the_url_are_refused_and_not_shown() -> None:
    """Guards against a password or a token that comes with the URL."""
    for url in ("http://me:pa55@host/v1", "http://host/v1?token=pa55"):
        with pytest.raises(UserError, match=r"the URL of an endpoint must not hold") as caught:
            make_policy(url)
        assert "pa55" not in str(caught.value)
    with pytest.raises(UserError, match=r"'host/\[key\]' is not the URL"):
        make_policy("host/k-123", key="k-123")
    with pytest.raises(UserError, match=r"must not hold its key"):
        make_policy("http://host/k-123/v1", key="k-123")


def test_a_key_over_an_unencrypted_connection_is_warned_of() -> None:
    """Guards against keys that anyone on the way can read; stand-ins and this machine are no danger."""
    warnings: list[str] = []
    for url, key in (
        ("http://h.invalid", "EMPTY"),
        ("https://h.invalid", "k-1234567"),
        ("http://[::1]:1", "k-1234567"),
    ):
        make_policy(url, key=key, warn=warnings.append)
    assert warnings == []
    make_policy("http://h.invalid", key="k-1234567", warn=warnings.append)
    assert warnings == ["the API key is sent to h.invalid without encryption; use https if the server has it"]


def test_a_key_in_a_reply_is_removed(endpoint: FakeEndpoint) -> None:
    """Guards against a key in answers.jsonl, and a stand-in such as EMPTY that changes replies."""
    endpoint.script = lambda asked: completion(f"Your key is {asked.headers['authorization']}.")
    texts = [make_policy(endpoint, key=key).sample([make_prompt("a")], 1)[0][0].text for key in ("k-1234567", "EMPTY")]
    assert texts == ["Your key is Bearer [key].", "Your key is Bearer EMPTY."]
