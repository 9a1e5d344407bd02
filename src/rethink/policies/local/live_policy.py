"""The policy over a local model for many threads at once: their replies are decoded together, by one engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from rethink.errors import UserError
from rethink.models.forward import PlainWeights
from rethink.models.language_model import LanguageModel
from rethink.policies.cancel import Cancellation
from rethink.policies.local.detokenize import Detokenizer
from rethink.policies.local.dispatch import GroupCollector, Part, shard_requests
from rethink.policies.local.engine import Engine, EngineCall
from rethink.policies.local.kv_cache import CacheShape
from rethink.policies.local.live import LiveDecoder, live_shape
from rethink.policies.local.policy import LocalPolicy
from rethink.policies.local.prefill import Prefiller
from rethink.policies.local.prefix_cache import PrefixCache
from rethink.policies.token_policy import Generation, Request, TokenPolicy
from rethink.types import Message, Prompt, Sample, Sampling

MAX_MEMBERS = 8
"""Larger groups are split: rows of one prompt start together, and should not wait until that many are free."""


class LivePolicy(TokenPolicy):
    """Samples what `LocalPolicy` samples, except for rounding, and may be used by many threads: each takes `for_call`.

    Its weights never change. Prompts and replies of `shape` fit; over-long prompts are skipped. Close it at the end.
    """

    def __init__(
        self,
        model: LanguageModel,
        sampling: Sampling,
        engine: Engine,
        shape: CacheShape,
        cancellation: Cancellation | None = None,
        stop: Sequence[str] = (),
    ) -> None:
        super().__init__(model, sampling, max_prompt_tokens=shape.prompt_columns, overlong="skip")
        self.engine, self.shape = engine, shape
        self.cancellation = cancellation or Cancellation()
        self.stop = stop

    def for_call(self, cancellation: Cancellation, stop: Sequence[str] = ()) -> LivePolicy:
        """Return a policy for one thread, whose calls raise Cancelled once they are cancelled.

        A reply that is streamed ends soon after its text holds one of the strings in `stop`; its text is not cut."""
        return LivePolicy(self.model, self.sampling, self.engine, self.shape, cancellation, stop)

    def with_sampling(self, sampling: Sampling) -> LivePolicy:
        return LivePolicy(self.model, sampling, self.engine, self.shape, self.cancellation, self.stop)

    def publish(self, version: int) -> None:
        raise UserError("the weights of a live policy do not change")

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        raise UserError("a live policy cannot score; use a local policy")

    def close(self) -> None:
        """Cancel all calls, and end the engine."""
        self.engine.close()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, list[Generation]]]:
        """Submit the requests to the engine and wait; see `TokenPolicy`. Closing the iterator cancels them."""
        most = min(MAX_MEMBERS, self.shape.n_rows)
        [parts] = shard_requests(requests, range(len(requests)), 1, most)
        call = self._submit([part for _, part in parts], sampling)
        collector = GroupCollector(requests)
        try:
            with self.cancellation.doing(lambda: self.engine.cancel(call)):
                for k, replies in _complete(call, parts):
                    complete = collector.add(parts[k], replies)
                    if complete is not None:
                        yield parts[k][0], complete
        finally:
            self.engine.cancel(call)

    def stream(self, prompt: Prompt, sampling: Sampling | None, on_text: Callable[[str], None]) -> Sample | None:
        """Return the reply that `sample` would return, or its beginning up to a stop string; None for an over-long prompt.

        `on_text` is called with each piece of the text as it is sampled."""
        how = sampling or self.sampling
        requests = list(self.make_requests([prompt], 1, how).values())
        if not requests:
            return None
        _emit(on_text, self.model.chat.reply_prefix(requests[0].ids))
        call = self._submit(requests, how, watch=True)
        try:
            with self.cancellation.doing(lambda: self.engine.cancel(call)):
                reply = self._receive(call, on_text)
        finally:
            self.engine.cancel(call)
        [sample] = self.to_group(prompt, requests[0].ids, [reply], how)
        return sample

    def _submit(self, requests: list[Request], sampling: Sampling, watch: bool = False) -> EngineCall:
        longest = most = 0
        for request in requests:
            longest = max(longest, len(request.ids))
            most = max(most, request.max_tokens or sampling.max_tokens)
        if longest > self.shape.prompt_columns or most > self.shape.reply_columns + 1:
            raise UserError(
                f"{longest} prompt tokens with {most} new tokens exceed the limits of {self.shape.prompt_columns} and "
                f"{self.shape.reply_columns + 1}"
            )
        self.cancellation.check()
        return self.engine.submit([(request, sampling) for request in requests], watch)

    def _receive(self, call: EngineCall, on_text: Callable[[str], None]) -> Generation:
        """Pass on a reply's text while it is sampled; return the reply, as far as a stop string let it come."""
        detokenizer = Detokenizer(self.model.chat)
        ids: list[int] = []
        n_kept = max(map(len, self.stop), default=1) - 1
        end = ""  # of the text so far: what a stop string may begin with
        for items in call.batches():
            for _, _, item in items:
                if isinstance(item, Generation):
                    _emit(on_text, detokenizer.end(item.ids))
                    return item
                ids.append(item)
            piece = detokenizer.add(ids)
            _emit(on_text, piece)
            end += piece
            if any(text in end for text in self.stop):
                break
            end = end[max(0, len(end) - n_kept) :]
        unknown = float("nan")
        return Generation(ids, [unknown] * len(ids), stopped=True)


def open_live_policy(policy: LocalPolicy, n_prompt_tokens: int, max_tokens: int, n_rows: int) -> LivePolicy:
    """Return a live policy over a local policy's model, for prompts and replies of at most these lengths.

    Half of the policy's cache holds the rows that run (at most `n_rows`, as many as fit), half of it prefixes that later
    prompts may share. Raise UserError for a model that keeps its own cache: its rows cannot come and go."""
    if isinstance(policy._current_weights(), PlainWeights):
        raise UserError(
            f"{policy.model.path} runs through its own attention and cache, where requests cannot join while others run; "
            "serve it with vLLM, and name that server with --endpoint URL"
        )
    shape = live_shape(n_prompt_tokens, max_tokens, n_rows, policy._cache_tokens() // 2)
    weights, chat, prefix_bytes = policy._current_weights(), policy.model.chat, policy._cache_bytes() // 2

    def open_decoder() -> LiveDecoder:
        prefiller = Prefiller()
        prefiller.prefixes = PrefixCache(prefix_bytes)
        return LiveDecoder(weights, chat, shape, prefiller)

    # Its first use splits special tokens, by a flag of the tokenizer that all threads would see.
    chat.encode([Message("user", "-")])
    sampling = replace(policy.sampling, max_tokens=min(policy.sampling.max_tokens, shape.reply_columns + 1))
    return LivePolicy(policy.model, sampling, Engine(open_decoder), shape)


def _complete(call: EngineCall, parts: Sequence[Part]) -> Iterator[tuple[int, list[Generation]]]:
    """Yield (k, replies) for each part k, as soon as all of its replies are complete."""
    found: dict[int, dict[int, Generation]] = {}
    for k, index, reply in call.items():
        assert isinstance(reply, Generation)
        members = found.setdefault(k, {})
        members[index] = reply
        if len(members) == parts[k][1].n:
            yield k, [members[g] for g in sorted(members)]


def _emit(on_text: Callable[[str], None], piece: str) -> None:
    if piece:
        on_text(piece)
