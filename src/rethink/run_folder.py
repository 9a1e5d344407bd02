"""The run folder: all files of one run, enough to explain it and to resume it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.images import store
from rethink.jsonl import Record, make_folder, write_text
from rethink.types import Group, Problem, Sample

CHANGEABLE = {
    "out",
    "updates",
    "checkpoint_every",
    "checkpoint_minutes",
    "keep_checkpoints",
    "n_logged_samples",
    "trackers",
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
    "judge.endpoint.url",
    "judge.endpoint.key_env",
    "judge.endpoint.concurrency",
    "judge.endpoint.timeout_s",
    "judge.endpoint.retries",
}
"""Settings that may change on resume: folder, length, and whatever affects neither weights nor answers."""

LORA_HINT = (
    ". A run cannot switch between full fine-tuning (lora.rank = 0) and LoRA, nor change the rank: resume with the same "
    "lora.rank, or export the model with `rethink export` and start a new run from it"
)

SCHEDULE_HINT = (
    ". The learning rates of a linear or cosine schedule depend on `updates`: resume with the same number, or start a new "
    "run (with training.schedule = constant a run can be made longer)"
)

IMAGES = "images"

START = "eval/000000.jsonl"
"""The answers of the start model, which are there before the first checkpoint (`evaluation.at_start`)."""

LAUNCH = ".launch"
"""The file that holds the id of the torchrun launch that created the run."""


@dataclass(frozen=True)
class RunFolder:
    """config.toml, problems.json, metrics.jsonl, samples.jsonl, eval/*.jsonl, images/ and checkpoints/ under one path."""

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

    @property
    def problems(self) -> Path:
        """The file of hashes of the problems that the run was started with."""
        return self.path / "problems.json"

    @property
    def images(self) -> Path:
        """The folder with the images of problems that samples and answers name."""
        return self.path / IMAGES

    def check_unused(self) -> None:
        """Raise UserError if the folder holds a run or an evaluation: nothing is ever overwritten."""
        if (self.path / "config.toml").exists():
            raise UserError(
                f"{self.path} already holds a run or an evaluation; resume it with --resume, or choose another folder"
            )
        self.check_nothing_lost()

    def check_nothing_lost(self) -> None:
        """Raise UserError if a folder without settings has files of the names that a run or an evaluation writes."""
        if (self.path / "config.toml").exists():
            return
        own = [file.name for file in (self.metrics, self.samples, self.problems) if file.exists()]
        for name in [*own, *self.results()]:
            raise UserError(f"{self.path} holds {name}, but no config.toml; choose another folder")

    def results(self) -> list[str]:
        """Return the names of files that a run or an evaluation wrote here, without its settings, logs and page."""
        names = ("checkpoints/[0-9]*", "eval/*.jsonl", "answers.jsonl", "summary.json")
        return [str(file.relative_to(self.path)) for name in names for file in sorted(self.path.glob(name))]

    def create(self, config: str) -> list[str]:
        """Create the folder. Return the names of what was there before. Raise UserError if it already holds a run."""
        self.check_unused()
        make_folder(self.path)
        before: list[str] = []
        with suppress(OSError):  # a folder that cannot be listed: `discard` removes nothing
            before = self._names()
        make_folder(self.path / "eval")
        write_text(self.path / "config.toml", config)
        return before

    def discard(self, before: Sequence[str] = ()) -> None:
        """Remove what `create` made, and the hashes of the problems, unless anything else has been added since: the
        settings may explain it. `before`: the names that `create` returned; what has them stays."""
        made = [name for name in ("eval", self.problems.name, "config.toml") if name not in before]
        with suppress(OSError):  # a folder that is not empty stays
            if set(self._names()) <= {*made, *before}:
                for name in made:
                    found = self.path / name
                    found.rmdir() if found.is_dir() else found.unlink(missing_ok=True)
                self.path.rmdir()

    def _names(self) -> list[str]:
        return [entry.name for entry in self.path.iterdir()]

    def record_launch(self, launch: str) -> None:
        """Record which torchrun launch created the run."""
        write_text(self.path / LAUNCH, launch)

    def was_launched_by(self, launch: str) -> bool:
        """Return whether this torchrun launch created the run."""
        file = self.path / LAUNCH
        return file.is_file() and file.read_text(encoding="utf-8") == launch

    def check_visible(self) -> None:
        """Raise UserError if this process cannot see the folder that rank 0 created: every rank writes to it."""
        if not (self.path / "config.toml").is_file():
            raise UserError(f"{self.path} is missing on this node: all nodes need the same folder, on shared storage")

    def check_settings(self, config: str, add_new_defaults: Callable[[str], str]) -> None:
        """Raise UserError unless the folder holds a run with these settings; store those that may differ."""
        self.refuse_other_settings(config, add_new_defaults)
        write_text(self.path / "config.toml", config)

    def refuse_other_settings(self, config: str, add_new_defaults: Callable[[str], str]) -> None:
        """Raise UserError unless the folder holds a run with these settings; those in `CHANGEABLE` may differ.

        `add_new_defaults` adds the settings that an older version did not have (`recipe.add_new_defaults`)."""
        file = self.path / "config.toml"
        if not file.is_file():
            raise UserError(f"{self.path} holds no run to resume; start one without --resume")
        try:
            stored = add_new_defaults(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as err:  # also bytes that are not UTF-8
            raise UserError(f"cannot resume from {file}: {err}") from err
        new, old = _flatten(tomllib.loads(config)), _flatten(tomllib.loads(stored))
        # The learning rates of a falling schedule depend on the number of updates.
        changeable = CHANGEABLE - {"updates"} if new.get("training.schedule") in ("linear", "cosine") else CHANGEABLE
        changed = [k for k in sorted({*new, *old} - changeable) if new.get(k) != old.get(k)]
        if changed:
            raise UserError(
                f"{self.path} was started with other settings: "
                + "; ".join(f"{k} was {old.get(k)!r}, now {new.get(k)!r}" for k in changed[:5])
                + (f"; and {len(changed) - 5} more" if len(changed) > 5 else "")
                + (LORA_HINT if "lora.rank" in changed else "")
                + (SCHEDULE_HINT if "updates" in changed else "")
            )


def transcript(sample: Sample) -> Record:
    """Return the record of a sample for samples.jsonl."""
    prompt = sample.prompt
    draft = prompt.judged_draft or prompt.draft
    names = sample.problem.image_names
    return {
        "problem": sample.problem.id,
        **({"images": names} if names else {}),
        "phase": prompt.phase,
        "index": sample.index if draft is None else draft.index,
        "question": sample.problem.question,
        "prompt": [list(message.as_record) for message in prompt.messages],
        "draft": None if draft is None else draft.text,
        "draft_extracted": _extracted(draft),
        "reply": sample.text,
        "extracted": _extracted(sample),
        "gold": sample.problem.gold,
        "reward": sample.reward,
        "terms": {term.name: term.value for term in sample.terms},
        "verdict": "" if sample.verdict is None else str(sample.verdict),
        "reason": sample.why_no_reward() or (sample.verdict.reason if sample.verdict else ""),
        "draft_verdict": None if draft is None else str(draft.verdict or "not graded"),
        "stop": sample.stop,
        "n_tokens": len(sample.ids),
        "version": sample.version,
        "seed": f"{prompt.seed:016x}",
    }


def _extracted(sample: Sample | None) -> str | None:
    """Return the answer that the verifier found in a reply; None if it found none, or there is no verdict."""
    return None if sample is None or sample.verdict is None else sample.verdict.extracted


def image_folder(answers: Path) -> Path:
    """Return the folder for the images of a file of answers: that of its run, or the one beside it."""
    is_of_run = answers.parent.name == "eval" and answers.stem.isdigit()
    return (answers.parent.parent if is_of_run else answers.parent) / IMAGES


def store_images(folder: Path, shown: Iterable[Problem | Sample]) -> None:
    """Write the images of problems, or of those of samples, to a folder, each once. Raise UserError if that fails."""
    for one in shown:
        store(folder, (one if isinstance(one, Problem) else one.problem).all_images)


def first_samples(groups: Sequence[Group], n: int) -> list[Sample]:
    """Return the first sample of each of n groups: the first ones of each phase and turn, as many of each."""
    kinds: dict[tuple[str, int], list[int]] = {}
    for i, group in enumerate(groups):
        if group:
            kinds.setdefault((group[0].prompt.phase, _n_drafts(group[0])), []).append(i)
    chosen: list[int] = []
    for one_of_each in zip_longest(*kinds.values()):
        chosen += [i for i in one_of_each if i is not None]
    return [groups[i][0] for i in sorted(chosen[:n])]


def _n_drafts(sample: Sample) -> int:
    """Return the number of replies that a sample follows."""
    n, draft = 0, sample.prompt.draft
    while draft is not None:
        n, draft = n + 1, draft.prompt.draft
    return n


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Record:
    flat: Record = {}
    for key, value in table.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
