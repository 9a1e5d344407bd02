"""One reply to each of several prompts per problem, such as a second try after each first one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rethink.types import Group, Prompt, Sample


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
