"""The policy over a local model: prompts in, groups of samples out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Literal

import torch

from rethink.errors import UserError
from rethink.forward import Weights
from rethink.model import LanguageModel
from rethink.policies.local.cache import bytes_per_token
from rethink.policies.local.decode import Reply, Request, decode, room_for
from rethink.policies.local.pieces import Pieces
from rethink.policies.local.prefill import Prefiller
from rethink.policies.local.prefixes import Prefixes
from rethink.policies.local.share import MIN_NUMBERS, Joiner, deal, work
from rethink.types import Group, Prompt, Sample, Sampling
from rethink.workers import n_workers


class LocalPolicy:
    """Samples from a model whose weights it shares with the trainer; the trainer announces changes by `publish`.

    `cache_bytes` bounds the key/value cache: rows that do not fit wait until others have ended, and a sample does not
    depend on which rows it is decoded beside. Over-long prompts (more than `max_prompt_tokens`, or more than the model
    has positions for) are skipped and counted in `n_overlong`, or refused; they are never cut.
    """

    def __init__(
        self,
        model: LanguageModel,
        sampling: Sampling,
        *,
        max_prompt_tokens: int | None = None,
        overlong: Literal["skip", "refuse"] = "skip",
        cache_bytes: int = 2**30,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.sampling = sampling
        self.max_prompt_tokens = max_prompt_tokens
        self.overlong = overlong
        self.cache_bytes = cache_bytes
        self.dtype = dtype or model.dtype
        self.on_group: Callable[[Group], None] | None = None
        self._weights: tuple[tuple[int, ...], Weights] | None = None
        self.version = 0
        self.n_overlong = 0
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
        self.version = version
        self._weights = None
        if self._prefiller.prefixes is not None:
            self._prefiller.prefixes.clear()

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
        self._prefiller.prefixes = prefixes = Prefixes(self.cache_bytes)
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
        pieces.end(group[0].text)
        return group[0]

    def _sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        sampling: Sampling,
        listen: Callable[[list[int]], None] | None = None,
    ) -> list[Group]:
        encoded = [self.model.chat.encode(p.messages) for p in prompts]
        fits = [self._fits(prompt, len(ids), sampling.max_tokens) for prompt, ids in zip(prompts, encoded, strict=True)]
        groups: list[Group] = [()] * len(prompts)
        asked = [p for p, ok in enumerate(fits) if ok and n > 0]

        def hear(i: int, replies: list[Reply]) -> None:
            p = asked[i]
            groups[p] = self._group(prompts[p], encoded[p], replies, sampling)
            if self.on_group is not None:
                self.on_group(groups[p])

        self._decode([Request(encoded[p], n, prompts[p].seed) for p in asked], sampling, hear, listen)
        return groups

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        """A given reply as a sample, as if the policy had chosen each of its tokens, at temperature 1 from its full
        distribution; its log-probs are not known."""
        ids = self.model.chat.encode_reply(reply)
        return Sample(
            prompt=prompt,
            index=0,
            prompt_ids=self.model.chat.encode(prompt.messages),
            ids=ids,
            mask=(True,) * len(ids),
            log_probs=(float("nan"),) * len(ids),
            text=reply,
            stop="stop",
            sampling=Sampling(max_tokens=self.sampling.max_tokens),
            version=self.version,
        )

    def splice(self, sample: Sample, text: str) -> Sample | None:
        """The sample with a text and a new end token in place of its end token, these marked as forced; None if that is
        over the sample's cap. Only the text is tokenised: the ids that were sampled stay as they are."""
        body = sample.ids[:-1] if sample.stop == "stop" else sample.ids
        added = self.model.chat.encode_reply(text)
        ids = (*body, *added)
        if len(ids) > sample.sampling.max_tokens:
            return None
        return replace(
            sample,
            ids=ids,
            mask=(*sample.mask[: len(body)], *(True,) * len(added)),
            forced=(*(sample.forced or (False,) * len(body))[: len(body)], *(True,) * len(added)),
            log_probs=(*sample.log_probs[: len(body)], *(float("nan"),) * len(added)),
            text=self.model.chat.decode(ids),
            stop="stop",
            verdict=None,
        )

    def _fits(self, prompt: Prompt, n_tokens: int, cap: int) -> bool:
        limits = [m for m in (self.max_prompt_tokens, self._room(cap)) if m is not None]
        if not limits or n_tokens <= min(limits):
            return True
        self.n_overlong += 1
        if self.overlong == "refuse":
            raise UserError(
                f"the {prompt.phase} prompt of problem {prompt.problem.id} has {n_tokens} tokens, over the limit of "
                f'{min(limits)}; raise limits.max_prompt_tokens if that is what binds, or set limits.overlong = "skip"'
            )
        return False

    def _room(self, cap: int) -> int | None:
        """How long a prompt may be for the model to have positions for all of its reply."""
        positions = self.model.max_positions
        if positions is None:
            return None
        if positions <= cap:
            raise UserError(
                f"sampling.max_tokens = {cap} leaves no room for a prompt in the model's {positions} positions; lower it "
                "(in evaluations and answers it is evaluation.sampling.max_tokens)"
            )
        return positions - cap

    def _decode(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        hear: Callable[[int, list[Reply]], None],
        listen: Callable[[list[int]], None] | None,
    ) -> None:
        """Decode on all cores, each with a share of the requests and of the cache; tells of what is complete meanwhile."""
        if not requests:
            return
        kept = self._prefiller.prefixes is not None
        n_rows = sum(request.n for request in requests)
        n = 1 if kept or listen is not None else n_workers(self.model.device, n_rows * self.model.width // MIN_NUMBERS)
        cache_tokens = self.cache_bytes // (bytes_per_token(self.model, self.dtype) * n)
        order = sorted(
            range(len(requests)), key=lambda i: (self._prefiller.n_lacking(requests[i].ids), len(requests[i].ids))
        )
        room = room_for(max(len(r.ids) for r in requests), sampling.max_tokens, cache_tokens)
        shares = deal(requests, order, n, room)
        decode_some = partial(decode, self._present_weights(), self.model.chat, sampling, cache_tokens, listen)
        here = self.model.device.type == "cpu" or listen is not None
        work(decode_some, shares, self._prefiller, Joiner(requests, hear), here=here)

    def _present_weights(self) -> Weights:
        """Put together anew after `publish`, or when a parameter was changed without it."""
        state = tuple(p._version for p in self.model.module.parameters())
        if self._weights is None or self._weights[0] != state:
            self._weights = None  # never two at a time
            self._weights = state, self.model.weights(self.dtype)
        return self._weights[1]

    def _group(
        self, prompt: Prompt, prompt_ids: tuple[int, ...], replies: Sequence[Reply], sampling: Sampling
    ) -> Group:
        return tuple(
            Sample(
                prompt=prompt,
                index=g,
                prompt_ids=prompt_ids,
                ids=tuple(reply.ids),
                mask=(True,) * len(reply.ids),
                log_probs=tuple(reply.log_probs),
                text=self.model.chat.decode(reply.ids),
                stop="stop" if reply.stopped else "length",
                sampling=sampling,
                version=self.version,
            )
            for g, reply in enumerate(replies)
        )
