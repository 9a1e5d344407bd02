"""Which settings are suggested when a run does not fit. The estimates are a made-up formula."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from rethink.plan.advice import changes, first_fit
from rethink.plan.memory import GIB, MemorySettings

SETTINGS = MemorySettings(micro_batch_tokens=8192, chunk_tokens=4096, cache_bytes=8 * GIB)


@dataclass
class FakeEstimate:
    settings: MemorySettings
    peak: float

    @property
    def needed(self) -> float:
        return self.peak + 1


class FakeEstimates:
    """Bytes: 8 per token of a micro-batch or 2 with checkpointing, 1 per token of a chunk, the cache in MiB, and an
    optimizer of 9000, 3000 with 8 bits or 100 for adapters, and 50 for a tower; the optimizer is shared by the GPUs."""

    longest_row = 2048

    def estimate(self, settings: MemorySettings) -> FakeEstimate:
        per_token = 2 if settings.checkpointing else 8
        optimizer = 100 if settings.rank else 3000 if settings.optimizer == "adamw8bit" else 9000
        optimizer += 50 if settings.vision == "all" else 0
        n_bytes = per_token * settings.micro_batch_tokens + settings.chunk_tokens
        return FakeEstimate(settings, n_bytes + settings.cache_bytes / 2**20 + optimizer / settings.n_gpus)


ESTIMATES: Any = FakeEstimates()
NEEDED = 8 * 8192 + 4096 + 8 * 1024 + 9000 + 1


def test_each_change_and_what_it_saves() -> None:
    """Guards against a change that is named but not made, and savings of another change."""
    found = {change.setting: change.saved for change in changes(ESTIMATES, SETTINGS)}
    assert found == {
        "training.micro_batch_tokens=2048": 8 * (8192 - 2048),
        "training.chunk_tokens=1024": 4096 - 1024,
        "training.gradient_checkpointing=true": 6 * 8192,
        "sampler.cache_gib=2": 6 * 1024,
        "training.optimizer=adamw8bit": 6000,
        "lora.rank=16": 8900,
        "--gpus 2": 4500,
    }


@pytest.mark.parametrize(
    ("limit", "settings"),
    [
        (NEEDED, []),
        (NEEDED - 1, ["training.micro_batch_tokens=2048"]),
        (NEEDED - 8 * 6144 - 6 * 2048, ["training.micro_batch_tokens=2048", "training.gradient_checkpointing=true"]),
        # The cache saves 6,144 bytes, which is enough: smaller chunks are dropped.
        (NEEDED - 8 * 6144 - 6 * 2048 - 6000,
         ["training.micro_batch_tokens=2048", "training.gradient_checkpointing=true", "sampler.cache_gib=2"]),
        (8000, ["training.micro_batch_tokens=2048", "training.gradient_checkpointing=true",
                "training.chunk_tokens=1024", "sampler.cache_gib=2", "lora.rank=16"]),
    ],
)  # fmt: skip
def test_the_first_combination_that_fits(limit: float, settings: list[str]) -> None:
    """Guards against settings that are not needed, and a combination that does not fit."""
    changed, estimate = first_fit(ESTIMATES, SETTINGS, limit)
    assert sorted(changed) == sorted(settings)
    assert estimate.needed <= limit


def test_a_trained_tower_is_frozen_before_adapters_and_gpus() -> None:
    """Guards against suggestions that `rethink train` refuses."""
    settings = replace(SETTINGS, vision="all")
    alone = {change.setting for change in changes(ESTIMATES, settings)}
    assert "training.vision=frozen" in alone
    assert not alone & {"lora.rank=16", "--gpus 2"}
    changed, estimate = first_fit(ESTIMATES, settings, 8000)
    assert {"training.vision=frozen", "lora.rank=16"} <= set(changed)
    assert (estimate.settings.vision, estimate.settings.rank) == ("frozen", 16)


def test_more_gpus_last_and_nothing_that_fits() -> None:
    """Guards against an endless search. With any number of GPUs, at least 7,168 bytes are needed."""
    changed, estimate = first_fit(ESTIMATES, SETTINGS, 2 * 2048 + 1024 + 2048 + 30)
    assert "--gpus 4" in changed
    assert estimate.settings.n_gpus == 4
    _, hopeless = first_fit(ESTIMATES, SETTINGS, 7000)
    assert hopeless.needed > 7000
