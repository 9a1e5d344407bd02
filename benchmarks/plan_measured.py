"""What a small model really takes on a CPU, from torch's own record of allocations: the same number each time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from rethink.models import lora
from rethink.models.forward.fused import is_llama_like
from rethink.models.language_model import LanguageModel
from rethink.objectives import PolicyGradient, Update
from rethink.plan.sampling import Request
from rethink.plan.shape import Batch
from rethink.policies.local import LocalPolicy
from rethink.settings import Lora, Training
from rethink.train.micro_batch import TrainingSample
from rethink.train.trainer import Trainer
from rethink.types import Group, Message, Problem, Prompt, Sample, Sampling, Verdict


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that tensors allocated by `work` take at one time, what the library needs for itself left out."""
    gc.collect()  # what others have left would otherwise be freed meanwhile, and counted as less
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
    """A random model of float32 without a tokenizer, for training alone."""
    module = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes), attn_implementation="sdpa").eval()
    no_chat: Any = None
    return LanguageModel(module, no_chat, is_llama_like(module))


def samples(n_prompts: int, n: int, prompt_tokens: int, reply_tokens: int, vocabulary: int) -> list[Sample]:
    """Groups of n replies, all of the same length."""
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


def training_peak(
    kind: str, sizes: dict[str, Any], settings: Training, some: Sequence[Sample], rank: int = 0
) -> tuple[int, Batch, int]:
    """The peak of two updates, model and optimizer included, with one worker; the largest micro-batch, and their number.
    Above 0, `rank` is that of an adapter."""
    found: list[Trainer] = []

    def work() -> None:
        model = build(kind, **sizes)
        adapted = lora.adapt(model, Lora(rank), 0) if rank else model
        trainer = Trainer(adapted, settings, 2, _no_initial)
        found.append(trainer)
        for version in range(2):
            now = tuple(replace(s, version=version) for s in some)
            part = PolicyGradient(now, tuple(1.0 if i % 2 else -1.0 for i in range(len(now))))
            trainer.apply(Update("test", (part,)))

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        peak = peak_bytes(work)
        batches = found[0]._pack([TrainingSample(s) for s in some])
    finally:
        torch.set_num_threads(before)
    return peak, max(map(size, batches), key=lambda batch: batch.flat), len(batches)


def size(samples: Sequence[TrainingSample]) -> Batch:
    """What a micro-batch of these samples holds."""
    prompts = {one.sample.prompt_ids for one in samples}
    replies = [(len(one.sample.prompt_ids), one.n_fed, one.sample.n_trained) for one in samples]
    return Batch.of([len(ids) for ids in prompts], replies)


def _no_initial() -> LanguageModel:
    raise AssertionError("no part here asks for the start model")


def sampling_peak(
    load: Callable[[], LanguageModel], prompts: Sequence[Prompt], n: int, sampling: Sampling, cache_bytes: int
) -> tuple[int, Request]:
    """The peak of one call of the sampler, the model's weights included, with one worker; and what it was asked for."""
    groups: list[Group] = []

    def work() -> None:
        policy = LocalPolicy(load(), sampling, cache_bytes=cache_bytes)
        groups.extend(policy.sample(prompts, n))

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        peak = peak_bytes(work)
    finally:
        torch.set_num_threads(before)
    lengths = tuple(len(group[0].prompt_ids) for group in groups)
    n_sampled = sum(len(s.ids) for group in groups for s in group)
    return peak, Request("solve", lengths, n, sampling.max_tokens, n_sampled)
