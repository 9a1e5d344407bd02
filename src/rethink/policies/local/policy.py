"""The policy over a local model: prompts in, groups of samples out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

from rethink.models.device import cache_bytes
from rethink.models.forward import Weights
from rethink.models.language_model import LanguageModel
from rethink.policies.local.cache import bytes_per_token
from rethink.policies.local.decode import Decoder, max_replies_that_fit
from rethink.policies.local.detokenize import Detokenizer
from rethink.policies.local.dispatch import MIN_NUMBERS, GroupCollector, dispatch, shard_requests
from rethink.policies.local.graphs import Graphs, gpu_graphs
from rethink.policies.local.prefill import Prefiller
from rethink.policies.local.prefix_cache import PrefixCache
from rethink.policies.local.score import ScoreRow, score, score_row
from rethink.policies.token_policy import Generation, Request, TokenPolicy
from rethink.settings import Sampler
from rethink.threads import n_workers
from rethink.types import Prompt, Sample, Sampling


class LocalPolicy(TokenPolicy):
    """Samples from a model whose weights it shares with the trainer; the trainer announces changes by `publish`.

    `cache_bytes` bounds the key/value cache (None: see `device.cache_bytes`): rows that do not fit wait until others have
    ended, and a sample does not depend on which rows it is decoded beside. `cuda_graphs`: see `settings.Sampler`.
    """

    def __init__(
        self,
        model: LanguageModel,
        sampling: Sampling,
        *,
        max_prompt_tokens: int | None = None,
        overlong: Literal["skip", "refuse"] = Sampler.overlong_prompts,
        cache_bytes: int | None = None,
        dtype: torch.dtype | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__(model, sampling, max_prompt_tokens=max_prompt_tokens, overlong=overlong)
        self.cache_bytes = cache_bytes
        self.dtype = dtype or model.dtype
        self.cuda_graphs = cuda_graphs
        self._weights: tuple[tuple[int, ...], Weights] | None = None
        self._frozen: Weights | None = None
        self._prefiller = Prefiller()

    @property
    def n_prefilled_tokens(self) -> int:
        """Prompt tokens that had to be computed so far; see `Prefiller`."""
        return self._prefiller.n_prefilled_tokens

    @property
    def n_reused_tokens(self) -> int:
        """Prompt tokens whose keys and values were kept from before, within `reuse_prefixes`; see `Prefiller`."""
        return self._prefiller.n_reused_tokens

    def publish(self, version: int) -> None:
        """Take note that the shared weights have changed: nothing that was kept of the old ones is used again."""
        assert self._frozen is None
        self.version = version
        self._weights = None
        if self._prefiller.prefixes is not None:
            self._prefiller.prefixes.clear()

    def with_sampling(self, sampling: Sampling) -> LocalPolicy:
        """Return another policy over the same weights, for an evaluation say, with its own counts and caches."""
        other = LocalPolicy(
            self.model,
            sampling,
            max_prompt_tokens=self.max_prompt_tokens,
            overlong=self.overlong,
            cache_bytes=self.cache_bytes,
            dtype=self.dtype,
            cuda_graphs=self.cuda_graphs,
        )
        other.version = self.version
        return other

    @contextmanager
    def frozen_weights(self) -> Iterator[None]:
        """Sample from a copy of the weights as they are now while this is open."""
        self._weights = None  # never two at a time
        self._frozen = self.model.weights(self.dtype, copy=True)
        try:
            yield
        finally:
            self._frozen = None

    def release_memory(self) -> None:
        """Drop the copy of the weights; it is made again when it is needed."""
        self._weights = None

    @contextmanager
    def reuse_prefixes(self) -> Iterator[None]:
        """While this is open, compute only what is new in prompts that begin like an earlier one, or one and its reply.

        For evaluation: replies are those without it, except for rounding. What is kept takes at most `cache_bytes`, beside
        the batch under way, and is dropped at the end and by `publish`. Inside another one it does nothing.
        """
        if self._prefiller.prefixes is not None:
            yield
            return
        self._prefiller.prefixes = prefixes = PrefixCache(self._cache_bytes())
        try:
            yield
        finally:
            prefixes.clear()
            self._prefiller.prefixes = None

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, list[Generation]]]:
        """Decode on all cores, each with a share of the requests and of the cache."""
        kept = self._prefiller.prefixes is not None
        n_rows = sum(request.n for request in requests)
        n = 1 if kept else n_workers(self.model.device, n_rows * self.model.hidden_size // MIN_NUMBERS)
        cache_tokens = self._cache_tokens() // n
        max_members = max_replies_that_fit(
            max(len(request.ids) for request in requests), sampling.max_tokens, cache_tokens
        )
        shares = shard_requests(requests, self._shortest_first(requests), n, max_members)
        weights = self._current_weights()
        collector = GroupCollector(requests)
        with self._graphs() as graphs:

            def open_decoder(some: Sequence[Request], prefiller: Prefiller) -> Decoder:
                return Decoder(weights, self.model.chat, some, sampling, prefiller, cache_tokens, graphs)

            in_caller_thread = self.model.device.type == "cpu"
            for part, replies in dispatch(shares, open_decoder, self._prefiller, in_caller_thread=in_caller_thread):
                complete = collector.add(part, replies)
                if complete is not None:
                    yield part[0], complete

    def _shortest_first(self, requests: Sequence[Request]) -> list[int]:
        """Return the places of the requests, those first that have the least to compute."""
        sizes = [(self._prefiller.n_missing(request.ids), len(request.ids)) for request in requests]
        return sorted(range(len(requests)), key=sizes.__getitem__)

    def stream(self, prompt: Prompt, sampling: Sampling | None, on_text: Callable[[str], None]) -> Sample | None:
        """Return the one reply that `sample` would give, None for an over-long prompt; `on_text` hears its text piece by
        piece as it is drawn."""
        how = sampling or self.sampling
        requests = list(self.make_requests([prompt], 1, how).values())
        if not requests:
            return None
        detokenizer = Detokenizer(self.model.chat)
        finished: list[tuple[int, list[Generation]]] = []
        with self._graphs() as graphs:
            weights, cache_tokens = self._current_weights(), self._cache_tokens()
            decoder = Decoder(weights, self.model.chat, requests, how, self._prefiller, cache_tokens, graphs)
            while not decoder.is_done:
                finished = decoder.step()
                _emit(on_text, detokenizer.add(decoder.first_ids()))
        [(_, replies)] = finished
        _emit(on_text, detokenizer.end(replies[0].ids))
        [sample] = self.to_group(prompt, requests[0].ids, replies, how)
        return sample

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        """See `Policy`. Raises UserError also for samples that were drawn greedily, and for more tokens than the model has
        positions for."""
        rows: list[ScoreRow] = []
        for i, sample in enumerate(samples):
            prompt_ids = sample.prompt_ids if prompts is None else self.model.chat.encode(prompts[i].messages)
            rows.append(score_row(sample, prompt_ids, self.max_positions))
        return score(self._current_weights(), rows, self.model.device, self.model.hidden_size)

    def _graphs(self) -> AbstractContextManager[Graphs | None]:
        """Return what repeats steps, where it can: modules of other models may wait for the GPU."""
        on = self.cuda_graphs and self.model.fused and self.model.device.type == "cuda"
        return gpu_graphs(self.model.device) if on else nullcontext()

    def _cache_bytes(self) -> int:
        return cache_bytes(self.model.device) if self.cache_bytes is None else self.cache_bytes

    def _current_weights(self) -> Weights:
        """Return the weights in the sampler's form, made again after `publish` or when a parameter was changed without it;
        within `frozen_weights`, as they were."""
        if self._frozen is not None:
            return self._frozen
        state = tuple(p._version for p in self.model.module.parameters())
        if self._weights is None or self._weights[0] != state:
            self._weights = None  # never two at a time
            self._weights = state, self.model.weights(self.dtype)
        return self._weights[1]

    def _cache_tokens(self) -> int:
        """Return how many tokens' keys and values fit into the cache."""
        return self._cache_bytes() // bytes_per_token(self.model, self.dtype)


def _emit(on_text: Callable[[str], None], piece: str) -> None:
    if piece:
        on_text(piece)
