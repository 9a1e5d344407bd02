"""Workload C of `vs_trl.py`: a chat model with 135 million parameters, and problems in words."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

NAMES = ("Anna", "Boris", "Carla", "David", "Elena", "Frank", "Greta", "Henry", "Irene", "Jonas")
GOODS = ("apples", "books", "candles", "dishes", "eggs", "flowers", "lamps", "melons", "pens", "shirts")
DAYS = ("Monday", "Tuesday", "Wednesday")


@dataclass(frozen=True)
class RealWorkload:
    """The size of an update: `n_samples` replies of at most `max_tokens` to each of `n_problems` prompts. With `lora_rank`,
    an adapter on all linear layers is trained instead of all weights."""

    name: str
    lora_rank: int = 0
    max_tokens: int = 200
    n_problems: int = 2
    n_samples: int = 8


C = RealWorkload("C")
C_LORA = RealWorkload("C-lora", lora_rank=16)


def questions(n: int, seed: int = 0) -> list[str]:
    """Return problems in words with random numbers, all different: about 120 tokens each, 150 with SmolLM2's template."""
    draw = random.Random(seed)
    return [_question(draw) for _ in range(n)]


def _question(draw: random.Random) -> str:
    name, goods = draw.choice(NAMES), draw.choice(GOODS)
    sentences = [f"{name} has a stall at the market and begins the week with {draw.randint(100, 900)} coins."]
    for day in DAYS:
        bought, cost = draw.randint(20, 99), draw.randint(2, 5)
        sold, price = draw.randint(10, bought), draw.randint(6, 9)
        sentences.append(
            f"On {day}, {name} buys {bought} {goods} for {cost} coins each and sells {sold} of them for {price} coins each."
        )
    sentences.append(f"How many coins does {name} have on the evening of {DAYS[-1]}? Explain each step.")
    return " ".join(sentences)


def rendered(model: Path, asked: Sequence[str]) -> list[str]:
    """Return each question in the model's chat template, ready for a reply."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    return [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in asked
    ]


def plain_folder(model: Path, cache: Path) -> Path:
    """Return a folder with the weights of a GGUF file in float32, which `transformers` can read. It is made once, and kept
    in the folder `cache`. A model that is a folder already is returned as it is."""
    if model.is_dir():
        return model
    folder = cache / f"{model.stem}-float32"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        print(f"dequantizing {model} to {folder}", flush=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:  # for the copy that rethink keeps of GGUF files
            command = [
                sys.executable,
                "-m",
                "rethink",
                "export",
                str(model),
                "--out",
                str(folder),
                "--dtype",
                "float32",
            ]
            subprocess.run(command, check=True, env={**os.environ, "XDG_CACHE_HOME": temporary})
    return folder


def settings(workload: RealWorkload, model: Path, n_updates: int) -> dict[str, Any]:
    """Return what is special to such a workload in `workload.json`: the model's folder and the prompts."""
    asked = questions(workload.n_problems * n_updates)
    return {
        "model": str(model.resolve()),
        "lora_rank": workload.lora_rank,
        "questions": asked,
        "prompts": rendered(model, asked),
    }
