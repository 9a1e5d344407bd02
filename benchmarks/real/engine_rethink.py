"""The local sampler of rethink, for `sampling.py`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from real.sampling_worker import Replies
from rethink.models.forward import Weights
from rethink.models.language_model import DTYPES, LanguageModel
from rethink.models.load import load_model
from rethink.policies.local import LocalPolicy
from rethink.policies.local.decode import Decoder
from rethink.policies.local.dispatch import AnyDecoder
from rethink.policies.local.graphs import Graphs
from rethink.policies.local.prefill import Prefiller
from rethink.policies.token_policy import Generation, Request
from rethink.types import Sampling
from rethink.version import __version__

NO_ID = -1
"""An id that no token has: as the only stop id, it lets every reply run to its limit."""


class WatchedDecoder(Decoder):
    """A decoder that keeps the time at which all of its rows had a token, and how many tokens they had then."""

    started: float | None = None
    n_tokens: int = 0

    def step(self) -> list[tuple[int, list[Generation]]]:
        finished = super().step()
        if self.started is None and not self.waiting:
            self.started = time.perf_counter()
            self.n_tokens = int(self.length_M[:-1].sum())  # the last member is the dummy
        return finished


class WatchedPolicy(LocalPolicy):
    """A policy that keeps the decoders of its last call."""

    def __init__(self, model: LanguageModel, dtype: torch.dtype) -> None:
        super().__init__(model, Sampling(), dtype=dtype)
        self.decoders: list[WatchedDecoder] = []

    def _decoder(
        self,
        weights: Weights,
        requests: Sequence[Request],
        sampling: Sampling,
        prefiller: Prefiller,
        cache_tokens: int,
        graphs: Graphs | None,
    ) -> AnyDecoder:
        decoder = WatchedDecoder(weights, self.model.chat, requests, sampling, prefiller, cache_tokens, graphs)
        self.decoders.append(decoder)
        return decoder


class Rethink:
    version = __version__

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        model = load_model(job["folder"])
        if model.plain:
            raise SystemExit("this model runs on padded rows, whose first tokens are not timed")
        model.chat.stop_ids = frozenset({NO_ID})
        self.policy = WatchedPolicy(model, DTYPES[job["dtype"]])
        self.policy.take_weights()  # as `rethink eval` does
        self.n_calls = 0

    def generate(self, prompts: Sequence[Sequence[int]], n_tokens: int, *, greedy: bool) -> Replies:
        self.n_calls += 1
        self.policy.decoders.clear()
        requests: list[Request] = []
        for row, ids in enumerate(prompts):
            requests.append(Request(tuple(ids), 1, seed=1000 * self.n_calls + row))
        sampling = Sampling(temperature=0.0 if greedy else 1.0, max_tokens=n_tokens)
        start = time.perf_counter()
        found = dict(self.policy.generate(requests, sampling))
        total_s = time.perf_counter() - start
        first_s, n_at_first = 0.0, 0
        for decoder in self.policy.decoders:
            assert decoder.started is not None
            first_s = max(first_s, decoder.started - start)
            n_at_first += decoder.n_tokens
        replies = [found[row][0].ids for row in range(len(prompts))]
        return Replies(replies, first_s, total_s, len(prompts) * n_tokens - n_at_first)


def open_engine(job: dict[str, Any]) -> Rethink:
    return Rethink(job)
