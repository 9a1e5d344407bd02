"""A real model trained on a GPU for a few minutes: one of the last stages of `benchmarks/gpu.py`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.prompts import PromptTexts
from rethink.recipe import load_recipe
from rethink.training.loop import train
from rethink.training.run import open_run
from rethink.training.update_log import evaluate_held_out

GSM8K = (
    "prompts.solve={question}\nLet's think step by step, and write the final answer in \\boxed{}.",
    f"prompts.refine={PromptTexts().refine}",
    "problems.question=extra_info.question",
    "problems.answer=reward_model.ground_truth",
    "problems.verifier=boxed",
    "evaluation.problems.question=extra_info.question",
    "evaluation.problems.answer=reward_model.ground_truth",
    "evaluation.problems.verifier=boxed",
    "problems_per_batch=32",
    "sampling.max_tokens=256",
    "evaluation.sampling.max_tokens=256",
    "training.lr=5e-6",
    "evaluation.problems.limit=200",
)


@dataclass(frozen=True)
class RealRun:
    """What to train, for how many seconds: settings of a recipe."""

    settings: tuple[str, ...]
    seconds: float


def real_run(model: Path | None, data: Path | None, device: str, seconds: float) -> RealRun | str:
    """Return the run, or why there is none. Without a GPU, the shipped tiny model stands in for the real one."""
    if device == "cpu":
        return RealRun(("sampling.max_tokens=24", "problems_per_batch=4", "evaluation.problems.limit=8"), seconds)
    if model is None or not model.is_file():
        return "--model names no GGUF file of SmolLM2-135M-Instruct"
    if data is None or not (data / "train.parquet").is_file():
        return "--gsm8k names no folder with train.parquet and test.parquet"
    sources = (f"problems.source={data / 'train.parquet'}", f"evaluation.problems.source={data / 'test.parquet'}")
    return RealRun((f"model.path={model}", *sources, *GSM8K), seconds)


def train_for(run: RealRun, method: str, out: Path, device: str) -> dict[str, Any]:
    """Train until the time is up, and evaluate before and after. Return counts, seconds and held-out rates."""
    recipe = "demo-grpo" if method == "grpo" else "demo-think-twice"
    more = (f"out={out}", f"model.device={device}", "updates=100000", "evaluation.every=0", "checkpoint_every=100000")
    opened = open_run(load_recipe(recipe, [*run.settings, *more]))
    found: dict[str, Any] = {"before": rates(evaluate_held_out(opened))}
    records: list[dict[str, Any]] = []
    start = time.monotonic()
    for record in train(opened):
        records.append(record)
        opened.interrupted = opened.interrupted or time.monotonic() - start > run.seconds
    found["seconds"] = time.monotonic() - start
    found["updates"] = len(records)
    found["sampled_tokens"] = sum(int(record["n_sampled_tokens"]) for record in records)
    for stage in ("sample_s", "grade_s", "update_s"):
        found[stage] = sum(float(record[stage]) for record in records)
    found["after"] = rates(evaluate_held_out(opened))
    before, after = (found[when]["solve"]["value"] for when in ("before", "after"))
    print(
        f"{method}: {found['updates']} updates in {found['seconds']:.0f} s, {found['sampled_tokens']:,} tokens sampled; "
        f"held-out accuracy of a draft {before:.1%} before, {after:.1%} after"
    )
    return found


def rates(record: dict[str, Any]) -> dict[str, Any]:
    """Return the rates of an evaluation, each with its interval."""
    return {name: value for name, value in record.items() if isinstance(value, dict) and "value" in value}
