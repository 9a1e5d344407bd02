"""From the settings of a recipe to a policy over vLLM; what cannot work is refused before anything is written."""

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
from rethink.policies.vllm.colocated import OwnModel, start_own
from rethink.policies.vllm.fleet import Fleet
from rethink.policies.vllm.policy import VllmPolicy
from rethink.policies.vllm.protocol import server_url
from rethink.policies.vllm.server import Server
from rethink.policies.vllm.transfer import WeightSource, module_weights
from rethink.settings import Sampler
from rethink.types import Prompt, Sample, Sampling

KEY = "VLLM_API_KEY"
"""The environment variable with the servers' key, as vLLM itself calls it."""

LARGEST_GAP = 0.05
"""Mean difference of token probabilities between vLLM and the trainer: several times what rounding in bfloat16 makes."""


def check(settings: Sampler) -> None:
    """Raise UserError for what is wrong before anything is loaded: bad URLs, or no vLLM here where it is to run here."""
    urls = [server_url(url) for url in settings.urls]
    if len(set(urls)) < len(urls):
        raise UserError(f"sampler.urls names a server twice: {', '.join(urls)}")
    found = find_spec("vllm")
    if not urls and (found is None or found.origin is None):  # a mere folder of that name has no origin
        raise UserError(
            f'sampler.engine = "vllm" needs vLLM, which is not installed here: {install_extra("vllm")}. Or name running '
            'servers in sampler.urls, or leave sampler.engine at "local" (docs/vllm.md)'
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
    """The policy over the recipe's servers, or over one that is started here from the model at `path`, on this `device` (by
    default the model's).

    `samplings` are all that will be asked for, the policy's own first. `weights` are those to publish; by default all of
    the model's. Raises UserError for a server that does not answer, serves another model, or takes no weights.
    """
    check(settings)
    if settings.urls:
        key = os.environ.get(KEY, "")
        servers = [Server(server_url(url), key=key, timeout_s=settings.timeout_s) for url in settings.urls]
    else:
        longest = settings.max_prompt_tokens + max(sampling.max_tokens for sampling in samplings)
        max_len = min(longest, model.max_positions or longest)
        own = OwnModel(path, device or model.device, dtype, max_len, random)
        servers = [start_own(own, settings)]
    fleet = Fleet(servers, weights or module_weights(model), warn=warn)
    try:
        fleet.refuse_unfit()
    except BaseException:
        fleet.close()
        raise
    return VllmPolicy(model, samplings[0], fleet, settings)


def refuse_disagreement(
    policy: Policy,
    sampling: Sampling,
    prompts: Sequence[Prompt],
    log_probs: Callable[[Sequence[Sample]], list[Tensor]],
) -> None:
    """Raise UserError where vLLM gives other probabilities than the trainer (`log_probs`) to the tokens that it samples to
    these prompts: it serves another model, or computes it otherwise."""
    groups = policy.sample(prompts, 1, replace(sampling, max_tokens=min(16, sampling.max_tokens)))
    samples: list[Sample] = []
    for group in groups:
        samples += group
    if not samples:
        return
    ours = torch.cat([one.detach().cpu() for one in log_probs(samples)])
    theirs = torch.cat([torch.tensor(sample.log_probs) for sample in samples])
    gap = float((ours.exp() - theirs.exp()).abs().mean())
    if not gap <= LARGEST_GAP:
        raise UserError(
            f"vLLM gives the tokens that it samples other probabilities than the trainer, by {gap:.3f} in the mean: it "
            "serves another model than model.path, or computes it otherwise; nothing has been trained"
        )
