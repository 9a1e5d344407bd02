"""A prefix cache: keys and values of earlier prompts and replies, for later prompts that begin with the same token ids.

It is a radix tree. The path from the root to a node spells a cached prefix, and each node holds the keys and values of its
segment, so a common prefix is stored once. For `1 2 3 4` and `1 2 7`::

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
    """A segment of ids with its keys and values, and its children by their first id."""

    def __init__(self, ids: Ids, kept: KeyValues, parent: PrefixNode | None) -> None:
        self.ids = ids
        self.kept = kept
        self.parent = parent
        self.children: dict[int, PrefixNode] = {}


class PrefixCache:
    """Prefixes with their keys and values, at most `limit_bytes`; the least recently used are dropped first.

    Ids are compared one by one, not hashed, so a match is always exact.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.n_bytes = 0
        self._root = PrefixNode((), [], None)
        # From the least to the most recently used. A node comes after all nodes below it, so the first is always a leaf.
        self._order: OrderedDict[PrefixNode, None] = OrderedDict()

    def clear(self) -> None:
        """Drop everything."""
        while self._order:
            self._drop_oldest()

    def n_cached(self, ids: Ids) -> int:
        """Return the length of the longest cached prefix of `ids`."""
        return sum(n for _, n in self._path(ids))

    def find(self, ids: Ids) -> list[KeyValues]:
        """Return the keys and values of the longest cached prefix of `ids`, segment by segment; mark it as used."""
        path = self._path(ids)
        self._use([node for node, _ in path])
        found: list[KeyValues] = []
        for node, n in path:
            found.append([tensor[:n] for tensor in node.kept])
        return found

    def store(self, ids: Ids, columns: Callable[[int, int], KeyValues]) -> None:
        """Store the part of `ids` that is not cached; `columns(start, end)` returns a copy of its keys and values.

        Store nothing if `ids` alone exceed the limit.
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
        # Nodes off the path of `ids` are dropped before those on it, and that makes enough room.
        self._make_room((len(ids) - start) * token_bytes)
        parent = above[-1] if above else self._root
        new = PrefixNode(ids[start:], columns(start, len(ids)), parent)
        parent.children[ids[start]] = new
        self.n_bytes += (len(ids) - start) * token_bytes
        self._use([*above, new])

    def _path(self, ids: Ids) -> list[tuple[PrefixNode, int]]:
        """Return the nodes on the path of `ids` with the number of matching ids in each: all, except in the last."""
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
        """Split a node after n ids; return the new upper node."""
        assert node.parent is not None
        first = PrefixNode(node.ids[:n], [], node.parent)
        for i, tensor in enumerate(node.kept):  # one by one, to save memory
            first.kept.append(tensor[:n].clone())
            node.kept[i] = tensor[n:].clone()
        node.parent.children[node.ids[0]] = first
        first.children[node.ids[n]] = node
        node.ids, node.parent = node.ids[n:], first
        self._order[first] = None
        return first


def shared_prefixes(ids_P: Sequence[Ids], prefixes: PrefixCache, min_new: int) -> list[Ids]:
    """Return prefixes that several prompts share and that have at least `min_new` tokens not cached.

    No returned prefix is a prefix of another."""
    ordered = sorted(ids_P)  # the longest shared prefix is with a neighbor
    shared: set[Ids] = set()
    for k, ids in enumerate(ordered):
        before = n_common(ids, ordered[k - 1]) if k > 0 else 0
        after = n_common(ids, ordered[k + 1]) if k + 1 < len(ordered) else 0
        prefix = ids[: max(before, after)]
        if len(prefix) - prefixes.n_cached(prefix) >= min_new:
            shared.add(prefix)
    found: list[Ids] = []
    for ids in sorted(shared, reverse=True):  # longer ones come before their prefixes
        if not found or found[-1][: len(ids)] != ids:
            found.append(ids)
    return found[::-1]


def n_common(a: Ids, b: Ids) -> int:
    """Return the length of the common prefix."""
    if a == b:
        return len(a)
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))
