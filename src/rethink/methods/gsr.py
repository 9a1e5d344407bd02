"""Generative Self-Refinement (Wang et al., arXiv 2509.00084): learn to answer, and to write one better answer from several
candidates, from a teacher's replies to both prompts.

    L = lambda * E_direct[-log p(o | q)] + (1 - lambda) * E_refine[-log p(o' | q, o_1 .. o_k)]

There is no released code. The two sets are made once by `prepare` (candidates of the student's start weights; problems
whose candidates are all wrong stay in). Each set is a part with its own denominator, so that lambda means what the equation
says, whatever the replies' lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.methods.imitate import transcripts
from rethink.objectives import Imitate, Update
from rethink.seeds import rng
from rethink.types import Group, Problem, Sample


@dataclass(frozen=True)
class GSR:
    """One update per problem batch. `lam` weighs direct answers: 1 trains them alone, 0 refinements alone. `k` and
    `gold_filter` (keep a teacher's reply only if it is right) belong to `prepare`."""

    lam: float = 0.5
    k: int = 4
    gold_filter: bool = True
    n_steps: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise ValueError(f"lam must lie in [0, 1], not {self.lam}")

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        samples = [s for p in problems for s in transcripts(actors, p)]
        direct = [s for s in samples if s.prompt.phase == "solve"]
        refined = [s for s in samples if s.prompt.phase == "merge"]
        if not direct and not refined:
            raise UserError("GSR trains on sets made by `rethink prepare`; name the columns that hold them")
        parts = (_imitate(direct, self.lam), _imitate(refined, 1 - self.lam))
        yield Update("imitate", tuple(part for part in parts if part.coefficient), self.n_steps)

    def prepare(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[dict[str, Any]]:
        """A row per problem with the teacher's direct answer and its refinement of k candidates of the policy (the start
        weights), in random order. A target that is filtered, or was cut, is None; candidates are never filtered."""
        asks = actors.prompts.ask(problems)
        candidates = actors.rollout(asks, self.k)
        shown = [
            rng(p.id, "candidates").sample(group, len(group)) for p, group in zip(problems, candidates, strict=True)
        ]
        merges = actors.prompts.ask_to_merge(problems, [[s.text for s in group] for group in shown])
        teacher = actors.role("teacher")
        targets = [actors.rollout(prompts, 1, teacher) for prompts in (asks, merges)]
        for problem, group, *replies in zip(problems, shown, *targets, strict=True):
            direct, refined = (self._kept(reply) for reply in (replies[0], replies[1] if group else ()))
            if direct is not None or refined is not None:
                yield {
                    "problem": problem.id,
                    "question": problem.question,
                    "gold": problem.gold,
                    "candidates": [s.text for s in group],
                    "n_right": sum(s.right is True for s in group),
                    "n_cut": sum(actors.prompts.is_cut(s.text) for s in group),
                    "direct": direct,
                    "refined": refined,
                }

    def _kept(self, group: Group) -> str | None:
        """The teacher's reply; None where it is not to be taught. One that was cut at its cap never is: the end that is
        trained behind a reply was not said there."""
        taught = [s.text for s in group if s.stop == "stop" and (s.right or not self.gold_filter)]
        return taught[0] if taught else None


def _imitate(samples: Sequence[Sample], coefficient: float) -> Imitate:
    return Imitate(tuple(samples), (1.0,) * len(samples), coefficient)
