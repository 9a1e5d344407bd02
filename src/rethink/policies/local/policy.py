"""The policy over a local model: prompts in, groups of samples out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Literal

import torch

from rethink.models.device import cache_bytes
from rethink.models.forward import Weights
from rethink.models.language_model import LanguageModel
from rethink.policies.local.cache import bytes_per_token
from rethink.policies.local.decode import decode, room_for
from rethink.policies.local.detokenize import Pieces
from rethink.policies.local.dispatch import MIN_NUMBERS, Joiner, deal, work
from rethink.policies.local.graphs import Graphs, on_gpu
from rethink.policies.local.prefill import Prefiller
from rethink.policies.local.prefixes import Prefixes
from rethink.policies.token_policy import Hear, Request, TokenPolicy
from rethink.threads import n_workers
from rethink.types import Group, Prompt, Sample, Sampling


class LocalPolicy(TokenPolicy):
    """Samples from a model whose weights it shares with the trainer; the trainer announces changes by `publish`.

    `cache_bytes` bounds the key/value cache (None: see `machine.cache_bytes`): rows that do not fit wait until others have
    ended, and a sample does not depend on which rows it is decoded beside. `cuda_graphs`: see `Limits`.
    """

    def __init__(
        self,
        model: LanguageModel,
        sampling: Sampling,
        *,
        max_prompt_tokens: int | None = None,
        overlong: Literal["skip", "refuse"] = "skip",
        cache_bytes: int | None = None,
        dtype: torch.dtype | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__(model, sampling, max_prompt_tokens=max_prompt_tokens, overlong=overlong)
        self.cache_bytes = cache_bytes
        self.dtype = dtype or model.dtype
        self.cuda_graphs = cuda_graphs
        self._weights: tuple[tuple[int, ...], Weights] | None = None
        self._held: Weights | None = None
        self._prefiller = Prefiller()

    @property
    def n_prefilled_tokens(self) -> int:
        """Prompt tokens that had to be computed so far; see `Prefiller`."""
        return self._prefiller.n_prefilled_tokens

    @property
    def n_reused_tokens(self) -> int:
        """Prompt tokens whose keys and values were kept from before, within `keep_prefixes`; see `Prefiller`."""
        return self._prefiller.n_reused_tokens

    def publish(self, version: int) -> None:
        """The shared weights have changed: nothing that was kept of the old ones is used again."""
        assert self._held is None
        self.version = version
        self._weights = None
        if self._prefiller.prefixes is not None:
            self._prefiller.prefixes.clear()

    def with_sampling(self, sampling: Sampling) -> LocalPolicy:
        """The same weights for something else, an evaluation say, with counts and caches of its own."""
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
    def held(self) -> Iterator[None]:
        """While it is open, samples come from the weights as they are now, whatever a trainer in another thread does to the
        model meanwhile; `publish` comes after it."""
        self._weights = None  # never two at a time
        self._held = self.model.weights(self.dtype, copy=True)
        try:
            yield
        finally:
            self._held = None

    def rest(self) -> None:
        """Nothing is sampled for a while: the copy of the weights is dropped, and made again when it is needed."""
        self._weights = None

    @contextmanager
    def keep_prefixes(self) -> Iterator[None]:
        """While it is open, prompts that begin like an earlier prompt, or like one and its reply, compute only the rest.

        For evaluation: replies are those without it, except for rounding. What is kept takes at most `cache_bytes`, beside
        the batch under way, and is dropped at the end and by `publish`. Inside another one it does nothing.
        """
        if self._prefiller.prefixes is not None:
            yield
            return
        self._prefiller.prefixes = prefixes = Prefixes(self._cache_bytes())
        try:
            yield
        finally:
            prefixes.clear()
            self._prefiller.prefixes = None

    def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> list[Group]:
        """One group of n replies per prompt, in order; an empty group for a prompt that was skipped as over-long."""
        return self._sample(prompts, n, sampling or self.sampling)

    def stream(self, prompt: Prompt, sampling: Sampling | None, listen: Callable[[str], None]) -> Sample | None:
        """The one reply that `sample` would give, None for an over-long prompt; `listen` hears its text piece by piece
        as it is drawn."""
        pieces = Pieces(self.model.chat, listen)
        (group,) = self._sample([prompt], 1, sampling or self.sampling, pieces.hear)
        if not group:
            return None
        pieces.end(self.model.chat.decode(group[0].ids))
        return group[0]

    def _sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        sampling: Sampling,
        listen: Callable[[list[int]], None] | None = None,
    ) -> list[Group]:
        def draw(requests: Sequence[Request], hear: Hear) -> None:
            self._decode(requests, sampling, hear, listen)

        return self._groups(prompts, n, sampling, draw)

    def _decode(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        hear: Hear,
        listen: Callable[[list[int]], None] | None,
    ) -> None:
        """Decode on all cores, each with a share of the requests and of the cache; tells of what is complete meanwhile."""
        kept = self._prefiller.prefixes is not None
        n_rows = sum(request.n for request in requests)
        n = 1 if kept or listen is not None else n_workers(self.model.device, n_rows * self.model.width // MIN_NUMBERS)
        cache_tokens = self._cache_bytes() // (bytes_per_token(self.model, self.dtype) * n)
        order = sorted(
            range(len(requests)), key=lambda i: (self._prefiller.n_lacking(requests[i].ids), len(requests[i].ids))
        )
        room = room_for(max(len(r.ids) for r in requests), sampling.max_tokens, cache_tokens)
        shares = deal(requests, order, n, room)
        here = self.model.device.type == "cpu" or listen is not None
        decode_some = partial(decode, self._present_weights(), self.model.chat, sampling, cache_tokens, listen)
        with self._graphs() as graphs:
            work(partial(decode_some, graphs=graphs), shares, self._prefiller, Joiner(requests, hear), here=here)

    def _graphs(self) -> AbstractContextManager[Graphs | None]:
        """What repeats steps, where it can: modules of other models may wait for the GPU."""
        on = self.cuda_graphs and self.model.fused and self.model.device.type == "cuda"
        return on_gpu(self.model.device) if on else nullcontext()

    def _cache_bytes(self) -> int:
        return cache_bytes(self.model.device) if self.cache_bytes is None else self.cache_bytes

    def _present_weights(self) -> Weights:
        """Put together anew after `publish`, or when a parameter was changed without it; within `held`, as they were."""
        if self._held is not None:
            return self._held
        state = tuple(p._version for p in self.model.module.parameters())
        if self._weights is None or self._weights[0] != state:
            self._weights = None  # never two at a time
            self._weights = state, self.model.weights(self.dtype)
        return self._weights[1]
