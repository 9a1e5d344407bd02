"""Strategies by name: `vote:8` draws eight answers and votes, `solve:8+refine+vote` refines the eight before the vote.

A strategy is a chain of stages joined by `+`; each stage takes the answers of the one before. A chain that does not begin
with `solve` or `socratic` gets a `solve` in front. The number after `solve`, or after a leading `vote`, `merge` or `best`,
is the number of first answers; after `socratic`, that of iterations; after any other stage, that of rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rethink.errors import UserError
from rethink.strategies.attempt import Attempt, Setup, reseed
from rethink.strategies.best_of_n import best_of_n, check_judge
from rethink.strategies.fresh_retry import fresh_retry
from rethink.strategies.merge import merge
from rethink.strategies.refine import refine
from rethink.strategies.reflect import blind_retry, reflect
from rethink.strategies.reflexion import reflexion
from rethink.strategies.self_refine import self_refine
from rethink.strategies.socratic import socratic
from rethink.strategies.solve import solve
from rethink.strategies.vote import check_comparable, vote
from rethink.types import Problem

FIRST: dict[str, tuple[Callable[[Setup, Sequence[Problem], int, int], list[Attempt]], int]] = {
    "solve": (solve, 1),
    "socratic": (socratic, 20),
}
"""Stages that start from problems, each with its default number."""

ROUNDS: dict[str, Callable[[Setup, Sequence[Attempt], int], list[Attempt]]] = {
    "refine": refine,
    "reflect": reflect,
    "blind-retry": blind_retry,
    "reflexion": reflexion,
    "fresh-retry": fresh_retry,
    "self-refine": self_refine,
}
"""Stages that revise or replace each answer, in rounds."""

REDUCERS: dict[str, Callable[[Setup, Sequence[Attempt]], list[Attempt]]] = {
    "vote": vote,
    "merge": merge,
    "best": best_of_n,
}
"""Stages that turn several candidates into one answer."""

DEFAULT_CANDIDATES = 4
NEEDS = {
    "reflect": "verifier",
    "blind-retry": "verifier",
    "reflexion": "verifier",
    "fresh-retry": "verifier",
    "best": "judge",
    "vote": "comparable answers",
    "socratic": "comparable answers",
}


@dataclass(frozen=True)
class Strategy:
    """A chain of stages, each with its number. `name` is the text that was parsed."""

    name: str
    stages: tuple[tuple[str, int], ...]

    def run(self, setup: Setup, problems: Sequence[Problem], repeats: int = 1) -> list[Attempt]:
        """Return the attempts at each problem, in order, one per repeat."""
        first, n = self.stages[0]
        return self.continue_from(setup, FIRST[first][0](setup, problems, n, repeats))

    def continue_from(self, setup: Setup, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Run all stages but the first, on attempts that have first answers."""
        attempts = list(attempts)
        n_sampling_stages = 0
        for place, (name, number) in enumerate(self.stages[1:], start=1):
            reseeded = replace(setup, prompts=reseed(setup.prompts, "stage", n_sampling_stages))
            if name in REDUCERS:
                attempts = REDUCERS[name](reseeded, attempts)
            elif name == "refine":
                is_last = place == len(self.stages) - 1
                attempts = refine(reseeded, attempts, number, setup.n_refine if is_last else 1)
            else:
                attempts = ROUNDS[name](reseeded, attempts, number)
            n_sampling_stages += name not in ("vote", "best")
        return attempts

    @property
    def needs(self) -> set[str]:
        """What it requires: "verifier", "judge", "comparable answers"."""
        return {NEEDS[name] for name, _ in self.stages if name in NEEDS}

    @property
    def revises(self) -> bool:
        """True if it revises or replaces single answers; only then are fix and damage rates defined."""
        return any(name in ROUNDS for name, _ in self.stages)

    @property
    def chooses(self) -> bool:
        """True if it chooses among several answers, or writes one from all of them."""
        return any(name in REDUCERS for name, _ in self.stages)

    @property
    def n_solve(self) -> int:
        """The number of first answers per problem."""
        return self.stages[0][1] if self.stages[0][0] == "solve" else 0


def parse(text: str) -> Strategy:
    """Return the strategy with this name. Raise UserError for an unknown stage, a bad number or a stage out of place.

    >>> parse("vote:8+refine").stages
    (('solve', 8), ('vote', 1), ('refine', 1))
    """
    stages: list[tuple[str, int]] = []
    for part in text.strip().split("+"):
        name, colon, number = part.strip().partition(":")
        if name not in {*ROUNDS, *REDUCERS, *FIRST}:
            raise UserError(
                f"strategy {text!r}: unknown stage {name!r}; choose from {', '.join((*FIRST, *ROUNDS, *REDUCERS))}"
            )
        if colon and not (number.isascii() and number.isdigit() and int(number)):
            raise UserError(f"strategy {text!r}: {name}:N needs a positive integer N, not {number!r}")
        if stages and (name in FIRST or (name in REDUCERS and colon)):
            remedy = f"write {name} without a number here" if name in REDUCERS else "move it to the front or remove it"
            raise UserError(f"strategy {text!r}: {part} can only come first; {remedy}")
        if not stages and name not in FIRST:
            stages.append(("solve", (int(number) if colon else DEFAULT_CANDIDATES) if name in REDUCERS else 1))
        default = FIRST[name][1] if name in FIRST else 1
        stages.append((name, int(number) if colon and name not in REDUCERS else default))
    return Strategy(text.strip(), tuple(stages))


def parse_all(text: str) -> list[Strategy]:
    """Return the strategies of a comma-separated list, without duplicates. Raise UserError if it is empty."""
    by_stages = {s.stages: s for s in (parse(part) for part in text.split(",") if part.strip())}
    if not by_stages:
        raise UserError("no strategy is given")
    return list(by_stages.values())


def check_needs(strategies: Sequence[Strategy], problems: Sequence[Problem], judge: bool) -> None:
    """Raise UserError if a strategy needs a judge and there is none, or needs answers that cannot be compared."""
    for strategy in strategies:
        if "judge" in strategy.needs:
            check_judge(judge)
        if "comparable answers" in strategy.needs:
            for problem in problems:
                check_comparable(problem, strategy.name)
