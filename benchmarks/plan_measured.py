"""The memory that a small model really takes on a CPU, from torch's record of allocations: the same number each time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from rethink.models import lora
from rethink.models.forward.fused import FusedWeights, is_llama_like
from rethink.models.language_model import LanguageModel
from rethink.objectives import Distill, PolicyGradient, Update
from rethink.plan.memory import OPTIMIZER, FullModel, MemorySettings, Peak, sampling_window, training_window
from rethink.plan.meta_model import read_config
from rethink.plan.token_counts import SampleRequest
from rethink.policies.local import LocalPolicy
from rethink.settings import Lora, Training
from rethink.training.trainer import Trainer
from rethink.types import Group, Message, Problem, Prompt, Sample, Sampling, Verdict


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the peak of tensors that `work` allocates, without the library's own needs."""
    gc.collect()  # otherwise earlier garbage would be freed meanwhile, and reduce the count
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    recorded: Any = profiler.profiler
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def build(kind: str, **sizes: Any) -> LanguageModel:
    """Return a random float32 model without a tokenizer, for training only."""
    module = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes), attn_implementation="sdpa").eval()
    no_chat: Any = None
    return LanguageModel(module, no_chat, is_llama_like(module))


def samples(n_prompts: int, n: int, prompt_tokens: int, reply_tokens: int, vocabulary: int) -> list[Sample]:
    """Return groups of n replies, all of the same length."""
    return [_sample(p, g, prompt_tokens, reply_tokens, vocabulary) for p in range(n_prompts) for g in range(n)]


def _sample(p: int, g: int, prompt_tokens: int, reply_tokens: int, vocabulary: int) -> Sample:
    problem = Problem(str(p), "", "", verify=lambda reply, gold: Verdict(True))
    ids = [(p * 7 + g * 3 + t) % vocabulary for t in range(prompt_tokens + reply_tokens)]
    return Sample(
        prompt=Prompt(problem, "solve", (Message("user", ""),), p),
        index=g,
        prompt_ids=(p % vocabulary, *ids[1:prompt_tokens]),
        ids=tuple(ids[prompt_tokens:]),
        mask=(True,) * reply_tokens,
        log_probs=(-1.0,) * reply_tokens,
        text="",
        stop="stop",
        sampling=Sampling(),
        version=0,
    )


def update_of(some: Sequence[Sample], version: int = 0) -> Update:
    """Return an update that trains on every sample, half of them with an advantage below 0."""
    now = tuple(replace(s, version=version) for s in some)
    return Update("test", (PolicyGradient(now, tuple(1.0 if i % 2 else -1.0 for i in range(len(now)))),))


def distillation_of(some: Sequence[Sample], version: int = 0) -> Update:
    """Return an update that distills every sample from the policy after a prompt that is six tokens longer."""
    now = tuple(replace(s, version=version) for s in some)
    return Update("test", (Distill(now, tuple(replace(s, prompt_ids=s.prompt_ids + (7,) * 6) for s in now)),))


def training_peak(
    kind: str,
    sizes: dict[str, Any],
    settings: Training,
    some: Sequence[Sample],
    rank: int = 0,
    update: Callable[[Sequence[Sample], int], Update] = update_of,
) -> int:
    """Return the peak of two updates, with model and optimizer, with one worker. `rank` above 0 is an adapter's."""

    def work() -> None:
        model = build(kind, **sizes)
        adapted = lora.add_adapter(model, Lora(rank), 0) if rank else model
        trainer = Trainer(adapted, settings, 2, _no_initial)
        for version in range(2):
            trainer.apply(update(some, version))

    return peak_with_one_worker(work)


def peak_with_one_worker(work: Callable[[], object]) -> int:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return peak_bytes(work)
    finally:
        torch.set_num_threads(before)


def planned_peak(config: Any, memory: MemorySettings, work: Update | SampleRequest) -> Peak:
    """Return the planned peak of an update or of a request."""
    if isinstance(work, Update):
        window = training_window(config, memory, work)
        stage = "training"
    else:
        window = sampling_window(config, memory, work)
        stage = "sampling"
    return Peak(window.label, {**FullModel(config, memory).items(memory, stage), **window.items})


def planned_training(
    kind: str,
    sizes: dict[str, Any],
    settings: Training,
    some: Sequence[Sample],
    rank: int = 0,
    update: Callable[[Sequence[Sample], int], Update] = update_of,
) -> Peak:
    """Return what the plan states for the same work."""
    memory = MemorySettings(
        micro_batch_tokens=settings.micro_batch_tokens,
        chunk_tokens=settings.chunk_tokens,
        checkpointing=settings.gradient_checkpointing,
        rank=rank,
        trainer="bfloat16" if settings.autocast == "bfloat16" else "float32",
        head="float32",  # as on a CPU
    )
    planned = replace(update(some, 0), on_policy=False)
    fused = FusedWeights.__init__

    def on_a_cpu(self: FusedWeights, *args: Any, **kwargs: Any) -> None:
        fused(self, *args, **kwargs)
        self.attention_dtype = torch.float32

    # A plan is for GPUs, where attention has the products' dtype.
    with patch.object(FusedWeights, "__init__", on_a_cpu):
        return planned_peak(AutoConfig.for_model(kind, **sizes), memory, planned)


def _no_initial() -> LanguageModel:
    raise AssertionError("no part here asks for the start model")


def sampling_peak(
    load: Callable[[], LanguageModel], prompts: Sequence[Prompt], n: int, sampling: Sampling, cache_bytes: int
) -> tuple[int, SampleRequest]:
    """Return the peak of one call of the sampler, with the model's weights, with one worker; and its requests."""
    groups: list[Group] = []

    def work() -> None:
        policy = LocalPolicy(load(), sampling, cache_bytes=cache_bytes)
        groups.extend(policy.sample(prompts, n))

    peak = peak_with_one_worker(work)
    lengths = tuple(len(group[0].prompt_ids) for group in groups)
    n_sampled = sum(len(s.ids) for group in groups for s in group)
    return peak, SampleRequest("solve", lengths, n, sampling, n_sampled)


def planned_sampling(folder: str, requested: SampleRequest, cache_bytes: int) -> Peak:
    """Return what the plan states for the same work, without an optimizer: nothing is trained here."""
    memory = MemorySettings(trainer="float32", sampler="float32", cache_bytes=cache_bytes)
    found = planned_peak(read_config(folder), memory, requested)
    return replace(found, items={k: n for k, n in found.items.items() if not k.startswith(OPTIMIZER)})
