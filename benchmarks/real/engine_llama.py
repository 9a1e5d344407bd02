"""llama.cpp (package llama-cpp-python), for `sampling.py`: the quantized weights of the GGUF file itself.

Its context decodes one token of every sequence at a time; prompts are computed in batches of BATCH tokens.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp
from llama_cpp import llama_cpp as c

from real.sampling_worker import Replies

BATCH = 512
ROUND = 256
"""Contexts hold a multiple of so many tokens of each sequence."""

QUIET = c.llama_log_callback(lambda level, text, data: None)


class Llama:
    version = llama_cpp.__version__

    def __init__(self, job: dict[str, Any]) -> None:
        c.llama_log_set(QUIET, ctypes.c_void_p(0))
        self.threads = job["threads"]
        self.longest = len(job["prompts"][0]) + job["reply_tokens"]
        self.model = c.llama_model_load_from_file(job["gguf"].encode(), c.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {job['gguf']}")
        self.n_calls = 0

    def generate(self, prompts: Sequence[Sequence[int]], n_tokens: int, *, greedy: bool) -> Replies:
        self.n_calls += 1
        call = Call(self._context(len(prompts)), greedy, self.n_calls)
        start = time.perf_counter()
        replies = [[token] for token in call.read_prompts(prompts)]
        first_s = time.perf_counter() - start
        for step in range(n_tokens - 1):
            last = [ids[-1] for ids in replies]
            places = [len(prompt) + step for prompt in prompts]
            for ids, token in zip(replies, call.read_tokens(last, places), strict=True):
                ids.append(token)
        total_s = time.perf_counter() - start
        call.free()
        return Replies(replies, first_s, total_s, len(prompts) * (n_tokens - 1))

    def _context(self, n_rows: int) -> Any:
        settings = c.llama_context_default_params()
        settings.n_ctx = n_rows * (-(-self.longest // ROUND) * ROUND)
        settings.n_batch = settings.n_ubatch = BATCH
        settings.n_seq_max = n_rows
        settings.n_threads = settings.n_threads_batch = self.threads
        context = c.llama_init_from_model(self.model, settings)
        if not context:
            raise SystemExit("llama.cpp cannot make a context of this size")
        return context


class Call:
    """The sequences of one call: their context, their batch, and the sampler."""

    def __init__(self, context: Any, greedy: bool, seed: int) -> None:
        self.context = context
        self.batch = c.llama_batch_init(BATCH, 0, 1)
        self.sampler = c.llama_sampler_chain_init(c.llama_sampler_chain_default_params())
        one = c.llama_sampler_init_greedy() if greedy else c.llama_sampler_init_dist(seed)
        c.llama_sampler_chain_add(self.sampler, one)

    def read_prompts(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Compute the prompts and return the first token of each."""
        sampled: dict[int, int] = {}
        ends: dict[int, int] = {}  # place in the batch of a prompt's last token -> row
        for row, prompt in enumerate(prompts):
            for place, token in enumerate(prompt):
                is_last = place == len(prompt) - 1
                if is_last:
                    ends[self.batch.n_tokens] = row
                self._add(token, place, row, is_last)
                if self.batch.n_tokens == BATCH or (is_last and row == len(prompts) - 1):
                    self._decode()
                    for output, end_row in ends.items():
                        sampled[end_row] = self._sample(output)
                    ends.clear()
        return [sampled[row] for row in range(len(prompts))]

    def read_tokens(self, tokens: Sequence[int], places: Sequence[int]) -> list[int]:
        """Compute one token of each row and return the next ones."""
        for row, (token, place) in enumerate(zip(tokens, places, strict=True)):
            self._add(token, place, row, True)
        self._decode()
        return [self._sample(row) for row in range(len(tokens))]

    def free(self) -> None:
        c.llama_sampler_free(self.sampler)
        c.llama_batch_free(self.batch)
        c.llama_free(self.context)

    def _add(self, token: int, place: int, row: int, is_output: bool) -> None:
        n = self.batch.n_tokens
        self.batch.token[n], self.batch.pos[n] = token, place
        self.batch.n_seq_id[n], self.batch.seq_id[n][0] = 1, row
        self.batch.logits[n] = is_output
        self.batch.n_tokens = n + 1

    def _decode(self) -> None:
        if c.llama_decode(self.context, self.batch):
            raise SystemExit("llama.cpp failed to decode a batch")
        self.batch.n_tokens = 0

    def _sample(self, place: int) -> int:
        return int(c.llama_sampler_sample(self.sampler, self.context, place))


def open_engine(job: dict[str, Any]) -> Llama:
    return Llama(job)
