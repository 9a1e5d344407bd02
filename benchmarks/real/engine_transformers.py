"""`generate` of transformers, for `sampling.py`: one batch, which stays full because all replies have the same length."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.streamers import BaseStreamer

from real.sampling_worker import Replies


class FirstTokens(BaseStreamer):  # type: ignore[misc]
    """Keeps the time at which the first tokens arrive; before them comes the prompt."""

    def __init__(self) -> None:
        self.n_calls = 0
        self.time = 0.0

    def put(self, value: Any) -> None:
        self.n_calls += 1
        if self.n_calls == 2:
            self.time = time.perf_counter()

    def end(self) -> None:
        return


class Transformers:
    version = transformers.__version__

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        self.model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype=getattr(torch, job["dtype"])).eval()
        self.model.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=0)  # nothing ends a reply

    def generate(self, prompts: Sequence[Sequence[int]], n_tokens: int, *, greedy: bool) -> Replies:
        ids = torch.tensor([list(prompt) for prompt in prompts])
        how = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        first = FirstTokens()
        start = time.perf_counter()
        with torch.inference_mode():
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_tokens, streamer=first, **how
            )
        total_s = time.perf_counter() - start
        replies = out[:, ids.shape[1] :].tolist()
        return Replies(replies, first.time - start, total_s, len(prompts) * (n_tokens - 1))


def open_engine(job: dict[str, Any]) -> Transformers:
    return Transformers(job)
