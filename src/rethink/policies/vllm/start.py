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
from rethink.policies.vllm.adapter import AdapterSource, max_lora_rank, module_adapter, why_merged
from rethink.policies.vllm.colocated import ColocatedModel, StartError, start_colocated
from rethink.policies.vllm.fleet import Fleet
from rethink.policies.vllm.policy import VllmPolicy
from rethink.policies.vllm.protocol import HOW_TO_START_WITH_ADAPTERS, server_url
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
    adapter: AdapterSource | None = None,
    warn: Callable[[str], None] = print,
) -> VllmPolicy:
    """Return a policy over the recipe's servers, or over a server that is started here on `device` (by default the model's)
    with the model at `path`.

    `samplings` are all settings that will be used, the policy's default first. `weights` are those to publish, by default
    all weights of the model, and `adapter` is its adapter, if it has one. Raise UserError if a server does not answer,
    serves another model, or accepts no weights, or no adapter with `settings.transfer` "adapter".
    """
    check_settings(settings)
    longest = settings.max_prompt_tokens + max(sampling.max_tokens for sampling in samplings)
    longest += 1  # vLLM generates one token after those that it scores
    max_len = min(longest, model.max_positions or longest)
    images = model.chat.image_text
    colocated = ColocatedModel(path, device or model.device, dtype, max_len, random)
    if images is not None:
        colocated = replace(colocated, takes_images=True, pixels=images.pixels)
    if weights is None:
        weights, adapter = module_weights(model), module_adapter(model)
    if adapter is None or settings.transfer == "merged":
        fleet = _open_fleet(settings, colocated, weights, warn)
    else:
        fleet = _open_fleet_for_adapter(settings, colocated, weights, adapter, warn)
    return VllmPolicy(model, samplings[0], fleet, settings)


def _open_fleet(settings: Sampler, model: ColocatedModel, weights: WeightSource, warn: Callable[[str], None]) -> Fleet:
    """Return the running servers, or one that is started here. Raise UserError if one cannot be used for training."""
    if settings.urls:
        key = os.environ.get(KEY_VARIABLE, "")
        servers = [Server(server_url(url), key=key, timeout_s=settings.timeout_s) for url in settings.urls]
    else:
        servers = [start_colocated(model, settings)]
    fleet = Fleet(servers, weights, warn=warn)
    try:
        fleet.check_servers()
    except BaseException:
        fleet.close()
        raise
    return fleet


def _open_fleet_for_adapter(
    settings: Sampler, model: ColocatedModel, weights: WeightSource, adapter: AdapterSource, warn: Callable[[str], None]
) -> Fleet:
    """Return servers that get only the adapter, or with "auto" those that get merged weights because they cannot use it."""
    reason = why_merged(adapter, model.random)
    fleet = None
    if not reason:
        try:
            rank = max_lora_rank(adapter.rank)
            with_lora = replace(model, max_lora_rank=rank, lora_modules=adapter.modules)
            fleet = _open_fleet(settings, with_lora, weights, warn)
        except StartError:
            if settings.transfer == "adapter":
                raise
            reason = "vLLM does not start with --enable-lora"
        else:
            reason = fleet.why_not(adapter)
    if reason and settings.transfer == "adapter":
        if fleet is not None:
            fleet.close()
        raise UserError(f'sampler.transfer = "adapter" is not possible: {reason}; {HOW_TO_START_WITH_ADAPTERS}')
    if fleet is None:
        fleet = _open_fleet(settings, model, weights, warn)
    fleet.adapter, fleet.merged_because = (None, reason) if reason else (adapter, "")
    return fleet


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
