"""Grading while sampling goes on: a group is judged as soon as it is complete, not when the last one is."""

from __future__ import annotations

from collections.abc import Sequence

from rethink.problems.judging import judge
from rethink.train.meter import Meter
from rethink.types import Group


class Ahead:
    """Judges groups of phases that the method has had judged before; `phases` remembers these from batch to batch.

    A verdict depends on the reply alone, so that it does not matter when it is given.
    """

    def __init__(self, phases: set[str], meter: Meter) -> None:
        self.phases = phases
        self.meter = meter
        self._judged: dict[int, tuple[Group, Group]] = {}

    def hear(self, group: Group) -> None:
        """A complete group, while others are still being sampled. This time counts as sampling."""
        if group and group[0].prompt.phase in self.phases:
            self._judged[id(group)] = group, judge([group])[0]

    def judge(self, groups: Sequence[Group]) -> list[Group]:
        """The groups with verdicts, in order; what was not judged ahead is judged now."""
        with self.meter.stage("grade_s"):
            self.phases.update(group[0].prompt.phase for group in groups if group)
            return [self._verdict(group) for group in groups]

    def _verdict(self, group: Group) -> Group:
        known, judged = self._judged.pop(id(group), (None, group))
        return judged if known is group else judge([group])[0]
