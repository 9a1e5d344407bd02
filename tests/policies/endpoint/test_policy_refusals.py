"""The policy over an endpoint that refuses a request for good: what a user gets to read, and what is done without."""

from __future__ import annotations

import json
import logging
import threading
import traceback
from dataclasses import replace
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

KEY = "sk-\"a/b+c'7"
"""A key that JSON and URLs write in other ways than plain."""


def sample_one(endpoint: FakeEndpoint, **more: Any) -> str:
    """The text of one sample for the question "a"."""
    [[sample]] = make_policy(endpoint, concurrency=1, **more).sample([make_prompt("a")], 1)
    return sample.text


@pytest.mark.parametrize("given", ["", "host:8000", "localhost:8000/v1", "ftp://host/v1", "http://", "http://[::1"])
def test_what_is_no_url_is_refused(given: str) -> None:
    """Guards against a failure that appears only after the last retry."""
    with pytest.raises(UserError, match=r"write it like http://host:8000/v1"):
        make_policy(given)


def test_settings_out_of_range_are_refused() -> None:
    """Guards against a policy that samples nothing for want of workers."""
    for name, value in (("concurrency", 0), ("retries", -1), ("timeout_s", 0)):
        with pytest.raises(UserError, match="concurrency of at least 1"):
            make_policy("http://host", **{name: value})


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (
            refusal(400, "bad temperature", code="bad"),
            r"HTTP 400: bad temperature \(bad\); see sampling.temperature \(",
        ),
        (refusal(401, "who are you"), r"HTTP 401: who are you; check MY_KEY$"),
        (refusal(403, "not you"), r"HTTP 403: not you; check MY_KEY$"),
        (refusal(404, "no such model"), r"HTTP 404: no such model; check the model's name, 'tiny', and the URL$"),
        (refusal(404, "unknown model 'seed' of context length 5"), r"HTTP 404: unknown model 'seed'"),
        (refusal(400, "top_p and temperature", param="top_p"), r"see sampling.top_p \("),
        (Answer(405, "<p>\n nginx</p>"), r"HTTP 405: <p> nginx</p>$"),
        (Answer(405, "y" * 9999), r"HTTP 405: y{500}\.\.\.$"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else None,
)
def test_other_refusals_end_at_once_with_the_servers_words(endpoint: FakeEndpoint, answer: Answer, match: str) -> None:
    """Guards against six attempts at what can never work, and against messages without the reason."""
    endpoint.script = lambda asked: answer
    with pytest.raises(UserError, match=match):
        sample_one(endpoint, key="k-123", key_env="MY_KEY")
    assert len(endpoint.asked) == 1


REFUSED = [
    (refusal(400, "flagged", code="content_policy"), "HTTP 400: flagged (content_policy)"),
    (refusal(413, "tokens per minute"), "HTTP 413: tokens per minute"),
    (Answer(422, {"detail": [{"msg": "odd"}]}), 'HTTP 422: [{"msg": "odd"}]'),
    (Answer(400, [{"error": {"message": "in a list"}}]), "HTTP 400: in a list"),
    (Answer(400, {"error": "plain"}), "HTTP 400: plain"),
    (Answer(body={"choices": []}), "not a chat completion: ChatCompletion("),
    (Answer(body={"error": {"message": "busy"}}), "not a chat completion: busy"),
]


@pytest.mark.parametrize(("answer", "words"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_prompt_that_is_refused_by_itself_is_not_graded(
    endpoint: FakeEndpoint, answer: Answer, words: str, slept: list[float]
) -> None:
    """Guards against an evaluation that ends at one prompt, at every resumption anew, and against a refusal that counts as
    a wrong answer."""
    endpoint.script = lambda asked: answer if asked.content in ("q1", "q4") else echo(asked)
    told: list[str] = []
    groups = grade(make_policy(endpoint, concurrency=1, retries=1, warn=told.append).sample(make_prompts(7), 2))
    assert [[s.right for s in group] for group in groups] == [[None if i in (1, 4) else False] * 2 for i in range(7)]
    for sample in groups[1] + groups[4]:
        assert sample.text == ""
        assert sample.verdict is not None
        assert sample.verdict.reason.startswith(f"the endpoint refuses this prompt: {words}")
    [message] = told
    assert message.startswith(f"problem q1 is not graded (reported once): the endpoint refuses this prompt: {words}")


def test_several_refused_prompts_in_a_row_are_an_error(endpoint: FakeEndpoint) -> None:
    """Guards against an evaluation in which nothing is graded, and one that ends for refusals far apart: those of one
    prompt count once, and an answer in between begins the count anew."""
    refused = set(range(7)) - {3}
    endpoint.script = lambda asked: refusal(400, "no") if int(asked.content[1:]) in refused else echo(asked)
    policy = make_policy(endpoint, concurrency=1, warn=lambda text: None)
    policy.sample(make_prompts(7), 3)
    refused.update(range(50))
    with pytest.raises(UserError, match=r"HTTP 400: no \(the same for 5 prompts in a row\)$"):
        policy.sample(make_prompts(50), 1)


@pytest.mark.parametrize("reason", ["content_filter", "moderation"])
def test_a_reply_that_the_server_ended_is_not_graded(endpoint: FakeEndpoint, reason: str) -> None:
    """Guards against half a reply that is graded as a whole one."""
    endpoint.script = lambda asked: completion("half a re", finish_reason=reason)
    [[sample]] = grade(make_policy(endpoint).sample([make_prompt("half a re")], 1))
    assert sample.text == "half a re"
    assert sample.verdict == Verdict(None, f"the server ended the reply with {reason!r}")


def test_without_a_key_the_hint_says_so(endpoint: FakeEndpoint) -> None:
    """Guards against "check the key" where none was set."""
    endpoint.script = lambda asked: refusal(401, "no")
    with pytest.raises(UserError, match="no key was given: set MY_KEY"):
        sample_one(endpoint, key_env="MY_KEY")


def written(error: BaseException | None) -> str:
    """All that a program may show of an exception and of whatever led to it, local variables included (not ours)."""
    if error is None:
        return ""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown.stack = traceback.StackSummary.from_list([frame for frame in shown.stack if frame.filename != __file__])
    assert any(frame.locals for frame in shown.stack)
    return "".join(shown.format()) + repr(error) + written(error.__context__)


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
    ids=lambda answer: f"{answer.status} {json.dumps(answer.body)[:20]}",
)
def test_the_key_is_shown_nowhere(
    endpoint: FakeEndpoint, answer: Answer, slept: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Guards against a key in a log file or a bug report, the server's echo of it included."""
    caplog.set_level(logging.INFO)
    endpoint.script = lambda asked: answer
    told: list[str] = []
    policy = make_policy(endpoint, key=f" {KEY}\n", retries=1, warn=told.append)
    with pytest.raises(UserError) as caught:
        policy.sample(make_prompts(5), 1)
    assert endpoint.asked[0].headers["authorization"] == f"Bearer {KEY}"
    shown = "".join(told) + written(caught.value) + repr(policy) + repr(vars(policy)) + policy.url + caplog.text
    for half in (KEY, KEY[: len(KEY) // 2], "a%2Fb", json.dumps(KEY)[1:-1]):
        assert half not in shown


@pytest.mark.parametrize("key", ["sk\n7-secret", "sk-secret\u2026", "two words-secret"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(key: str) -> None:
    """Guards against an encoding error that carries the key along."""
    with pytest.raises(UserError, match="HTTP headers cannot hold") as caught:
        make_policy("http://host", key=key)
    assert "secret" not in str(caught.value) + repr(caught.value.__context__)


def test_secrets_in_the_url_are_not_shown() -> None:
    """Guards against a password or a token that comes with the URL."""
    assert make_policy("http://me:pw@host/v1?token=x").url == "http://host/v1"
    with pytest.raises(UserError, match=r"'host/\[key\]' is not the URL"):
        make_policy("host/k-123", key="k-123")


TOO_LONG = [
    (400, "This model's maximum context length is 13 tokens. However, your messages resulted in 17 tokens."),
    (400, "Input tokens exceed the configured limit of 13 tokens. Your messages resulted in 17 tokens."),
    (400, "The input (17 tokens) is longer than the model's context length (13 tokens)."),
    (400, "the request exceeds the available context size. try increasing the context size"),
    (400, "The decoder prompt (length 17) is longer than the maximum model length of 13."),
    (400, "prompt is too long: 17 tokens > 13 maximum"),
    (400, "The input token count (17) exceeds the maximum number of tokens allowed (13)."),
    (413, "Please reduce the length of the messages or completion."),
    (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 13. Given: 11 and 7"),
]


@pytest.mark.parametrize(("status", "message"), TOO_LONG)
def test_prompts_too_long_for_the_model_give_empty_groups(endpoint: FakeEndpoint, status: int, message: str) -> None:
    """Guards against one long problem that ends an evaluation, and against prompts that vanish without a word."""
    endpoint.script = lambda a: refusal(status, message) if a.content in ("q1", "q4") else echo(a)
    told: list[str] = []
    policy = make_policy(endpoint, concurrency=1, warn=told.append)
    groups = policy.sample(make_prompts(5), 3)
    assert [len(group) for group in groups] == [3, 0, 3, 3, 0]
    assert policy.n_overlong == 2
    assert told == [f"a prompt is too long for the endpoint; such prompts are skipped and counted: {message}"]
    # Three prompts of three samples, and one vain request for each of the others.
    assert len(endpoint.asked) == 11


def test_an_overlong_prompt_counts_once_however_many_requests_were_under_way(endpoint: FakeEndpoint) -> None:
    """Guards against a count of samples where LocalPolicy counts prompts."""
    begun = threading.Barrier(3)

    def script(asked: Asked) -> Answer:
        begun.wait(PATIENCE_S)
        return refusal(400, "too long", code="context_length_exceeded")

    endpoint.script = script
    told: list[str] = []
    policy = make_policy(endpoint, concurrency=3, warn=told.append)
    assert policy.sample([make_prompt("a")], 3) == [()]
    assert (policy.n_overlong, len(told)) == (1, 1)


def test_overlong_prompts_are_refused_on_demand(endpoint: FakeEndpoint) -> None:
    """Guards against a message without problem or remedy."""
    endpoint.script = lambda asked: refusal(400, "context window is full")
    with pytest.raises(
        UserError, match=r"the solve prompt of problem a is too long for tiny at .*: context window.*set"
    ):
        sample_one(endpoint, overlong="refuse")


UNKNOWN = [
    ("seed", refusal(400, "Unrecognized request argument supplied: seed")),
    ("seed", Answer(422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "input": 1}]})),
    ("seed", Answer(400, [{"error": {"message": 'Unknown name "seed": Cannot find field.'}}])),
    ("top_k", refusal(400, "did you mean 'seed'? property 'top_k' is unsupported", param="top_k")),
    ("top_k", refusal(400, "this server does not support parameters: {'top_k': 5}")),
    (
        "max_tokens",
        refusal(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        ),
    ),
]


@pytest.mark.parametrize(("name", "answer"), UNKNOWN)
def test_a_parameter_that_the_server_refuses_is_left_out(endpoint: FakeEndpoint, name: str, answer: Answer) -> None:
    """Guards against endpoints that cannot be used for one optional parameter; five requests at once, one warning, no
    attempt lost, and samples that say how they were drawn."""
    endpoint.script = lambda asked: answer if name in asked.body else echo(asked)
    told: list[str] = []
    sampling = Sampling(max_tokens=11, top_k=5)
    policy = make_policy(endpoint, sampling=sampling, concurrency=5, retries=0, warn=told.append)
    groups = policy.sample(make_prompts(5), 2)
    n_asked = len(endpoint.asked)
    assert [len(g) for g in groups] == [2] * 5
    assert {s.sampling.top_k for g in groups for s in g} == {0 if name == "top_k" else 5}
    policy.sample(make_prompts(3), 1)
    assert len(endpoint.asked) == n_asked + 3
    [message] = told
    assert f"does not support {name}:" in message
    sent = {"seed", "top_k", "max_tokens", "model", "messages", "temperature"} - {name}
    assert endpoint.asked[-1].body.keys() == sent | ({"max_completion_tokens"} if name == "max_tokens" else set())
    assert 11 in (endpoint.asked[-1].body.get("max_tokens"), endpoint.asked[-1].body.get("max_completion_tokens"))


def test_all_three_may_be_refused_one_after_the_other(endpoint: FakeEndpoint) -> None:
    """Guards against a policy that gives up after the first adaptation."""

    def strict(asked: Asked) -> Answer:
        unknown = next((n for n in ("max_tokens", "top_k", "seed") if n in asked.body), None)
        return refusal(400, f"unknown parameter {unknown}") if unknown else echo(asked)

    endpoint.script = strict
    told: list[str] = []
    assert sample_one(endpoint, sampling=Sampling(top_k=3), warn=told.append) == "a/None"
    assert (len(told), len(endpoint.asked)) == (3, 4)


@pytest.mark.parametrize(
    "message",
    ["Unsupported value: 'temperature' must be 1", "seed must be below 7"],
)
def test_other_complaints_change_nothing(endpoint: FakeEndpoint, message: str) -> None:
    """Guards against an experiment that quietly becomes another one."""
    endpoint.script = lambda asked: refusal(400, message)
    with pytest.raises(UserError, match="refuses a request: HTTP 400"):
        sample_one(endpoint)
    assert len(endpoint.asked) == 1


def test_a_parameter_that_is_still_refused_ends_it(endpoint: FakeEndpoint) -> None:
    """Guards against an endless exchange with a server that complains about what is no longer sent."""
    endpoint.script = at_first(*[refusal(400, "unknown parameter: seed")] * 7)
    with pytest.raises(UserError, match="unknown parameter: seed"):
        sample_one(endpoint, warn=lambda text: None)
    assert len(endpoint.asked) == 2


NOT_CONTINUED = [
    refusal(400, "Unrecognized request arguments supplied: add_generation_prompt, continue_final_message"),
    refusal(400, "Unknown parameter", param="add_generation_prompt"),
    Answer(422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "continue_final_message"], "input": True}]}),
    refusal(400, "continue_final_message is set but the final message does not appear in the chat"),
    refusal(400, "This model does not support assistant message prefill."),
    refusal(400, "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant"),
]


@pytest.mark.parametrize("answer", NOT_CONTINUED, ids=lambda answer: json.dumps(answer.body)[:70])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_server_that_cannot_continue_a_turn_is_told_of(
    endpoint: FakeEndpoint, answer: Answer, streamed: bool
) -> None:
    """Guards against parameters that are dropped in silence, so that a new turn passes for the rest of an old one."""
    endpoint.script = lambda asked: answer if "continue_final_message" in asked.body else echo(asked)
    prompt = replace(make_prompt("a"), messages=(Message("user", "a"), Message("assistant", "b")))
    policy = make_policy(endpoint)
    with pytest.raises(UserError, match=r"cannot continue an assistant turn: use vLLM, SGLang or a local model$"):
        policy.stream(prompt, None, print) if streamed else policy.sample([prompt], 1)
    assert len(endpoint.asked) == 1


def test_only_who_asks_for_a_continuation_reads_that_there_is_none(endpoint: FakeEndpoint) -> None:
    """Guards against advice that misleads: another fault of such a request, and such words about another request."""
    endpoint.script = lambda asked: refusal(400, "no prefill" if len(asked.body["messages"]) == 1 else "odd")
    prompt, told = make_prompt("a"), list[str]()
    for messages in (prompt.messages, (*prompt.messages, Message("assistant", "b"))):
        make_policy(endpoint, warn=told.append).sample([replace(prompt, messages=messages)], 1)
    assert [message.rpartition("HTTP 400: ")[2] for message in told] == ["no prefill", "odd"]


def test_other_parameters_yield_before_a_turn_is_continued(endpoint: FakeEndpoint) -> None:
    """Guards against a server that could continue, given up for its other complaints."""
    endpoint.script = lambda asked: refusal(400, "unknown parameter: seed") if "seed" in asked.body else echo(asked)
    prompt = replace(make_prompt("a"), messages=(Message("user", "a"), Message("assistant", "b")))
    assert make_policy(endpoint, warn=lambda text: None).sample([prompt], 1)[0][0].text == "b/None"
    assert endpoint.asked[-1].body["continue_final_message"] is True
