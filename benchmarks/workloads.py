"""Workloads of the benchmarks: random models, prompts of random numbers, updates timed by stage, and their operations."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from rethink.methods.actors import Actors, Method
from rethink.methods.grpo import GRPO
from rethink.methods.think_twice import ThinkTwice
from rethink.models import make_tiny
from rethink.models.language_model import LanguageModel, pick_dtype
from rethink.objectives import Objective, PolicyGradient, Update
from rethink.policies.local import LocalPolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.settings import Training
from rethink.training.meter import Meter, MeteredPolicy
from rethink.training.trainer import Trainer
from rethink.types import Group, Problem, Sample, Sampling, Verdict


@dataclass(frozen=True)
class Workload:
    """A Qwen3 shape, and the size of an update: `n_samples` replies of at most `max_tokens` to each of
    `n_problems` prompts of `prompt_tokens`."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    head_dim: int
    prompt_tokens: int
    max_tokens: int
    n_problems: int = 32
    n_samples: int = 8


A = Workload("A", 128, 352, 3, 4, 32, prompt_tokens=9, max_tokens=25)  # 0.62 million parameters
B = Workload("B", 384, 1024, 6, 6, 64, prompt_tokens=64, max_tokens=256)  # 10.7 million parameters


def config(workload: Workload, n_tokens: int) -> Qwen3Config:
    """Return the shape for a vocabulary of this many tokens, with as many heads for keys as for queries."""
    return Qwen3Config(
        vocab_size=n_tokens,
        hidden_size=workload.hidden,
        intermediate_size=workload.intermediate,
        num_hidden_layers=workload.layers,
        num_attention_heads=workload.heads,
        num_key_value_heads=workload.heads,
        head_dim=workload.head_dim,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )


def write_model(workload: Workload, folder: Path, seed: int = 0) -> None:
    """Save a model of random weights, float32, with the demo's tokenizer of 113 words.

    All words are about equally likely: about one reply token in 113 is the end token.
    """
    words = make_tiny.tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = AutoModelForCausalLM.from_config(config(workload, len(words)), dtype=torch.float32)
    module.save_pretrained(folder)
    words.save_pretrained(folder)


def prompts(workload: Workload, n_updates: int, seed: int = 0) -> list[str]:
    """Return prompts for all problems of this many updates, as text: "<user> 17 4 ... <reply>", one token per word."""
    draw = random.Random(seed)
    n_numbers = workload.prompt_tokens - 2
    return [
        f"<user> {' '.join(str(draw.randrange(100)) for _ in range(n_numbers))} <reply>"
        for _ in range(workload.n_problems * n_updates)
    ]


def question(prompt: str) -> str:
    """Return the user's text in one of the `prompts`, without what the chat template adds."""
    return prompt.removeprefix("<user> ").removesuffix(" <reply>")


@dataclass(frozen=True)
class Tokens:
    """The size of a forward pass: tokens, those whose next token is sampled or scored, and pairs of a token and one that it
    attends to, itself included."""

    n: int
    n_scored: int
    n_pairs: int


def tokens(samples: Iterable[Sample]) -> Tokens:
    """Return the least work for samples: every prompt computed once, and no token after the last sampled one."""
    some = list(samples)
    prompts = {(s.prompt_ids, s.prompt.seed, s.prompt.problem.id): len(s.prompt_ids) for s in some}.values()
    replies = [(len(s.prompt_ids), len(s.ids) - 1) for s in some if s.ids]
    return Tokens(
        n=sum(prompts) + sum(n for _, n in replies),
        n_scored=sum(len(s.ids) for s in some),
        n_pairs=sum(p * (p + 1) // 2 for p in prompts) + sum(n * p + n * (n + 1) // 2 for p, n in replies),
    )


def forward_operations(shape: Qwen3Config, seen: Tokens) -> float:
    """Return floating-point operations: 2 per matrix entry and token, and in attention 4 per pair of tokens and entry of a
    head. The output layer is needed only where a token is scored."""
    entries, head = matrix_entries(shape)
    pair = 4 * shape.num_attention_heads * shape.head_dim * shape.num_hidden_layers
    return float(2 * entries * seen.n + 2 * head * seen.n_scored + pair * seen.n_pairs)


def sampling_operations(shape: Qwen3Config, groups: Sequence[Group]) -> float:
    """Return the operations to sample the groups."""
    return forward_operations(shape, tokens(s for group in groups for s in group))


def training_operations(shape: Qwen3Config, update: Update) -> float:
    """Return the operations to train on the samples with an advantage: 6 instead of 2, because the backward pass has two
    products for each one of the forward pass."""
    trained = (
        sample
        for part in update.parts
        if isinstance(part, PolicyGradient)
        for sample, weight in zip(part.samples, part.advantages, strict=True)
        if weight != 0
    )
    return 3 * forward_operations(shape, tokens(trained))


def matrix_entries(shape: Qwen3Config) -> tuple[int, int]:
    """Return the number of entries in the layers' matrices and in the output layer."""
    queries = shape.num_attention_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    layer = shape.hidden_size * (2 * queries + 2 * keys + 3 * shape.intermediate_size)
    return layer * shape.num_hidden_layers, shape.hidden_size * shape.vocab_size


STAGES = ("sample_s", "grade_s", "update_s")


@dataclass(frozen=True)
class Timed:
    """One update: seconds by stage, the operations that sampling and training need, and tokens: sampled ones, trained ones,
    and those that the sampler's model saw (each prompt once)."""

    phase: str
    seconds: Mapping[str, float]
    operations: Mapping[str, float]
    n_sampled: int
    n_trained: int
    n_seen: int

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())


class Bench:
    """A model with sampler, trainer and problems that processes problem batches like the training loop.

    A reply is right if its text has an odd number of characters: groups have right and wrong ones, and grading takes no
    time. One optimizer step per update.
    """

    def __init__(
        self, workload: Workload, model: LanguageModel, *, cache_bytes: int = 2**30, micro_batch_tokens: int = 0
    ) -> None:
        self.workload, self.model = workload, model
        sampling = Sampling(max_tokens=workload.max_tokens)
        self.policy = LocalPolicy(model, sampling, cache_bytes=cache_bytes, dtype=pick_dtype("auto", model))
        settings = Training(lr=1e-5, micro_batch_tokens=micro_batch_tokens)
        self.trainer = Trainer(model, settings, 1_000_000, lambda: model)
        self.n_batches = 0

    def grpo(self) -> Method:
        return GRPO(self.workload.n_samples, Objective(n_steps=1))

    def think_twice(self) -> Method:
        n, objective = self.workload.n_samples, Objective(n_steps=1)
        return ThinkTwice(n, n, objective, objective)

    def batch(self, method: Method) -> list[Timed]:
        """Run all updates of one problem batch; every batch has different problems."""
        meter = Meter()
        actors = Actors(MeteredPolicy(self.policy, meter), Prompts(refine="again", seed=self.n_batches), _grade(meter))
        done = []
        for update in method.updates(actors, problems(self.workload, self.n_batches)):
            with meter.stage("update_s"):
                self.trainer.apply(update)
                finish(self.model.device)
            self.policy.publish(self.trainer.version)
            done.append(self._timed(update, meter.read_and_reset()))
        self.n_batches += 1
        return done

    def _timed(self, update: Update, taken: Mapping[str, float]) -> Timed:
        shape = self.model.config
        return Timed(
            update.name,
            {stage: taken[stage] for stage in STAGES},
            {"sample_s": sampling_operations(shape, update.groups), "update_s": training_operations(shape, update)},
            int(taken["n_sampled_tokens"]),
            sum(s.n_trained for part in update.parts for s in part.samples),
            tokens(s for group in update.groups for s in group).n,
        )


def _grade(meter: Meter) -> Callable[[Sequence[Group]], list[Group]]:
    def timed(groups: Sequence[Group]) -> list[Group]:
        with meter.stage("grade_s"):
            return grade(groups)

    return timed


def problems(workload: Workload, seed: int) -> list[Problem]:
    """Return the problems of one update."""
    texts = (question(prompt) for prompt in prompts(workload, 1, seed))
    return [Problem(f"{seed}/{i}", text, "", _has_odd_length) for i, text in enumerate(texts)]


def _has_odd_length(reply: str, gold: str) -> Verdict:
    return Verdict(len(reply) % 2 == 1)


def finish(device: torch.device) -> None:
    """Wait for the GPU, which works on after a call has returned."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
