"""Socratic-MCTS (Acuna et al., arXiv 2506.08927), text form: search over sub-questions, valued by self-agreement.

There is no released code. Our choices where the sources are silent: V divides by the number of continuations, so that
failing to answer costs value; an iteration is at most one expansion and exactly one look at answers; who answers a
sub-question sees the problem, never the other units; the result is the answer of the node with the largest own V.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from rethink.prompts import Prompts, fill, words_of
from rethink.seeds import stable_hash
from rethink.strategies.attempt import OVERLONG, Attempt, Setup, reseeded
from rethink.strategies.select import by_answer
from rethink.types import Group, Message, Problem, Prompt, Sample, Sampling

FIRST, NEXT = "First, let me ask:", "Next, let me ask:"
WRAP_UPS = (
    "Putting this together:",
    "From all of this it follows that",
    "So, to answer the question itself:",
    "Taking these points as they are,",
    "With that settled,",
    "Weighing everything up,",
    "This leads to the conclusion that",
    "In the end,",
)
"""How the turn goes on after the units, so that an answer follows; the paper's own phrases are not known."""

Unit = tuple[str, str]
"""A sub-question with its answer."""


@dataclass(eq=False)
class TreeNode:
    """What is known after some units. `visits` and `total` are N and W of the paper; `value` is the node's own V, from its
    one look at answers, and `answer` a sample with the answer it settled on. `exit` goes straight to an answer: it has no
    unit of its own and is never expanded. `path` is unique in the tree."""

    units: tuple[Unit, ...] = ()
    parent: TreeNode | None = None
    path: str = "0"
    exit: bool = False
    terminal: bool = False
    visits: int = 0
    total: float = 0.0
    value: float = 0.0
    answer: Sample | None = None
    children: list[TreeNode] = field(default_factory=list)

    def grow(self, units: list[Unit]) -> None:
        """A child per unit, in order, and the direct exit behind them; without units the node is terminal."""
        self.terminal = not units
        for n, unit in enumerate(units):
            self.children.append(TreeNode((*self.units, unit), self, f"{self.path}.{n}"))
        if units:
            self.children.append(TreeNode(self.units, self, f"{self.path}.exit", exit=True, terminal=True))

    def back_up(self, value: float) -> None:
        """Count a visit of this value here and in all nodes above."""
        node: TreeNode | None = self
        while node is not None:
            node.visits += 1
            node.total += value
            node = node.parent

    def all(self) -> Iterator[TreeNode]:
        """This node and all below, parents and elder ones first."""
        yield self
        for child in self.children:
            yield from child.all()

    @property
    def depth(self) -> int:
        return len(self.units)


def uct(node: TreeNode, c: float) -> float:
    """Q + c sqrt(ln N_parent / N); infinite before the first visit; Q alone for a direct exit."""
    if not node.visits:
        return math.inf
    mean = node.total / node.visits
    if node.exit or node.parent is None:
        return mean
    return mean + c * math.sqrt(math.log(node.parent.visits) / node.visits)


def select(root: TreeNode, c: float) -> TreeNode:
    """The leaf that the largest UCT leads to; of equals the elder."""
    node = root
    while node.children:
        node = max(node.children, key=lambda child: uct(child, c))
    return node


def best(root: TreeNode) -> TreeNode:
    """The visited node with the largest own value; ties go to more visits, then to fewer units, then to the
    elder branch."""
    visited = [node for node in root.all() if node.visits]
    return max(visited, key=lambda node: (node.value, node.visits, -node.depth))


Ask = tuple[list[Prompt], int, Sampling]
Expansion = Generator[Ask, list[Group], None]
Search = Generator[Ask, list[Group], TreeNode]


@dataclass(frozen=True)
class Settings:
    """The paper's values where they are known; `caps` are tokens of a continuation, a sub-answer and a sub-question."""

    iterations: int = 20
    first_width: int = 6
    width: int = 3
    c: float = 1.4
    confident: float = 0.9
    depth: int = 6
    temperature: float = 0.6
    caps: tuple[int, int, int] = (256, 128, 64)


def socratic(setup: Setup, problems: Sequence[Problem], iterations: int = 20, repeats: int = 1) -> list[Attempt]:
    """Return the attempts at each problem, one per repeat, with the answer of the best node. Problems are searched in
    lockstep, so that their calls go out together; what is drawn for one depends on its ids alone. Reads neither gold nor
    verdicts."""
    settings = Settings(iterations=iterations)
    found = [Attempt(problem, repeat) for problem in problems for repeat in range(repeats)]
    searches = [search(reseeded(setup.prompts, "repeat", a.repeat), a.problem, settings) for a in found]
    waiting = dict(enumerate(map(next, searches)))
    while waiting:
        for n, groups in _drawn(setup, waiting).items():
            drawn = list(chain.from_iterable(groups))
            seen = found[n].answered((), drawn, depth=1 if drawn else 0)
            found[n] = seen.noted(OVERLONG, groups.count(()))
            try:
                waiting[n] = searches[n].send(groups)
            except StopIteration as end:
                del waiting[n]
                found[n] = _finished(found[n], end.value)
    return found


def _finished(attempt: Attempt, root: TreeNode) -> Attempt:
    """The attempt with the answer of the best node; where none has one, with the first continuation that was drawn. The
    answer takes the place of its continuation among the samples."""
    end = best(root).answer
    if end is None:
        end = next((s for s in attempt.used if s.prompt.messages[-1].role == "assistant"), None)
    if end is None:
        return attempt
    answer = replace(reply(end), index=attempt.repeat)  # what is drawn next must differ between repeats
    used = tuple(answer if s.key == end.key else s for s in attempt.used)
    return replace(attempt, answers=(answer,), used=used)


def _drawn(setup: Setup, waiting: dict[int, Ask]) -> dict[int, list[Group]]:
    """The groups of each search's call; calls of one kind go out as one."""
    kinds: dict[tuple[int, Sampling], list[int]] = {}
    for i, (_, n, sampling) in waiting.items():
        kinds.setdefault((n, sampling), []).append(i)
    found: dict[int, list[Group]] = {}
    for (n, sampling), members in kinds.items():
        groups = iter(setup.policy.sample([p for i in members for p in waiting[i][0]], n, sampling))
        for i in members:
            found[i] = [next(groups) for _ in waiting[i][0]]
    return found


def search(texts: Prompts, problem: Problem, settings: Settings) -> Search:
    """The searched tree. Yields calls (prompts, samples of each, sampling) and is sent their groups."""
    root = TreeNode()
    yield from look(texts, problem, root, settings)
    root.back_up(root.value)
    for _ in range(settings.iterations if root.value <= settings.confident else 0):
        node = select(root, settings.c)
        if node.visits and not node.terminal:
            yield from expand(texts, problem, node, settings)
            node = node.children[0] if node.children else node
        if not node.visits:
            yield from look(texts, problem, node, settings)
        node.back_up(node.value)
    return root


def look(texts: Prompts, problem: Problem, node: TreeNode, settings: Settings) -> Expansion:
    """Continue the units in eight ways to an answer; the node gets the weighted majority's, and its share as the value."""
    asks: list[Prompt] = []
    for n, wrap_up in enumerate(WRAP_UPS):
        begun = Message("assistant", _so_far(node.units) + wrap_up)
        asks.append(_prompt(texts, problem, node, f"answer {n}", (*texts.messages(problem), begun)))
    groups = yield asks, 1, Sampling(settings.temperature, settings.caps[0])
    classes = by_answer(problem, list(chain.from_iterable(groups)))
    shares = [sum(map(weight, members)) for members in classes]
    if classes:
        node.value = max(shares) / len(WRAP_UPS)
        node.answer = classes[shares.index(max(shares))][0]


def reply(end: Sample) -> Sample:
    """A continuation as a reply of its own: the whole turn, unless another answer would be read in it (what was found on
    the way may hold boxes of its own), then the continuation alone."""
    *asked, begun = end.prompt.messages
    whole = begun.content + end.text
    read = end.problem.extract_answer or str
    text = whole if read(whole) == read(end.text) else end.text
    return replace(end, prompt=replace(end.prompt, messages=tuple(asked)), text=text)


def expand(texts: Prompts, problem: Problem, node: TreeNode, settings: Settings) -> Expansion:
    """Ask new sub-questions and have each answered without sight of the others."""
    if node.depth >= settings.depth:
        node.grow([])
        return
    units = _so_far(node.units) or "nothing yet"
    turn = Message("user", fill(texts.sub_question, question=problem.question, units=units))
    width = settings.width if node.units else settings.first_width
    ask = _prompt(texts, problem, node, "ask", (turn,))
    (asked,) = yield [ask], width, Sampling(settings.temperature, settings.caps[2])
    new = fresh(texts, node, [s.text for s in asked])
    asks: list[Prompt] = []
    for n, text in enumerate(new):
        turn = Message("user", fill(texts.sub_answer, question=problem.question, sub_question=text))
        asks.append(_prompt(texts, problem, node, f"tell {n}", (turn,)))
    told = (yield asks, 1, Sampling(settings.temperature, settings.caps[1])) if asks else []
    node.grow([(text, group[0].text) for text, group in zip(new, told, strict=True) if group])


def fresh(texts: Prompts, node: TreeNode, asked: Sequence[str]) -> list[str]:
    """The sub-questions that repeat neither one another nor the node's units, and do not say that none is needed."""
    seen = {words_of(texts.enough), "", *(words_of(text) for text, _ in node.units)}
    found: dict[str, str] = {}
    for text in asked:
        if (words := words_of(text)) not in seen:
            found.setdefault(words, text.strip())
    return list(found.values())


def weight(sample: Sample) -> float:
    """1 up to 128 tokens, then 128 / tokens; half of that where four words in a row come more than three times."""
    words = sample.text.split()
    n = len(words) if sample.n_tokens is None else sample.n_tokens
    repeated = max(Counter(zip(words, words[1:], words[2:], words[3:], strict=False)).values(), default=0)
    return min(1.0, 128 / max(n, 1)) * (0.5 if repeated > 3 else 1.0)


def _so_far(units: Sequence[Unit]) -> str:
    parts = [f"{NEXT if n else FIRST} {asked}\n{told}\n\n" for n, (asked, told) in enumerate(units)]
    return "".join(parts)


def _prompt(texts: Prompts, problem: Problem, node: TreeNode, call: str, messages: tuple[Message, ...]) -> Prompt:
    return Prompt(problem, "socratic", messages, stable_hash(texts.seed, problem.id, "socratic", node.path, call))
