"""Our side of `vs_trl.py`: one update of `rethink train`'s loop per line on stdin, in a process like TRL's.

Prints a JSON object per line: versions, then seconds by stage, loss, gradient norm and tokens of each update. With `--check
FILE` it takes samples that TRL drew from the same weights, and prints our trainer's loss and gradient norm on them.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import tomli_w
import torch

from odd import odd
from rethink.models import lora
from rethink.models.chat import Chat
from rethink.objectives import Objective
from rethink.recipe import Recipe, load_recipe
from rethink.training.loop import train
from rethink.training.run import Run, open_run
from rethink.types import Group, Message, Problem, Prompt, Sample, Sampling, Verdict

OBJECTIVE = Objective(advantage="standardize", clip_high=0.2, dual_clip=math.inf, n_steps=1)
"""The defaults of TRL: standardized advantages, a clip of 0.2, the mean over tokens, one optimizer step."""


def recipe(folder: Path, out: str) -> Recipe:
    """Return the recipe for `workload.json`."""
    settings = json.loads((folder / "workload.json").read_text())
    rows = folder / "problems.jsonl"
    asked = [{"id": str(i), "question": text, "answer": "odd"} for i, text in enumerate(settings["questions"])]
    rows.write_text("".join(json.dumps(row) + "\n" for row in asked))
    file = folder / "recipe.toml"
    table = {
        "out": str(folder / out),
        "updates": settings["n_updates"],
        "problems_per_batch": settings["n_problems"],
        "checkpoint_minutes": 0.0,  # TRL saves nothing either
        "model": {"path": settings["model"]},
        "lora": {"rank": settings["lora_rank"]},
        "method": {"name": "grpo", "n_solve": settings["n_samples"], "solve": asdict(OBJECTIVE)},
        "prompts": {"solve": "{question}"},
        "sampling": {"max_tokens": settings["max_tokens"]},
        "sampler": {"dtype": "float32"},  # on any CPU, like TRL
        "training": {"lr": settings["lr"], "weight_decay": 0.0, "autocast": "none"},
        "problems": {"source": str(rows), "verifier": "odd:odd"},
    }
    file.write_text(tomli_w.dumps(table))
    return load_recipe(file)


def say(record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)


def write_adapter(run: Run, folder: Path) -> None:
    """Write the adapter's start values to the folder `adapter`: those of the run's seed, in every run."""
    (folder / "adapter").mkdir()
    lora.save(run.trainer.model, folder / "adapter")


def serve(folder: Path) -> None:
    """Train one update per line on stdin. An adapter's start values are written to the folder first, for TRL."""
    run = open_run(recipe(folder, "run"))
    if run.recipe.lora.rank:
        write_adapter(run, folder)
    updates = train(run)
    say({"torch": torch.__version__, "threads": torch.get_num_threads(), "dtype": str(run.trainer.dtype)})
    for _ in sys.stdin:
        start = time.perf_counter()
        record = next(updates)
        seconds = time.perf_counter() - start
        kept = ("loss", "grad_norm", "n_sampled_tokens", "sample_s", "grade_s", "update_s", "length_tokens")
        say({"seconds": seconds, **{key: record[key] for key in kept}})


def drawn_groups(folder: Path, drawn: dict[str, Any], chat: Chat) -> list[Group]:
    """Return TRL's samples as ours, without log-probs. Raise SystemExit if our prompts would have other tokens."""
    settings = json.loads((folder / "workload.json").read_text())
    n, sampling = settings["n_samples"], Sampling(max_tokens=settings["max_tokens"])
    question_of = dict(zip(settings["prompts"], settings["questions"], strict=True))
    found = []
    for start in range(0, len(drawn["ids"]), n):
        asked = drawn["prompts"][start]
        prompt = Prompt(Problem(str(start), question_of[asked], "", odd), "solve", (), start)
        prompt_ids = chat.encode((Message("user", question_of[asked]),))
        if list(prompt_ids) != chat.tokenizer.encode(asked):
            raise SystemExit(f"our prompt has other tokens than TRL's: {asked!r}")
        replies = list(zip(drawn["ids"], drawn["rewards"], strict=True))[start : start + n]
        found.append(
            tuple(
                Sample(
                    prompt,
                    g,
                    prompt_ids,
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
    groups = drawn_groups(folder, json.loads(file.read_text()), run.trainer.model.chat)
    known = [
        tuple(
            replace(s, log_probs=tuple(lp.tolist())) for s, lp in zip(group, run.trainer.log_probs(group), strict=True)
        )
        for group in groups
    ]
    numbers = run.trainer.apply(OBJECTIVE.update("solve", known))
    prompt_tokens = statistics.fmean(len(group[0].prompt_ids) for group in groups)
    say({"loss": numbers["loss"], "grad_norm": numbers["grad_norm"], "prompt_tokens": prompt_tokens})


if __name__ == "__main__":
    if "--check" in sys.argv:
        check(Path(sys.argv[1]), Path(sys.argv[3]))
    else:
        serve(Path(sys.argv[1]))
