"""Kills: end a command at a random moment, once or twice, finish it, and compare every file with the undisturbed one.

Two of three endings are kill -9; the others are SIGTERM, as schedulers send it, and Ctrl-C. A trial is one ending.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from drill_commands import HELD, Command, Ended, Trial, difference, digest, run

SMALL = (
    *("updates=6", "problems_per_batch=4", "checkpoint_every=2", "evaluation.every=4", "evaluation.problems.limit=6"),
    *("problems.limit=24", "out=run"),
)
LORA = ("lora.rank=4",)
AHEAD = ("async_level=1",)
QUANTIZED = ("training.optimizer=adamw8bit",)
TRAINING = {
    "GRPO": ("demo-grpo",),
    "ThinkTwice": ("demo-think-twice",),
    "ThinkTwice, one step off-policy": ("demo-think-twice", *AHEAD),
    "Reflect-Retry-Reward": ("demo-reflect-retry-reward",),
    "Reflect-Retry-Reward, one step off-policy": ("demo-reflect-retry-reward", *AHEAD),
    "GSR": ("demo-gsr", "problems.source=../../inputs/gsr.parquet"),
    "ThinkTuning": ("demo-think-tuning",),
    "ThinkTwice, LoRA": ("demo-think-twice", *LORA),
    "ThinkTwice, LoRA, 8 bits, one step off-policy": ("demo-think-twice", *LORA, *QUANTIZED, *AHEAD),
    "ThinkTwice, 8-bit AdamW": ("demo-think-twice", *QUANTIZED),
    "ThinkTwice, recomputed log-probs": ("demo-think-twice", "training.old_log_probs=recomputed"),
    "ThinkTwice, a checkpoint per update": ("demo-think-twice", "checkpoint_every=1"),
    "GRPO, no checkpoint before the end": ("demo-grpo", "checkpoint_every=1000"),
}
DEMO = ("--recipe", "demo-think-twice")
EVAL = ("eval", "tiny", "--on", "countdown", "evaluation.problems.limit=24", *DEMO, "--out", "run")
OTHERS = {
    "eval": ([*EVAL], True),
    "eval, strategies": ([*EVAL, "--strategy", "solve,vote:3,refine:2"], True),
    "answer --file": (
        ["answer", "tiny", "--file", "../../inputs/questions.jsonl", *DEMO, "--out", "run/answers.jsonl"],
        True,
    ),
    "cross": (
        ["cross", "tiny", "tiny-signs", "--on", "countdown", "evaluation.problems.limit=8", *DEMO, "--out", "run"],
        False,
    ),
    "grade": (["grade", "../../inputs/replies.jsonl", "--out", "run/verdicts.jsonl"], False),
    "prepare": (
        ["prepare", "demo-gsr-data", "teacher.path=", "problems.limit=32", "--out", "run/data.parquet"],
        False,
    ),
    "export": (["export", "../../inputs/trained", "--out", "run/model"], False),
}
"""Commands, and whether --resume continues them; the others are repeated."""


@dataclass(frozen=True)
class Job:
    """A command, how to continue it once it was ended, and its settings' name."""

    name: str
    command: list[str]
    resumes: bool

    def repeated(self) -> list[str]:
        return [*self.command, "--resume"] if self.resumes else self.command


def trials(scratch: Path, n: int, seed: int) -> Iterator[Callable[[], Trial]]:
    """Yield trials: each setting in turn, three of four with training."""
    training = [Job(name, ["train", *words[:1], *SMALL, *words[1:]], True) for name, words in TRAINING.items()]
    others = [Job(name, command, resumes) for name, (command, resumes) in OTHERS.items()]
    prepare_inputs(scratch)
    for i in range(n):
        jobs = others if i % 4 == 3 else training
        job = jobs[(i // 4 if i % 4 == 3 else i - i // 4) % len(jobs)]
        yield partial(end_and_finish, scratch, job, i, random.Random(f"{seed} {i}"))


def prepare_inputs(scratch: Path) -> None:
    """Write the files that some commands read."""
    inputs = scratch / "inputs"
    if (inputs / "done").exists():
        return
    inputs.mkdir(parents=True, exist_ok=True)
    questions = [f'{{"question": "{a} 7 5 -> 26"}}\n' for a in range(1, 10)]
    (inputs / "questions.jsonl").write_text("".join(questions))
    replies = [rf'{{"response": "\\boxed{{x+{a % 7}}}", "answer": "{a % 5}+x"}}' + "\n" for a in range(3000)]
    (inputs / "replies.jsonl").write_text("".join(replies))
    for command in (
        ["prepare", "demo-gsr-data", "teacher.path=", "problems.limit=64", "--out", "gsr.parquet"],
        ["train", "demo-grpo", *SMALL, "updates=2", "out=trained"],
    ):
        ended = run(inputs, command)
        if ended.code != 0:
            raise SystemExit(f"cannot prepare the drill: {ended.tail}")
    (inputs / "done").touch()


@cache
def undisturbed(scratch: Path, name: str, command: tuple[str, ...]) -> tuple[dict[str, str], float]:
    """Return the files that a command writes when nothing ends it, and its seconds."""
    folder = scratch / "undisturbed" / name.replace(" ", "-").replace(",", "")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "run").mkdir(parents=True) if command[0] in ("grade", "export", "prepare", "answer") else None
    ended = run(folder, list(command))
    if ended.code != 0:
        raise SystemExit(f"the drill's own command failed: {name}: {ended.tail}")
    return digest(folder / "run"), ended.seconds


def end_and_finish(scratch: Path, job: Job, number: int, draw: random.Random) -> Trial:
    wanted, seconds = undisturbed(scratch, job.name, tuple(job.command))
    how = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    name = f"{number}: {job.name}, {how.name}"
    folder = scratch / "trials" / str(number)
    shutil.rmtree(folder, ignore_errors=True)
    if job.command[0] in ("grade", "export", "prepare", "answer"):
        (folder / "run").mkdir(parents=True)
    moment = 0.0
    for attempt in range(20):  # the machine's speed varies: try again, earlier, if the command was faster
        command = Command(folder, job.command)
        moment = draw.uniform(0.02, seconds) * 0.9**attempt
        hit = command.end_after(moment, how)
        ended = command.wait()
        if hit and (how == signal.SIGKILL or ended.code != 0):
            break
        shutil.rmtree(folder / "run", ignore_errors=True)
        if job.command[0] in ("grade", "export", "prepare", "answer"):
            (folder / "run").mkdir(parents=True)
    name = f"{name} after {moment:.2f} s"
    if ended.code is None:
        return Trial(name, job.name, "hung", ended.tail)
    if "Traceback" in ended.output and how != signal.SIGKILL:
        return Trial(name, job.name, "crashed", ended.tail)
    return _finish(name, job, folder, wanted)


def _finish(name: str, job: Job, folder: Path, wanted: dict[str, str]) -> Trial:
    ended = run(folder, job.repeated())
    if ended.code != 0 and not _started(folder):  # ended before it wrote anything: the same command starts it
        ended = run(folder, job.command)
    outcome, detail = _outcome(ended)
    if outcome == HELD:
        changed = difference(wanted, digest(folder / "run"))
        outcome, detail = ("lost", f"other contents: {changed}") if changed else (HELD, "")
    if outcome == HELD:
        shutil.rmtree(folder)
    return Trial(name, job.name, outcome, detail)


def _started(folder: Path) -> bool:
    return any(file.is_file() for file in (folder / "run").rglob("*"))


def _outcome(ended: Ended) -> tuple[str, str]:
    if ended.code is None:
        return "hung", ended.tail
    if ended.code != 0:
        return ("crashed" if "Traceback" in ended.output else "lost"), ended.tail
    return HELD, ""
