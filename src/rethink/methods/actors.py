"""What a method is given: the policy, the prompts, and the judge. Methods only name these; others implement them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rethink.objectives import Update
from rethink.policies.base import Policy
from rethink.prompts import Prompts
from rethink.types import Group, Problem


def _no_role(name: str) -> Policy:
    raise ValueError(f"there is no {name} here")


@dataclass(frozen=True)
class Actors:
    """The roles of one problem batch. `judge` returns the groups with verdicts; `role` opens "teacher" and "initial" (the
    frozen start weights), policies that are not trained. `state` is what a method remembers from batch to batch: plain
    data, saved with each checkpoint and restored from it."""

    policy: Policy
    prompts: Prompts
    judge: Callable[[Sequence[Group]], list[Group]]
    role: Callable[[Literal["teacher", "initial"]], Policy] = _no_role
    state: dict[str, Any] = field(default_factory=dict)


class Method(Protocol):
    """A method is a generator of updates: after each yield the policy has new weights."""

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]: ...
