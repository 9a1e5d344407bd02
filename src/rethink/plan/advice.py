"""What to change when a run does not fit: settings one by one, and the first combination that does."""

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
"""From a choice, and the longest row, to a setting in words and the choice with it."""

RANK = 16
MORE = (2, 4, 8, 16, 32, 64)
"""Numbers of GPUs that are tried."""


@dataclass(frozen=True)
class Change:
    """A setting to change, in the words of a recipe or of the command line, and the bytes that it saves alone."""

    setting: str
    choice: MemorySettings
    saved: float


def changes(estimates: Estimates, choice: MemorySettings) -> Iterator[Change]:
    """Each change that saves something, the gentle ones first: they cost time, then precision, then another kind of run.
    One that needs a package which is missing is left out."""
    before = estimates.estimate(choice)
    for step in STEPS:
        setting, changed = step(choice, estimates.longest_row)
        with suppress(UserError):
            saved = before.peak - estimates.estimate(changed).peak
            if saved > 0:
                yield Change(setting, changed, saved)


def first_fit(estimates: Estimates, choice: MemorySettings, n_bytes: float) -> tuple[list[str], MemoryEstimate]:
    """Changes one upon the other, in the same order, until the run fits; those that turn out not to be needed are left out
    again, the last ones first. If nothing is enough, the estimate does not fit either."""
    taken: list[Remedy] = []
    now = estimates.estimate(choice)
    more: list[Remedy] = [partial(_more_gpus, n) for n in MORE]
    for step in [*STEPS[:-1], *more]:
        if now.needed <= n_bytes:
            break
        with suppress(UserError):
            trial = estimates.estimate(step(now.choice, estimates.longest_row)[1])
            if trial.choice != now.choice and trial.peak <= now.peak:  # what saves nothing now may do so later
                taken.append(step)
                now = trial
    for step in list(reversed(taken)):
        rest = [other for other in taken if other is not step]
        if now.needed <= n_bytes and _applied(estimates, choice, rest)[1].needed <= n_bytes:
            taken = rest
    return _applied(estimates, choice, taken)


def _applied(estimates: Estimates, choice: MemorySettings, steps: list[Remedy]) -> tuple[list[str], MemoryEstimate]:
    settings: dict[str, str] = {}
    for step in steps:
        setting, choice = step(choice, estimates.longest_row)
        key = setting.replace("=", " ").partition(" ")[0]
        settings[key] = setting
    return list(settings.values()), estimates.estimate(choice)


def _micro_batch(now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    """No smaller than the longest row."""
    n = min(now.micro_batch_tokens, max(1024, longest_row))
    return f"training.micro_batch_tokens={n}", replace(now, micro_batch_tokens=n)


def _chunk(now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    n = min(1024, now.chunk_tokens)
    return f"training.chunk_tokens={n}", replace(now, chunk_tokens=n)


def _checkpointing(now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    return "training.gradient_checkpointing=true", replace(now, checkpointing=True)


def _cache(now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    gib = now.cache_bytes / GIB / 4
    return f"sampler.cache_gib={gib:g}", replace(now, cache_bytes=int(gib * GIB))


def _eight_bits(now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    return "training.optimizer=adamw8bit", _allowed(replace(now, optimizer="adamw8bit"))


def _adapters(now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    rank = now.rank or RANK
    return f"lora.rank={rank}", _allowed(replace(now, rank=rank))


def _twice(now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    return _more_gpus(2 * now.n_gpus, now, longest_row)


def _more_gpus(n: int, now: MemorySettings, longest_row: int) -> tuple[str, MemorySettings]:
    """That many GPUs, if these are not as many yet."""
    more = max(n, now.n_gpus)
    return f"--gpus {more}", _allowed(replace(now, n_gpus=more))


def _allowed(choice: MemorySettings) -> MemorySettings:
    """With the optimizer that `train` allows; a change of it that came before is then one that is not needed."""
    if is_unsupported(choice.optimizer, choice.rank, choice.n_gpus):
        return replace(choice, optimizer="adamw")
    return choice


STEPS: tuple[Remedy, ...] = (_micro_batch, _chunk, _checkpointing, _cache, _eight_bits, _adapters, _twice)
