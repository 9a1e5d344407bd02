"""Keys and values of earlier prompts and replies, for later prompts that begin with the same token ids.

A tree: the ids on the way from the root to a node are a beginning that was computed, and each node holds the keys and
values of its own stretch of it, so that what two beginnings share is held once. For `1 2 3 4` and `1 2 7`::

    root -- 1 2 --+-- 3 4
                  +-- 7
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

Ids = tuple[int, ...]

KeyValues = list[Tensor]
"""Keys and values [T, K, D] of some tokens, layer by layer: keys, values, keys, values, ..."""


class Node:
    """A stretch of ids with its keys and values, and what follows it, by first id."""

    def __init__(self, ids: Ids, kept: KeyValues, parent: Node | None) -> None:
        self.ids = ids
        self.kept = kept
        self.parent = parent
        self.children: dict[int, Node] = {}


class Prefixes:
    """Beginnings with their keys and values, at most `limit_bytes` of them; the longest unused goes first.

    Ids are compared one by one: a beginning is found when all of its ids are the same, and never otherwise.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.n_bytes = 0
        self._root = Node((), [], None)
        # From the longest unused to the last used. A node comes behind all below it, so that the first is always a leaf.
        self._order: OrderedDict[Node, None] = OrderedDict()

    def clear(self) -> None:
        """Drop everything."""
        while self._order:
            self._drop_oldest()

    def n_kept(self, ids: Ids) -> int:
        """The length of the longest beginning of `ids` that is kept."""
        return sum(n for _, n in self._path(ids))

    def find(self, ids: Ids) -> list[KeyValues]:
        """Keys and values of the longest beginning of `ids` that is kept, stretch by stretch; it counts as used."""
        path = self._path(ids)
        self._use([node for node, _ in path])
        return [[tensor[:n] for tensor in node.kept] for node, n in path]

    def keep(self, ids: Ids, columns: Callable[[int, int], KeyValues]) -> None:
        """Keep what is not kept yet of `ids`; `columns` gives a copy of the keys and values from a token to before another.

        Nothing is kept of ids that are over the limit by themselves.
        """
        token_bytes = sum(tensor.nbytes for tensor in columns(0, 1)) if ids else 0
        if len(ids) * token_bytes > self.limit_bytes:
            return
        path = self._path(ids)
        start = sum(n for _, n in path)
        above = [node for node, _ in path]
        if start == len(ids):
            self._use(above)
            return
        if path and path[-1][1] < len(above[-1].ids):
            above[-1] = self._split(*path[-1])
        self._use(above)
        # What lies outside the way of `ids` is dropped before anything on it; with that alone, `ids` fit.
        self._make_room((len(ids) - start) * token_bytes)
        parent = above[-1] if above else self._root
        new = Node(ids[start:], columns(start, len(ids)), parent)
        parent.children[ids[start]] = new
        self.n_bytes += (len(ids) - start) * token_bytes
        self._use([*above, new])

    def _path(self, ids: Ids) -> list[tuple[Node, int]]:
        """The nodes on the way of `ids`, and how many ids of each are on it: all, but for the last."""
        path: list[tuple[Node, int]] = []
        node, start = self._root, 0
        while start < len(ids) and (child := node.children.get(ids[start])) is not None:
            n = n_common(child.ids, ids[start : start + len(child.ids)])
            path.append((child, n))
            start += n
            if n < len(child.ids):
                break
            node = child
        return path

    def _use(self, path: Sequence[Node]) -> None:
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

    def _split(self, node: Node, n: int) -> Node:
        """The new node of the first n ids, put above the rest."""
        assert node.parent is not None
        first = Node(node.ids[:n], [], node.parent)
        for i, tensor in enumerate(node.kept):  # one by one: both copies of all of them would be twice the memory
            first.kept.append(tensor[:n].clone())
            node.kept[i] = tensor[n:].clone()
        node.parent.children[node.ids[0]] = first
        first.children[node.ids[n]] = node
        node.ids, node.parent = node.ids[n:], first
        self._order[first] = None
        return first


def shared_beginnings(ids_P: Sequence[Ids], prefixes: Prefixes, worth: int) -> list[Ids]:
    """What several of the prompts begin with, where at least `worth` tokens of it are not kept; none begins another."""
    ordered = sorted(ids_P)
    lengths = [0, *(n_common(a, b) for a, b in pairwise(ordered)), 0]
    shared = {ids[: max(before, after)] for ids, (before, after) in zip(ordered, pairwise(lengths), strict=True)}
    new = sorted(ids for ids in shared if len(ids) - prefixes.n_kept(ids) >= worth)
    return [ids for ids, after in pairwise([*new, ()]) if after[: len(ids)] != ids]


def n_common(a: Ids, b: Ids) -> int:
    """How many ids both begin with."""
    if a == b:
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
