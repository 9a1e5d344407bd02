"""Replay of earlier samples, kept as plain data in the method's state (selective sample replay, arXiv 2504.08837)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import NonNegativeInt

from rethink.methods.actors import Actors
from rethink.sample_data import sample_from_data, sample_to_data
from rethink.seeds import rng
from rethink.types import Sample

KEY = "replay"
"""The key of the method's state that holds the samples, oldest first."""


@dataclass(frozen=True)
class Replay:
    """Train samples of earlier updates again, drawn with probabilities in proportion to |advantage|^`alpha`.

    A sample keeps its advantage, its log-probs and its version: ratios are relative to the policy that sampled it.

    - `updates`: the number of updates after which a sample is forgotten; 0 is off.
    - `alpha`: the exponent; with 0, all samples are drawn with the same probability.
    """

    updates: NonNegativeInt = 16
    alpha: Annotated[float, Ge(0), Le(10)] = 1.0

    def draw(self, actors: Actors, n: int) -> list[tuple[Sample, float]]:
        """Return at most n samples of earlier updates, with their advantages, drawn without replacement."""
        rows = self._remembered(actors)
        random = rng(actors.prompts.seed, actors.policy.version, "replay").random
        found: list[tuple[Sample, float]] = []
        for i in choose([row["advantage"] for row in rows], self.alpha, n, random):
            found.append((sample_from_data(rows[i]["sample"]), rows[i]["advantage"]))
        return found

    def add(self, actors: Actors, pairs: Sequence[tuple[Sample, float]]) -> None:
        """Remember these samples and their advantages, and forget the oldest ones. Advantages of 0 teach nothing."""
        rows = self._remembered(actors)
        for sample, advantage in pairs if self.updates else ():
            if advantage:
                rows.append({"sample": sample_to_data(sample), "advantage": advantage})
        actors.state[KEY] = rows

    def _remembered(self, actors: Actors) -> list[dict[str, Any]]:
        oldest = actors.policy.version - self.updates
        return [row for row in actors.state.get(KEY, ()) if row["sample"]["version"] >= oldest]


def choose(advantages: Sequence[float], alpha: float, n: int, random: Callable[[], float]) -> list[int]:
    """Return the indices of at most n advantages, drawn one after the other in proportion to |advantage|^alpha.

    The indices with the largest log(u) / weight, with u uniform in (0, 1], are such a draw (Efraimidis and Spirakis 2006).
    """
    keys: list[tuple[float, int]] = []
    for i, advantage in enumerate(advantages):
        keys.append((math.log(1 - random()) / abs(advantage) ** alpha, i))
    return [i for _, i in sorted(keys, reverse=True)[:n]]
