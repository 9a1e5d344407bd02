"""A server without a model, in this process, for tests of `rethink.serving`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import httpx2

from rethink.policies.base import Policy
from rethink.policies.cancel import Cancellation
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.serving.app import App
from rethink.serving.limits import Limits
from rethink.serving.served_model import ServedModel
from rethink.serving.service import Service
from rethink.settings import AnswerSettings
from rethink.types import Prompt, Sampling
from support.command_line import command_line

Script = Callable[[Prompt, int, int], str]


def command_line_with(environment: dict[str, str], *arguments: object) -> None:
    """Run the command line with these variables, in a process by itself."""
    os.environ.update(environment)
    command_line(*arguments)


ASK = {"messages": [{"role": "user", "content": "2 + 2?"}]}


def echo(prompt: Prompt, index: int, version: int) -> str:
    """Reply with the phase, the number of messages, and the end of the last one."""
    return f"{prompt.phase} {len(prompt.messages)} {prompt.messages[-1].content[-20:]}"


class FakeServer:
    """A service over a scripted policy, and a client of it. `opened` are the policies of the calls so far."""

    def __init__(
        self,
        script: Script = echo,
        limits: Limits | None = None,
        key: str = "",
        hosts: frozenset[str] | None = None,
        open_policy: Callable[[Cancellation, Sequence[str]], Policy] | None = None,
        **changes: Any,
    ) -> None:
        self.opened: list[FakePolicy] = []
        self.notes: list[str] = []

        def open_fake(cancellation: Cancellation, stop: Sequence[str]) -> Policy:
            self.opened.append(FakePolicy(script))
            return self.opened[-1]

        settings = AnswerSettings(sampling=Sampling(1.0, 64))
        model = ServedModel(
            "m",
            "refine",
            settings,
            open_policy or open_fake,
            lambda seed: Prompts(seed=seed, refine="again"),
            **changes,
        )
        self.service = Service(model, limits or Limits(), self.notes.append)
        transport = httpx2.ASGITransport(App(self.service, key, hosts).build())
        self.client = httpx2.AsyncClient(transport=transport, base_url="http://localhost")

    async def ask(self, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
        """Ask for a completion."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        return await self.client.post("/v1/chat/completions", content=json.dumps({**ASK, **fields}), headers=sent)

    @property
    def shown(self) -> list[Prompt]:
        """The prompts of all calls so far."""
        return [prompt for policy in self.opened for prompt in policy.shown]


def events(body: str) -> list[dict[str, Any]]:
    """Return the chunks of a stream; check that it ends as it should."""
    *lines, last, rest = body.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def joined(chunks: list[dict[str, Any]], name: str, choice: int = 0) -> str:
    """Return the text of a choice that its chunks hold together."""
    found = ""
    for chunk in chunks:
        for one in chunk["choices"]:
            found += one["delta"].get(name, "") if one["index"] == choice else ""
    return found
