"""Policies over fake vLLM servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from rethink.models.language_model import LanguageModel
from rethink.policies.vllm import sample_job
from rethink.policies.vllm.fleet import Fleet
from rethink.policies.vllm.policy import VllmPolicy
from rethink.policies.vllm.server import Server
from rethink.policies.vllm.transfer import module_weights
from rethink.settings import Sampler
from rethink.types import Group, Sampling
from support.fake_endpoint import make_prompt
from support.fake_vllm import FakeVllm, running

QUESTIONS = ["3 7 5 -> 26", "2 -> 2", "1 1 -> 1", "3 7 -> 1", "4 -> 4"]
PROMPTS = [make_prompt(question) for question in QUESTIONS]

PUBLISH = [
    *("/pause", "/init_weight_transfer_engine", "/update_weight_version", "/start_weight_update", "/update_weights"),
    *("/finish_weight_update", "/reset_prefix_cache", "/resume"),
]
"""The requests of a server's first update."""


def without_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a fixture: retry at once."""
    monkeypatch.setattr(sample_job, "DELAY_S", 0.0)
    monkeypatch.setattr("time.sleep", lambda _: None)


def three_servers(qwen: LanguageModel) -> Iterator[list[FakeVllm]]:
    """For a fixture: three servers, whose replies have the prompt's length, the seed's last digits and an end."""
    (stop_id,) = qwen.chat.stop_ids
    with ExitStack() as stack:
        fakes = [stack.enter_context(running(FakeVllm(stop_id))) for _ in range(3)]
        for fake in fakes:
            fake.script = lambda body: [
                2 + len(body["token_ids"]),
                2 + body["sampling_params"]["seed"] % 97,
                stop_id,
            ]
        yield fakes


def make_policy(
    model: LanguageModel, *fakes: FakeVllm, warn: Callable[[str], None] | None = None, **settings: Any
) -> VllmPolicy:
    """Return a policy over these servers; without `warn`, a warning fails the test."""
    servers = [Server(fake.url, timeout_s=20) for fake in fakes]
    fleet = Fleet(servers, module_weights(model), warn=warn or pytest.fail)
    sampling = settings.pop("sampling", Sampling(max_tokens=11))
    return VllmPolicy(model, sampling, fleet, Sampler(**{"concurrency": 7, **settings}))


def ids_of(groups: list[Group]) -> list[list[tuple[int, ...]]]:
    return [[s.ids for s in group] for group in groups]
