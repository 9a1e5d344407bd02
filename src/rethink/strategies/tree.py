"""The tree of Socratic-MCTS (arXiv 2506.08927): nodes, which to visit next, and what a visit teaches all above."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from rethink.types import Sample

Unit = tuple[str, str]
"""A sub-question with its answer."""


@dataclass(eq=False)
class Node:
    """What is known after some units. `visits` and `total` are N and W of the paper; `value` is the node's own V, from its
    one look at answers, and `answer` a sample with the answer it settled on. `exit` goes straight to an answer: it has no
    unit of its own and is never expanded. `path` is unique in the tree."""

    units: tuple[Unit, ...] = ()
    parent: Node | None = None
    path: str = "0"
    exit: bool = False
    terminal: bool = False
    visits: int = 0
    total: float = 0.0
    value: float = 0.0
    answer: Sample | None = None
    children: list[Node] = field(default_factory=list)

    def grow(self, units: list[Unit]) -> None:
        """A child per unit, in order, and the direct exit behind them; without units the node is terminal."""
        self.terminal = not units
        for n, unit in enumerate(units):
            self.children.append(Node((*self.units, unit), self, f"{self.path}.{n}"))
        if units:
            self.children.append(Node(self.units, self, f"{self.path}.exit", exit=True, terminal=True))

    def back_up(self, value: float) -> None:
        """Count a visit of this value here and in all nodes above."""
        node: Node | None = self
        while node is not None:
            node.visits += 1
            node.total += value
            node = node.parent

    def all(self) -> Iterator[Node]:
        """This node and all below, parents and elder ones first."""
        yield self
        for child in self.children:
            yield from child.all()

    @property
    def depth(self) -> int:
        return len(self.units)


def uct(node: Node, c: float) -> float:
    """Q + c sqrt(ln N_parent / N); infinite before the first visit; Q alone for a direct exit."""
    if not node.visits:
        return math.inf
    mean = node.total / node.visits
    if node.exit or node.parent is None:
        return mean
    return mean + c * math.sqrt(math.log(node.parent.visits) / node.visits)


def select(root: Node, c: float) -> Node:
    """The leaf that the largest UCT leads to; of equals the elder."""
    node = root
    while node.children:
        node = max(node.children, key=lambda child: uct(child, c))
    return node


def best(root: Node) -> Node:
    """The visited node with the largest own value; ties go to more visits, then to fewer units, then to the
    elder branch."""
    visited = [node for node in root.all() if node.visits]
    return max(visited, key=lambda node: (node.value, node.visits, -node.depth))
