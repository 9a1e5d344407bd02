"""The server over a scripted policy: what clients get, and what they are refused."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from rethink.policies.cancel import EngineStoppedError, NaNLogitsError
from rethink.policies.fake import FakePolicy
from rethink.serving.app import LOCAL_HOSTS
from rethink.serving.chat_request import read_chat_request
from rethink.serving.limits import Limits
from rethink.types import Message, Prompt
from support.images import image
from support.serving import ASK, FakeServer, echo, events, joined


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_a_refined_completion() -> None:
    """Guards against a draft in the content, a missing refinement, and tokens that are not counted. A word is a token, and
    so is the end: prompts of 2 and 2 + 5 + 1 words, replies of 5 + 1 and 3 + 1."""

    async def work() -> None:
        server = FakeServer()
        answer = (await server.ask(model="m+refine", seed=5)).json()
        assert answer["object"] == "chat.completion"
        assert (answer["model"], answer["seed"]) == ("m+refine", 5)
        [choice] = answer["choices"]
        message = {"role": "assistant", "content": "refine 3 again", "refusal": None}
        assert choice["message"] == {**message, "reasoning_content": "Draft:\nsolve 1 2 + 2?"}
        assert choice["finish_reason"] == "stop"
        assert answer["usage"] == {
            "prompt_tokens": 3 + 3 + 5 + 1,
            "completion_tokens": 6 + 4,
            "total_tokens": 22,
            "completion_tokens_details": {"reasoning_tokens": 6},
            "passes": [
                {"phase": "solve", "replies": 1, "prompt_tokens": 3, "completion_tokens": 6},
                {"phase": "refine", "replies": 1, "prompt_tokens": 9, "completion_tokens": 4},
            ],
        }

    run(work)


def test_the_names_of_models_are_strategies() -> None:
    """Guards against a name that silently gets another strategy: the default refines, the plain name does not.

    The feedback of self-refinement, the end of its request, says that there is nothing to improve: two replies."""

    async def work() -> None:
        server = FakeServer()
        listed = (await server.client.get("/v1/models")).json()["data"]
        assert [one["id"] for one in listed] == ["m+refine", "m", "m+vote:5"]
        calls = {"m": 1, None: 2, "m+refine:3": 4, "m+solve:2+merge": 3, "m+self-refine": 2}
        for name, n in calls.items():
            answer = (await server.ask(model=name)).json()
            assert sum(one["replies"] for one in answer["usage"]["passes"]) == n, name
        assert (await server.client.get("/v1/models/m+merge:3")).json()["id"] == "m+merge:3"

    run(work)


@pytest.mark.parametrize(
    ("fields", "status", "parameter", "words"),
    [
        ({"model": "gpt-4"}, 404, "model", "there is no model 'gpt-4'; there are m+refine, m, m+vote:5"),
        ({"model": "m+refin"}, 400, "model", "unknown stage 'refin'"),
        ({"model": "m+reflect"}, 400, "model", "needs to know which answers are wrong"),
        ({"model": "m+best:4"}, 400, "model", "needs a judge"),
        ({"model": "m+solve:999"}, 400, "model", "may draw 999 replies, more than this server's 256"),
        ({"model": "m+vote:32", "n": 9}, 400, "model", "may draw 288"),
        ({"model": 7}, 400, "model", "must be a string"),
        ({"messages": []}, 400, "messages", "at least one"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "messages", "must be the user's"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "messages", "hold a question"),
        ({"messages": [{"role": "robot", "content": "a"}]}, 400, "messages[0].role", "system, developer, user"),
        (
            {"messages": [{"role": "tool", "content": "4", "tool_call_id": "c"}, *ASK["messages"]]},
            400,
            "messages[0].role",
            "write what the tools returned into a user message",
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}, *ASK["messages"]]},
            400,
            "messages[0]",
            "'tool_calls' is not supported: this server shows calls of tools to no model: leave out",
        ),
        ({"messages": [{"role": "user", "content": None}]}, 400, "messages[0].content", "must be a string"),
        ({"messages": [{"role": "user", "content": "a\ud800"}]}, 400, "messages[0].content", "surrogate"),
        ({"messages": [{"role": "user", "content": "a", "nmae": "b"}]}, 400, "messages[0]", "'nmae' is not supported"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            400,
            "messages[0].content",
            "must be a data URL",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            400,
            "messages[0].content",
            "only text and images",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/x"}}]}]},
            400,
            "messages[0].content",
            "must be a data URL",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": "data:image/png;base64,eA=="}]}
                ]
            },
            400,
            "messages[0].content",
            "is damaged or no image",
        ),
        ({"temperature": 3}, 400, "temperature", "from 0 to 2"),
        ({"temperature": True}, 400, "temperature", "from 0 to 2"),
        ({"top_p": 0}, 400, "top_p", "number"),
        ({"n": 17}, 400, "n", "from 1 to 16"),
        ({"max_tokens": 65}, 400, "max_tokens", "from 1 to 64"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 400, "max_tokens", "differ"),
        ({"seed": "x"}, 400, "seed", "whole number"),
        ({"stop": [""]}, 400, "stop", "from 1 to 200"),
        ({"stop": ["a"] * 17}, 400, "stop", "at most 16"),
        ({"stream": "yes"}, 400, "stream", "true or false"),
        ({"tools": [{"type": "function"}]}, 400, "tools", "not supported"),
        ({"logprobs": True}, 400, "logprobs", "not supported"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format", "not supported"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias", "not supported"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty", "not supported"),
        ({"temprature": 1}, 400, "temprature", "unknown parameter"),
        ({"verbosity": "low"}, 400, "verbosity", "unknown parameter"),
    ],
)
def test_what_cannot_be_done_is_refused(fields: dict[str, Any], status: int, parameter: str, words: str) -> None:
    """Guards against a parameter that is dropped in silence, and an error that does not name it. Streams are the same."""

    async def work() -> None:
        server = FakeServer(limits=Limits(max_tokens=64))
        for stream in (False, True):
            answer = await server.ask(**{"stream": stream, **fields})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (status, parameter)
            assert words in error["message"]
            assert error["type"] == "invalid_request_error"
        assert server.opened == []

    run(work)


def test_names_of_speakers_are_not_shown() -> None:
    """Guards against requests that are refused because their messages say who speaks, and names that the model sees."""

    async def work() -> None:
        server = FakeServer()
        greeting = {"role": "system", "content": "Be brief.", "name": "house"}
        [question] = ASK["messages"]
        named = [greeting, {**question, "name": "bob"}]
        plain = [{**greeting, "name": None}, question]
        answers = [(await server.ask(messages=turns, seed=5)).json() for turns in (named, plain)]
        assert answers[0]["choices"] == answers[1]["choices"]
        assert answers[0]["usage"] == answers[1]["usage"]

    run(work)


def test_a_tiny_temperature_is_none() -> None:
    """Guards against logits that are divided by next to nothing: infinite, and then the last token of the vocabulary."""
    body = json.dumps({**ASK, "temperature": 1e-45}).encode()
    assert read_chat_request(body, Limits()).given == {"temperature": 0.0}


def test_images_come_as_data_urls() -> None:
    """Guards against images that are dropped, or shown at another place than the client put them."""
    parts = [{"type": "text", "text": "Is "}, {"type": "image_url", "image_url": {"url": image().data_url()}},
             {"type": "text", "text": " red?"}]  # fmt: skip
    found = read_chat_request(json.dumps({"messages": [{"role": "user", "content": parts}]}).encode(), Limits())
    assert found.question == Message("user", "Is <image> red?", (image(),))


def test_parameters_without_effect_are_accepted() -> None:
    """Guards against refusing what the openai client and other libraries send by default."""
    fields: dict[str, Any] = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "tools": [],
        "tool_choice": "auto",
        "logprobs": False,
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "response_format": {"type": "text"},
        "logit_bias": {},
        "stop": None,
        "max_tokens": None,
        "n": 1.0,
    }

    async def work() -> None:
        answer = await FakeServer().ask(**fields)
        assert answer.status_code == 200, answer.text

    run(work)


def test_the_history_is_in_every_prompt() -> None:
    """Guards against a refinement that forgets the conversation, and a system message that the recipe's would replace.
    Replies that are sent back carry their reasoning, which is not shown again."""
    history = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "1 + "}, {"type": "text", "text": "1?"}]},
        {"role": "assistant", "content": "2", "reasoning_content": "Draft:\n3", "refusal": None, "tool_calls": None},
        {"role": "user", "content": "And 2 + 2?"},
    ]

    async def work() -> None:
        server = FakeServer()
        answer = await server.ask(messages=history, model="m+refine")
        assert answer.status_code == 200, answer.text
        opening = (Message("system", "Be brief."), Message("user", "1 + 1?"), Message("assistant", "2"))
        turns = (Message("user", "And 2 + 2?"), Message("assistant", "solve 4 And 2 + 2?"), Message("user", "again"))
        assert [prompt.messages for prompt in server.shown] == [(*opening, turns[0]), (*opening, *turns)]

    run(work)


@pytest.mark.parametrize("model", ["m", "m+refine", "m+refine:2", "m+merge:3", "m+vote:3", "m+self-refine", None])
@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_says_what_the_whole_completion_says(model: str | None, n: int) -> None:
    """Guards against streamed text, finish reasons or usage that differ from those of the same request without a stream."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        return f"{prompt.phase} {prompt.seed % 1000} \\boxed{{{index}}}\n and  two\t"

    async def work() -> None:
        server = FakeServer(script)
        whole = (await server.ask(model=model, n=n, seed=3)).json()
        asked: dict[str, Any] = {
            "model": model,
            "n": n,
            "seed": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        answer = await server.ask(**asked)
        assert answer.headers["content-type"].startswith("text/event-stream")
        *chunks, last = events(answer.text)
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert (last["choices"], last["usage"]) == ([], whole["usage"])
        for choice in whole["choices"]:
            own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice["index"]]
            assert own[0]["delta"]["role"] == "assistant"
            assert [one["finish_reason"] for one in own] == [None] * (len(own) - 1) + ["stop"]
            message = choice["message"]
            assert joined(chunks, "content", choice["index"]) == message["content"]
            assert joined(chunks, "reasoning_content", choice["index"]) == message.get("reasoning_content", "")
            assert bool(message.get("reasoning_content")) == (model != "m")

    run(work)


def test_choices_and_seeds() -> None:
    """Guards against choices that are all the same, seeds that do not repeat a reply, and requests without a seed that
    always get the same one."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        return str(prompt.seed)

    async def work() -> None:
        server = FakeServer(script)

        async def texts(**fields: Any) -> list[str]:
            answer = (await server.ask(model="m", **fields)).json()
            return [choice["message"]["content"] for choice in answer["choices"]]

        three = await texts(n=3, seed=11)
        assert len(set(three)) == 3
        assert await texts(n=1, seed=11) == three[:1]
        assert await texts(n=1, seed=12) != three[:1]
        assert await texts() != await texts()
        unseeded = (await server.ask(model="m")).json()
        assert await texts(seed=unseeded["seed"]) == [unseeded["choices"][0]["message"]["content"]]

    run(work)


def test_stop_strings_and_limits_end_a_reply() -> None:
    """Guards against text after a stop string, and a wrong finish reason. Five words of eight: the limit counts the end."""

    async def work() -> None:
        server = FakeServer(lambda prompt, index, version: "one two three four five six seven eight")
        stops = {"four": "one two three ", " four five": "one two three", "three four": "one two "}
        for stop, before in stops.items():
            for given in (stop, ["x", stop]):
                answer = (await server.ask(model="m", stop=given)).json()["choices"][0]
                assert (answer["message"]["content"], answer["finish_reason"]) == (before, "stop")
        cut = (await server.ask(model="m", max_completion_tokens=5)).json()
        assert cut["choices"][0]["message"]["content"] == "one two three four five"
        assert cut["choices"][0]["finish_reason"] == "length"
        assert cut["usage"]["completion_tokens"] == 5

    run(work)


def test_stop_strings_are_looked_for_in_sampled_text_only() -> None:
    """Guards against an empty reply because a stop string is in the mark that the template has put at the prompt's end."""

    class Opens(FakePolicy):
        def opened(self, prompt: Prompt) -> str:
            return "<think>\n"

    async def work() -> None:
        server = FakeServer(
            open_policy=lambda cancellation, stop: Opens(lambda *_: "<think>\nI think so.</think>\n\nIt is 4. I think.")
        )
        for stream in (False, True):
            for stop, reasoning, content in (
                ("<think>", "I think so.", "It is 4. I think."),
                ("think", "I", ""),
                (". I", "I think so.", "It is 4"),
                (["\n", "xyz"], "I think so.", ""),
            ):
                answer = await server.ask(model="m", stop=stop, stream=stream)
                if stream:
                    found = {name: joined(events(answer.text), name) for name in ("reasoning_content", "content")}
                else:
                    found = answer.json()["choices"][0]["message"]
                assert (found["reasoning_content"].strip(), found["content"]) == (reasoning, content), (stream, stop)

    run(work)


def test_thinking_is_reasoning() -> None:
    """Guards against a final reply whose thinking is shown as its content."""

    async def work() -> None:
        server = FakeServer(lambda prompt, index, version: f"<think>hm {prompt.phase}</think>\n\nIt is 4.")
        plain = (await server.ask(model="m")).json()["choices"][0]["message"]
        assert (plain["reasoning_content"], plain["content"]) == ("hm solve", "It is 4.")
        twice = (await server.ask(model="m+refine")).json()["choices"][0]["message"]
        assert twice["content"] == "It is 4."
        assert twice["reasoning_content"] == ("Draft:\n<think>hm solve</think>\n\nIt is 4.\n\nRefinement:\nhm refine")

    run(work)


def test_keys() -> None:
    """Guards against an open server: only /health answers without the key."""

    async def work() -> None:
        server = FakeServer(key="the-right-key")
        for headers in ({}, {"Authorization": "Bearer the-wrong-key"}, {"Authorization": "the-right-key"}):
            answer = await server.ask(headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        for path in ("/v1/models", "/metrics", "/v1/models/m"):
            assert (await server.client.get(path)).status_code == 401
        assert (await server.client.get("/health")).status_code == 200
        assert (await server.ask({"Authorization": "Bearer the-right-key"})).status_code == 200
        assert server.notes == []
        server = FakeServer(key="clé-à-moi")
        given = [(b"Authorization", "Bearer clé-à-moi".encode())]
        assert (await server.client.get("/v1/models", headers=given)).status_code == 200

    run(work)


def test_web_pages_cannot_reach_a_local_server() -> None:
    """Guards against DNS rebinding, and against forms of web pages, which cannot send JSON without asking."""

    async def work() -> None:
        server = FakeServer(hosts=frozenset(LOCAL_HOSTS))
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example"):
            assert (await server.ask({"Host": host})).status_code == 403
        for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1"):
            assert (await server.ask({"Host": host})).status_code == 200
        answer = await server.client.post("/v1/chat/completions", content=b"{}", headers={"Content-Type": "text/plain"})
        assert answer.status_code == 415

    run(work)


def test_too_many_requests_get_429() -> None:
    """Guards against a queue without a limit: one choice runs, two wait, and the next request is refused."""
    go = threading.Event()

    def script(prompt: Prompt, index: int, version: int) -> str:
        assert go.wait(60)
        return "done"

    async def work() -> None:
        server = FakeServer(script, Limits(concurrency=1, queue=2))
        assert (await server.ask(model="m", n=4)).status_code == 400, "it would never fit"
        waiting = [asyncio.ensure_future(server.ask(model="m")) for _ in range(3)]
        while server.service._n_choices < 3:
            await asyncio.sleep(0.01)
        refused = await server.ask(model="m")
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        go.set()
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 3
        assert (await server.ask(model="m")).status_code == 200

    run(work)


def test_a_draining_server_ends_what_runs_and_refuses_the_rest() -> None:
    """Guards against requests that are lost when a server is replaced, and one that never ends."""
    go = threading.Event()

    def script(prompt: Prompt, index: int, version: int) -> str:
        assert go.wait(60)
        return "done"

    async def work() -> None:
        server = FakeServer(script, Limits(grace_s=60))
        running = asyncio.ensure_future(server.ask(model="m"))
        while not server.service._n_choices:
            await asyncio.sleep(0.01)
        draining = asyncio.ensure_future(server.service.drain())
        await asyncio.sleep(0)
        refused = await server.ask(model="m")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        assert (await server.client.get("/health")).status_code == 503
        assert not draining.done()
        go.set()
        assert (await running).json()["choices"][0]["message"]["content"] == "done"
        assert await asyncio.wait_for(draining, 60)

    run(work)


def test_a_server_whose_engine_has_stopped_says_so() -> None:
    """Regression: clients got HTTP 400, as if their requests were wrong, and /health still answered 200, so nobody
    restarted the server."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        raise EngineStoppedError("the engine has stopped: CUDA error")

    async def work() -> None:
        server = FakeServer(script)
        assert (await server.client.get("/health")).status_code == 200
        for stream in (False, True):
            answer = await server.ask(stream=stream)
            assert answer.status_code == 503
            assert "must be restarted" in answer.json()["error"]["message"]
        health = await server.client.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "failed"})
        assert server.notes == ["the engine has stopped: CUDA error; restart the server"]

    run(work)


def test_health_tells_of_a_stopped_sampler_before_any_request() -> None:
    """Regression: /health answered 200 until a request had met the error, so a balancer sent one there."""
    has_stopped = False

    async def work() -> None:
        nonlocal has_stopped
        server = FakeServer(has_stopped=lambda: has_stopped)
        assert (await server.client.get("/health")).status_code == 200
        has_stopped = True
        assert (await server.client.get("/health")).status_code == 503

    run(work)


def test_nan_is_a_fault_of_the_server() -> None:
    """Regression: clients got HTTP 400, as if their requests were wrong, and the log said nothing."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        raise NaNLogitsError("the model's logits are NaN: its weights")

    async def work() -> None:
        server = FakeServer(script)
        answer = await server.ask()
        assert answer.status_code == 500
        assert "logits for this request are NaN" in answer.json()["error"]["message"]
        assert server.notes == ["a request failed: the model's logits are NaN: its weights"]
        assert (await server.client.get("/health")).status_code == 200

    run(work)


def test_a_request_that_does_not_end_in_time_is_cancelled() -> None:
    """Guards against a shutdown that one slow request holds up; its client gets an error."""

    async def work() -> None:
        def script(prompt: Prompt, index: int, version: int) -> str:
            time.sleep(0.3)
            return prompt.phase

        server = FakeServer(script, Limits(grace_s=0.1))
        running = asyncio.ensure_future(server.ask(model="m+refine:9"))
        while not server.service._n_choices:
            await asyncio.sleep(0.01)
        assert not await server.service.drain()
        assert (await running).status_code == 503
        assert len(server.shown) < 9

    run(work)


def test_closing_does_not_wait_for_an_endpoint_that_says_nothing() -> None:
    """Guards against a process that cannot end because a thread of it waits for an answer."""
    go = threading.Event()

    def script(prompt: Prompt, index: int, version: int) -> str:
        assert go.wait(60)
        return "done"

    async def work() -> None:
        server = FakeServer(script)
        running = asyncio.ensure_future(server.ask(model="m"))
        while not server.service._n_choices:
            await asyncio.sleep(0.01)
        assert not server.service.close(0.05)
        go.set()
        assert server.service.close(60)
        await running

    run(work)


def test_faults_of_the_server_say_nothing_about_prompts() -> None:
    """Guards against a log, or an answer, with what a user has asked."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        raise KeyError(prompt.messages[-1].content)

    async def work() -> None:
        server = FakeServer(script)
        for stream in (False, True):
            answer = await server.ask(messages=[{"role": "user", "content": "my secret"}], stream=stream)
            assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
            assert "secret" not in answer.text
        assert len(server.notes) == 2
        assert all("KeyError in " in note and "secret" not in note for note in server.notes)

    run(work)


def test_bodies_have_limits() -> None:
    """Guards against a body that fills the memory, announced or not, and one that never arrives."""

    async def work() -> None:
        server = FakeServer(limits=Limits(body_bytes=2000, body_s=0.2))
        headers = {"Content-Type": "application/json"}

        async def parts(n: int, pause_s: float = 0.0) -> Any:
            for _ in range(n):
                await asyncio.sleep(pause_s)
                yield b" " * 500

        async def post(content: Any) -> int:
            return (await server.client.post("/v1/chat/completions", content=content, headers=headers)).status_code

        assert await post(b" " * 3000) == 413
        refused = await server.client.post("/v1/chat/completions", content=b" " * 3000, headers=headers)
        assert "larger than 2,000 bytes, the server's --max-body" in refused.json()["error"]["message"]
        assert await post(parts(5)) == 413
        assert await post(parts(3, 0.2)) == 408
        assert await post(b"[]") == 400

    run(work)


def test_metrics_count_requests_and_tokens() -> None:
    """Guards against numbers that do not follow the requests, against a label for each strategy that a client makes up, and
    against requests that are refused and not counted. Six tokens and four, as above."""

    async def work() -> None:
        server = FakeServer()
        await server.ask(model="m+refine")
        await server.ask(model="m+refine:2")
        await server.ask(model="m+refine", stream=True)
        text = (await server.client.get("/metrics")).text
        assert 'rethink_requests_total{status="200",strategy="refine"} 2.0' in text
        assert 'rethink_requests_total{status="200",strategy="other"} 1.0' in text
        assert 'rethink_replies_total{phase="refine"} 4.0' in text
        assert f'rethink_tokens_total{{kind="sampled"}} {3 * 6 + 4 * 4}.0' in text
        assert "rethink_request_seconds_count 3.0" in text
        assert "rethink_choices 0.0" in text
        assert 'strategy="none"' not in text
        refused: list[dict[str, Any]] = [{"tools": [1]}, {"model": "unknown"}, {"model": "m+reflect"}, {"n": 0}]
        statuses = [(await server.ask(**one)).status_code for one in refused]
        assert statuses == [400, 404, 400, 400]
        server.service.is_draining = True
        assert (await server.ask()).status_code == 503
        text = (await server.client.get("/metrics")).text
        counted = {
            status: f'rethink_requests_total{{status="{status}",strategy="none"}} ' for status in (400, 404, 503)
        }
        assert [f"{line}{n}.0" in text for line, n in zip(counted.values(), (3, 1, 1), strict=True)] == [True] * 3

    run(work)


def test_a_complete_reply_has_given_its_place_back() -> None:
    """Guards against HTTP 429 for a client that sends one request after another to a server with a single place."""

    async def work() -> None:
        server = FakeServer(limits=Limits(concurrency=1, queue=0))
        for stream in [False, True] * 50:
            assert (await server.ask(stream=stream)).status_code == 200
            assert server.service._n_choices == 0

    run(work)


def test_a_choice_that_exits_is_a_fault_and_gives_its_place_back() -> None:
    """Regression: SystemExit ended the thread without a last event, so the client waited for ever, and the server had one
    place less from then on."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        raise SystemExit(3)

    async def work() -> None:
        server = FakeServer(script, limits=Limits(concurrency=1, queue=0))
        async with asyncio.timeout(60):
            answers = [await server.ask(stream=stream) for stream in (False, True)]
        assert [answer.status_code for answer in answers] == [500, 500]
        assert server.service._n_choices == 0
        assert [note.partition(" in ")[0] for note in server.notes] == ["internal error: SystemExit"] * 2

    run(work)


def test_other_paths_answer_in_the_same_form() -> None:
    """Guards against HTML or plain text that a client cannot read."""

    async def work() -> None:
        server = FakeServer()
        assert (await server.client.get("/v1/nothing")).json()["error"]["type"] == "invalid_request_error"
        wrong = await server.client.get("/v1/chat/completions")
        assert wrong.status_code == 405
        assert "there are /v1/chat/completions" in wrong.json()["error"]["message"]

    run(work)


def test_a_prompt_that_is_too_long() -> None:
    """Guards against an empty reply in place of an error that clients know."""

    class Skips(FakePolicy):
        def groups(self, prompts: Any, n: int, sampling: Any = None) -> Any:
            for i, prompt in enumerate(prompts):
                yield i, () if prompt.phase == self.skipped else next(iter(super().groups([prompt], n, sampling)))[1]

        stream = None  # type: ignore[assignment]
        skipped = "solve"

    async def work() -> None:
        server = FakeServer(open_policy=lambda cancellation, stop: Skips(echo))
        error = (await server.ask()).json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert error["message"] == "the messages are too long for this server"
        server.service.limits = Limits(prompt_tokens=1234)
        error = (await server.ask()).json()["error"]
        assert error["message"].endswith("this server: a prompt has at most 1,234 tokens here")
        Skips.skipped = "refine"
        answer = (await server.ask()).json()
        assert answer["choices"][0]["message"]["content"] == "solve 1 2 + 2?"
        assert answer["notes"] == {"over-long prompts": 1}

    run(work)
