"""Keys and values of earlier prompts and replies, for later prompts that begin with the same token ids.

A tree: the ids on the way from the root to a node are a beginning that was computed, and each node holds the keys and
values of its own stretch of it, so that what two beginnings share is held once. For `1 2 3 4` and `1 2 7`::

    root -- 1 2 --+-- 3 4
                  +-- 7
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor

Ids = tuple[int, ...]

KeyValues = list[Tensor]
"""Keys and values [T, K, D] of some tokens, layer by layer: keys, values, keys, values, ..."""


class PrefixNode:
    """A stretch of ids with its keys and values, and what follows it, by first id."""

    def __init__(self, ids: Ids, kept: KeyValues, parent: PrefixNode | None) -> None:
        self.ids = ids
        self.kept = kept
        self.parent = parent
        self.children: dict[int, PrefixNode] = {}


class PrefixCache:
    """Beginnings with their keys and values, at most `limit_bytes` of them; the longest unused goes first.

    Ids are compared one by one: a beginning is found when all of its ids are the same, and never otherwise.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.n_bytes = 0
        self._root = PrefixNode((), [], None)
        # From the longest unused to the last used. A node comes behind all below it, so that the first is always a leaf.
        self._order: OrderedDict[PrefixNode, None] = OrderedDict()

    def clear(self) -> None:
        """Drop everything."""
        while self._order:
            self._drop_oldest()

    def n_cached(self, ids: Ids) -> int:
        """Return the length of the longest beginning of `ids` that is kept."""
        return sum(n for _, n in self._path(ids))

    def find(self, ids: Ids) -> list[KeyValues]:
        """Return keys and values of the longest beginning of `ids` that is kept, stretch by stretch; it counts as used."""
        path = self._path(ids)
        self._use([node for node, _ in path])
        found: list[KeyValues] = []
        for node, n in path:
            found.append([tensor[:n] for tensor in node.kept])
        return found

    def store(self, ids: Ids, columns: Callable[[int, int], KeyValues]) -> None:
        """Keep what is not kept yet of `ids`; `columns` gives a copy of the keys and values from a token to before another.

        Nothing is kept of ids that are over the limit by themselves.
        """
        token_bytes = sum(tensor.nbytes for tensor in columns(0, 1)) if ids else 0
        if len(ids) * token_bytes > self.limit_bytes:
            return
        path = self._path(ids)
        above: list[PrefixNode] = []
        start = 0
        for node, n in path:
            above.append(node)
            start += n
        if start == len(ids):
            self._use(above)
            return
        if path and path[-1][1] < len(above[-1].ids):
            above[-1] = self._split(*path[-1])
        self._use(above)
        # What lies outside the way of `ids` is dropped before anything on it; with that alone, `ids` fit.
        self._make_room((len(ids) - start) * token_bytes)
        parent = above[-1] if above else self._root
        new = PrefixNode(ids[start:], columns(start, len(ids)), parent)
        parent.children[ids[start]] = new
        self.n_bytes += (len(ids) - start) * token_bytes
        self._use([*above, new])

    def _path(self, ids: Ids) -> list[tuple[PrefixNode, int]]:
        """Return the nodes on the way of `ids`, and how many ids of each are on it: all, but for the last."""
        path: list[tuple[PrefixNode, int]] = []
        node, start = self._root, 0
        while start < len(ids) and (child := node.children.get(ids[start])) is not None:
            n = n_common(child.ids, ids[start : start + len(child.ids)])
            path.append((child, n))
            start += n
            if n < len(child.ids):
                break
            node = child
        return path

    def _use(self, path: Sequence[PrefixNode]) -> None:
        for node in reversed(path):
            self._order[node] = None
            self._order.move_to_end(node)

    def _make_room(self, n_bytes: int) -> None:
        while self.n_bytes + n_bytes > self.limit_bytes:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        leaf, _ = self._order.popitem(last=False)
        assert leaf.parent is not None
        del leaf.parent.children[leaf.ids[0]]
        self.n_bytes -= sum(tensor.nbytes for tensor in leaf.kept)

    def _split(self, node: PrefixNode, n: int) -> PrefixNode:
        """Return the new node of the first n ids, put above the rest."""
        assert node.parent is not None
        first = PrefixNode(node.ids[:n], [], node.parent)
        for i, tensor in enumerate(node.kept):  # one by one: both copies of all of them would be twice the memory
            first.kept.append(tensor[:n].clone())
            node.kept[i] = tensor[n:].clone()
        node.parent.children[node.ids[0]] = first
        first.children[node.ids[n]] = node
        node.ids, node.parent = node.ids[n:], first
        self._order[first] = None
        return first


def shared_prefixes(ids_P: Sequence[Ids], prefixes: PrefixCache, worth: int) -> list[Ids]:
    """Return what several of the prompts begin with, where at least `worth` tokens of it are not kept; none of these begins
    another."""
    ordered = sorted(ids_P)  # what two prompts share is longest between neighbors
    shared: set[Ids] = set()
    for k, ids in enumerate(ordered):
        before = n_common(ids, ordered[k - 1]) if k > 0 else 0
        after = n_common(ids, ordered[k + 1]) if k + 1 < len(ordered) else 0
        beginning = ids[: max(before, after)]
        if len(beginning) - prefixes.n_cached(beginning) >= worth:
            shared.add(beginning)
    found: list[Ids] = []
    for ids in sorted(shared, reverse=True):  # longer ones come before their beginnings
        if not found or found[-1][: len(ids)] != ids:
            found.append(ids)
    return found[::-1]


def n_common(a: Ids, b: Ids) -> int:
    """Return how many ids both begin with."""
    if a == b:
        return len(a)
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
