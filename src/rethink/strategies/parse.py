"""Strategies by name: `vote:8` draws eight answers and votes, `solve:8+refine+vote` refines the eight before the vote.

A strategy is a chain of stages joined by `+`; each stage takes the answers of the one before. A chain that does not begin
with `solve` or `socratic` gets a `solve` in front. The number after `solve`, or after a leading `vote`, `merge` or `best`,
is the number of first answers; after `socratic`, that of iterations; after `aggregate`, that of candidates in a prompt;
after any other stage, that of rounds. `rsa:N,K,T` is short for `solve:N`, T - 1 times `aggregate:K`, and `pick`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rethink.errors import UserError
from rethink.strategies.aggregate import aggregate, pick
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
    "pick": pick,
}
"""Stages that turn several candidates into one answer."""

DEFAULT_CANDIDATES = 4
MAX_POPULATIONS = 100
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
            elif name == "aggregate":
                attempts = aggregate(reseeded, attempts, number)
            elif name == "refine":
                is_last = place == len(self.stages) - 1
                attempts = refine(reseeded, attempts, number, setup.n_refine if is_last else 1)
            else:
                attempts = ROUNDS[name](reseeded, attempts, number)
            n_sampling_stages += name not in ("vote", "best", "pick")
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
        return any(name in REDUCERS or name == "aggregate" for name, _ in self.stages)

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
        if stages and stages[-1] == ("pick", 1) and name in REDUCERS:
            stages.pop()  # rsa:8,4,3+vote votes over the population, and pick adds nothing elsewhere
        if name == "rsa" and not stages:
            stages += _rsa_stages(text, number)
            continue
        if name not in {*ROUNDS, *REDUCERS, *FIRST, "aggregate"}:
            names = (*FIRST, "rsa", *ROUNDS, "aggregate", *REDUCERS)
            what = "rsa can only come first" if name == "rsa" else f"unknown stage {name!r}"
            raise UserError(f"strategy {text!r}: {what}; choose from {', '.join(names)}")
        if colon and not (number.isascii() and number.isdigit() and int(number)):
            raise UserError(f"strategy {text!r}: {name}:N needs a positive integer N, not {number!r}")
        if stages and (name in FIRST or (name in REDUCERS and colon)):
            remedy = f"write {name} without a number here" if name in REDUCERS else "move it to the front or remove it"
            raise UserError(f"strategy {text!r}: {part} can only come first; {remedy}")
        if not stages and name not in FIRST:
            n_first = DEFAULT_CANDIDATES if name in REDUCERS or name == "aggregate" else 1
            stages.append(("solve", int(number) if colon and name in REDUCERS else n_first))
        default = FIRST[name][1] if name in FIRST else DEFAULT_CANDIDATES if name == "aggregate" else 1
        stages.append((name, int(number) if colon and name not in REDUCERS else default))
    return Strategy(text.strip(), tuple(stages))


def _rsa_stages(text: str, numbers: str) -> list[tuple[str, int]]:
    """Return the stages of rsa:N,K,T."""
    found = re.fullmatch(r"\s*([0-9]+)\s*,\s*([0-9]+)\s*,\s*([0-9]+)\s*", numbers)
    n, k, populations = map(int, found.groups()) if found else (0, 0, 0)
    if not (0 < k <= n and 0 < populations <= MAX_POPULATIONS):
        raise UserError(
            f"strategy {text!r}: write rsa:N,K,T, such as rsa:8,4,3: N answers per population, K of them in each prompt "
            f"(at most N), and T populations (1 to {MAX_POPULATIONS}), the first answers included"
        )
    return [("solve", n), *[("aggregate", k)] * (populations - 1), ("pick", 1)]


def parse_all(text: str) -> list[Strategy]:
    """Return the strategies of a comma-separated list, without duplicates. Raise UserError if it is empty.

    >>> [strategy.name for strategy in parse_all("solve,rsa:8,4,3,vote:8")]
    ['solve', 'rsa:8,4,3', 'vote:8']
    """
    parts = re.split(r",(?!\s*[0-9])", text)  # the commas of rsa:N,K,T stand before numbers
    by_stages = {s.stages: s for s in (parse(part) for part in parts if part.strip())}
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
