"""A problem batch under way: its problems, what its method is given, and its updates as they come."""

from __future__ import annotations

from threading import Event
from typing import Any

from rethink.build import prompts
from rethink.methods.actors import Actors
from rethink.objectives import Update
from rethink.policies.base import Policy
from rethink.threads import Stopped
from rethink.train.eager_grading import Ahead
from rethink.train.meter import Meter, Metered
from rethink.train.run import Run
from rethink.types import Group


class Batch:
    """The batch with this number. Its method gets new weights with each `next`; `policy` stands in for the run's own.

    `lag` says by how many updates the samples of the last update that `next` gave are older than the weights: 0, or 1 where
    they were drawn by `begin`, before the batch's turn.
    """

    def __init__(self, run: Run, number: int, state: dict[str, Any], policy: Policy | None = None) -> None:
        self.problems = run.batch(number)
        self.meter = Meter()
        self.state = state
        self.lag = 0
        self._policy = run.policy
        self._ahead = Ahead(run.judged_phases, self.meter)
        self._begun: list[Update | None] = []
        self._stop = Event()
        actors = Actors(
            Metered(policy or run.policy, self.meter),
            prompts(run.recipe, run.pass_seed(number)),
            run.judging(self._ahead.judge),
            lambda name: Metered(run.role(name), self.meter, role=True),
            state,
        )
        self._updates = iter(run.method.updates(actors, self.problems))

    def begin(self, stop: Event | None = None) -> None:
        """Run the method to its first update, for `next` to give. Raises workers.Stopped at the next complete group once
        `stop` is set."""
        self._stop = stop or self._stop
        self._begun.append(self._advance())

    def next(self) -> Update | None:
        """The method's next update, None after the last one."""
        self.lag = len(self._begun)
        return self._begun.pop() if self._begun else self._advance()

    def _advance(self) -> Update | None:
        self._policy.on_group = self._hear
        return next(self._updates, None)

    def _hear(self, group: Group) -> None:
        if self._stop.is_set():
            raise Stopped
        self._ahead.hear(group)
