"""The policy over a local model: prompts in, groups of samples out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from rethink.errors import UserError
from rethink.model import LanguageModel
from rethink.policies.local.cache import bytes_per_token
from rethink.policies.local.decode import Reply, Request, decode
from rethink.policies.local.pieces import Pieces
from rethink.policies.local.prefill import Prefiller
from rethink.policies.local.prefixes import Prefixes
from rethink.types import Group, Prompt, Sample, Sampling


class LocalPolicy:
    """Samples from a model whose weights it shares with the trainer; the trainer announces changes by `publish`.

    `cache_bytes` bounds the key/value cache: more rows than fit are decoded one batch after the other, and a sample does
    not depend on which batch it falls into. Over-long prompts (more than `max_prompt_tokens`, or more than the model
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
    ) -> None:
        self.model = model
        self.sampling = sampling
        self.max_prompt_tokens = max_prompt_tokens
        self.overlong = overlong
        self.cache_bytes = cache_bytes
        self.version = 0
        self.n_overlong = 0
        self._prefiller = Prefiller(model)

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
        if self._prefiller.prefixes is not None:
            self._prefiller.prefixes.clear()

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
        requests = [Request(ids, n, p.seed) for p, ids, ok in zip(prompts, encoded, fits, strict=True) if ok]
        replies = iter(self._decode(requests, sampling, listen))
        return [
            self._group(p, ids, next(replies), sampling) if ok else ()
            for p, ids, ok in zip(prompts, encoded, fits, strict=True)
        ]

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
        self, requests: Sequence[Request], sampling: Sampling, listen: Callable[[list[int]], None] | None
    ) -> list[list[Reply]]:
        """Decode in batches that fit the cache, those together that lack like numbers of tokens and are of like lengths;
        groups are split only when they must be."""
        sizes = [(self._prefiller.n_lacking(request.ids), len(request.ids)) for request in requests]
        order = sorted(range(len(requests)), key=sizes.__getitem__)
        replies: list[list[Reply]] = [[] for _ in requests]
        for batch in self._batches(order, requests, sampling.max_tokens):
            decoded = decode(self.model, [request for _, request in batch], sampling, self._prefiller, listen)
            for (r, _), group in zip(batch, decoded, strict=True):
                replies[r].extend(group)
        return replies

    def _batches(self, order: Sequence[int], requests: Sequence[Request], cap: int) -> list[list[tuple[int, Request]]]:
        batches: list[list[tuple[int, Request]]] = []
        capacity = self._max_rows(max((len(request.ids) for request in requests), default=0) + cap)
        room = 0
        for r in order:
            request, first = requests[r], 0
            while first < request.n:
                if room == 0:
                    batches.append([])
                    room = capacity
                n = min(room, request.n - first)
                batches[-1].append((r, Request(request.ids, n, request.seed, first)))
                first, room = first + n, room - n
        return batches

    def _max_rows(self, row_tokens: int) -> int:
        """Rows of the longest kind that the cache has room for; compaction briefly holds old and new, hence the half."""
        row_bytes = bytes_per_token(self.model.config, self.model.dtype) * row_tokens
        return max(1, self.cache_bytes // (2 * row_bytes))

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
