"""Later turns of conversations: second tries, checks, revisions, and the replies that they follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

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


def in_problem_order(pairs: Iterable[tuple[Sample, float]], problems: Sequence[Problem]) -> list[tuple[Sample, float]]:
    """Return samples and their advantages in the order of the problems, and for each problem in the given order.

    Optimizer steps split samples in order, so each step then trains all turns about some of the problems."""
    place = {problem.id: n for n, problem in enumerate(problems)}
    return sorted(pairs, key=lambda pair: place[pair[0].problem.id])


def wrong_tries(groups: Sequence[Group]) -> list[Sample]:
    """Return the samples that are wrong, without those that were not graded."""
    found: list[Sample] = []
    for group in groups:
        found += [sample for sample in group if sample.right is False]
    return found


def by_first_try(groups: Sequence[Group]) -> dict[tuple[str, int], Sample]:
    """Return second tries by the keys of the first tries that they replace."""
    found: dict[tuple[str, int], Sample] = {}
    for group in groups:
        for sample in group:
            first = sample.prompt.judged_draft
            if first is not None:
                found[first.key] = sample
    return found


def following(firsts: Group, seconds: Mapping[tuple[str, int], Sample]) -> Group:
    """Return the second tries, given by the keys of the first tries, after those of one group, in its order."""
    return tuple(seconds[first.key] for first in firsts if first.key in seconds)


def feedback_on(sample: Sample) -> str:
    """Return what the verifier says about a graded reply: its reason, or the verdict if it gives none."""
    assert sample.verdict is not None
    return sample.verdict.reason or str(sample.verdict)
