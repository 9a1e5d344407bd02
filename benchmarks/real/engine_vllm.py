"""vLLM's CPU build, for `sampling.py`: its engine in this process, with continuous batching and without a prefix cache."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in this process, whose memory is measured
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
os.environ["VLLM_NO_USAGE_STATS"] = "1"

import torch
import vllm

from real.sampling_worker import Replies


class Vllm:
    version = vllm.__version__

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        longest = len(job["prompts"][0]) + job["reply_tokens"] + 1
        self.engine = vllm.LLM(
            model=job["folder"],
            dtype=job["dtype"],
            max_model_len=longest,
            max_num_seqs=len(job["prompts"]),
            enable_prefix_caching=False,
            kv_cache_memory_bytes=2**30,  # as much as rethink's cache
        ).llm_engine
        self.n_calls = 0

    def generate(self, prompts: Sequence[Sequence[int]], n_tokens: int, *, greedy: bool) -> Replies:
        self.n_calls += 1
        temperature = 0.0 if greedy else 1.0
        how = vllm.SamplingParams(temperature=temperature, max_tokens=n_tokens, ignore_eos=True, detokenize=False)
        start = time.perf_counter()
        for row, prompt in enumerate(prompts):
            self.engine.add_request(f"{self.n_calls}/{row}", {"prompt_token_ids": list(prompt)}, how)
        found: list[list[int]] = [[] for _ in prompts]
        first_s, n_at_first = 0.0, 0
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                found[int(output.request_id.split("/")[1].split("-")[0])] = list(output.outputs[0].token_ids)
            if not first_s and all(found):
                first_s, n_at_first = time.perf_counter() - start, sum(map(len, found))
        total_s = time.perf_counter() - start
        return Replies(found, first_s, total_s, sum(map(len, found)) - n_at_first)


def open_engine(job: dict[str, Any]) -> Vllm:
    return Vllm(job)
