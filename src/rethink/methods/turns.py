"""Later turns of conversations, problem by problem: second tries, checks, revisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rethink.types import Group, Problem, Prompt, Sample


def one_each(asks_P: Sequence[Sequence[Prompt]], sample: Callable[[Sequence[Prompt], int], list[Group]]) -> list[Group]:
    """Return one reply to each prompt, as one group per problem. A prompt that is too long has none."""
    flat: list[Prompt] = []
    for asks in asks_P:
        flat += asks
    replies = iter(sample(flat, 1))
    found = []
    for asks in asks_P:
        group: list[Sample] = []
        for _ in asks:
            group += next(replies)
        found.append(tuple(group))
    return found


def by_problem(pairs: Iterable[tuple[Sample, float]], problems: Sequence[Problem]) -> list[tuple[Sample, float]]:
    """Return samples and their advantages in the order of the problems, and for each problem in the given order.

    Optimizer steps split samples in order, so each step then trains all turns about some of the problems."""
    place = {problem.id: n for n, problem in enumerate(problems)}
    return sorted(pairs, key=lambda pair: place[pair[0].problem.id])
