"""TensorBoard: files in the run folder, under tensorboard/ID. `tensorboard --logdir runs` shows all runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rethink.jsonl import to_json
from rethink.training.trackers.tracker import COLUMNS, Start

PACKAGE = "tensorboard"


class TensorBoard:
    """Writes event files."""

    def __init__(self, start: Start) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.known_as = start.id
        self._writer = SummaryWriter(str(start.folder / "tensorboard" / start.id))
        if not start.known_as:
            self._writer.add_text("settings", f"```\n{to_json(start.config, indent=1)}\n```", 0)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def log_table(self, step: int, rows: Sequence[Sequence[str]]) -> None:
        lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
        text = "\n".join("|".join(map(_cell, line)) for line in lines)
        self._writer.add_text("eval/samples", text, step)

    def close(self) -> None:
        self._writer.close()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")


open_tracker = TensorBoard
