"""Clients beside that of openai, over HTTP to a server process with a tiny model: LangChain and pydantic-ai."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx2
import openai
import pydantic
import pytest

from rethink.commands.serve import serve_model
from rethink.recipe import load_recipe
from rethink.serving.app import App
from rethink.serving.limits import Limits
from rethink.serving.service import Service
from support.fake_endpoint import FakeEndpoint, completion
from support.processes import exit_code
from support.serving import FakeServer
from support.serving_process import Running, start_server

pytestmark = pytest.mark.slow

QUESTION = "3 4 5 -> 17 ; 2 7 9 -> 5 ; 6 8 4 -> 52"


class Signs(pydantic.BaseModel):
    """The signs of a line."""

    signs: str


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_server(tmp_path_factory.mktemp("server"), "tiny-signs", "--recipe", "demo-gsr")
    yield running
    running.process.terminate()
    assert exit_code(running.process) == 0


@pytest.fixture(scope="module")
def wanted(server: Running) -> Any:
    """What the client of openai gets for the question with seed 1."""
    messages: Any = [{"role": "user", "content": QUESTION}]
    return server.client().chat.completions.create(model="tiny-signs+refine", messages=messages, seed=1)


@pytest.fixture
def langchain_model(server: Running) -> Iterator[Any]:
    """LangChain's model of the server, whose connections end with the test."""
    module = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    where = {"base_url": f"{server.url}/v1", "api_key": "none", "model": "tiny-signs+refine"}
    with httpx2.Client(timeout=120) as client:
        yield module.ChatOpenAI(**where, seed=1, max_retries=0, http_client=client)


def test_langchain_gets_reply_and_usage(langchain_model: Any, wanted: Any) -> None:
    """Guards against replies that LangChain cannot read, whole, in a stream and in a batch, and tokens that it does not
    count."""
    model = langchain_model
    reply = model.invoke(QUESTION)
    assert reply.text == wanted.choices[0].message.content
    counts = {"input": wanted.usage.prompt_tokens, "output": wanted.usage.completion_tokens}
    for found in (reply, sum_of(model.stream(QUESTION, stream_usage=True))):
        assert found.text == reply.text
        usage = found.usage_metadata
        assert {name: usage[f"{name}_tokens"] for name in counts} == counts
        assert usage["output_token_details"]["reasoning"] == wanted.usage.completion_tokens_details.reasoning_tokens
        assert found.response_metadata["finish_reason"] == "stop"
    assert [one.text for one in model.batch([QUESTION, QUESTION])] == [reply.text] * 2


def sum_of(chunks: Iterator[Any]) -> Any:
    """Return the chunks of a stream as one message."""
    first, *others = chunks
    assert len(others) > 5
    for chunk in others:
        first += chunk
    return first


def test_langchain_sends_a_conversation(langchain_model: Any) -> None:
    """Guards against messages that are refused: replies that are sent back, names of roles, parts of text."""
    model = langchain_model
    first = model.invoke([("system", "Use signs."), ("human", QUESTION)])
    parts = [{"type": "text", "text": "3 4 5 -> 17"}, {"type": "text", "text": " ; 2 7 9 -> 5"}]
    again = model.invoke([("human", QUESTION), first, {"role": "user", "content": parts}])
    assert again.text
    assert again.usage_metadata["input_tokens"] > first.usage_metadata["input_tokens"]


def test_langchain_is_told_what_is_not_supported(langchain_model: Any) -> None:
    """Guards against tools and forms that are silently ignored, so that a program waits for a call that cannot come."""
    model = langchain_model
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        model.bind_tools([add]).invoke(QUESTION)
    for method, name in (
        ("json_schema", "response_format"),
        ("json_mode", "response_format"),
        ("function_calling", "tool"),
    ):
        with pytest.raises(openai.BadRequestError, match=f"{name}.* is not supported"):
            model.with_structured_output(Signs, method=method).invoke(QUESTION)


def with_agent(server: Running, work: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
    """Return what `work` does with an agent of pydantic-ai."""
    pytest.importorskip("pydantic_ai", reason="pydantic-ai is not installed")
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async def run() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            model = OpenAIChatModel("tiny-signs+refine", provider=OpenAIProvider(openai_client=client))
            return await work(Agent(model, model_settings={"seed": 1}, **options))

    return asyncio.run(run())


def test_pydantic_ai_gets_draft_reply_and_usage(server: Running, wanted: Any) -> None:
    """Guards against a draft that is not the model's thinking, and tokens that are not counted."""
    found = with_agent(server, lambda agent: agent.run(QUESTION))
    assert found.output == wanted.choices[0].message.content
    assert found.response.thinking == wanted.choices[0].message.model_extra["reasoning_content"]
    usage = found.response.usage
    assert (usage.input_tokens, usage.output_tokens) == (wanted.usage.prompt_tokens, wanted.usage.completion_tokens)
    assert usage.details["reasoning_tokens"] == wanted.usage.completion_tokens_details.reasoning_tokens


def test_pydantic_ai_streams(server: Running, wanted: Any) -> None:
    """Guards against a stream whose pieces are not the reply."""

    async def stream(agent: Any) -> tuple[list[str], Any]:
        async with agent.run_stream(QUESTION) as found:
            pieces = [piece async for piece in found.stream_text(delta=True, debounce_by=None)]
        return pieces, found.response

    pieces, response = with_agent(server, stream)
    assert "".join(pieces) == wanted.choices[0].message.content
    assert len(pieces) > 5
    assert response.thinking == wanted.choices[0].message.model_extra["reasoning_content"]
    assert response.usage.output_tokens == wanted.usage.completion_tokens


def test_pydantic_ai_sends_a_conversation(server: Running) -> None:
    """Guards against replies with thinking that are refused when they are sent back, and instructions that are lost."""

    async def talk(agent: Any) -> tuple[Any, Any]:
        first = await agent.run(QUESTION)
        return first, await agent.run("3 4 5 -> 17", message_history=first.all_messages())

    first, again = with_agent(server, talk, instructions="Use signs.")
    assert again.output
    assert again.response.usage.input_tokens > first.response.usage.input_tokens


def test_pydantic_ai_is_told_what_is_not_supported(server: Running) -> None:
    """Guards against tools and types of output that are silently ignored."""
    pytest.importorskip("pydantic_ai", reason="pydantic-ai is not installed")
    from pydantic_ai import NativeOutput
    from pydantic_ai.exceptions import ModelHTTPError

    asked: list[dict[str, Any]] = [{"tools": [add]}, {"output_type": Signs}, {"output_type": NativeOutput(Signs)}]
    for options, name in zip(asked, ("tools", "tool", "response_format"), strict=True):
        with pytest.raises(ModelHTTPError, match=f"{name}.* is not supported") as found:
            with_agent(server, lambda agent: agent.run(QUESTION), **options)
        assert found.value.status_code == 400


def in_process(client: httpx2.AsyncClient, model: str, **profile: Any) -> tuple[Any, Any]:
    """Return a model of LangChain and one of pydantic-ai that ask the server in this process behind an HTTP client."""
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    pytest.importorskip("pydantic_ai", reason="pydantic-ai is not installed")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.profiles.openai import OpenAIModelProfile
    from pydantic_ai.providers.openai import OpenAIProvider

    where: dict[str, Any] = {"base_url": "http://localhost/v1", "api_key": "none"}
    official = openai.AsyncOpenAI(**where, http_client=client, max_retries=0)
    other = OpenAIChatModel(
        model, provider=OpenAIProvider(openai_client=official), profile=OpenAIModelProfile(**profile)
    )
    return langchain.ChatOpenAI(**where, http_async_client=client, model=model, max_retries=0), other


def test_json_can_be_asked_for_in_the_prompt() -> None:
    """Guards against the remedy of docs/serving.md: JSON is asked for in words, and parsed by the client."""
    server = FakeServer(lambda prompt, index, version: '{"signs": "+ -"}')
    langchain, model = in_process(server.client, "m+refine", supports_json_object_output=False)
    from langchain_core.output_parsers import PydanticOutputParser
    from pydantic_ai import Agent, PromptedOutput

    wanted = Signs(signs="+ -")
    parser = PydanticOutputParser(pydantic_object=Signs)
    assert asyncio.run((langchain | parser).ainvoke("? " + parser.get_format_instructions())) == wanted
    assert asyncio.run(Agent(model, output_type=PromptedOutput(Signs)).run("?")).output == wanted
    first, last = server.shown[0], server.shown[-1]
    assert '"signs"' in first.messages[0].content
    assert '"signs"' in last.messages[0].content


def test_counts_that_nobody_knows(endpoint: FakeEndpoint) -> None:
    """Guards against a client that cannot read the reply of a server behind this one that counts no tokens."""
    endpoint.script = lambda asked: completion("4", usage=None)
    recipe = load_recipe(None, ["model.path=big", f"endpoint.url={endpoint.url}", "endpoint.retries=0"])
    limits = Limits(max_tokens=24, concurrency=2)
    transport = httpx2.ASGITransport(App(Service(serve_model(recipe, "big", limits, None), limits)).build())
    client = httpx2.AsyncClient(transport=transport, base_url="http://localhost")
    langchain, model = in_process(client, "big+refine")
    from pydantic_ai import Agent

    assert asyncio.run(langchain.ainvoke("2 + 2?")).text == "4"
    assert asyncio.run(Agent(model).run("2 + 2?")).output == "4"
