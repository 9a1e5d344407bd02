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
        direct: list[Sample] = []
        refined: list[Sample] = []
        for problem in problems:
            for sample in transcripts(actors, problem):
                if sample.prompt.phase == "solve":
                    direct.append(sample)
                if sample.prompt.phase == "merge":
                    refined.append(sample)
        if not direct and not refined:
            raise UserError("GSR trains on sets made by `rethink prepare`; name the columns that hold them")
        parts = []
        for samples, coefficient in ((direct, self.lam), (refined, 1 - self.lam)):
            if coefficient:
                parts.append(Imitate(tuple(samples), (1.0,) * len(samples), coefficient))
        yield Update("imitate", tuple(parts), self.n_steps)

    def prepare(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[dict[str, Any]]:
        """Yield a row per problem with the teacher's direct answer and its refinement of k candidates of the policy (the
        start weights), in random order. A target that is filtered, or was cut, is None; candidates never are."""
        asks = actors.prompts.ask(problems)
        shown: list[list[Sample]] = []
        texts: list[list[str]] = []
        for group in actors.rollout(asks, self.k):
            shown.append(_shuffled(group))
            texts.append([s.text for s in shown[-1]])
        merges = actors.prompts.ask_to_merge(problems, texts)
        teacher = actors.role("teacher")
        answers = actors.rollout(asks, 1, teacher)
        refinements = actors.rollout(merges, 1, teacher)
        for i, problem in enumerate(problems):
            direct = self._kept(answers[i])
            refined = self._kept(refinements[i]) if shown[i] else None
            if direct is None and refined is None:
                continue
            yield {
                "problem": problem.id,
                "question": problem.question,
                "gold": problem.gold,
                "candidates": texts[i],
                "n_right": sum(s.right is True for s in shown[i]),
                "n_cut": sum(map(actors.prompts.is_cut, texts[i])),
                "direct": direct,
                "refined": refined,
            }

    def _kept(self, group: Group) -> str | None:
        """Return the teacher's reply; None where it is not to be taught. One that was cut at its cap never is: the end that
        is trained behind a reply was not said there."""
        for sample in group:
            if sample.stop == "stop" and (sample.right or not self.gold_filter):
                return sample.text
        return None


def _shuffled(group: Group) -> list[Sample]:
    return rng(group[0].problem.id, "candidates").sample(group, len(group)) if group else []
