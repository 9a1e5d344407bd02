"""Strategies by name: `vote:8` is eight answers and a vote, `solve:8+refine+vote` refines the eight before it.

A strategy is stages joined by `+`. Each takes the answers of the one before; what stands first and needs answers begins
with `solve`, of as many as its number says (`vote`, `merge`, `best`), else of one. Elsewhere the number counts rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rethink.errors import UserError
from rethink.strategies.ask import merge, refine, solve
from rethink.strategies.attempt import Attempt, Setup, reseeded
from rethink.strategies.retry import blind_retry, reflect, reflexion, self_refine
from rethink.strategies.select import best, check_comparable, check_judge, vote
from rethink.strategies.socratic import socratic
from rethink.types import Problem

ROUNDS: dict[str, Callable[[Setup, Sequence[Attempt], int], list[Attempt]]] = {
    "refine": refine,
    "reflect": reflect,
    "blind-retry": blind_retry,
    "reflexion": reflexion,
    "self-refine": self_refine,
}
CHOICES: dict[str, Callable[[Setup, Sequence[Attempt]], list[Attempt]]] = {"vote": vote, "merge": merge, "best": best}
FIRST: dict[str, tuple[Callable[[Setup, Sequence[Problem], int, int], list[Attempt]], int]] = {
    "solve": (solve, 1),
    "socratic": (socratic, 20),
}
USUAL_CANDIDATES = 4
NEEDS = {
    "reflect": "verifier",
    "blind-retry": "verifier",
    "reflexion": "verifier",
    "best": "judge",
    "vote": "comparable answers",
    "socratic": "comparable answers",
}


@dataclass(frozen=True)
class Strategy:
    """Stages with their numbers, the first a first answer. `name` is how it was written."""

    name: str
    stages: tuple[tuple[str, int], ...]

    def run(self, setup: Setup, problems: Sequence[Problem], repeats: int = 1) -> list[Attempt]:
        """Return the attempts at each problem, in order, one per repeat."""
        first, n = self.stages[0]
        return self.go_on(setup, FIRST[first][0](setup, problems, n, repeats))

    def go_on(self, setup: Setup, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Return what the stages behind the first make of the attempts."""
        found = list(attempts)
        n_drawing = 0
        for place, (name, number) in enumerate(self.stages[1:], start=1):
            inner = replace(setup, prompts=reseeded(setup.prompts, "stage", n_drawing))
            if name in CHOICES:
                found = CHOICES[name](inner, found)
            elif name == "refine":
                is_last = place == len(self.stages) - 1
                found = refine(inner, found, number, setup.n_refine if is_last else 1)
            else:
                found = ROUNDS[name](inner, found, number)
            n_drawing += name not in ("vote", "best")
        return found

    @property
    def needs(self) -> set[str]:
        """What it cannot go without: "verifier", "judge", "comparable answers"."""
        return {NEEDS[name] for name, _ in self.stages if name in NEEDS}

    @property
    def revises(self) -> bool:
        """Whether it looks back on single answers, so that one can ask what became of each."""
        return any(name in ROUNDS for name, _ in self.stages)

    @property
    def n_solve(self) -> int:
        """How many first answers it draws."""
        return self.stages[0][1] if self.stages[0][0] == "solve" else 0


def parse(text: str) -> Strategy:
    """The strategy of a name. Raises UserError for a name that is none."""
    found: list[tuple[str, int]] = []
    for part in text.strip().split("+"):
        name, colon, number = part.strip().partition(":")
        if name not in {*ROUNDS, *CHOICES, *FIRST}:
            raise UserError(f"strategy {text!r}: no {name!r}; there are {', '.join((*FIRST, *ROUNDS, *CHOICES))}")
        if colon and not (number.isascii() and number.isdigit() and int(number)):
            raise UserError(f"strategy {text!r}: {name}:N needs a positive integer N, not {number!r}")
        if found and (name in FIRST or (name in CHOICES and colon)):
            raise UserError(f"strategy {text!r}: {part} can only stand first; {_hint(name)}")
        if not found and name not in FIRST:
            found.append(("solve", (int(number) if colon else USUAL_CANDIDATES) if name in CHOICES else 1))
        usual = FIRST[name][1] if name in FIRST else 1
        found.append((name, int(number) if colon and name not in CHOICES else usual))
    return Strategy(text.strip(), tuple(found))


def _hint(name: str) -> str:
    return f"write {name} without a number here" if name in CHOICES else "put it there, or leave it out"


def parse_all(text: str) -> list[Strategy]:
    """Strategies separated by commas, each once. Raises UserError where there is none."""
    found = {s.stages: s for s in (parse(part) for part in text.split(",") if part.strip())}
    if not found:
        raise UserError("no strategy is named")
    return list(found.values())


def check_needs(strategies: Sequence[Strategy], problems: Sequence[Problem], judge: bool) -> None:
    """Raise UserError where a strategy needs answers that can be compared, or a judge, and there is none."""
    for strategy in strategies:
        if "judge" in strategy.needs:
            check_judge(judge)
        if "comparable answers" in strategy.needs:
            for problem in problems:
                check_comparable(problem, strategy.name)
