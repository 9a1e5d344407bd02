"""How long an update takes, from operations and bytes; the machine's figures and the shares of them that are reached are
assumptions, and named as such."""

from __future__ import annotations

from dataclasses import dataclass

from rethink.plan.memory import FLOAT, Setup
from rethink.plan.sampling import Request, slots


@dataclass(frozen=True)
class Machine:
    """One GPU: 10^12 operations per second in bfloat16 and in float32 (no tensor cores), 10^12 bytes per second.

    Defaults are those of an H100 SXM, from NVIDIA's data sheet (dense; an H200 has 4.8 in place of 3.35). The shares that
    are reached, and the time to launch an operation, are guesses until they are measured.
    """

    tflops: float = 989.0
    tflops_float32: float = 67.0
    bandwidth: float = 3.35
    share_of_tflops: float = 0.4
    share_of_bandwidth: float = 0.6
    launch_s: float = 5e-6
    launches_per_layer: int = 36

    def products_s(self, n_operations: float, itemsize: int) -> float:
        """Seconds of matrix products."""
        peak = self.tflops if itemsize < FLOAT else self.tflops_float32
        return n_operations / (peak * self.share_of_tflops * 1e12)


def training_s(setup: Setup, machine: Machine, n_flat: int, n_trained: int, n_forward: int, length: float) -> float:
    """6 operations per parameter and token, 8 where activations are computed again, and 2 for each token that only goes
    forward (old log-probs, the start model); attention, 2 L Q times the mean length more for each 2; the head's logits
    twice forward and once backward, 8 V H for each trained token, in float32."""
    shape = setup.shape
    passes = (8 if setup.recompute else 6) * n_flat + 2 * n_forward
    body = passes * (shape.n_body + shape.n_layers * shape.n_queries * length)
    head = (8 * n_trained + 2 * n_forward) * shape.n_embedding
    return (machine.products_s(body, setup.matrix) + machine.products_s(head, FLOAT)) / setup.n_gpus


def sampling_s(setup: Setup, machine: Machine, request: Request) -> float:
    """Prompts at 2 operations per parameter and token; then steps. Each reads all weights, the head in float32, and the
    keys and values so far, or multiplies, or launches its operations, whichever takes longest. There are as many as the
    longest reply has tokens, or as all tokens need with the rows that fit."""
    shape, mine = setup.shape, request.share(setup.n_gpus)
    room = slots(mine, setup.cache_bytes // shape.cache_bytes(setup.sampler_cache))
    n_steps = max(longest(request), -(-mine.n_sampled // room.n_rows))
    rows = mine.n_sampled / n_steps
    reply = mine.n_sampled / (len(mine.prompts) * mine.n)
    seen = sum(mine.prompts) / len(mine.prompts) / mine.n + reply / 2  # a prompt's keys are read once for its replies
    n_bytes: float = setup.sampler * shape.n_body + FLOAT * shape.n_embedding
    n_bytes += rows * seen * shape.cache_bytes(setup.sampler_cache)
    reading = n_bytes / (machine.bandwidth * machine.share_of_bandwidth * 1e12)
    products = machine.products_s(2 * rows * shape.n_body, setup.sampler)
    products += machine.products_s(2 * rows * shape.n_embedding, FLOAT)
    launching = machine.launch_s * machine.launches_per_layer * shape.n_layers
    prompts = machine.products_s(2 * shape.n_body * sum(mine.prompts), setup.sampler)
    return prompts + n_steps * max(reading, products, launching)


def longest(request: Request) -> int:
    """Of the replies: some row always runs to the cap, unless there are few."""
    return request.max_tokens if len(request.prompts) * request.n > 1 else request.n_sampled
