"""Our side of `vs_trl.py`: one update of `rethink train`'s loop per line on stdin, in a process like TRL's.

Prints a JSON object per line: versions, then seconds by stage, loss, gradient norm and tokens of each update. With `--check
FILE` it takes samples that TRL drew from the same weights, and prints our trainer's loss and gradient norm on them.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import tomli_w
import torch

from rethink.objectives import Objective
from rethink.recipe import Recipe, load_recipe
from rethink.training.loop import train
from rethink.training.run import open_run
from rethink.types import Group, Problem, Prompt, Sample, Sampling, Verdict
from workloads import question

OBJECTIVE = Objective(advantage="standardize", clip_high=0.2, dual_clip=math.inf, n_steps=1)
"""The defaults of TRL: standardized advantages, a clip of 0.2, the mean over tokens, one optimizer step."""


def odd(reply: str, gold: str) -> Verdict:
    """Return the verdict of a verifier for which about every second reply is right."""
    return Verdict(len(reply) % 2 == 1)


def recipe(folder: Path, out: str) -> Recipe:
    """Return the recipe for `workload.json`."""
    settings = json.loads((folder / "workload.json").read_text())
    rows = folder / "problems.jsonl"
    asked = [{"id": str(i), "question": question(p), "answer": "odd"} for i, p in enumerate(settings["prompts"])]
    rows.write_text("".join(json.dumps(row) + "\n" for row in asked))
    file = folder / "recipe.toml"
    table = {
        "out": str(folder / out),
        "updates": settings["n_updates"],
        "problems_per_batch": settings["n_problems"],
        "model": {"path": str(folder)},
        "method": {"name": "grpo", "n_solve": settings["n_samples"], "solve": asdict(OBJECTIVE)},
        "prompts": {"solve": "{question}"},
        "sampling": {"max_tokens": settings["max_tokens"]},
        "training": {"lr": settings["lr"], "weight_decay": 0.0},
        "problems": {"source": str(rows), "verifier": "our_worker:odd"},
    }
    file.write_text(tomli_w.dumps(table))
    return load_recipe(file)


def say(record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)


def serve(folder: Path) -> None:
    """Train one update per line on stdin."""
    run = open_run(recipe(folder, "run"))
    updates = train(run)
    say({"torch": torch.__version__, "threads": torch.get_num_threads(), "dtype": str(run.trainer.dtype)})
    for _ in sys.stdin:
        start = time.perf_counter()
        record = next(updates)
        seconds = time.perf_counter() - start
        kept = ("loss", "grad_norm", "n_sampled_tokens", "sample_s", "grade_s", "update_s", "length_tokens")
        say({"seconds": seconds, **{key: record[key] for key in kept}})


def drawn_groups(folder: Path, drawn: dict[str, Any], encode: Callable[[str], list[int]]) -> list[Group]:
    """Return TRL's samples as ours, without log-probs."""
    settings = json.loads((folder / "workload.json").read_text())
    n, sampling = settings["n_samples"], Sampling(max_tokens=settings["max_tokens"])
    found = []
    for start in range(0, len(drawn["ids"]), n):
        asked = drawn["prompts"][start]
        prompt = Prompt(Problem(str(start), question(asked), "", odd), "solve", (), start)
        replies = list(zip(drawn["ids"], drawn["rewards"], strict=True))[start : start + n]
        found.append(
            tuple(
                Sample(
                    prompt,
                    g,
                    tuple(encode(asked)),
                    tuple(ids),
                    (True,) * len(ids),
                    (0.0,) * len(ids),
                    "",
                    "stop",
                    sampling,
                    0,
                ).with_verdict(Verdict(bool(reward)))
                for g, (ids, reward) in enumerate(replies)
            )
        )
    return found


def check(folder: Path, file: Path) -> None:
    """Return loss and gradient norm of our trainer on the samples of TRL's first update."""
    run = open_run(recipe(folder, "check"))
    groups = drawn_groups(folder, json.loads(file.read_text()), run.trainer.model.chat.tokenizer.encode)
    known = [
        tuple(
            replace(s, log_probs=tuple(lp.tolist())) for s, lp in zip(group, run.trainer.log_probs(group), strict=True)
        )
        for group in groups
    ]
    numbers = run.trainer.apply(OBJECTIVE.update("solve", known))
    say({"loss": numbers["loss"], "grad_norm": numbers["grad_norm"]})


if __name__ == "__main__":
    if "--check" in sys.argv:
        check(Path(sys.argv[1]), Path(sys.argv[3]))
    else:
        serve(Path(sys.argv[1]))
