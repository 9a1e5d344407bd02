"""From one GPU to a thousand: seconds per update by stage, what stragglers waste, and what breaks first.

    python benchmarks/simulate.py [--cluster h100] [--work qwen3-4b] [--problems-per-gpu 4]
    python benchmarks/simulate.py --measure [--ranks 1 2]

A model, not a measurement: the rates of the clusters below are data sheets' times a share that is hoped for. It draws the
replies' lengths, deals prompts over ranks as our sampler does, and adds up what each stage reads, computes and sends. Every
rank holds all weights for sampling and a share of the trained ones (FSDP2); all ranks see all samples.

`--measure` fits the rates to runs of one process on this machine and holds predictions against other runs: more samples,
longer replies, and two processes.
"""

from __future__ import annotations

import argparse
import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Lengths = Callable[[np.random.Generator, int], Floats]
"""Draws this many replies' lengths in tokens."""


@dataclass(frozen=True)
class Cluster:
    """Rates that are reached, per GPU unless they say otherwise. A collective takes `hop_s` times log2 of the ranks beside
    its bytes; `step_s` is a decoding step's fixed cost, `update_s` an update's, `token_s` what Python needs to take in a
    gathered token, `grade_s` a verdict's time on one of the `graders` of a rank. `decode_flops` 0 is `flops`."""

    name: str
    flops: float
    memory_bytes_per_s: float
    memory_bytes: float
    gpus_per_node: int
    inside_bytes_per_s: float
    between_bytes_per_s: float
    hop_s: float
    step_s: float
    token_s: float
    grade_s: float
    graders: int
    update_s: float = 0.0
    decode_flops: float = 0.0

    def link(self, n_ranks: int) -> float:
        """Bytes per second at which every rank takes in what all have: the slower of a GPU's links inside its node and
        its node's adapters together."""
        fits = n_ranks <= self.gpus_per_node
        return self.inside_bytes_per_s if fits else min(self.inside_bytes_per_s, self.between_bytes_per_s)

    def collective_s(self, n_bytes: float, n_ranks: int, n_calls: int = 1) -> float:
        """Of `n_calls` all-gathers (or reduce-scatters) that bring `n_bytes` in all to every rank."""
        if n_ranks == 1:
            return 0.0
        return n_bytes * (n_ranks - 1) / n_ranks / self.link(n_ranks) + n_calls * self.hop_s * math.log2(n_ranks)


@dataclass(frozen=True)
class Work:
    """An update's work: a model, `n_samples` replies to each of `n_problems` prompts, and as many again in the refine phase
    of ThinkTwice (`phases` 2). `n_forwards` are forward passes per trained token, a backward pass being two of them."""

    name: str
    parameters: float
    layers: int
    cache_bytes_per_token: float
    lengths: Lengths
    prompt_tokens: int
    n_problems: int
    n_samples: int = 8
    phases: int = 1
    instruction_tokens: int = 100
    n_steps: int = 4
    n_forwards: int = 4
    micro_batch_tokens: int = 8192
    sampler_bytes: int = 2
    sent_bytes: tuple[int, ...] = (2, 2, 4)
    cache_bytes: float = 30 * 2**30
    token_bytes: float = 15.0
    max_tokens: int = 3000


def log_normal(median: float, sigma: float, most: int) -> Lengths:
    """Lengths whose logarithm is normal, cut at `most`."""
    return lambda draw, n: np.clip(np.rint(median * np.exp(sigma * draw.standard_normal(n))), 1, most)


def observed(lengths: Sequence[int]) -> Lengths:
    """Lengths drawn from those that were seen."""
    return lambda draw, n: draw.choice(np.array(lengths, dtype=float), n)


CLUSTERS = {
    c.name: c
    for c in (
        # Peaks: 989 TFLOP/s bfloat16, 3.35 and 4.8 TB/s, NVLink 450 GB/s one way, eight adapters of 400 Gbit/s per node.
        # Shares hoped for: 45% in training, 60% of the memory's rate, 80% of the links. A decoding step's launches take
        # 2 ms, a verdict 2 ms on one of 12 cores (guesses); a gathered token as `--measure` prints it, rounded up.
        Cluster("h100", 445e12, 2.0e12, 80e9, 8, 360e9, 320e9, 2e-5, 2e-3, 3e-7, 2e-3, 12),
        Cluster("h200", 445e12, 2.9e12, 141e9, 8, 360e9, 320e9, 2e-5, 2e-3, 3e-7, 2e-3, 12),
    )
}
WORKS = {
    w.name: w
    for w in (
        Work("qwen3-4b", 4.02e9, 36, 147_456, log_normal(900, 0.7, 3000), 120, 32, phases=2),
        Work("qwen3-0.6b", 0.596e9, 28, 114_688, log_normal(700, 0.7, 3000), 120, 32, phases=2),
        Work("qwen3-32b", 32.8e9, 64, 262_144, log_normal(1100, 0.7, 3000), 120, 32, phases=2),
    )
}
STAGES = ("prefill", "decode", "wait", "gather", "grade", "train", "send", "publish")
"""Prompts and replies (both of the mean rank), waiting for the slowest rank, all samples to all ranks, verdicts, passes and
optimizer of the trained weights, what of their collectives is not hidden behind these, and the new weights to the
samplers."""


def deal(n_prompts: int, n_samples: int, n_ranks: int) -> list[list[tuple[int, int, int]]]:
    """For each rank its pieces: a prompt and a range of its members. Round robin; a group is only split over ranks when
    there are fewer prompts than ranks, as in `policies/local/share.py`."""
    parts = max(1, -(-n_ranks // n_prompts))
    bounds = [n_samples * k // parts for k in range(parts + 1)]
    pieces = [(p, a, b) for p in range(n_prompts) for a, b in pairwise(bounds) if b > a]
    return [pieces[k::n_ranks] for k in range(n_ranks)]


def running(prompts_N: Floats, lengths_N: Floats, n_slots: int) -> tuple[Floats, Floats]:
    """Rows and tokens in the cache at each decoding step; a row that waits starts when one of the slots is free."""
    starts_N, free = np.zeros(len(lengths_N)), [0.0] * min(n_slots, len(lengths_N))
    for i in range(len(free), len(lengths_N)):
        if i == len(free):
            free = list(lengths_N[:i])
            heapq.heapify(free)
        starts_N[i] = free[0]
        heapq.heapreplace(free, starts_N[i] + lengths_N[i])
    ends_N = (starts_N + lengths_N).astype(int)
    n_steps = int(ends_N.max(initial=0))
    rows, tokens = np.zeros(n_steps + 1), np.zeros(n_steps + 1)
    for where, sign in ((starts_N.astype(int), 1.0), (ends_N, -1.0)):
        np.add.at(rows, where, sign)
        np.add.at(tokens, where, sign * (prompts_N - starts_N))
    rows = np.cumsum(rows)[:-1]
    return rows, np.cumsum(tokens)[:-1] + rows * np.arange(n_steps)


def decode_s(cluster: Cluster, work: Work, prompts_N: Floats, lengths_N: Floats) -> float:
    """Of one rank: each step reads all weights and the cache of its rows, or computes with the weights for each row,
    whichever takes longer."""
    if not len(lengths_N):
        return 0.0
    row_bytes = (prompts_N.max() + work.max_tokens) * work.cache_bytes_per_token
    rows, tokens = running(prompts_N, lengths_N, max(1, int(work.cache_bytes / max(row_bytes, 1.0))))
    read_s = (work.parameters * work.sampler_bytes + tokens * work.cache_bytes_per_token) / cluster.memory_bytes_per_s
    compute_s = 2 * work.parameters * rows / (cluster.decode_flops or cluster.flops)
    return float(np.maximum(read_s, compute_s).sum() + len(rows) * cluster.step_s)


def train_s(cluster: Cluster, work: Work, n_tokens: float, n_ranks: int) -> tuple[float, float]:
    """Passes and optimizer, and what of the collectives they do not hide. In each micro-batch the weights are gathered for
    both passes and gradients are reduced, in the bytes that `sent_bytes` says."""
    per_rank = n_tokens / work.n_steps / n_ranks
    n_micro = max(1, math.ceil(per_rank / work.micro_batch_tokens))
    passes_s = 2 * work.n_forwards * work.parameters * per_rank / cluster.flops
    sent_s = n_micro * sum(cluster.collective_s(work.parameters * b, n_ranks, work.layers) for b in work.sent_bytes)
    optimizer_s = 28 * work.parameters / n_ranks / cluster.memory_bytes_per_s  # reads p, m, v, g; writes p, m, v
    return work.n_steps * (passes_s + optimizer_s) + cluster.update_s, work.n_steps * max(0.0, sent_s - passes_s)


def phase_s(cluster: Cluster, work: Work, prompts_P: Floats, lengths_P_G: Floats, n_ranks: int) -> dict[str, float]:
    """Seconds by stage of one update: sampled, gathered, judged, trained, published."""
    n_prompts, n_samples = lengths_P_G.shape
    prefill_R, decode_R = np.zeros(n_ranks), np.zeros(n_ranks)
    for r, pieces in enumerate(deal(n_prompts, n_samples, n_ranks)):
        prefill_R[r] = 2 * work.parameters * sum(prompts_P[p] for p, _, _ in pieces) / cluster.flops
        lengths_N = np.concatenate([lengths_P_G[p, a:b] for p, a, b in pieces] or [np.zeros(0)])
        prompts_N = np.concatenate([np.full(b - a, prompts_P[p]) for p, a, b in pieces] or [np.zeros(0)])
        decode_R[r] = decode_s(cluster, work, prompts_N, lengths_N)
    n_tokens = float(lengths_P_G.sum())
    gathered_s = cluster.collective_s(n_tokens * work.token_bytes, n_ranks)
    trained_s, sent_s = train_s(cluster, work, n_tokens + float(prompts_P.sum()), n_ranks)
    return {
        "prefill": float(prefill_R.mean()),
        "decode": float(decode_R.mean()),
        "wait": float((prefill_R + decode_R).max() - (prefill_R + decode_R).mean()),
        "gather": gathered_s + (n_tokens * cluster.token_s if n_ranks > 1 else 0.0),
        "grade": -(-n_prompts // n_ranks)
        * n_samples
        * cluster.grade_s
        / cluster.graders,  # each rank judges what it drew
        "train": trained_s,
        "send": sent_s,
        "publish": cluster.collective_s(work.parameters * work.sampler_bytes, n_ranks, work.layers),
        "n_tokens": n_tokens,
    }


def simulate(cluster: Cluster, work: Work, n_ranks: int, n_draws: int = 5, seed: int = 0) -> dict[str, float]:
    """Means over draws of a problem batch's seconds by stage, and of its sampled tokens; both phases together."""
    total = dict.fromkeys((*STAGES, "n_tokens"), 0.0)
    for k in range(n_draws):
        draw = np.random.default_rng([seed, k])
        prompts_P = np.full(work.n_problems, float(work.prompt_tokens))
        for _ in range(work.phases):
            lengths_P_G = work.lengths(draw, work.n_problems * work.n_samples).reshape(work.n_problems, -1)
            for name, value in phase_s(cluster, work, prompts_P, lengths_P_G, n_ranks).items():
                total[name] += value / n_draws
            drafts_P = lengths_P_G[np.arange(work.n_problems), draw.integers(0, work.n_samples, work.n_problems)]
            prompts_P = work.prompt_tokens + drafts_P + work.instruction_tokens
    return total


def lacking_bytes(cluster: Cluster, work: Work, n_ranks: int) -> float:
    """How much memory a GPU lacks for the sampler's weights, its cache, and its share of weights, gradients and optimizer
    (16 bytes per parameter in all); activations are left out."""
    needed = work.parameters * (work.sampler_bytes + 16 / n_ranks) + work.cache_bytes
    return max(0.0, needed - cluster.memory_bytes)


def limit(stages: Mapping[str, float], alone: Mapping[str, float], n_ranks: int, growth: float) -> str:
    """The stage that takes the most seconds over what perfect scaling from one GPU would leave of it."""
    over = {name: stages[name] - alone[name] * growth / n_ranks for name in STAGES}
    name = max(over, key=lambda key: over[key])
    return name if over[name] > 0.01 * sum(stages[s] for s in STAGES) else "-"


def table(cluster: Cluster, work: Work, ranks: Sequence[int], per_gpu: int = 0, n_draws: int = 5) -> str:
    """A line per number of GPUs. With `per_gpu` the batch grows with them."""
    alone = simulate(cluster, work, 1, n_draws)
    lines = [
        f"{cluster.name}, {work.name}, {work.n_samples} samples, {work.phases} phases, seconds of a problem batch",
        f"{'GPUs':>5}{'problems':>9}"
        + "".join(f"{s:>9}" for s in STAGES)
        + f"{'all':>9}{'of ideal':>9}{'MB gathered':>12}  limit",
    ]
    for n in ranks:
        size = replace(work, n_problems=max(work.n_problems, per_gpu * n))
        found, growth = simulate(cluster, size, n, n_draws), size.n_problems / work.n_problems
        seconds, lacking = sum(found[s] for s in STAGES), lacking_bytes(cluster, size, n)
        ideal = sum(alone[s] for s in STAGES) * growth / n / seconds
        lines.append(
            f"{n:5d}{size.n_problems:9d}"
            + "".join(f"{found[s]:9.2f}" for s in STAGES)
            + f"{seconds:9.2f}{ideal:9.1%}{found['n_tokens'] * work.token_bytes / 1e6:12.1f}"
            + f"  {limit(found, alone, n, growth)}"
            + (f" (lacks {lacking / 1e9:.0f} GB a GPU)" if lacking else "")
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cluster", choices=CLUSTERS, default="h100")
    parser.add_argument("--work", choices=WORKS, default="qwen3-4b")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000])
    parser.add_argument("--problems-per-gpu", type=int, default=0, help="let the batch grow with the GPUs")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--measure", action="store_true", help="hold predictions against runs on this machine")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1], help="with --measure: processes of the runs")
    options = parser.parse_args()
    if options.measure:
        from simulate_measure import compare

        compare(options.ranks)
    else:
        cluster, work = CLUSTERS[options.cluster], WORKS[options.work]
        print(table(cluster, work, options.gpus, options.problems_per_gpu, options.draws))


if __name__ == "__main__":
    main()
