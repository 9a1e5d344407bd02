"""Log-probs from an output layer, and their gradients: `python benchmarks/output_layer.py [--rounds N]`, on one core.

Three ways in alternating order, with the layer in training and frozen: ours (`models/forward/chunked_head.py`), one that
computes the logits of each chunk again in the backward pass, and one that keeps them all. Prints medians of the processor's
seconds, which other programs on the machine disturb less than wall time does.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rethink.models.forward.token_log_probs import token_log_probs
from rethink.models.forward.weights import Head
from rethink.settings import Training

SHAPES = {
    "A": (3000, 113, 128, Training.chunk_tokens),
    "A, 4 chunks": (3000, 113, 128, 750),
    "B": (1300, 113, 384, Training.chunk_tokens),
    "SmolLM2-135M": (868, 49152, 576, Training.chunk_tokens),
}
"""Trained tokens of a micro-batch on a CPU, vocabulary, hidden size, tokens of a chunk; A, B as of `workloads.py`.
With the default, all tokens are in one chunk, the best case: the backward pass computes no logits."""

Way = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def ours(hidden_T_H: Tensor, weight_V_H: Tensor, ids_T: Tensor, chunk: int) -> Tensor:
    """Return log-probs [T] of the ids."""
    return token_log_probs(hidden_T_H, Head(weight_V_H, None), ids_T, torch.ones(len(ids_T)), chunk)


def kept(hidden_T_H: Tensor, weight_V_H: Tensor, ids_T: Tensor, chunk: int) -> Tensor:
    """Return the same from the logits of all tokens, which autograd keeps."""
    return (hidden_T_H @ weight_V_H.T).log_softmax(-1).gather(-1, ids_T[:, None])[:, 0]


def recomputed(hidden_T_H: Tensor, weight_V_H: Tensor, ids_T: Tensor, chunk: int) -> Tensor:
    """Return the same from logits that the backward pass computes again."""
    found = []
    for hidden, ids in zip(hidden_T_H.split(chunk), ids_T.split(chunk), strict=True):
        found.append(checkpoint(kept, hidden, weight_V_H, ids, chunk, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(found)


WAYS: dict[str, Way] = {"ours": ours, "recomputed": recomputed, "kept": kept}


def measure(ways: dict[str, Way], shape: tuple[int, int, int, int], trained: bool, rounds: int) -> dict[str, float]:
    """Return the median seconds of each way, forward and backward; the first round warms up."""
    n, n_words, width, chunk = shape
    hidden_T_H = torch.randn(n, width, requires_grad=True)
    weight_V_H = torch.randn(n_words, width).mul_(width**-0.5).requires_grad_(trained)
    ids_T, factors_T = torch.randint(n_words, (n,)), torch.randn(n)
    leaves = [leaf for leaf in (hidden_T_H, weight_V_H) if leaf.requires_grad]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            torch.autograd.grad((way(hidden_T_H, weight_V_H, ids_T, chunk) * factors_T).sum(), leaves)
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(found[1:]) for name, found in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, shape in SHAPES.items():
        for trained in (True, False):
            found = measure(WAYS, shape, trained, rounds)
            times = "  ".join(f"{way} {1000 * seconds:.1f} ms" for way, seconds in found.items())
            print(f"{name:12}  {'trained' if trained else 'frozen ':7}  {times}", flush=True)


if __name__ == "__main__":
    main()
