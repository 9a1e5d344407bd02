"""Socratic-MCTS (Acuna et al., arXiv 2506.08927), text form: tree search over sub-questions, valued by self-agreement.

There is no released code. Our choices where the paper is silent:
- V divides by the number of continuations, so failing to answer costs value.
- An iteration expands at most one node and values exactly one.
- A sub-question is answered from the problem alone, without the other units.
- The result is the answer of the node with the largest V.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from rethink.prompts import Prompts, about_all, beside_images, fill, words_of
from rethink.seeds import stable_hash
from rethink.strategies.attempt import OVERLONG, Attempt, Setup, reseed
from rethink.strategies.vote import group_by_answer
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
"""Phrases after the units that lead to an answer; the paper's own are not known."""

Unit = tuple[str, str]
"""A sub-question and its answer."""


@dataclass(eq=False)
class TreeNode:
    """A node of the search tree: the problem and some units.

    visits, total  N and W of the paper
    value          the node's V, the share of the answer that won its vote; `answer` is a sample with that answer
    exit           a child that goes straight to an answer: no unit is added, and it is never expanded
    path           unique in the tree
    """

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

    def add_children(self, units: list[Unit]) -> None:
        """Add a child per unit, in order, then the direct exit. Without units the node becomes terminal."""
        self.terminal = not units
        for n, unit in enumerate(units):
            self.children.append(TreeNode((*self.units, unit), self, f"{self.path}.{n}"))
        if units:
            self.children.append(TreeNode(self.units, self, f"{self.path}.exit", exit=True, terminal=True))

    def back_up(self, value: float) -> None:
        """Count a visit with this value here and in all ancestors."""
        node: TreeNode | None = self
        while node is not None:
            node.visits += 1
            node.total += value
            node = node.parent

    def all(self) -> Iterator[TreeNode]:
        """Yield this node and its descendants, parents and older siblings first."""
        yield self
        for child in self.children:
            yield from child.all()

    @property
    def depth(self) -> int:
        return len(self.units)


def uct(node: TreeNode, c: float) -> float:
    """Return Q + c sqrt(ln N_parent / N); infinity before the first visit; Q alone for a direct exit."""
    if not node.visits:
        return math.inf
    mean = node.total / node.visits
    if node.exit or node.parent is None:
        return mean
    return mean + c * math.sqrt(math.log(node.parent.visits) / node.visits)


def select_leaf(root: TreeNode, c: float) -> TreeNode:
    """Return the leaf reached by following the largest UCT; ties go to the older child."""
    node = root
    while node.children:
        node = max(node.children, key=lambda child: uct(child, c))
    return node


def best_node(root: TreeNode) -> TreeNode:
    """Return the visited node with the largest V; ties go to more visits, then fewer units, then the older branch."""
    visited = [node for node in root.all() if node.visits]
    return max(visited, key=lambda node: (node.value, node.visits, -node.depth))


Call = tuple[list[Prompt], int, Sampling]
"""Prompts, the number of samples of each, and how to draw them."""

Expansion = Generator[Call, list[Group], None]
Search = Generator[Call, list[Group], TreeNode]


@dataclass(frozen=True)
class Settings:
    """The paper's values where they are known. `caps` limit tokens: of continuations, sub-answers, sub-questions."""

    iterations: int = 20
    first_width: int = 6
    width: int = 3
    c: float = 1.4
    confident: float = 0.9
    depth: int = 6
    temperature: float = 0.6
    caps: tuple[int, int, int] = (256, 128, 64)


def socratic(setup: Setup, problems: Sequence[Problem], iterations: int = 20, repeats: int = 1) -> list[Attempt]:
    """Return the attempts at each problem, one per repeat, with the answer of the best node.

    All problems are searched in lockstep, to batch their calls; samples depend on a problem's ids alone. The search sees
    neither gold answers nor verdicts. Raise UserError for problems whose answers cannot be compared."""
    settings = Settings(iterations=iterations)
    found = [Attempt(problem, repeat) for problem in problems for repeat in range(repeats)]
    searches = [search(reseed(setup.prompts, "repeat", a.repeat), a.problem, settings) for a in found]
    waiting = dict(enumerate(map(next, searches)))
    while waiting:
        for n, groups in _sample_calls(setup, waiting).items():
            drawn = list(chain.from_iterable(groups))
            attempt = found[n].with_answers((), drawn, depth=1 if drawn else 0)
            found[n] = attempt.with_note(OVERLONG, groups.count(()))
            try:
                waiting[n] = searches[n].send(groups)
            except StopIteration as end:
                del waiting[n]
                found[n] = _finished(found[n], end.value)
    return found


def _finished(attempt: Attempt, root: TreeNode) -> Attempt:
    """Return the attempt with the answer of the best node, or with the first continuation if no node has one.

    The answer replaces its continuation in `samples`."""
    continuation = best_node(root).answer
    if continuation is None:
        continuation = next((s for s in attempt.samples if s.prompt.messages[-1].role == "assistant"), None)
    if continuation is None:
        return attempt
    # Seeds of later prompts derive from the index, and must differ between repeats.
    answer = replace(whole_reply(continuation), index=attempt.repeat)
    samples = tuple(answer if s.key == continuation.key else s for s in attempt.samples)
    return replace(attempt, answers=(answer,), samples=samples)


def _sample_calls(setup: Setup, waiting: dict[int, Call]) -> dict[int, list[Group]]:
    """Return the groups of each search's call. Calls with equal settings are sent as one."""
    kinds: dict[tuple[int, Sampling], list[int]] = {}
    for i, (_, n, sampling) in waiting.items():
        kinds.setdefault((n, sampling), []).append(i)
    found: dict[int, list[Group]] = {}
    for (n, sampling), members in kinds.items():
        groups = iter(setup.policy.sample([p for i in members for p in waiting[i][0]], n, sampling))
        for i in members:
            found[i] = [next(groups) for _ in waiting[i][0]]
    return found


def search(prompts: Prompts, problem: Problem, settings: Settings) -> Search:
    """Yield calls, receive their groups, and return the root of the searched tree."""
    root = TreeNode()
    yield from evaluate_node(prompts, problem, root, settings)
    root.back_up(root.value)
    for _ in range(settings.iterations if root.value <= settings.confident else 0):
        node = select_leaf(root, settings.c)
        if node.visits and not node.terminal:
            yield from expand(prompts, problem, node, settings)
            node = node.children[0] if node.children else node
        if not node.visits:
            yield from evaluate_node(prompts, problem, node, settings)
        node.back_up(node.value)
    return root


def evaluate_node(prompts: Prompts, problem: Problem, node: TreeNode, settings: Settings) -> Expansion:
    """Continue the units to an answer in eight ways. A weighted vote gives the node's answer; its share is the value."""
    asks: list[Prompt] = []
    for n, wrap_up in enumerate(WRAP_UPS):
        opening = Message("assistant", _units_text(node.units) + wrap_up)
        asks.append(_prompt(prompts, problem, node, f"answer {n}", (*prompts.messages(problem), opening)))
    groups = yield asks, 1, Sampling(settings.temperature, settings.caps[0])
    classes = group_by_answer(problem, list(chain.from_iterable(groups)))
    shares = [sum(map(weight, members)) for members in classes]
    if classes:
        node.value = max(shares) / len(WRAP_UPS)
        node.answer = classes[shares.index(max(shares))][0]


def whole_reply(continuation: Sample) -> Sample:
    """Return the whole turn, units included, as one reply.

    If another answer would be extracted from the whole turn (units may hold boxes), return the continuation alone."""
    *asked, opening = continuation.prompt.messages
    whole = opening.content + continuation.text
    extract = continuation.problem.extract_answer or str
    text = whole if extract(whole) == extract(continuation.text) else continuation.text
    return replace(continuation, prompt=replace(continuation.prompt, messages=tuple(asked)), text=text)


def expand(prompts: Prompts, problem: Problem, node: TreeNode, settings: Settings) -> Expansion:
    """Sample new sub-questions, have each answered separately, and add a child per answered one."""
    if node.depth >= settings.depth:
        node.add_children([])
        return
    known = beside_images(problem, _units_text(node.units) or "nothing yet")
    turn = about_all(problem, fill(prompts.sub_question, question=problem.transcript, units=known))
    width = settings.width if node.units else settings.first_width
    ask = _prompt(prompts, problem, node, "ask", (turn,))
    (asked,) = yield [ask], width, Sampling(settings.temperature, settings.caps[2])
    new = new_sub_questions(prompts, node, [prompts.without_thinking(s.text) for s in asked])
    asks: list[Prompt] = []
    for n, text in enumerate(new):
        shown = beside_images(problem, text)
        turn = about_all(problem, fill(prompts.sub_answer, question=problem.transcript, sub_question=shown))
        asks.append(_prompt(prompts, problem, node, f"tell {n}", (turn,)))
    answers = (yield asks, 1, Sampling(settings.temperature, settings.caps[1])) if asks else []
    units: list[Unit] = []
    for text, group in zip(new, answers, strict=True):
        answer = prompts.without_thinking(group[0].text) if group else ""
        if answer.strip():
            units.append((text, answer))
    node.add_children(units)


def new_sub_questions(prompts: Prompts, node: TreeNode, asked: Sequence[str]) -> list[str]:
    """Drop repeated sub-questions, those among the node's units, and replies that no further one is needed."""
    seen = {words_of(prompts.enough), "", *(words_of(text) for text, _ in node.units)}
    found: dict[str, str] = {}
    for text in asked:
        if (words := words_of(text)) not in seen:
            found.setdefault(words, text.strip())
    return list(found.values())


def weight(sample: Sample) -> float:
    """Return 1 up to 128 tokens, else 128 / tokens; half of that if any four words in a row occur more than three times."""
    words = sample.text.split()
    n = len(words) if sample.n_tokens is None else sample.n_tokens
    repeated = max(Counter(zip(words, words[1:], words[2:], words[3:], strict=False)).values(), default=0)
    return min(1.0, 128 / max(n, 1)) * (0.5 if repeated > 3 else 1.0)


def _units_text(units: Sequence[Unit]) -> str:
    parts = [f"{NEXT if n else FIRST} {question}\n{answer}\n\n" for n, (question, answer) in enumerate(units)]
    return "".join(parts)


def _prompt(prompts: Prompts, problem: Problem, node: TreeNode, call: str, messages: tuple[Message, ...]) -> Prompt:
    return Prompt(problem, "socratic", messages, stable_hash(prompts.seed, problem.id, "socratic", node.path, call))
