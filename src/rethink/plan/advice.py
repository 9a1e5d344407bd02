"""What to change when a run does not fit: settings one by one, and the first combination that does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from rethink.plan.estimate import Choice, Estimate
from rethink.plan.memory import GIB

Step = Callable[[Estimate], tuple[str, Choice]]
"""A setting to change, in words, and the choice with it."""

RANK = 16
MORE = (2, 4, 8, 16, 32, 64)
"""Numbers of GPUs that are tried."""


@dataclass(frozen=True)
class Change:
    """A setting to change, in the words of a recipe or of the command line, and what it saves at the peak, alone."""

    setting: str
    choice: Choice
    saved: float


def changes(before: Estimate) -> Iterator[Change]:
    """Each change that saves something, the gentle ones first: they cost time, then precision, then another kind of run."""
    for step in STEPS:
        setting, choice = step(before)
        saved = before.peak - replace(before, choice=choice).peak
        if saved > 0:
            yield Change(setting, choice, saved)


def first_fit(before: Estimate, n_bytes: float) -> tuple[list[str], Estimate]:
    """Changes one upon the other, in the same order, until the run fits; those that turn out not to be needed are left out
    again, the last ones first. If nothing is enough, the estimate does not fit either."""
    taken: list[Step] = []
    now = before
    for step in (*STEPS[:-1], *map(_more_gpus, MORE)):
        if now.needed <= n_bytes:
            break
        trial = replace(now, choice=step(now)[1])
        if (
            trial.choice != now.choice and trial.peak <= now.peak
        ):  # what does not help now may help once something else is out of the way
            taken, now = [*taken, step], trial
    for step in list(reversed(taken)):
        rest = [other for other in taken if other is not step]
        if now.needed <= n_bytes and _applied(before, rest)[1].needed <= n_bytes:
            taken = rest
    return _applied(before, taken)


def _applied(before: Estimate, steps: list[Step]) -> tuple[list[str], Estimate]:
    settings: dict[str, str] = {}
    now = before
    for step in steps:
        setting, choice = step(now)
        settings[setting.replace("=", " ").partition(" ")[0]] = setting
        now = replace(now, choice=choice)
    return list(settings.values()), now


def _micro_batch(now: Estimate) -> tuple[str, Choice]:
    """No smaller than the longest row."""
    n = min(now.choice.micro_batch_tokens, max([1024, *now.counted.rows]))
    return f"training.micro_batch_tokens={n}", replace(now.choice, micro_batch_tokens=n)


def _chunk(now: Estimate) -> tuple[str, Choice]:
    n = min(1024, now.choice.setup.chunk_tokens)
    return f"training.chunk_tokens={n}", now.choice.with_(chunk_tokens=n)


def _recompute(now: Estimate) -> tuple[str, Choice]:
    return "training.gradient_checkpointing=true", now.choice.with_(recompute=True)


def _cache(now: Estimate) -> tuple[str, Choice]:
    gib = now.choice.setup.cache_bytes / GIB / 4
    return f"limits.cache_gib={gib:g}", now.choice.with_(cache_bytes=int(gib * GIB))


def _eight_bits(now: Estimate) -> tuple[str, Choice]:
    return "training.optimizer=adamw8bit", _allowed(now.choice.with_(optimizer="adamw8bit"))


def _adapters(now: Estimate) -> tuple[str, Choice]:
    rank = now.choice.setup.rank or RANK
    return f"lora.rank={rank}", _allowed(now.choice.with_(rank=rank))


def _twice(now: Estimate) -> tuple[str, Choice]:
    return _more_gpus(2 * now.choice.setup.n_gpus)(now)


def _more_gpus(n: int) -> Step:
    """That many GPUs, if these are not as many yet."""

    def step(now: Estimate) -> tuple[str, Choice]:
        more = max(n, now.choice.setup.n_gpus)
        return f"--gpus {more}", _allowed(now.choice.with_(n_gpus=more))

    return step


def _allowed(choice: Choice) -> Choice:
    """Adapters on several GPUs have AdamW with all its bits: `train` refuses another. A change of the optimizer that came
    before is then one that is not needed."""
    setup = choice.setup
    return choice.with_(optimizer="adamw") if setup.rank and setup.n_gpus > 1 else choice


STEPS: tuple[Step, ...] = (_micro_batch, _chunk, _recompute, _cache, _eight_bits, _adapters, _twice)
