"""Open a policy over vLLM from a recipe's settings; refuse settings that cannot work before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec

import torch
from torch import Tensor

from rethink.errors import UserError, install_extra
from rethink.models.language_model import LanguageModel
from rethink.policies.base import Policy
from rethink.policies.vllm.colocated import ColocatedModel, start_colocated
from rethink.policies.vllm.fleet import Fleet
from rethink.policies.vllm.policy import VllmPolicy
from rethink.policies.vllm.protocol import server_url
from rethink.policies.vllm.server import Server
from rethink.policies.vllm.transfer import WeightSource, module_weights
from rethink.settings import Sampler
from rethink.types import Prompt, Sample, Sampling

KEY_VARIABLE = "VLLM_API_KEY"
"""The environment variable with the servers' key; vLLM uses the same name."""

MAX_PROB_GAP = 0.05
"""Largest mean difference of token probabilities between vLLM and the trainer: several times that of bfloat16 rounding."""


def check_settings(settings: Sampler) -> None:
    """Raise UserError, before anything is loaded, for bad URLs, or if vLLM should run here but is not installed."""
    urls = [server_url(url) for url in settings.urls]
    if len(set(urls)) < len(urls):
        raise UserError(f"sampler.urls names a server twice: {', '.join(urls)}")
    found = find_spec("vllm")
    if not urls and (found is None or found.origin is None):  # a plain folder of that name has no origin
        raise UserError(
            f'sampler.engine = "vllm" needs vLLM, which is not installed here: {install_extra("vllm")}. Or list running '
            'servers in sampler.urls, or use sampler.engine = "local" (docs/vllm.md)'
        )


def open_vllm(
    settings: Sampler,
    model: LanguageModel,
    samplings: Sequence[Sampling],
    *,
    path: str,
    device: torch.device | None = None,
    random: bool = False,
    dtype: torch.dtype = torch.float32,
    weights: WeightSource | None = None,
    warn: Callable[[str], None] = print,
) -> VllmPolicy:
    """Return a policy over the recipe's servers, or over a server that is started here on `device` (by default the model's)
    with the model at `path`.

    `samplings` are all settings that will be used, the policy's default first. `weights` are those to publish, by default
    all weights of the model. Raise UserError if a server does not answer, serves another model, or accepts no weights.
    """
    check_settings(settings)
    if settings.urls:
        key = os.environ.get(KEY_VARIABLE, "")
        servers = [Server(server_url(url), key=key, timeout_s=settings.timeout_s) for url in settings.urls]
    else:
        longest = settings.max_prompt_tokens + max(sampling.max_tokens for sampling in samplings)
        max_len = min(longest, model.max_positions or longest)
        colocated = ColocatedModel(path, device or model.device, dtype, max_len, random)
        servers = [start_colocated(colocated, settings)]
    fleet = Fleet(servers, weights or module_weights(model), warn=warn)
    try:
        fleet.check_servers()
    except BaseException:
        fleet.close()
        raise
    return VllmPolicy(model, samplings[0], fleet, settings)


def check_log_probs(
    policy: Policy,
    sampling: Sampling,
    prompts: Sequence[Prompt],
    log_probs: Callable[[Sequence[Sample]], list[Tensor]],
) -> None:
    """Raise UserError if vLLM's token probabilities, on samples for these prompts, differ from the trainer's (`log_probs`).

    It then serves another model or computes it differently."""
    groups = policy.sample(prompts, 1, replace(sampling, max_tokens=min(16, sampling.max_tokens)))
    samples: list[Sample] = []
    for group in groups:
        samples += group
    if not samples:
        return
    ours = torch.cat([log_probs_T.detach().cpu() for log_probs_T in log_probs(samples)])
    theirs = torch.cat([torch.tensor(sample.log_probs) for sample in samples])
    gap = float((ours.exp() - theirs.exp()).abs().mean())
    if not gap <= MAX_PROB_GAP:
        raise UserError(
            f"vLLM's token probabilities differ from the trainer's, by {gap:.3f} on average: it serves another model than "
            "model.path, or computes it differently; nothing has been trained"
        )
