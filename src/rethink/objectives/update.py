"""Updates, which a method yields to the trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rethink.objectives.parts import Part
from rethink.types import Group


@dataclass(frozen=True)
class Update:
    """The unit that a method yields: parts, trained in `n_steps` optimizer steps, each over an equal share of whole groups.

    `groups` holds all samples drawn for the update, trained or not, for the metrics. Samples of an older policy version are
    an error unless `on_policy` is False. `metrics` holds numbers of the method, which are logged as `method/NAME`.
    `rewards` holds the rewards that the advantages were computed from, by group: those of the samples, as settings
    (`truncated`, `overlong_buffer`) and the method change them. Without it, the samples' own count.

    >>> from rethink.objectives import PolicyGradient
    >>> from rethink.policies.fake import FakePolicy
    >>> from rethink.prompts import Prompts
    >>> from rethink.types import Problem, Verdict
    >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
    >>> policy = FakePolicy(lambda prompt, index, version: ("4", "it is 5")[index])
    >>> groups = policy.sample(Prompts("{question}").ask([problem]), n=2)
    >>> update = Update("solve", (PolicyGradient(groups[0], (0.5, -0.5)),), n_steps=1, groups=tuple(groups))
    >>> Update("solve", (PolicyGradient(groups[0], (0.5,)),))
    Traceback (most recent call last):
    ValueError: update 'solve': 2 samples but 1 advantages
    """

    name: str
    parts: tuple[Part, ...]
    n_steps: int = 1
    on_policy: bool = True
    groups: tuple[Group, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    rewards: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.parts, tuple):
            raise ValueError(f"update {self.name!r}: parts must be a tuple, such as (part,)")
        if self.n_steps < 1:
            raise ValueError(f"update {self.name!r}: n_steps must be at least 1, not {self.n_steps}")
        for name, value in self.metrics.items():
            if not isinstance(value, int | float):
                raise ValueError(f"update {self.name!r}: metrics[{name!r}] must be a number, not {value!r}")
        for part in self.parts:
            try:
                part.check()
            except ValueError as err:
                raise ValueError(f"update {self.name!r}: {err}") from err


def rewards_by_group(groups: Sequence[Group], rewards: Sequence[tuple[float, ...]] = ()) -> list[tuple[float, ...]]:
    """Return the rewards of each group that has any: those of an update (`Update.rewards`), or else the samples' own."""
    found = list(rewards)
    for group in () if rewards else groups:
        found.append(tuple(sample.reward for sample in group if sample.reward is not None))
    return list(filter(None, found))


def split_into_steps(part: Part, n_steps: int) -> list[Part]:
    """Return n_steps parts of whole groups, in order. Their sizes differ by at most one group; some may be empty."""
    groups: dict[str, list[int]] = {}
    for i, sample in enumerate(part.units):
        groups.setdefault(sample.prompt.group, []).append(i)
    in_order = list(groups.values())
    steps: list[Part] = []
    for k in range(n_steps):
        share = in_order[len(groups) * k // n_steps : len(groups) * (k + 1) // n_steps]
        indices: list[int] = []
        for group in share:
            indices += group
        steps.append(part.select(indices))
    return steps
