"""Runs of shipped recipes on small random models, and what must hold for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from rethink.objectives import PolicyGradient, Update
from rethink.policies.base import Policy
from rethink.recipe import load_recipe
from rethink.training.loop import train
from rethink.training.run import Run, open_run
from rethink.types import Sample

SIZES = [
    *("model.device=cpu", "updates=2", "problems_per_batch=4", "checkpoint_every=100", "n_logged_samples=2"),
    *("sampler.cache_gib=0.25", "sampler.max_prompt_tokens=7000", "sampler.dtype=float32"),
]
TRAINING = ["training.autocast=none", "training.micro_batch_tokens=0"]
EVALUATION = ["evaluation.every=0", "evaluation.problems.limit=1", "evaluation.sampling.max_tokens=5"]


@dataclass
class Ran:
    """A finished run: its updates, the trainer's metrics of each, and the logged records."""

    run: Run
    updates: list[Update] = field(default_factory=list)
    numbers: list[dict[str, float]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)

    @property
    def samples(self) -> list[Sample]:
        return [s for update in self.updates for group in update.groups for s in group]

    def part(self, n: int = 0) -> PolicyGradient:
        (part,) = self.updates[n].parts
        assert isinstance(part, PolicyGradient)
        return part


def run_recipe(recipe: str, *settings: str, teacher: Callable[[Run], Policy] | None = None) -> Ran:
    """Run the recipe to its end with these settings."""
    resolved = load_recipe(recipe, [*SIZES, *TRAINING, *EVALUATION, *settings])
    ran = Ran(open_run(resolved, warn=pytest.fail))
    apply = ran.run.trainer.apply

    def record(update: Update, lag: int = 0) -> dict[str, float]:
        ran.updates.append(update)
        ran.numbers.append(apply(update, lag))
        return ran.numbers[-1]

    ran.run.trainer.apply = record  # type: ignore[method-assign]
    if teacher is not None:
        ran.run.roles["teacher"] = teacher(ran.run)
    ran.records = list(train(ran.run))
    return ran


def check_run(ran: Ran, n_updates: int = 2) -> None:
    """Check what must hold for every recipe."""
    assert ran.run.trainer.version == n_updates
    *records, evaluation = ran.records
    assert [r["alarms"] for r in records] == [[]] * n_updates
    assert (evaluation["phase"], evaluation["update"]) == ("evaluation", n_updates)
    assert ran.run.newest_checkpoint() is not None
    assert any(numbers.get("grad_norm", 0.0) > 0 for numbers in ran.numbers), "nothing was learned"
    chat = ran.run.trainer.model.chat
    stop_ids = chat.stop_ids
    for s in ran.samples:
        assert s.prompt_ids == chat.encode(s.prompt.messages)
        cut = s.ids[:-1] if s.stop == "stop" else s.ids
        assert s.stop == "length" or (s.ids[-1] in stop_ids and s.mask[-1]), "an end token that is not trained"
        assert s.forced or not stop_ids & set(cut), "a reply that continues after its end"
        assert s.stop == "stop" or len(s.ids) == s.sampling.max_tokens
    for numbers in ran.numbers:
        # The same float32 operations in another order; log-probs have a size of 5.
        assert numbers.get("mismatch/log_prob_gap_max", 0.0) < 2e-4
