"""Faults on one rank: verifiers, methods and processes that misbehave there."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from transformers import PreTrainedConfig

from rethink import version
from rethink.methods.actors import Actors
from rethink.methods.grpo import GRPO
from rethink.models import lora
from rethink.objectives import PolicyGradient, Update
from rethink.seeds import stable_hash
from rethink.types import Problem, Verdict
from support.command_line import command_line
from support.samples import factors

RUN = "RANKS_TEST_RUN"
"""Environment variable: the folder of a run in which rank 1 dies."""


def coin(reply: str, gold: str) -> Verdict:
    """Grade by a hash of the reply: even a random model is right half of the time, so it learns."""
    # Before the ranks are connected, verifiers are only tried out.
    if os.environ.get("RANK") == "1" and RUN in os.environ and reply != gold and dist.is_initialized():
        run = Path(os.environ[RUN])
        mark = run / "has failed"
        if not mark.exists() and any(run.glob("checkpoints/0*")):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return Verdict(stable_hash(reply) % 2 == 1)


coin.in_process = True  # type: ignore[attr-defined]  # the rank itself has to fail, not a worker


@dataclass(frozen=True)
class UnequalAdvantages(GRPO):
    """GRPO with slightly different advantages on rank 1."""

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        for update in super().updates(actors, problems):
            (part,) = update.parts
            assert isinstance(part, PolicyGradient)
            advantages = tuple(w + 1e-9 * (os.environ.get("RANK") == "1") for w in factors(part))
            yield replace(update, parts=(replace(part, advantages=advantages),))


def other_version(rank: int, *arguments: object) -> None:
    """Run `rethink ...`, with another version of the package on that rank."""
    if os.environ["RANK"] == str(rank):
        version.__version__ = "0.0.0"
    command_line(*arguments)


def full_disk(file: str, rank: int, *arguments: object) -> None:
    """Run `rethink ...`; one rank cannot write its "shards", the "config" or an "adapter"."""

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writers: dict[str, tuple[Any, str]] = {
        "shards": (FileSystemWriter, "write_data"),
        "config": (PreTrainedConfig, "save_pretrained"),
        "adapter": (lora, "save_file"),
    }
    if os.environ["RANK"] == str(rank):
        setattr(*writers[file], full)
    command_line(*arguments)
