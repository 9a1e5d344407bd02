"""The policy over a local model, with our own sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

from rethink.models.device import cache_bytes, return_freed_memory
from rethink.models.forward import PlainWeights, Weights
from rethink.models.language_model import LanguageModel
from rethink.policies.local.decode import Decoder, max_replies_that_fit
from rethink.policies.local.detokenize import Detokenizer
from rethink.policies.local.dispatch import MIN_NUMBERS, AnyDecoder, GroupCollector, dispatch, shard_requests
from rethink.policies.local.graphs import Graphs, gpu_graphs
from rethink.policies.local.kv_cache import bytes_per_token
from rethink.policies.local.plain_decode import PlainDecoder
from rethink.policies.local.prefill import Prefiller
from rethink.policies.local.prefix_cache import PrefixCache
from rethink.policies.local.score import ScoreRow, score, score_row
from rethink.policies.token_policy import Generation, Request, TokenPolicy
from rethink.settings import Sampler
from rethink.threads import n_workers
from rethink.types import Prompt, Sample, Sampling


class LocalPolicy(TokenPolicy):
    """Samples from a model whose weights it shares with the trainer; the trainer calls `publish` after changing them.

    `cache_bytes` limits the KV cache (None: see `device.cache_bytes`). Rows that do not fit wait until others have ended;
    samples do not depend on the batch they are decoded in. `dtype` is that of the matrices (None: the model's). For
    `cuda_graphs`, see `settings.Sampler`.
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
        self._taken: Weights | None = None
        self._prefiller = Prefiller()

    @property
    def n_prefilled_tokens(self) -> int:
        """The number of prompt tokens computed so far; see `Prefiller`."""
        return self._prefiller.n_prefilled_tokens

    @property
    def n_reused_tokens(self) -> int:
        """The number of prompt tokens taken from the prefix cache (`reuse_prefixes`) so far; see `Prefiller`."""
        return self._prefiller.n_reused_tokens

    def publish(self, version: int) -> None:
        """Sample from the changed weights from now on; drop everything computed from the old ones."""
        assert self._frozen is None
        assert self._taken is None
        self.version = version
        self._weights = None
        if self._prefiller.prefixes is not None:
            self._prefiller.prefixes.clear()

    def with_sampling(self, sampling: Sampling) -> LocalPolicy:
        """Return another policy over the same weights, with this sampling and separate counters and caches."""
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
        other._taken = self._taken
        return other

    def take_weights(self) -> LocalPolicy:
        """Keep the weights in the sampler's form only, and return the policy.

        The model takes half of the memory, and can no longer be trained, saved or sampled from by another policy. A model
        that is not fused stays as it is."""
        if self.model.fused:
            self._weights = None
            self._taken = self.model.weights(self.dtype, layers="taken")
            return_freed_memory()
        return self

    @contextmanager
    def frozen_weights(self) -> Iterator[None]:
        """Sample from a copy of the current weights inside this context."""
        self._weights = None  # never two at a time
        self._frozen = self.model.weights(self.dtype, copy=True)
        try:
            yield
        finally:
            self._frozen = None

    def release_memory(self) -> None:
        """Drop the sampler's copy of the weights until it is needed."""
        self._weights = None

    @contextmanager
    def reuse_prefixes(self) -> Iterator[None]:
        """Inside this context, cache keys and values of prompts and replies, and reuse them for prompts that begin alike.

        Replies do not change, except for rounding. The prefix cache takes at most `cache_bytes`, in addition to the KV
        cache of decoding. It is dropped at the end and by `publish`. A nested context has no effect, nor has one
        for a model that keeps its own cache.
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
        """Decode on all cores, each with a share of the requests and of the cache; see `TokenPolicy`."""
        has_prefixes = self._prefiller.prefixes is not None
        n_rows = sum(request.n for request in requests)
        n = 1 if has_prefixes else n_workers(self.model.device, n_rows * self.model.hidden_size // MIN_NUMBERS)
        cache_tokens = self._cache_tokens() // n
        max_members = max_replies_that_fit(
            max(len(request.ids) for request in requests), sampling.max_tokens, cache_tokens
        )
        shares = shard_requests(requests, self._shortest_first(requests), n, max_members)
        weights = self._current_weights()
        collector = GroupCollector(requests)
        with self._graphs() as graphs:

            def open_decoder(some: Sequence[Request], prefiller: Prefiller) -> AnyDecoder:
                return self._decoder(weights, some, sampling, prefiller, cache_tokens, graphs)

            in_caller_thread = self.model.device.type == "cpu"
            for part, replies in dispatch(shares, open_decoder, self._prefiller, in_caller_thread=in_caller_thread):
                complete = collector.add(part, replies)
                if complete is not None:
                    yield part[0], complete

    def _decoder(
        self,
        weights: Weights,
        requests: Sequence[Request],
        sampling: Sampling,
        prefiller: Prefiller,
        cache_tokens: int,
        graphs: Graphs | None,
    ) -> AnyDecoder:
        chat = self.model.chat
        if isinstance(weights, PlainWeights):
            pads_left = self.model.pads_left
            return PlainDecoder(weights, chat, requests, sampling, prefiller, cache_tokens, pads_left=pads_left)
        return Decoder(weights, chat, requests, sampling, prefiller, cache_tokens, graphs)

    def _shortest_first(self, requests: Sequence[Request]) -> list[int]:
        """Return the indices of the requests, in order of the tokens to compute."""
        sizes = [(self._prefiller.n_missing(request.ids), len(request.ids)) for request in requests]
        return sorted(range(len(requests)), key=sizes.__getitem__)

    def stream(self, prompt: Prompt, sampling: Sampling | None, on_text: Callable[[str], None]) -> Sample | None:
        """Return the reply that `sample` would return; None for an over-long prompt.

        `on_text` is called with each piece of the text as it is sampled."""
        how = sampling or self.sampling
        requests = list(self.make_requests([prompt], 1, how).values())
        if not requests:
            return None
        _emit(on_text, self.model.chat.reply_prefix(requests[0].ids))
        detokenizer = Detokenizer(self.model.chat)
        finished: list[tuple[int, list[Generation]]] = []
        with self._graphs() as graphs:
            weights, cache_tokens = self._current_weights(), self._cache_tokens()
            decoder = self._decoder(weights, requests, how, self._prefiller, cache_tokens, graphs)
            while not decoder.is_done:
                finished = decoder.step()
                _emit(on_text, detokenizer.add(decoder.first_ids()))
        [(_, replies)] = finished
        _emit(on_text, detokenizer.end(replies[0].ids))
        [sample] = self.to_group(prompt, requests[0].ids, replies, how)
        return sample

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        """Return the log-probs of each sample's ids; see `Policy`.

        Raise UserError also for greedy samples, for sequences longer than the model's positions, and for images if the
        model takes none."""
        rows: list[ScoreRow] = []
        for i, sample in enumerate(samples):
            self._require_images(sample.prompt if prompts is None else prompts[i])
            prompt_ids = sample.prompt_ids if prompts is None else self.model.chat.encode(prompts[i].messages)
            rows.append(score_row(sample, prompt_ids, self.max_positions))
        return score(self._current_weights(), rows, self.model.device, self.model.hidden_size)

    def _graphs(self) -> AbstractContextManager[Graphs | None]:
        """Return CUDA graphs if enabled and supported: modules of models that are not fused may wait for the GPU.

        Images do not matter: they are in prompts, and only decoding is recorded."""
        on = self.cuda_graphs and self.model.fused and self.model.device.type == "cuda"
        return gpu_graphs(self.model.device) if on else nullcontext()

    def _cache_bytes(self) -> int:
        return cache_bytes(self.model.device) if self.cache_bytes is None else self.cache_bytes

    def _current_weights(self) -> Weights:
        """Return the weights in the sampler's form, rebuilt when a parameter has changed; in `frozen_weights`, the copy."""
        if self._taken is not None:
            return self._taken
        if self._frozen is not None:
            return self._frozen
        state = tuple(p._version for p in self.model.module.parameters())
        if self._weights is None or self._weights[0] != state:
            self._weights = None  # never two at a time
            self._weights = state, self.model.weights(self.dtype)
        return self._weights[1]

    def _cache_tokens(self) -> int:
        """Return the number of tokens that fit into the KV cache."""
        return self._cache_bytes() // bytes_per_token(self.model, self.dtype)


def _emit(on_text: Callable[[str], None], piece: str) -> None:
    if piece:
        on_text(piece)
