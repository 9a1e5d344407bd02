"""Generative Self-Refinement (Wang et al., arXiv 2509.00084): imitate a teacher that answers directly, and that writes
one better answer from several candidates.

    L = lambda * E_direct[-log p(o | q)] + (1 - lambda) * E_refine[-log p(o' | q, o_1 .. o_k)]

There is no released code. `prepare` makes both data sets once, with candidates of the student's start weights; problems
whose candidates are all wrong are kept. Each data set is a part with its own denominator, so lambda means what the
equation says, however long the replies are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import PositiveInt

from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.methods.imitate import demonstrations
from rethink.objectives import Imitate, Update
from rethink.problems.conversation import problem_cells
from rethink.seeds import rng
from rethink.types import Group, Problem, Sample


@dataclass(frozen=True)
class GSR:
    """Imitate direct answers and answers merged from candidates: one update per problem batch.

    - `lam`: the paper's lambda: 1 trains direct answers only, 0 merged answers only.
    - `k`: the number of candidates that `prepare` samples per problem.
    - `gold_filter`: `prepare` keeps only the teacher's right replies.
    - `n_steps`: the number of optimizer steps per update.
    """

    asks_teacher: ClassVar[bool] = True
    samples: ClassVar[bool] = False

    lam: float = 0.5
    k: PositiveInt = 4
    gold_filter: bool = True
    n_steps: PositiveInt = 1

    def __post_init__(self) -> None:
        if not 0 <= self.lam <= 1:
            raise ValueError(f"lam must be between 0 and 1, not {self.lam}")

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        direct: list[Sample] = []
        refined: list[Sample] = []
        for problem in problems:
            for sample in demonstrations(actors, problem):
                if sample.prompt.phase == "solve":
                    direct.append(sample)
                if sample.prompt.phase == "merge":
                    refined.append(sample)
        if not direct and not refined:
            raise UserError(
                "GSR trains on data made by `rethink prepare`; name its columns (reply, merged, candidates)"
            )
        parts = []
        for samples, coefficient in ((direct, self.lam), (refined, 1 - self.lam)):
            if coefficient:
                parts.append(Imitate(tuple(samples), (1.0,) * len(samples), coefficient))
        yield Update("imitate", tuple(parts), self.n_steps)

    def prepare(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[dict[str, Any]]:
        """Yield one row per problem: the teacher's direct answer, and its answer merged from k candidates of the policy
        (the start weights) in random order. A reply that is wrong (with `gold_filter`) or cut becomes None; candidates
        are kept."""
        asks = actors.prompts.ask(problems)
        candidates: list[list[Sample]] = []
        texts: list[list[str]] = []
        for group in actors.rollout(asks, self.k):
            candidates.append(_shuffled(group))
            texts.append([s.text for s in candidates[-1]])
        merges = actors.prompts.ask_to_merge(problems, texts)
        teacher = actors.role("teacher")
        answers = actors.rollout(asks, 1, teacher)
        refinements = actors.rollout(merges, 1, teacher)
        for i, problem in enumerate(problems):
            direct = self._target(actors, answers[i])
            refined = self._target(actors, refinements[i]) if candidates[i] else None
            if direct is None and refined is None:
                continue
            yield {
                **problem_cells(problem),
                "candidates": texts[i],
                "n_right": sum(s.right is True for s in candidates[i]),
                "n_cut": sum(map(actors.prompts.is_cut, texts[i])),
                "direct": direct,
                "refined": refined,
            }

    def _target(self, actors: Actors, group: Group) -> str | None:
        """Return the teacher's reply, or None if it must not be imitated. A reply cut at `max_tokens` never is, because
        an end token that the teacher did not write would be trained after it."""
        for sample in group:
            if sample.stop == "length":
                actors.leave_out("of the teacher's replies, cut at sampling.max_tokens")
            if sample.stop == "stop" and (sample.right or not self.gold_filter):
                return sample.text
        return None


def _shuffled(group: Group) -> list[Sample]:
    return rng(group[0].problem.id, "candidates").sample(group, len(group)) if group else []
