"""Weights & Biases. WANDB_PROJECT, WANDB_MODE=offline and its other variables apply; its files are in the run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from rethink.training.trackers.tracker import COLUMNS, Start

PACKAGE = "wandb"


class Wandb:
    """A run of W&B. A resumed run continues under the same id."""

    def __init__(self, start: Start) -> None:
        import wandb

        self._wandb = wandb
        self.known_as = start.known_as or start.id
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rethink"),
            id=self.known_as,
            name=start.name,
            dir=str(start.folder),
            config=None if start.known_as else start.config,
            resume="allow",
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def log_table(self, step: int, rows: Sequence[Sequence[str]]) -> None:
        table = self._wandb.Table(columns=list(COLUMNS), data=[list(row) for row in rows])
        self._run.log({"eval/samples": table}, step=step)

    def close(self) -> None:
        self._run.finish()


open_tracker = Wandb
