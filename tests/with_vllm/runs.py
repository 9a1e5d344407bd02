"""Policies and runs over real vLLM servers: settings, and comparisons of log-probs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rethink.jsonl import Record
from rethink.models.language_model import LanguageModel
from rethink.policies.vllm.policy import VllmPolicy
from rethink.policies.vllm.start import open_vllm
from rethink.seeds import stable_hash
from rethink.settings import Sampler
from rethink.training.alarms import NOTHING_TRAINED
from rethink.types import Group, Sampling
from support.fake_endpoint import make_prompt
from with_vllm.serving import Served

PROMPTS = [make_prompt(question) for question in ["3 7 5 -> 26", "2 -> 2", "1 1 1 1 -> 1", "3 7 -> 1", "4 -> 4"]]
LONG = make_prompt(" ".join(str(stable_hash(n) % 10) for n in range(300)) + " -> 26")
"""More than two blocks of vLLM's cache, so that a second request finds its keys and values there."""


def policy_over(model: LanguageModel, *served: Served, sampling: Sampling | None = None) -> VllmPolicy:
    settings = Sampler("vllm", urls=tuple(server.url for server in served), timeout_s=120)
    return open_vllm(settings, model, [sampling or Sampling(max_tokens=61)], path="", warn=pytest.fail)


@torch.no_grad()
def trainer_log_probs(model: LanguageModel, group: Group) -> list[Tensor]:
    """Return log-probs of each sample's tokens from the module's own forward pass."""
    found = []
    for sample in group:
        ids = torch.tensor([[*sample.prompt_ids, *sample.ids]])
        logits = model.module(input_ids=ids).logits[0, len(sample.prompt_ids) - 1 : -1].float()
        chosen = torch.tensor(sample.ids)[:, None]
        found.append((logits / sample.sampling.temperature).log_softmax(-1).gather(-1, chosen)[:, 0])
    return found


def gaps(model: LanguageModel, group: Group, found: Iterable[Sequence[float]] | None = None) -> list[float]:
    """Return the largest difference of log-probs (by default those of sampling) to the model's own, by sample."""
    wanted = trainer_log_probs(model, group)
    given = [s.log_probs for s in group] if found is None else found
    return [float((torch.tensor(f) - w).abs().max()) for f, w in zip(given, wanted, strict=True)]


def settings_for(out: Path, *more: str) -> list[str]:
    problems = "".join(f'{{"question": "{n} 7 5 -> 26", "answer": "26"}}\n' for n in range(7))
    (out.parent / "problems.jsonl").write_text(problems)
    return [
        *("model.device=cpu", "updates=8", "problems_per_batch=3", "checkpoint_every=2"),
        *("method.n_solve=5", "method.n_refine=3"),
        *(f"problems.source={out.parent / 'problems.jsonl'}", "problems.verifier=support.coins:coin"),
        *("prompts.solve={question}", "prompts.refine=again", "sampling.max_tokens=24", "training.lr=0.001"),
        *(f"out={out}", "sampler.engine=vllm", "sampler.timeout_s=120", "sampler.cache_gib=0.0625", *more),
    ]


def mismatches(records: list[Record]) -> list[str]:
    """Return the alarms, except that an update of a random model may train nothing."""
    alarms = [alarm for record in records for alarm in record["alarms"]]
    return [alarm for alarm in alarms if not alarm.startswith(NOTHING_TRAINED)]
