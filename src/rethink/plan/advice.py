"""Settings that make a run fit: each alone, and the first combination that is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from rethink.errors import UserError
from rethink.plan.estimate import Estimates, MemoryEstimate
from rethink.plan.memory import GIB, MemorySettings
from rethink.training.optimizer import is_unsupported

Remedy = Callable[[MemorySettings, int], tuple[str, MemorySettings]]
"""A function of the settings and the longest row; it returns a setting in words, and the changed settings."""

RANK = 16
"""The rank of the adapters that are suggested."""

N_GPUS = (2, 4, 8, 16, 32, 64)
"""The numbers of GPUs to try."""


@dataclass(frozen=True)
class Change:
    """A setting to change, as written in a recipe or on the command line, and the bytes that it saves by itself."""

    setting: str
    settings: MemorySettings
    saved: float


def changes(estimates: Estimates, settings: MemorySettings) -> Iterator[Change]:
    """Yield each change that saves memory: those that cost time, then those that cost precision, then another kind of run.

    Skip changes that need a package that is not installed.
    """
    before = estimates.estimate(settings)
    for step in STEPS:
        setting, changed = step(settings, estimates.longest_row)
        with suppress(UserError):
            saved = before.peak - estimates.estimate(changed).peak
            if saved > 0:
                yield Change(setting, changed, saved)


def first_fit(estimates: Estimates, settings: MemorySettings, n_bytes: float) -> tuple[list[str], MemoryEstimate]:
    """Add changes in the same order until the run fits, then drop those that are not needed, the last ones first.

    Return the settings to change and the estimate with them, which does not fit if no combination is enough.
    """
    taken: list[Remedy] = []
    now = estimates.estimate(settings)
    more: list[Remedy] = [partial(_more_gpus, n) for n in N_GPUS]
    for step in [*STEPS[:-1], *more]:
        if now.needed <= n_bytes:
            break
        with suppress(UserError):
            trial = estimates.estimate(step(now.settings, estimates.longest_row)[1])
            if trial.settings != now.settings and trial.peak <= now.peak:  # equal: it may save something later
                taken.append(step)
                now = trial
    for step in list(reversed(taken)):
        rest = [other for other in taken if other is not step]
        if now.needed <= n_bytes and _applied(estimates, settings, rest)[1].needed <= n_bytes:
            taken = rest
    return _applied(estimates, settings, taken)


def _applied(estimates: Estimates, settings: MemorySettings, steps: list[Remedy]) -> tuple[list[str], MemoryEstimate]:
    changed: dict[str, str] = {}
    for step in steps:
        setting, settings = step(settings, estimates.longest_row)
        key = setting.replace("=", " ").partition(" ")[0]
        changed[key] = setting
    return list(changed.values()), estimates.estimate(settings)


def _smaller_micro_batches(now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    """Make micro-batches smaller, but no smaller than the longest row."""
    n = min(now.micro_batch_tokens, max(1024, longest_row))
    return f"training.micro_batch_tokens={n}", replace(now, micro_batch_tokens=n)


def _smaller_chunks(now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    n = min(1024, now.chunk_tokens)
    return f"training.chunk_tokens={n}", replace(now, chunk_tokens=n)


def _use_checkpointing(now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    return "training.gradient_checkpointing=true", replace(now, checkpointing=True)


def _smaller_cache(now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    gib = now.cache_bytes / GIB / 4
    return f"sampler.cache_gib={gib:g}", replace(now, cache_bytes=int(gib * GIB))


def _use_eight_bits(now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    return "training.optimizer=adamw8bit", _with_supported_optimizer(replace(now, optimizer="adamw8bit"))


def _freeze_vision(now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    return "training.vision=frozen", replace(now, vision="frozen")


def _use_adapters(now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    rank = now.rank or RANK
    if now.vision != "frozen":  # adapters train the language model alone
        return f"lora.rank={rank}", now
    return f"lora.rank={rank}", _with_supported_optimizer(replace(now, rank=rank))


def _twice_the_gpus(now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    return _more_gpus(2 * now.n_gpus, now, longest_row)


def _more_gpus(n: int, now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    """Use n GPUs, unless there are more already; only one if a vision tower is trained."""
    more = max(n, now.n_gpus) if now.vision == "frozen" else 1
    return f"--gpus {more}", _with_supported_optimizer(replace(now, n_gpus=more))


def _with_supported_optimizer(settings: MemorySettings) -> MemorySettings:
    """Return the settings with an optimizer that `rethink train` supports; an earlier change of it is then dropped."""
    if is_unsupported(settings.optimizer, settings.rank, settings.n_gpus):
        return replace(settings, optimizer="adamw")
    return settings


STEPS: tuple[Remedy, ...] = (
    _smaller_micro_batches,
    _smaller_chunks,
    _use_checkpointing,
    _smaller_cache,
    _use_eight_bits,
    _freeze_vision,
    _use_adapters,
    _twice_the_gpus,
)
