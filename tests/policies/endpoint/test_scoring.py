"""Log-probs of given token ids from an endpoint: requests, answers of several servers, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.types import Sample, Sampling
from support.fake_endpoint import Answer, Asked, FakeEndpoint, make_policy, make_prompt, refusal
from support.images import image

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"]
"""A vocabulary: id 3 is "d"."""


def sample_of(*ids: int, prompt_ids: tuple[int, ...] = (1, 2), **more: Any) -> Sample:
    """Return a sample with these ids and their text."""
    base = make_policy("http://host").transcribe(make_prompt("q"), " ".join(WORDS[i] for i in ids))
    return replace(base, ids=ids, prompt_ids=prompt_ids, mask=(True,) * len(ids), sampling=Sampling(1.0), **more)


def log_prob(position: int, token: int) -> float:
    """The log-prob that the fake servers return: any function that differs by id and position."""
    return -token - position / 16


def vllm(asked: Asked) -> Answer:
    """Answer like vLLM: a dictionary per token, with the most likely token next to the given one; and one new token."""
    if asked.path == "/tokenize":
        last = asked.body["messages"][-1]["content"]
        return Answer(body={"count": 3, "max_model_len": 9, "tokens": [7, len(last), 8]})
    entries: list[Any] = [None]
    for position, token in enumerate(asked.body["prompt"][1:], start=1):
        given = {"logprob": log_prob(position, token), "rank": 2, "decoded_token": f" {WORDS[token]}"}
        entries.append({str(token): given, "10": {"logprob": -0.1, "rank": 1, "decoded_token": "k"}})
    return Answer(body={"choices": [{"text": "x", "logprobs": None, "prompt_logprobs": entries}]})


def with_echo(asked: Asked, name: Callable[[int], str] = lambda token: WORDS[token]) -> Answer:
    """Answer like a server with OpenAI's older parameters, without vLLM's."""
    for parameter in ("prompt_logprobs", "return_tokens_as_token_ids"):
        if parameter in asked.body:
            return refusal(400, f"Unrecognized request argument supplied: {parameter}")
    given = asked.body["prompt"]
    numbers = [None, *(log_prob(position, token) for position, token in enumerate(given) if position)]
    echoed = {"tokens": [*map(name, given), "x"], "token_logprobs": [*numbers, -0.5]}
    return Answer(body={"choices": [{"text": "...", "logprobs": echoed}]})


SAMPLES = [sample_of(3, 4, 5), sample_of(), sample_of(6, prompt_ids=(1, 2, 2))]
EXPECTED = [(-3 - 2 / 16, -4 - 3 / 16, -5 - 4 / 16), (), (-6 - 3 / 16,)]
"""Ids 3, 4, 5 after two others are at positions 2, 3, 4; id 6 after three at position 3."""


@pytest.mark.parametrize("server", [vllm, with_echo])
def test_log_probs_are_those_of_the_given_ids(endpoint: FakeEndpoint, server: Callable[[Asked], Answer]) -> None:
    """Guards against log-probs of the prompt's tokens, of the most likely tokens or of the new token, and against text that
    is tokenized again."""
    endpoint.script = server
    assert make_policy(endpoint, concurrency=2).score(SAMPLES) == EXPECTED
    assert {tuple(asked.body["prompt"]) for asked in endpoint.asked} == {(1, 2, 3, 4, 5), (1, 2, 2, 6)}
    assert {asked.path for asked in endpoint.asked} == {"/v1/completions"}
    assert all(asked.body["max_tokens"] == 1 for asked in endpoint.asked)


def test_ids_after_another_prompt(endpoint: FakeEndpoint) -> None:
    """Guards against the sample's own prompt. The server tokenizes the other as 7, its last message's length, 8."""
    endpoint.script = vllm
    hint = make_prompt("xxxx")
    assert make_policy(endpoint).score([SAMPLES[0]], [hint]) == [(-3 - 3 / 16, -4 - 4 / 16, -5 - 5 / 16)]
    tokenized, scored = endpoint.asked
    assert (tokenized.path, scored.body["prompt"]) == ("/tokenize", [7, 4, 8, 3, 4, 5])
    endpoint.script = lambda asked: vllm(asked) if asked.path != "/tokenize" else Answer(404, {"detail": "Not Found"})
    with pytest.raises(UserError, match="needs /tokenize, which vLLM has"):
        make_policy(endpoint).score([SAMPLES[0]], [hint])


def test_unscorable_samples_are_refused_without_a_request(endpoint: FakeEndpoint) -> None:
    """Guards against log-probs at temperature 1 that pass for those at another temperature, and samples without ids."""
    policy = make_policy(endpoint)
    with pytest.raises(UserError, match=r"at temperature 1, but these samples have temperature 0\.6"):
        policy.score([SAMPLES[0], replace(SAMPLES[0], sampling=Sampling(0.6))])
    with pytest.raises(UserError, match="has text but no token ids"):
        policy.score([policy.transcribe(make_prompt("q"), "text")])
    shown = make_prompt("q")
    shown = replace(shown, messages=(replace(shown.messages[-1], images=(image(),)),))
    with pytest.raises(UserError, match="their prompts have images, and ids of prompts are only tokens"):
        policy.score([SAMPLES[0]], [shown])
    assert endpoint.asked == []


def broken(change: Callable[[list[Any]], Any]) -> Callable[[Asked], Answer]:
    """Answer like vLLM with changed entries."""

    def script(asked: Asked) -> Answer:
        answer = vllm(asked)
        choice = answer.body["choices"][0]
        choice["prompt_logprobs"] = change(choice["prompt_logprobs"])
        return answer

    return script


UNUSABLE: list[tuple[Callable[[Asked], Answer], str]] = [
    (broken(lambda entries: entries[:-1]), "its response has no log-probs of the prompt's tokens"),
    (broken(lambda entries: [*entries[:-1], None]), "belong to other token ids"),
    (broken(lambda entries: [*entries[:-1], {"9": {"logprob": -1.0}}]), "belong to other token ids"),
    (broken(lambda entries: [*entries[:-1], {"5": {"logprob": None}}]), "belong to other token ids"),
    (lambda asked: Answer(body={"choices": [{"text": "x", "logprobs": None}]}), "no log-probs of a prompt's tokens"),
    (lambda asked: with_echo(asked, lambda token: f"token_id:{token + 1}"), "belong to other token ids"),
    (lambda asked: Answer(404, {"detail": "Not Found"}), "HTTP 404"),
    (lambda asked: refusal(400, "token id 5 is out of vocabulary"), "HTTP 400: token id 5 is out of vocabulary"),
]


@pytest.mark.parametrize(("script", "words"), UNUSABLE, ids=[words for _, words in UNUSABLE])
def test_a_server_that_cannot_score_is_an_error(
    endpoint: FakeEndpoint, script: Callable[[Asked], Answer], words: str
) -> None:
    """Guards against log-probs of other tokens, and a failure that does not say what is wrong."""
    endpoint.script = script
    with pytest.raises(UserError, match=words):
        make_policy(endpoint).score([SAMPLES[0]])


@pytest.mark.parametrize("server", [vllm, with_echo])
def test_another_tokenizer_is_refused(endpoint: FakeEndpoint, server: Callable[[Asked], Answer]) -> None:
    """Guards against log-probs of another text: the ids are valid, but mean something else to the server."""
    endpoint.script = server
    sample = sample_of(3, 4, 5, 6, 7)
    policy = make_policy(endpoint)
    assert len(policy.score([replace(sample, text="d e f (and an end token)")])[0]) == 5
    with pytest.raises(UserError, match=r"decodes their token ids to another text .* another tokenizer"):
        policy.score([replace(sample, text="1 2 3 4 5")])
