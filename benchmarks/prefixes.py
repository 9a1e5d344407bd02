"""Seconds and prompt tokens with and without `reuse_prefixes`: `python benchmarks/prefixes.py [--rounds N]`.

A random model of Qwen3's shape (10.7M parameters) with the demo's tokenizer answers in four stages, with and without the
prefix cache in alternating order: 8 candidates for one problem, one reply to a prompt with all of them, a second round on
that reply, and 8 continuations of one conversation that differ in the last phrase. The cache is emptied after each round.
Prints medians over the rounds, without the first.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from rethink.models import make_tiny
from rethink.models.chat import Chat
from rethink.models.language_model import LanguageModel
from rethink.models.load import choose_forward_pass
from rethink.policies.local import LocalPolicy
from rethink.types import Group, Message, Problem, Prompt, Sampling, Verdict

SAMPLING = Sampling(max_tokens=48)
N_CANDIDATES = 8
STAGES = ("candidates", "one from all", "second round", "continuations")
PROBLEM = Problem("p", "", "", lambda reply, gold: Verdict(None))


def random_model() -> LanguageModel:
    """Hidden size 384, 6 layers, 6 heads."""
    words = make_tiny.tokenizer()
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        bos_token_id=None,
        initializer_range=0.1,
    )
    torch.manual_seed(11)
    module = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    return choose_forward_pass(LanguageModel(module, Chat(words, frozenset({words.eos_token_id})), path="random"))


def numbers(n: int, seed: int) -> str:
    """Return a text of n words of one token each."""
    draw = random.Random(seed)
    return " ".join(str(draw.randrange(100)) for _ in range(n))


def ask(*turns: str) -> Prompt:
    """Return a conversation that begins and ends with the user."""
    messages = tuple(Message("assistant" if i % 2 else "user", turn) for i, turn in enumerate(turns))
    return Prompt(PROBLEM, "solve", messages, len(messages))


class Meter:
    """Seconds and computed prompt tokens, by stage, with or without the prefix cache."""

    def __init__(self, policy: LocalPolicy) -> None:
        self.policy = policy
        self.seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.tokens: dict[str, int] = {}

    def sample(self, stage: str, prompts: Sequence[Prompt], n: int) -> list[Group]:
        before, start = self.policy.n_prefilled_tokens, time.perf_counter()
        groups = self.policy.sample(prompts, n)
        self.seconds[stage].append(time.perf_counter() - start)
        self.tokens[stage] = self.policy.n_prefilled_tokens - before
        return groups

    def median(self, stages: Sequence[str]) -> float:
        """Return the median over rounds of the sum over stages, without the first round, which warms up."""
        return statistics.median(map(sum, zip(*(self.seconds[s][1:] for s in stages), strict=True)))


def run_stages(meter: Meter) -> list[str]:
    """Return all replies, in order."""
    problem = numbers(197, seed=2)
    (candidates,) = meter.sample("candidates", [ask(problem)], N_CANDIDATES)
    all_of_them = " ; ".join([problem, *(s.text for s in candidates), "again"])
    ((better,),) = meter.sample("one from all", [ask(all_of_them)], 1)
    ((best,),) = meter.sample("second round", [ask(all_of_them, better.text, "again")], 1)
    turns = (numbers(199, seed=3), numbers(101, seed=5))
    continued = meter.sample("continuations", [ask(*turns, numbers(11, seed=n)) for n in range(8)], 1)
    return [s.text for s in (*candidates, better, best, *(s for group in continued for s in group))]


def kept(meter: Meter) -> list[str]:
    with meter.policy.reuse_prefixes():
        return run_stages(meter)


def show(name: str, stages: Sequence[str], without: Meter, with_: Meter) -> None:
    a, b = without.median(stages), with_.median(stages)
    n, m = (sum(meter.tokens[s] for s in stages) for meter in (without, with_))
    print(f"{name:<15}{a:>9.3f} s{b:>9.3f} s{a / b:>8.2f}{n:>10,}{m:>9,}{n / m:>8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    model = random_model()
    n_parameters = sum(p.numel() for p in model.module.parameters())
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {n_parameters / 1e6:.1f}M parameters")
    without, with_ = (Meter(LocalPolicy(model, SAMPLING)) for _ in range(2))
    replies = []
    for n in range(arguments.rounds):
        ways = (lambda: run_stages(without), lambda: kept(with_))
        replies += [way() for way in ways[:: -1 if n % 2 else 1]]
    print(f"replies are {'the same' if all(r == replies[0] for r in replies) else 'not the same'}")
    print(f"{'':<15}{'without':>11}{'with':>11}{'ratio':>8}{'tokens':>10}{'with':>9}{'ratio':>8}")
    for stage in STAGES:
        show(stage, [stage], without, with_)
    show("refinement", STAGES[:3], without, with_)


if __name__ == "__main__":
    main()
