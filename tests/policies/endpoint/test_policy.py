"""Sampling from an endpoint without failures: requests, samples, concurrency, proxies."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from dataclasses import replace

import pytest

from rethink.errors import UserError
from rethink.objectives import PolicyGradient, Update
from rethink.policies.base import Policy
from rethink.policies.cancel import Cancellation, Cancelled
from rethink.types import Group, Message, Sampling
from support.fake_endpoint import (
    PATIENCE_S,
    Answer,
    Asked,
    FakeEndpoint,
    completion,
    echo,
    make_policy,
    make_prompt,
    make_prompts,
)

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set useless proxies: every test here must reach its server without them."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in PROXIES[:3]:
        monkeypatch.setenv(name, "nonsense://nowhere.invalid:1")


def test_a_reply_becomes_a_sample_without_ids(endpoint: FakeEndpoint) -> None:
    """Guards against samples that pass for trainable ones, and usage that is lost."""
    policy: Policy = make_policy(endpoint)
    endpoint.script = lambda asked: completion("seven")
    prompt = make_prompt("3 + 4")
    [[sample]] = policy.sample([prompt], 1)
    assert (sample.text, sample.stop, sample.index, sample.prompt) == ("seven", "stop", 0, prompt)
    assert (sample.n_prompt_tokens, sample.n_tokens, sample.version, sample.sampling.max_tokens) == (3, 5, -1, 11)
    assert (sample.prompt_ids, sample.ids, sample.mask, sample.log_probs) == ((), (), (), ())
    with pytest.raises(ValueError, match="no token ids"):
        Update("u", (PolicyGradient((sample,), (1.0,)),))


def test_a_request_has_only_the_parameters_that_it_needs(
    endpoint: FakeEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards against parameters that servers refuse even at their neutral values, and a key in a log."""
    caplog.set_level(logging.DEBUG)
    prompt = replace(make_prompt("?"), messages=(Message("system", "s"), Message("user", "ü\ud800")))
    make_policy(endpoint, key="k-1").sample([prompt], 1)
    make_policy(endpoint).sample([prompt], 1, Sampling(0.25, 7, top_p=0.5, top_k=13))
    first, second = endpoint.asked
    seed = first.body.pop("seed")
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "ü\ufffd"}]
    assert first.body == {"model": "tiny", "messages": messages, "temperature": 1.0, "max_tokens": 11}
    assert (first.path, first.headers["content-type"]) == ("/v1/chat/completions", "application/json")
    assert first.headers["authorization"] == "Bearer k-1"
    changed = {"temperature": 0.25, "max_tokens": 7, "top_p": 0.5, "top_k": 13, "seed": seed}
    assert second.body == {**first.body, **changed}
    assert "authorization" not in second.headers
    assert "k-1" not in caplog.text


def test_an_assistant_turn_is_continued(endpoint: FakeEndpoint) -> None:
    """Guards against a new turn after an unfinished one, and the flags in all other requests."""
    policy, turns = make_policy(endpoint), (Message("user", "q"), Message("assistant", "b"))
    for messages in (turns, turns[:1], (*turns, Message("user", "q"))):
        prompt = replace(make_prompt("q"), messages=messages)
        assert policy.sample([prompt], 1)[0][0].text == f"{messages[-1].content}/{endpoint.asked[-1].body['seed']}"
    first, *others = (asked.body for asked in endpoint.asked)
    added = {"continue_final_message": True, "add_generation_prompt": False}
    assert first == others[0] | added | {"messages": [{"role": m.role, "content": m.content} for m in turns]}
    assert not any(added.keys() & body.keys() for body in others)


def test_seeds_repeat_with_the_prompt_and_differ_by_index(endpoint: FakeEndpoint) -> None:
    """Guards against a group of n equal samples, and seeds that overflow on some servers."""
    same, other = make_prompt("a", seed=2**64 - 1), make_prompt("a", seed=5)
    groups = make_policy(endpoint).sample([same, replace(same), other], 7)
    texts = [[s.text for s in group] for group in groups]
    assert texts[0] == texts[1]
    assert len({text for group in texts for text in group}) == 14
    assert all(0 <= asked.body["seed"] < 2**31 for asked in endpoint.asked)
    assert len(endpoint.asked) == 21


def test_samples_keep_their_order_and_concurrency_its_limit(endpoint: FakeEndpoint) -> None:
    """Guards against replies in order of arrival, and a flood: of five requests in flight, the last is answered first."""
    prompts = make_prompts(5)
    expected = make_policy(endpoint, concurrency=1).sample(prompts, 3)
    n_before = len(endpoint.asked)
    changed, answered = threading.Condition(), set[int]()

    def backwards(asked: Asked) -> Answer:
        n = asked.n - n_before
        later = set(range(n + 1, n - n % 5 + 5))
        with changed:
            assert changed.wait_for(lambda: later <= answered, PATIENCE_S)
            answered.add(n)
            changed.notify_all()
        return echo(asked)

    endpoint.script = backwards
    groups = make_policy(endpoint, concurrency=5).sample(prompts, 3)
    assert groups == expected
    assert [[s.text.partition("/")[0] for s in g] for g in groups] == [[f"q{i}"] * 3 for i in range(5)]
    assert (endpoint.max_in_flight, len(endpoint.asked) - n_before) == (5, 15)


def test_groups_come_as_they_are_completed(endpoint: FakeEndpoint) -> None:
    """Guards against groups that wait for the last request: the first prompt is answered after the second's group."""

    def script(asked: Asked) -> Answer:
        if asked.content == "q0":
            assert endpoint.hold()
        return echo(asked)

    endpoint.script = script
    found = make_policy(endpoint, concurrency=5).groups(make_prompts(2), 2)
    i, group = next(found)
    assert (i, [s.index for s in group], [s.prompt.problem.id for s in group]) == (1, [0, 1], ["q1", "q1"])
    endpoint.release.set()
    assert [i for i, _ in found] == [0]


def test_closing_the_groups_cancels_pending_requests(endpoint: FakeEndpoint) -> None:
    """Guards against requests that are paid for although nobody waits for them."""
    found = make_policy(endpoint, concurrency=2).groups(make_prompts(41), 1)
    next(found)
    endpoint.script = lambda asked: echo(asked) if endpoint.hold() else Answer(500)
    found.close()  # type: ignore[attr-defined]
    n_asked = len(endpoint.asked)
    endpoint.release.set()
    assert len(endpoint.asked) == n_asked < 41


def test_no_request_is_sent_without_need(endpoint: FakeEndpoint) -> None:
    """Guards against a wait for workers that do not exist, and a transcript that knows its length."""
    policy, prompt = make_policy(endpoint), make_prompt("a")
    assert policy.sample([], 3) == []
    sample = policy.transcribe(prompt, "b c")
    assert (sample.text, sample.ids, sample.n_prompt_tokens, sample.n_tokens) == ("b c", (), None, None)
    for name, value in (("concurrency", 0), ("retries", -1), ("timeout_s", 0)):
        with pytest.raises(UserError, match="concurrency of at least 1"):
            make_policy(endpoint, **{name: value})
    assert endpoint.asked == []


def test_sampling_works_in_an_event_loop(endpoint: FakeEndpoint) -> None:
    """Guards against asyncio.run in a notebook, where a loop is already running."""
    policy, prompts = make_policy(endpoint), make_prompts(1)

    async def notebook() -> list[Group]:
        return policy.sample(prompts, 1)

    assert asyncio.run(notebook()) == policy.sample(prompts, 1)


def test_the_query_of_the_url_is_sent(endpoint: FakeEndpoint) -> None:
    """Guards against an api-version that is lost, or put in front of the path."""
    make_policy(f"{endpoint.url}/x?version=2").sample([make_prompt("a")], 1)
    assert endpoint.asked[0].path == "/x/chat/completions?version=2"


def test_other_hosts_are_reached_through_the_proxy(endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a proxy that is ignored although it is the only way out, and a traceback for a bad one."""
    with pytest.raises(UserError, match=r"HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is not valid; correct or unset"):
        make_policy("http://far.invalid").sample([make_prompt("a")], 1)
    for name in PROXIES[:3]:
        monkeypatch.setenv(name, endpoint.url)
    assert make_policy("http://far.invalid/v1").sample([make_prompt("a")], 1)[0][0].text.startswith("a/")
    assert endpoint.asked[0].path == "http://far.invalid/v1/chat/completions"


def test_an_interrupt_does_not_wait_for_the_server(endpoint: FakeEndpoint) -> None:
    """Guards against Ctrl-C that waits for pending requests; the server answers none before the interrupt is raised."""
    main = threading.main_thread().ident
    assert main is not None
    released = []

    def interrupt(asked: Asked) -> Answer:
        if asked.n == 2:
            signal.pthread_kill(main, signal.SIGINT)
        released.append(endpoint.hold())
        return echo(asked)

    endpoint.script = interrupt
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # processes in the background ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            make_policy(endpoint, concurrency=3).sample(make_prompts(7), 1)
    finally:
        signal.signal(signal.SIGINT, before)
    for thread in threading.enumerate():
        if thread.name == "event-loop":
            thread.join()  # ends at once if the requests were cancelled, else when the server has answered them
    assert released == []
    assert len(endpoint.asked) == 3


@pytest.mark.parametrize("streams", [True, False])
def test_a_cancelled_call_does_not_wait_for_the_server(endpoint: FakeEndpoint, streams: bool) -> None:
    """Regression: a call of a client that had left waited for the next piece of text. While a model thought behind the
    endpoint, such calls filled the server that they came through."""
    cancellation = Cancellation()
    released: list[bool] = []

    def leave(asked: Asked) -> Answer:
        cancellation.set()
        released.append(endpoint.hold())
        return echo(asked)

    endpoint.script = leave
    policy = make_policy(endpoint, cancellation=cancellation)

    def ask() -> object:
        return policy.stream(make_prompt("a"), None, print) if streams else policy.sample(make_prompts(3), 2)

    with pytest.raises(Cancelled):
        ask()
    assert released == []
    with pytest.raises(Cancelled):
        policy.sample([make_prompt("late")], 1)
    assert "late" not in [asked.content for asked in endpoint.asked]
