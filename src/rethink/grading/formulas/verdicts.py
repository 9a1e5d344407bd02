"""Combine verdicts on parts: all of them, any of them, or a matching of items in any order.

A part that cannot be judged (NotJudged) decides nothing: the whole is wrong if another part differs, right if another
alternative is equal, and otherwise not judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from rethink.grading.formulas.tree import Tree


class NotJudged(Exception):
    """Two answers cannot be compared; the message says why."""


Equal = Callable[[Tree, Tree], bool]
Pairs = Iterable[tuple[Tree, Tree]]


def every(pairs: Pairs, equal: Equal) -> bool:
    """Return whether all pairs are equal."""
    doubt: NotJudged | None = None
    for a, b in pairs:
        try:
            if not equal(a, b):
                return False
        except NotJudged as err:
            doubt = err
    if doubt is not None:
        raise doubt
    return True


def any_of(checks: Iterable[Callable[[], bool]]) -> bool:
    """Return whether one of the checks holds."""
    doubt: NotJudged | None = None
    for check in checks:
        try:
            if check():
                return True
        except NotJudged as err:
            doubt = err
    if doubt is not None:
        raise doubt
    return False


def some(pairs: Pairs, equal: Equal) -> bool:
    """Return whether a pair is equal."""
    return any_of(partial(equal, a, b) for a, b in pairs)


def same_items(ours: Sequence[Tree], theirs: Sequence[Tree], equal: Equal) -> bool:
    """Return whether the items match one to one in some order.

    Equality need not be transitive (50% equals 0.5 and 50), so this looks for a matching of all. Each pair is compared at
    most once."""
    if len(ours) != len(theirs):
        return False
    table = _Table(ours, theirs, equal)
    if _all_matched(table, len(ours), doubtful=False):
        return True
    if table.doubt is not None and _all_matched(table, len(ours), doubtful=True):
        raise table.doubt
    return False


class _Table:
    """The verdicts on all pairs of items, each found when it is first asked for."""

    def __init__(self, ours: Sequence[Tree], theirs: Sequence[Tree], equal: Equal) -> None:
        self.ours, self.theirs, self.equal = ours, theirs, equal
        self.doubt: NotJudged | None = None
        self._known: dict[tuple[int, int], bool | None] = {}

    def may_match(self, i: int, j: int, doubtful: bool) -> bool:
        if (i, j) not in self._known:
            try:
                self._known[i, j] = self.equal(self.ours[i], self.theirs[j])
            except NotJudged as err:
                self._known[i, j], self.doubt = None, err
        verdict = self._known[i, j]
        return verdict is True or (doubtful and verdict is None)

    def candidates(self, i: int) -> list[int]:
        """Return the other side's items, those of the same text first."""
        places = range(len(self.theirs))
        return sorted(places, key=lambda j: (self.theirs[j] != self.ours[i], j))


def _all_matched(table: _Table, n: int, doubtful: bool) -> bool:
    """Return whether every item finds a partner, as the augmenting paths of a bipartite matching."""
    partner: dict[int, int] = {}
    for start in range(n):
        came_from: dict[int, int] = {}
        waiting, end = [start], -1
        while waiting and end < 0:
            i = waiting.pop()
            for j in table.candidates(i):
                if j in came_from or not table.may_match(i, j, doubtful):
                    continue
                came_from[j] = i
                if j not in partner:
                    end = j
                    break
                waiting.append(partner[j])
        if end < 0:
            return False
        while end >= 0:  # turn the path around
            i = came_from[end]
            before = next((j for j, k in partner.items() if k == i), -1)
            partner[end] = i
            end = before
    return True
