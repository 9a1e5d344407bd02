"""The policy over an endpoint where all goes well: what it asks, what it makes of the answers, how many at a time."""

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
from rethink.policies.endpoint.protocol import ApiKey, is_loopback, parse_url
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.types import Message, Problem, Prompt, Sampling, Verdict
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
    """Every test here must reach its server past the proxies of an environment."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in PROXIES[:3]:
        monkeypatch.setenv(name, "nonsense://nowhere.invalid:1")


def test_a_reply_becomes_a_sample_without_ids(endpoint: FakeEndpoint) -> None:
    """Guards against samples that could pass for trainable ones, and against usage that is lost."""
    policy: Policy = make_policy(endpoint)
    endpoint.script = lambda asked: completion("seven")
    prompt = make_prompt("3 + 4")
    [[sample]] = policy.sample([prompt], 1)
    assert (sample.text, sample.stop, sample.index, sample.prompt) == ("seven", "stop", 0, prompt)
    assert (sample.n_prompt_tokens, sample.n_tokens, sample.version, sample.sampling.max_tokens) == (3, 5, -1, 11)
    assert (sample.prompt_ids, sample.ids, sample.mask, sample.log_probs) == ((), (), (), ())
    with pytest.raises(ValueError, match="no token ids"):
        Update("u", (PolicyGradient((sample,), (1.0,)),))


def test_the_request_says_what_is_wanted_and_no_more(endpoint: FakeEndpoint) -> None:
    """Guards against parameters that servers refuse being sent at their neutral values."""
    prompt = replace(make_prompt("?"), messages=(Message("system", "s"), Message("user", "ü\ud800")))
    make_policy(endpoint, key="k-1").sample([prompt], 1)
    narrow = Sampling(0.25, 7, top_p=0.5, top_k=13)
    make_policy(endpoint).sample([prompt], 1, narrow)
    first, second = endpoint.asked
    seed = first.body.pop("seed")
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "ü\ufffd"}]
    assert first.body == {"model": "tiny", "messages": messages, "temperature": 1.0, "max_tokens": 11}
    assert (first.path, first.headers["content-type"]) == ("/v1/chat/completions", "application/json")
    assert first.headers["authorization"] == "Bearer k-1"
    assert second.body == {
        **first.body,
        **{"temperature": 0.25, "max_tokens": 7, "top_p": 0.5, "top_k": 13, "seed": seed},
    }
    assert "authorization" not in second.headers


def test_a_turn_of_the_assistant_is_continued(endpoint: FakeEndpoint) -> None:
    """Guards against a second turn behind one that has only begun, and against the flags in all other requests."""
    policy, begun = make_policy(endpoint), (Message("user", "q"), Message("assistant", "b"))
    for messages in (begun, begun[:1], (*begun, Message("user", "q"))):
        prompt = replace(make_prompt("q"), messages=messages)
        assert policy.sample([prompt], 1)[0][0].text == f"{messages[-1].content}/{endpoint.asked[-1].body['seed']}"
    first, *others = (asked.body for asked in endpoint.asked)
    added = {"continue_final_message": True, "add_generation_prompt": False}
    assert first == others[0] | added | {"messages": [{"role": m.role, "content": m.content} for m in begun]}
    assert not any(added.keys() & body.keys() for body in others)


def test_seeds_repeat_with_the_prompt_and_differ_over_the_index(endpoint: FakeEndpoint) -> None:
    """Guards against members of a group that are one sample drawn n times, and seeds that some servers overflow on."""
    same, other = make_prompt("a", seed=2**64 - 1), make_prompt("a", seed=5)
    groups = make_policy(endpoint).sample([same, replace(same), other], 7)
    texts = [[s.text for s in group] for group in groups]
    assert texts[0] == texts[1]
    assert len({text for group in texts for text in group}) == 14
    assert all(0 <= asked.body["seed"] < 2**31 for asked in endpoint.asked)
    assert len(endpoint.asked) == 21


def test_groups_keep_their_order_whatever_order_the_answers_come_in(endpoint: FakeEndpoint) -> None:
    """Guards against replies that are sorted in as they arrive: of every five requests under way the last to arrive is
    answered first."""
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
    assert [[(s.prompt, s.index, s.text) for s in g] for g in groups] == [
        [(s.prompt, s.index, s.text) for s in g] for g in expected
    ]
    assert [[s.text.partition("/")[0] for s in g] for g in groups] == [[f"q{i}"] * 3 for i in range(5)]


def test_as_many_requests_as_allowed_are_under_way_and_never_more(endpoint: FakeEndpoint) -> None:
    """Guards against requests one by one (the barrier would not fall) and against a flood."""
    barrier = threading.Barrier(5)

    def together(asked: Asked) -> Answer:
        barrier.wait(PATIENCE_S)
        return echo(asked)

    endpoint.script = together
    make_policy(endpoint, concurrency=5).sample(make_prompts(5), 3)
    assert endpoint.max_in_flight == 5
    assert len(endpoint.asked) == 15


def test_any_thread_may_sample_also_one_with_an_event_loop(endpoint: FakeEndpoint) -> None:
    """Guards against asyncio.run in a notebook, where a loop runs already."""
    policy = make_policy(endpoint)

    async def notebook() -> str:
        return policy.sample([make_prompt("a", 2)], 1)[0][0].text

    texts = [asyncio.run(notebook())]
    thread = threading.Thread(target=lambda: texts.append(policy.sample([make_prompt("a", 2)], 1)[0][0].text))
    thread.start()
    thread.join()
    assert texts == [policy.sample([make_prompt("a", 2)], 1)[0][0].text] * 2


def test_groups_come_as_they_are_finished(endpoint: FakeEndpoint) -> None:
    """Guards against groups that are kept until the last request is answered, and against a group before its last member:
    the server answers the first prompt only once the group of the second has come."""

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


def test_closing_the_groups_drops_what_is_under_way(endpoint: FakeEndpoint) -> None:
    """Guards against requests that are paid for after nobody waits for them any more: of 41, those after the first few."""
    found = make_policy(endpoint, concurrency=2).groups(make_prompts(41), 1)
    next(found)
    endpoint.script = lambda asked: echo(asked) if endpoint.hold() else Answer(500)
    found.close()  # type: ignore[attr-defined]
    n_asked = len(endpoint.asked)
    endpoint.release.set()
    assert len(endpoint.asked) == n_asked < 41


def test_nothing_is_asked_for_no_prompts(endpoint: FakeEndpoint) -> None:
    """Guards against a wait for workers that do not exist."""
    assert make_policy(endpoint).sample([], 3) == []
    assert endpoint.asked == []


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("", ""),
        ([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}], "a b"),
        ([THOUGHT, {"type": "text", "text": "b"}], "b"),
        ([], ""),
        ("half \ud83d of a pair", "half \ufffd of a pair"),
        ("a whole \U0001f600 pair", "a whole \U0001f600 pair"),
    ],
)
def test_the_content_is_the_text(endpoint: FakeEndpoint, content: object, text: str) -> None:
    """Guards against None and lists as text, and against text that no file can hold."""
    endpoint.script = lambda asked: completion(content)
    assert make_policy(endpoint).sample([make_prompt("a")], 1)[0][0].text == text


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_beside_the_content_is_left_out(endpoint: FakeEndpoint, name: str) -> None:
    """Guards against thinking that a verifier would read as the answer."""
    message = {"role": "assistant", "content": None, name: "is it 7?"}
    endpoint.script = lambda asked: Answer(body={"choices": [{"message": message, "finish_reason": "length"}]})
    [[sample]] = make_policy(endpoint).sample([make_prompt("a")], 1)
    assert (sample.text, sample.stop) == ("", "length")


@pytest.mark.parametrize(
    ("reason", "stop"), [("length", "length"), ("stop", "stop"), ("tool_calls", "stop"), (None, "stop")]
)
def test_only_length_counts_as_cut(endpoint: FakeEndpoint, reason: str, stop: str) -> None:
    """Guards against replies that ran into the cap being taken for whole ones, and the other way round."""
    endpoint.script = lambda asked: completion("a", finish_reason=reason)
    assert make_policy(endpoint).sample([make_prompt("a")], 1)[0][0].stop == stop


@pytest.mark.parametrize(
    ("usage", "counts"),
    [(None, (None, None)), ({}, (None, None)), ({"prompt_tokens": 2, "completion_tokens": "many"}, (2, None))],
)
def test_usage_that_is_not_stated_is_none(endpoint: FakeEndpoint, usage: object, counts: object) -> None:
    """Guards against unknown usage counted as 0."""
    endpoint.script = lambda asked: completion("a", usage=usage)
    [[sample]] = make_policy(endpoint).sample([make_prompt("a")], 1)
    assert (sample.n_prompt_tokens, sample.n_tokens) == counts


def test_a_transcript_is_a_sample_of_unknown_usage() -> None:
    """Guards against a transcript that asks the server, or that states a length it cannot know."""
    prompt = make_prompt("a")
    sample = make_policy("http://127.0.0.1:9").transcribe(prompt, "b c")
    assert (sample.prompt, sample.text, sample.stop, sample.version) == (prompt, "b c", "stop", -1)
    assert (sample.ids, sample.n_prompt_tokens, sample.n_tokens) == ((), None, None)
    assert sample.sampling == Sampling(max_tokens=11)


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("http://host:8000", "http://host:8000/v1/chat/completions"),
        (" http://host:8000/ ", "http://host:8000/v1/chat/completions"),
        ("https://host/v1", "https://host/v1/chat/completions"),
        ("https://host/api/v1/", "https://host/api/v1/chat/completions"),
        ("https://host/v1beta/openai/", "https://host/v1beta/openai/chat/completions"),
        ("https://host/v1/chat/completions", "https://host/v1/chat/completions"),
        ("https://host/x/chat/completions/?version=2", "https://host/x/chat/completions?version=2"),
    ],
)
def test_urls_are_completed(given: str, full: str) -> None:
    """Guards against a path that is added twice or not at all."""
    base, query = parse_url(given, ApiKey(""))
    assert f"{base}/chat/completions" == full.partition("?")[0]
    assert query == dict(pair.split("=") for pair in full.partition("?")[2].split("&") if pair)


def test_a_query_of_the_url_goes_along(endpoint: FakeEndpoint) -> None:
    """Guards against an api-version that is lost, or put in front of the path."""
    make_policy(f"{endpoint.url}/x?version=2").sample([make_prompt("a")], 1)
    assert endpoint.asked[0].path == "/x/chat/completions?version=2"


def test_loopback_is_known_by_name_and_by_address() -> None:
    """Guards against proxies between this machine and itself, and against none for the others."""
    assert all(is_loopback(h) for h in ("localhost", "a.localhost", "127.0.0.1", "127.3.5.7", "::1", "0.0.0.0"))
    assert not any(is_loopback(h) for h in ("localhost.org", "10.0.0.1", "notlocalhost", "128.0.0.1", "::2"))


def test_other_hosts_are_reached_through_the_proxy(endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an environment's proxy being ignored where it is the only way out."""
    for name in PROXIES[:3]:
        monkeypatch.setenv(name, endpoint.url)
    policy = make_policy("http://far.invalid/v1")
    assert policy.sample([make_prompt("a")], 1)[0][0].text.startswith("a/")
    assert endpoint.asked[0].path == "http://far.invalid/v1/chat/completions"


def test_a_proxy_that_is_none_is_named() -> None:
    """Guards against a traceback about URL schemes; the proxies of this module are nonsense."""
    with pytest.raises(UserError, match=r"HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is not valid; correct or unset"):
        make_policy("http://far.invalid").sample([make_prompt("a")], 1)


def test_an_interrupt_does_not_wait_for_the_server(endpoint: FakeEndpoint) -> None:
    """Guards against Ctrl-C that hangs until the last request under way is answered; here the server answers none of
    them until the interrupt has come through."""
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
            thread.join()  # ends at once if the requests were cancelled, else when the server has let go of them
    assert released == []
    assert len(endpoint.asked) == 3


def test_a_whole_round_of_drafts_and_refinements(endpoint: FakeEndpoint, caplog: pytest.LogCaptureFixture) -> None:
    """Guards against samples that grade, refine prompts or groups cannot digest: a server that solves half of the
    problems at once, and the others when asked to review."""
    caplog.set_level(logging.DEBUG)

    def solve(asked: Asked) -> Answer:
        number = int(asked.body["messages"][0]["content"].split()[0])
        review = len(asked.body["messages"]) == 3
        return completion(str(number**2) if review or number % 2 else "no idea")

    endpoint.script = solve
    problems = [
        Problem(f"sq:{n}", f"{n} squared?", str(n * n), lambda reply, gold: Verdict(reply == gold)) for n in range(7)
    ]
    policy, prompts = make_policy(endpoint, key="sk-secret"), Prompts("{question}")
    asked: list[Prompt] = prompts.ask(problems)
    drafts = grade(policy.sample(asked, 3))
    assert [[s.right for s in group] for group in drafts] == [[n % 2 == 1] * 3 for n in range(7)]
    refined = grade(policy.sample(prompts.ask_to_refine([group[2] for group in drafts]), 2))
    assert [[s.right for s in group] for group in refined] == [[True] * 2] * 7
    assert refined[2][1].prompt.draft == drafts[2][2]
    assert [m["role"] for m in endpoint.asked[-1].body["messages"]] == ["user", "assistant", "user"]
    assert {"no idea", "1"} <= {a.body["messages"][1]["content"] for a in endpoint.asked[21:]}
    assert len(endpoint.asked) == 21 + 14
    assert "sk-secret" not in caplog.text
