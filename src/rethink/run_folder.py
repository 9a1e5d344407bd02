"""The run folder: everything about a run in one place, enough to explain it and to go on with it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.jsonl import Record, make_folder, read_lines, replace, replace_lines
from rethink.types import Group, Sample

FREE = {
    "out",
    "updates",
    "checkpoint_every",
    "keep_checkpoints",
    "n_logged_samples",
    "sampler.cache_gib",
    "distributed.timeout_s",
    "training.gradient_checkpointing",
    "sampler.urls",
    "sampler.gpu_memory",
    "sampler.concurrency",
    "sampler.timeout_s",
    "endpoint.url",
    "endpoint.key_env",
    "endpoint.concurrency",
    "endpoint.timeout_s",
    "endpoint.retries",
}
"""Settings that may differ when a run is resumed: its place and length, and what does not touch weights or answers."""


LORA_HINT = (
    ". What a run trains, all weights (lora.rank = 0) or an adapter of that rank, stays as it began: resume with the same "
    "lora.rank, or start a new run from what `rethink export` makes of this one"
)


LAUNCH = ".launch"


@dataclass(frozen=True)
class RunFolder:
    """config.toml, metrics.jsonl, samples.jsonl, eval/*.jsonl and checkpoints/ under one path."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples.jsonl"

    def check_free(self) -> None:
        """Raise UserError where a run already is: nothing is ever overwritten."""
        if (self.path / "config.toml").exists():
            raise UserError(
                f"{self.path} holds a run; continue it with --resume, or choose another folder with out=DIR"
            )

    def create(self, config: str) -> None:
        """Make the folder. Raises UserError where a run already is."""
        self.check_free()
        make_folder(self.path / "eval")
        replace(self.path / "config.toml", config)

    def discard(self) -> None:
        """Take away what `create` made, where nothing has been added to it."""
        with suppress(OSError):  # what is not empty stays
            (self.path / "config.toml").unlink()
            (self.path / "eval").rmdir()
            self.path.rmdir()

    def mark(self, launch: str) -> None:
        """Note which start of torchrun made the run."""
        replace(self.path / LAUNCH, launch)

    def made_by(self, launch: str) -> bool:
        """Whether that start of torchrun made the run."""
        file = self.path / LAUNCH
        return file.is_file() and file.read_text(encoding="utf-8") == launch

    def check_seen(self) -> None:
        """Raise UserError where the folder cannot be seen: one process made it, and all write their shards into it."""
        if not (self.path / "config.toml").is_file():
            raise UserError(f"{self.path} is not there: all nodes must see the same folder, on storage that they share")

    def check_same(self, config: str, add_new_defaults: Callable[[str], str]) -> None:
        """Raise UserError unless the folder holds a run with these settings; those in `FREE` may differ.

        `add_new_defaults` adds the settings that an older version did not have (`recipe.add_new_defaults`)."""
        file = self.path / "config.toml"
        if not file.is_file():
            raise UserError(f"{self.path} holds no run to resume; start one without --resume")
        try:
            stored = add_new_defaults(file.read_text(encoding="utf-8"))
        except UserError as err:
            raise UserError(f"cannot go on from {file}: {err}") from err
        ours, theirs = _settings(tomllib.loads(config)), _settings(tomllib.loads(stored))
        # A schedule that falls over the run's updates gives other learning rates for another number of them.
        free = FREE - {"updates"} if ours.get("training.schedule") in ("linear", "cosine") else FREE
        changed = [k for k in sorted({*ours, *theirs} - free) if ours.get(k) != theirs.get(k)]
        if changed:
            raise UserError(
                f"{self.path} was started with other settings: "
                + "; ".join(f"{k} was {theirs.get(k)!r}, now {ours.get(k)!r}" for k in changed[:5])
                + (f"; and {len(changed) - 5} more" if len(changed) > 5 else "")
                + (LORA_HINT if "lora.rank" in changed else "")
            )
        replace(file, config)

    def rewind(self, n_batches: int) -> None:
        """Drop what was logged after the given number of finished batches: a resumed run writes it again."""
        for file in (self.metrics, self.samples):
            replace_lines(file, [line for line, record in read_lines(file) if record["batch"] < n_batches])


def transcript(sample: Sample) -> Record:
    """A sample as it is logged: one record per answer."""
    prompt = sample.prompt
    draft = prompt.draft
    return {
        "problem": sample.problem.id,
        "phase": prompt.phase,
        "index": sample.index if draft is None else draft.index,
        "prompt": [[m.role, m.content] for m in prompt.messages],
        "reply": sample.text,
        "gold": sample.problem.gold,
        "reward": sample.reward,
        "terms": {term.name: term.value for term in sample.terms},
        "verdict": "" if sample.verdict is None else str(sample.verdict),
        "reason": sample.why_no_reward() or (sample.verdict.reason if sample.verdict else ""),
        "draft_verdict": None if draft is None else str(draft.verdict),
        "stop": sample.stop,
        "n_tokens": len(sample.ids),
        "version": sample.version,
        "seed": f"{prompt.seed:016x}",
    }


def first_samples(groups: Sequence[Group], n: int) -> list[Sample]:
    """The first sample of each of the first n groups."""
    return [g[0] for g in groups if g][:n]


def _settings(table: Mapping[str, Any], prefix: str = "") -> Record:
    flat: Record = {}
    for key, value in table.items():
        flat |= _settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
