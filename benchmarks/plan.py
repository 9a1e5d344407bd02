"""The plan's memory against what torch allocates on this machine's CPU: `python benchmarks/plan.py [--json FILE]`.

Small models with random weights, two updates or one call of the sampler each, one worker. Allocations come from torch's
profiler: the figures are the same each time, whatever else runs. Goal: within 15%.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM

from plan_measured import planned_sampling, planned_training, samples, sampling_peak, training_peak
from rethink.models import make_tiny
from rethink.models.load import load_model
from rethink.plan.memory import Peak
from rethink.settings import Training
from rethink.types import Message, Problem, Prompt, Sampling, Verdict

MB = 1e6
GOAL = 0.15

BASE = {
    "vocab_size": 2003,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
    "tie_word_embeddings": True,
}
KINDS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 32},
    "llama": {"tie_word_embeddings": False},
    "olmo2": {},
}
TRAINING: list[tuple[str, dict[str, Any], tuple[int, int, int, int]]] = [
    ("qwen3", {}, (4, 4, 64, 96)),
    ("qwen3", {"micro_batch_tokens": 1024}, (4, 4, 64, 96)),
    ("qwen3", {"micro_batch_tokens": 256}, (4, 4, 64, 96)),
    ("qwen3", {"gradient_checkpointing": True}, (4, 4, 64, 96)),
    ("qwen3", {"autocast": "bfloat16"}, (2, 4, 32, 48)),
    ("qwen3", {"vocab_size": 20011}, (4, 4, 64, 96)),
    ("qwen3", {"vocab_size": 20011, "chunk_tokens": 256}, (4, 4, 64, 96)),
    ("qwen3", {"hidden_size": 384, "micro_batch_tokens": 128}, (2, 2, 16, 64)),
    ("llama", {}, (4, 4, 64, 96)),
    ("llama", {"gradient_checkpointing": True}, (1, 4, 64, 400)),
    ("olmo2", {}, (4, 4, 64, 96)),
    ("olmo2", {"gradient_checkpointing": True}, (4, 4, 64, 96)),
    ("olmo2", {"autocast": "bfloat16"}, (2, 4, 32, 48)),
    ("olmo2", {"micro_batch_tokens": 256}, (4, 4, 64, 96)),
]
"""Kind, sizes and settings that vary, and samples: prompts, replies to each, tokens of a prompt and of a reply."""

SAMPLING: list[tuple[str, dict[str, Any], tuple[int, int, int, int]]] = [
    ("qwen3", {}, (8, 8, 64, 96)),
    ("qwen3", {}, (32, 1, 400, 4)),
    ("qwen3", {"vocab_size": 20011}, (8, 8, 64, 12)),
    ("qwen3", {"cache_mb": 4}, (12, 4, 64, 24)),
    ("olmo2", {}, (8, 8, 64, 48)),
]
"""The same for sampling, with the number of words in a prompt."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    rows = []
    for row in (*measured_training(), *measured_sampling()):
        rows.append(row)
        print(f"{row['what']:74}  {row['measured_mb']:8.1f}  {row['planned_mb']:8.1f}  {row['off']:+7.1%}", flush=True)
    worst = max(abs(row["off"]) for row in rows)
    print(f"largest difference {worst:.1%}: {'within' if worst <= GOAL else 'ABOVE'} the goal of {GOAL:.0%}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


def measured_training() -> Iterator[dict[str, Any]]:
    print(f"{'training':74}  {'measured':>8}  {'planned':>8}  {'off':>7}")
    for kind, changes, some in TRAINING:
        sizes = BASE | KINDS[kind] | {k: v for k, v in changes.items() if k in BASE}
        settings = {k: v for k, v in changes.items() if k not in BASE}
        how = Training(**{"autocast": "none", "micro_batch_tokens": 4096, **settings})
        drawn = samples(*some, sizes["vocab_size"])
        measured = training_peak(kind, sizes, how, drawn)
        yield record(kind, changes, some, measured, planned_training(kind, sizes, how, drawn))


def measured_sampling() -> Iterator[dict[str, Any]]:
    print(f"{'sampling':74}  {'measured':>8}  {'planned':>8}  {'off':>7}")
    for kind, changes, some in SAMPLING:
        n_prompts, n, n_words, n_tokens = some
        sizes = BASE | KINDS[kind] | {k: v for k, v in changes.items() if k in BASE}
        n_bytes = int(changes.get("cache_mb", 1000) * MB)
        with tempfile.TemporaryDirectory() as folder:
            AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).save_pretrained(folder)
            make_tiny.tokenizer().save_pretrained(folder)
            prompts = [prompt(i, n_words) for i in range(n_prompts)]
            load = partial(load_model, folder)
            measured, requested = sampling_peak(load, prompts, n, Sampling(max_tokens=n_tokens), n_bytes)
            moment = planned_sampling(folder, requested, n_bytes)
        yield record(kind, changes, some, measured, moment)


def prompt(i: int, n_words: int) -> Prompt:
    problem = Problem(str(i), "", "", verify=lambda reply, gold: Verdict(True))
    words = " ".join(str((i + k) % 10) for k in range(n_words))
    return Prompt(problem, "solve", (Message("user", words),), i)


def record(kind: str, changes: dict[str, Any], some: tuple[int, ...], measured: int, planned: Peak) -> dict[str, Any]:
    named = ", ".join(f"{k} {v}" for k, v in changes.items())
    return {
        "what": f"{kind} {some[0]}x{some[1]} of {some[2]}+{some[3]}{': ' if named else ''}{named}, {planned.name}",
        "measured_mb": measured / MB,
        "planned_mb": planned.n_bytes / MB,
        "off": planned.n_bytes / measured - 1,
        "items_mb": {name: n_bytes / MB for name, n_bytes in planned.items.items()},
    }


if __name__ == "__main__":
    main()
