"""What is behind the server: the model on this machine, or an endpoint; and commands that cannot be served."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import httpx2
import pytest

from rethink.build import build_prompts, local_policy, open_model
from rethink.commands.serve import serve_model
from rethink.evaluation.evaluate import make_setup
from rethink.policies.cancel import Cancellation, EngineStoppedError
from rethink.policies.local.live_policy import open_live_policy
from rethink.problems.question import as_problem
from rethink.recipe import Recipe, load_recipe
from rethink.serving.app import App
from rethink.serving.limits import Limits
from rethink.serving.served_model import ServedModel
from rethink.serving.service import Service
from rethink.strategies import parse
from rethink.types import Message
from support.command_line import Rethink, assert_one_message, in_process
from support.fake_endpoint import Answer, Asked, FakeEndpoint, completion, refusal

LIMITS = Limits(max_tokens=24, concurrency=12)
EARLIER = (Message("user", "1 2 -> 3"), Message("assistant", "1 + 2 = 3"))


def client_of(model: ServedModel) -> httpx2.AsyncClient:
    app = App(Service(model, LIMITS)).build()
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost", timeout=60)


def body_of(question: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": turn.role, "content": turn.content} for turn in (*EARLIER, Message("user", question))]
    return {"messages": messages, **fields}


@pytest.mark.slow
def test_replies_are_those_of_the_local_policy() -> None:
    """Guards against replies that differ from `LocalPolicy`'s with the same seeds: 18 requests at once, with a history,
    three strategies, and greedy, sampled and restricted sampling."""
    recipe = load_recipe("demo-think-twice", ["model.path=tiny", "model.device=cpu"])
    local = local_policy(recipe, open_model(recipe.model, 0), recipe.evaluation.sampling)
    live = open_live_policy(local, 400, 24, 9)
    served = serve_model(recipe, "tiny", LIMITS, live)
    client = client_of(served)
    samplings: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0.9},
        {"temperature": 1, "top_p": 0.8, "max_tokens": 20},
    ]
    jobs: list[tuple[str, str, int, dict[str, Any]]] = []
    for k in range(18):
        question = ("3 7 5 -> 26", "2 5 -> 10")[k % 2]
        jobs.append((("solve", "refine", "merge:3")[k % 3], question, k, samplings[k // 3 % 3]))

    async def ask(strategy: str, question: str, seed: int, sampling: dict[str, Any]) -> Any:
        body = body_of(question, model=f"tiny+{strategy}", seed=seed, **sampling)
        answer = (await client.post("/v1/chat/completions", json=body)).json()
        return answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]

    async def ask_all() -> list[Any]:
        return list(await asyncio.gather(*(ask(*job) for job in jobs)))

    found = asyncio.run(ask_all())
    live.close()
    assert not served.has_stopped()
    live.engine._error = EngineStoppedError("out of memory")
    assert served.has_stopped()
    for (strategy, question, seed, sampling), ours in zip(jobs, found, strict=True):
        setup = make_setup(local, build_prompts(recipe, seed), with_sampling(recipe, sampling).evaluation)
        problem = as_problem(question, recipe.evaluation.problems, earlier=EARLIER)
        (attempt,) = parse(strategy).run(setup, [problem])
        assert ours == (attempt.answers[0].text, attempt.n_tokens)


def with_sampling(recipe: Recipe, sampling: dict[str, Any]) -> Recipe:
    """Return the recipe with these sampling settings."""
    settings = [f"evaluation.sampling.{name}={value}" for name, value in sampling.items()]
    return load_recipe("demo-think-twice", ["model.path=tiny", *settings])


@pytest.fixture
def proxy(endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> httpx2.AsyncClient:
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream-42")
    settings = ["model.path=big", f"endpoint.url={endpoint.url}", "endpoint.key_env=UPSTREAM_KEY", "endpoint.retries=0"]
    recipe = load_recipe(None, [*settings, "judge.path=self", "evaluation.sampling.temperature=1.0"])
    return client_of(serve_model(recipe, "big", LIMITS, None))


def test_an_endpoint_is_asked_twice(proxy: httpx2.AsyncClient, endpoint: FakeEndpoint) -> None:
    """Guards against a proxy that loses the history, the key, the settings of a request, or the usage of a pass: 3 and 5
    tokens each."""
    endpoint.script = lambda asked: completion(f"reply {len(asked.body['messages'])} STOP more")
    asked = body_of("2 + 2?", model="big+refine", temperature=0.3, top_p=0.7, max_tokens=20, stop=" STOP")
    answer = asyncio.run(proxy.post("/v1/chat/completions", json=asked)).json()
    [choice] = answer["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("reply 5", "stop")
    assert choice["message"]["reasoning_content"] == "Draft:\nreply 3"
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (6, 10)
    draft, refinement = endpoint.asked
    for one in (draft, refinement):
        expected = {"model": "big", "temperature": 0.3, "top_p": 0.7, "max_tokens": 20, "stop": [" STOP"]}
        assert {name: one.body[name] for name in expected} == expected
        assert one.headers["authorization"] == "Bearer sk-upstream-42"
    assert [m["content"] for m in draft.body["messages"]] == [*(turn.content for turn in EARLIER), "2 + 2?"]
    assert refinement.body["messages"][:3] == draft.body["messages"]


def test_a_client_that_leaves_ends_its_requests_to_an_endpoint(endpoint: FakeEndpoint) -> None:
    """Guards against choices that work for nobody until the endpoint says something."""
    recipe = load_recipe(None, ["model.path=big", f"endpoint.url={endpoint.url}", "judge.path=self"])
    model, cancellation = serve_model(recipe, "big", LIMITS, None), Cancellation()
    for open_policy in (model.open_policy, model.open_judge):
        policy: Any = open_policy(cancellation, ()) if open_policy is not None else None
        assert policy.cancellation is cancellation


def test_a_judge_and_a_vote_behind_an_endpoint(proxy: httpx2.AsyncClient, endpoint: FakeEndpoint) -> None:
    """Guards against strategies that need several replies, or a judge, and do not work through a proxy."""

    def script(asked: Asked) -> Answer:
        if "rate it from 0" in asked.content:
            return completion("\\boxed{9}" if "\\boxed{2}" in asked.content else "\\boxed{1}")
        return completion(f"\\boxed{{{min(asked.n, 2)}}}")

    endpoint.script = script
    for model, n in (("big+vote:4", 4), ("big+best:3", 6)):
        endpoint.asked.clear()
        answer = asyncio.run(proxy.post("/v1/chat/completions", json=body_of("2?", model=model))).json()
        assert answer["choices"][0]["message"]["content"] == "\\boxed{2}"
        assert sum(one["replies"] for one in answer["usage"]["passes"]) == n


def test_a_failing_endpoint_is_not_the_clients_fault(
    proxy: httpx2.AsyncClient, endpoint: FakeEndpoint, slept: list[float]
) -> None:
    """Guards against an HTTP 400 or 500 for what the server behind us does, and an answer that holds its key."""
    endpoint.script = lambda asked: refusal(401, "wrong key sk-upstream-42")
    for stream in (False, True):
        answer = asyncio.run(proxy.post("/v1/chat/completions", json=body_of("2 + 2?", stream=stream)))
        assert answer.status_code == 502
        assert "check UPSTREAM_KEY" in answer.json()["error"]["message"]
        assert "sk-upstream" not in answer.text


def test_tokens_that_are_not_reported_are_null(proxy: httpx2.AsyncClient, endpoint: FakeEndpoint) -> None:
    """Guards against a count of 0 for what nobody knows, and against nulls in a usage, which clients cannot read."""
    endpoint.script = lambda asked: completion("4", usage=None)
    answer = asyncio.run(proxy.post("/v1/chat/completions", json=body_of("2 + 2?"))).json()
    assert answer["choices"][0]["message"]["content"] == "4"
    assert answer["usage"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--strategy", "reflect"], "--strategy reflect: reflect needs to know which answers are wrong"),
        (["--strategy", "refine,vote"], "one strategy"),
        (["--api-key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE is not set"),
        (["judge.path=other"], "rethink serve runs one model: judge.path = 'other'"),
        (["updates=3"], "no effect"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
        (["--endpoint", ""], "--endpoint is empty"),
    ],
)
def test_what_cannot_be_served(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Guards against a server that starts and then refuses every request; nothing is loaded before."""
    rethink: Rethink = in_process(capsys, monkeypatch, tmp_path)
    with_endpoint = [] if "--endpoint" in options else ["--endpoint", "http://127.0.0.1:9"]
    found = rethink("serve", "m", "--port", 0, *with_endpoint, *options)
    assert_one_message(found, words)


def test_a_port_in_use(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against a traceback, after the model was loaded, for the most common mistake."""
    rethink = in_process(capsys, monkeypatch, tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert_one_message(rethink("serve", "tiny", "--port", port), f"cannot listen on 127.0.0.1 port {port}")
