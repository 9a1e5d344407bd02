"""Seconds per update and tokens per second, by stage: `python benchmarks/update.py [--updates N]`.

Runs the demo's two recipes, and compares the sampler with `generate` of transformers on the same prompts, with the same
number of samples and max_tokens, in the same process, alternating. Prints medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from rethink.build import build_prompts, load_all_problems, open_model
from rethink.policies.local import LocalPolicy
from rethink.recipe import load_recipe
from rethink.training.loop import train
from rethink.training.run import open_run

STAGES = ("sample_s", "grade_s", "update_s")


def stages(name: str, updates: int) -> list[dict[str, Any]]:
    """Return the records of a run without its first batch, which warms up."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"out={folder}/run", f"updates={updates}", "evaluation.problems.limit=1"]
        run = open_run(load_recipe(name, settings))
        return [r for r in train(run) if r["phase"] != "evaluation" and r["batch"] > 0]


def show(name: str, records: list[dict[str, Any]]) -> None:
    """Print a line per phase."""
    for phase in sorted({r["phase"] for r in records}):
        of_phase = [r for r in records if r["phase"] == phase]
        seconds = {s: statistics.median(r[s] for r in of_phase) for s in STAGES}
        sampled = statistics.median(r["n_sampled_tokens"] / r["sample_s"] for r in of_phase)
        trained = statistics.median(r["n_trained_tokens"] / r["update_s"] for r in of_phase)
        total = statistics.median(sum(r[s] for s in STAGES) for r in of_phase)
        parts = "  ".join(f"{s[:-2]} {seconds[s]:.3f}" for s in STAGES)
        print(
            f"{name:<12} {phase:<7} {total:.3f} s/update  ({parts})  sampled {sampled:,.0f}/s  trained {trained:,.0f}/s"
        )


def against_generate(rounds: int) -> None:
    """Print the tokens per second of the sampler and of transformers' generate, interleaved."""
    recipe = load_recipe("demo-grpo")
    model = open_model(recipe.model, recipe.seed)
    policy = LocalPolicy(model, recipe.sampling)
    problems = load_all_problems(recipe)[0][: recipe.problems_per_batch]
    asks = build_prompts(recipe, 0).ask(problems)
    tokenizer = model.chat.tokenizer
    encoded = [list(model.chat.encode(p.messages)) for p in asks]
    padded = tokenizer.pad({"input_ids": encoded}, padding_side="left", return_tensors="pt")

    def ours() -> int:
        return sum(len(s.ids) for group in policy.sample(asks, 8) for s in group)

    def theirs() -> int:
        out = model.module.generate(
            **padded, do_sample=True, top_k=0, num_return_sequences=8, max_new_tokens=recipe.sampling.max_tokens
        )
        return int((out[:, padded["input_ids"].shape[1] :] != tokenizer.pad_token_id).sum())

    rates: dict[str, list[float]] = {"rethink": [], "generate": []}
    for _ in range(rounds):
        for name, sampler in (("rethink", ours), ("generate", theirs)):
            rates[name].append(_rate(sampler))
    medians = {name: statistics.median(r[1:]) for name, r in rates.items()}
    ratio = medians["rethink"] / medians["generate"]
    print(f"sampler: {medians['rethink']:,.0f} tokens/s; generate: {medians['generate']:,.0f}; ratio {ratio:.2f}")


def _rate(sampler: Callable[[], int]) -> float:
    start = time.perf_counter()
    return sampler() / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name in ("demo-grpo", "demo-think-twice"):
        show(name.removeprefix("demo-"), stages(name, arguments.updates))
    against_generate(arguments.rounds)


if __name__ == "__main__":
    main()
