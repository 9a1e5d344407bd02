"""TRL's side of `vs_trl.py`, run in a separate environment: one update of its GRPOTrainer per line on stdin.

Prints a JSON object per line: versions, then seconds, loss, gradient norm and samples of each update. It does not import
rethink: the workload is in a folder, as a model and as `workload.json`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

answers = sys.stdout
sys.stdout = sys.stderr  # the trainer prints, but only our lines must reach the reader


def say(record: dict[str, Any]) -> None:
    print(json.dumps(record), file=answers, flush=True)


class Turns(TrainerCallback):  # type: ignore[misc]
    """Starts an update when a line arrives on stdin, and reports when it is done."""

    def __init__(self) -> None:
        self.samples: dict[str, Any] = {}
        self.start = self.seconds = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if not sys.stdin.readline():
            sys.exit(0)
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.perf_counter() - self.start

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        if logs and "loss" in logs:
            say({"seconds": self.seconds, "loss": logs["loss"], "grad_norm": logs["grad_norm"], **self.samples})


def grpo_config(settings: dict[str, Any], out: str) -> GRPOConfig:
    """Train with one generation and one optimizer step per update; the batch is split into `accumulation` pieces."""
    n_samples = settings["n_problems"] * settings["n_samples"]
    return GRPOConfig(
        output_dir=out,
        per_device_train_batch_size=n_samples // settings["accumulation"],
        gradient_accumulation_steps=settings["accumulation"],
        num_generations=settings["n_samples"],
        max_completion_length=settings["max_tokens"],
        max_steps=settings["n_updates"],
        learning_rate=settings["lr"],
        lr_scheduler_type="constant",
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        shuffle_dataset=False,
    )


def open_model(settings: dict[str, Any], folder: Path) -> Any:
    """Return the model, with the adapter that the other side has written if there is one."""
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)
    if not settings["lora_rank"]:
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)


def main(folder: str) -> None:
    settings = json.loads(Path(folder, "workload.json").read_text())
    turns = Turns()

    def reward(completions: list[str], completion_ids: list[list[int]], prompts: list[str], **_: Any) -> list[float]:
        rewards = [float(len(text) % 2) for text in completions]
        turns.samples = {"prompts": prompts, "ids": completion_ids, "rewards": rewards}
        return rewards

    trainer = GRPOTrainer(
        model=open_model(settings, Path(folder)),
        processing_class=AutoTokenizer.from_pretrained(settings["model"], padding_side="left"),
        reward_funcs=reward,
        args=grpo_config(settings, str(Path(folder, "trl"))),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in settings["prompts"]]),
        callbacks=[turns],
    )
    say({"trl": trl.__version__, "torch": torch.__version__, "transformers": transformers.__version__})
    trainer.train()
    sys.stdin.read()  # the reader looks at this process's memory first


if __name__ == "__main__":
    main(*sys.argv[1:])
