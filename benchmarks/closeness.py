"""The difference between log-probs of sampler and trainer and those of the model's own modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rethink.types import Sample
from workloads import Bench


@torch.no_grad()
def full_pass(module: Any, sample: Sample) -> Tensor:
    """Return the log-probs [T] of a reply, by the module's own forward pass over prompt and reply."""
    ids = torch.tensor([[*sample.prompt_ids, *sample.ids]], device=module.device)
    logits = module(input_ids=ids, use_cache=False).logits[0, len(sample.prompt_ids) - 1 : -1]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.log_softmax(-1).gather(-1, ids[0, len(sample.prompt_ids) :, None])[:, 0].double().cpu()


def gap(ours: Sequence[Tensor], exact: Sequence[Tensor]) -> dict[str, float]:
    off = (torch.cat([x.detach().double().cpu() for x in ours]) - torch.cat(list(exact))).abs()
    return {"mean": float(off.mean()), "max": float(off.max())}


def gaps(bench: Bench, samples: Sequence[Sample], exact: Sequence[Tensor]) -> dict[str, dict[str, float]]:
    sampled = [torch.tensor(s.log_probs) for s in samples]
    return {"sampler": gap(sampled, exact), "trainer": gap(bench.trainer.log_probs(samples), exact)}


def insist(name: str, found: dict[str, dict[str, float]], limit: dict[str, float]) -> dict[str, dict[str, float]]:
    """Print the gaps; exit if one is over its limit or NaN."""
    for who, numbers in found.items():
        print(f"{name}: log-probs of the {who} differ by {numbers['mean']:.2g} (mean), {numbers['max']:.2g} (max)")
    off = [who for who in found for key in limit if not found[who][key] <= limit[key]]
    if off:
        raise SystemExit(f"{name}: {' and '.join(sorted(set(off)))} are off; allowed are {limit}")
    return found
