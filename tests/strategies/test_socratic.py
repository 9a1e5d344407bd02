"""Socratic-MCTS over scripted worlds: the tree by hand, the prompts of each role, and what the search gains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.policies.base import PolicyWrapper
from rethink.policies.fake import FakePolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.seeds import rng
from rethink.strategies import Attempt, Setup, refine, socratic
from rethink.strategies.socratic import (
    FIRST,
    NEXT,
    WRAP_UPS,
    Settings,
    TreeNode,
    best_node,
    evaluate_node,
    expand,
    new_sub_questions,
    search,
    uct,
    weight,
)
from rethink.types import Group, Message, Problem, Prompt, Sample, Sampling, Verdict
from support.evaluations import last_word
from support.strategies import problem, score

PROMPTS = Prompts(sub_question="ASK {question} | {units}", sub_answer="TELL {question} | {sub_question}", seed=13)


@dataclass
class World(PolicyWrapper):
    """Sub-questions by number, sub-answers by sub-question, continuations by the units so far and the wrap-up's number."""

    ask: Callable[[str, int], str] = lambda units, index: f"what {index}?"
    tell: Callable[[str], str] = lambda asked: f"<{asked}>"
    end: Callable[[str, int], str] = lambda units, k: "a" if k % 2 else "?"
    overlong: Callable[[str], bool] = lambda text: False
    calls: list[tuple[list[Prompt], int, Sampling | None]] = field(default_factory=list)
    drawn: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(FakePolicy(self._script))

    def _script(self, prompt: Prompt, index: int, version: int) -> str:
        text = prompt.messages[-1].content
        if prompt.messages[-1].role == "assistant":
            k = next(k for k, wrap_up in enumerate(WRAP_UPS) if text.endswith(wrap_up))
            return " " + self.end(text.removesuffix(WRAP_UPS[k]), k)
        role, _, rest = text.partition(" | ")
        return self.ask(rest, index) if role.startswith("ASK") else self.tell(rest)

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        self.calls.append((list(prompts), n, sampling))
        for i, group in super().groups(prompts, n, sampling):
            kept = () if self.overlong(prompts[i].messages[-1].content) else group
            self.drawn += kept
            yield i, kept

    def splice(self, sample: Sample, text: str) -> Sample | None:
        return None

    @property
    def prompts(self) -> list[Prompt]:
        return [p for prompts, _, _ in self.calls for p in prompts]

    def shown(self, role: str) -> list[str]:
        """The last turns of a role's prompts, in order."""
        last = [p.messages[-1].content for p in self.prompts]
        return [text for text in last if text.startswith(role)]


def random_world() -> World:
    """A world whose replies derive from the prompts' seeds."""
    world = World()

    def script(prompt: Prompt, index: int, version: int) -> str:
        draw = rng(prompt.seed, index)
        return draw.choice("abc?") if prompt.messages[-1].role == "assistant" else f"what {draw.randrange(5)}"

    world.policy = FakePolicy(script)
    return world


def tree(world: World, about: Problem | None = None, **settings: Any) -> TreeNode:
    """The tree of one search."""
    searching = search(PROMPTS, about or problem(), Settings(**settings))
    call = next(searching)
    try:
        while True:
            call = searching.send(world.sample(*call))
    except StopIteration as end:
        root: TreeNode = end.value
    return root


def run(world: World, iterations: int = 20, about: Problem | None = None) -> Attempt:
    (attempt,) = socratic(Setup(world, PROMPTS), [about or problem()], iterations)
    return attempt


def numbered(units: str, index: int) -> str:
    """A sub-question that differs by depth and index."""
    return f"{units.count(':')} {index}"


def test_uct_by_hand() -> None:
    """Q 0.5, c 1.4, a parent of 10 visits; before the first visit it is infinite, without exploration for exits."""
    parent = TreeNode(visits=10)
    assert uct(TreeNode(parent=parent, visits=2, total=1), 1.4) == pytest.approx(2.00218, abs=5e-6)
    assert uct(TreeNode(parent=parent, visits=2, total=1, exit=True), 1.4) == 0.5
    assert uct(TreeNode(parent=parent), 1.4) == uct(TreeNode(parent=parent, exit=True), 1.4) == math.inf


def evaluated(*ends: str) -> TreeNode:
    """A node after a vote over these continuations."""
    node = TreeNode()
    evaluation = evaluate_node(PROMPTS, problem(), node, Settings())
    prompts, n, sampling = next(evaluation)
    with pytest.raises(StopIteration):
        evaluation.send(FakePolicy(lambda p, i, v: ends[prompts.index(p)]).sample(prompts, n, sampling))
    return node


LONG = " ".join(f"x{n}" for n in range(254)) + " b"  # 255 words and an end: 256 tokens
LOOP = "one two three four " * 5 + "2/4"


@pytest.mark.parametrize(
    ("ends", "value", "answer"),
    [
        # a has weights 1, 0.5, 1: 2.5 of all 8 continuations, not of the 5.5 with an answer.
        (("a", "one two three four " * 5 + "a", "so a", "b", "b", "c", "?", "?"), 2.5 / 8, "a"),
        # "1/2", "0.5" and "2/4" are equal, with weights 1, 1, 0.5; five b that are twice too long tie, and come first.
        ((LONG, "1/2", "0.5", LOOP, *[LONG] * 4), 2.5 / 8, "b"),
    ],
)
def test_the_vote_by_hand(ends: tuple[str, ...], value: float, answer: str | None) -> None:
    """Guards against a share of the answers that were found, and votes over texts."""
    node = evaluated(*ends)
    assert (node.value, last_word(node.answer.text) if node.answer else None) == (value, answer)


@pytest.mark.parametrize(
    ("text", "n_tokens", "expected"),
    [
        ("a", 0, 1.0),
        ("a", 129, 128 / 129),
        ("a " * 6, 5, 1.0),  # "a a a a" occurs three times, which is not more than three
        ("a " * 7, 5, 0.5),
        ("x " * 256 + "a", None, 0.5 * 128 / 257),  # an endpoint that reports no usage: words count
    ],
)
def test_verbose_and_looping_texts_weigh_less(text: str, n_tokens: int | None, expected: float) -> None:
    """Guards against weights above 1, and a count that is off by one."""
    (group,) = FakePolicy(lambda *_: text, Sampling(max_tokens=1000)).sample(PROMPTS.ask([problem()]), 1)
    assert weight(replace(group[0], usage=(3, n_tokens))) == expected


def test_agreement_ends_the_search() -> None:
    """Eight equal answers are 1 > 0.9; seven are 0.875, and the search continues. The threshold must be exceeded."""
    world = World(end=lambda units, k: "a")
    attempt = run(world)
    assert [(len(prompts), n) for prompts, n, _ in world.calls] == [(8, 1)]
    assert (len(attempt.samples), attempt.depth) == (8, 1)
    world = World(end=lambda units, k: "a" if k else "b")
    assert tree(world).value == 0.875
    assert world.shown("ASK")
    assert not tree(world, confident=0.874).children
    assert tree(world, confident=0.875, iterations=1).children


def test_sub_answers_see_no_unit_and_sub_questions_see_all() -> None:
    """Guards against errors that propagate. Continuations show the problem, the units with their phrases, the wrap-up."""
    world = World(ask=lambda units, i: f"asked-{units.count('asked-')}-{i}", tell=lambda asked: f"told-{asked[-3:]}")
    nodes = list(tree(world, iterations=30, first_width=2, width=2).all())
    assert max(node.depth for node in nodes) >= 3
    for text in world.shown("TELL"):
        assert "told-" not in text
        assert text.count("asked-") == 1
    units = {"".join(f"{NEXT if n else FIRST} {s}\n{a}\n\n" for n, (s, a) in enumerate(node.units)) for node in nodes}
    assert world.shown("ASK")[0] == "ASK question p | nothing yet"
    assert {t.removeprefix("ASK question p | ") for t in world.shown("ASK")} <= {*units, "nothing yet"}
    ends = [p.messages for p in world.prompts if p.messages[-1].role == "assistant"]
    assert {turns[:-1] for turns in ends} == {(Message("user", "question p"),)}
    last = {turns[-1].content for turns in ends}
    assert last <= {text + wrap_up for text in units for wrap_up in WRAP_UPS}
    assert f"{FIRST} asked-0-0\ntold-0-0\n\n{NEXT} asked-1-0\ntold-1-0\n\n{WRAP_UPS[5]}" in last


def test_empty_sub_answers_are_left_out() -> None:
    """Guards against units without an answer, for example of a reply that was cut within its thinking."""
    told = ["<think>cut", " ", "<think>so</think>two"]
    world = World(ask=numbered, tell=lambda asked: told[int(asked[-1])])
    prompts = replace(PROMPTS, thinking=("<think>", "</think>"))
    node = TreeNode()
    expanding = expand(prompts, problem(), node, Settings(first_width=3))
    call = next(expanding)
    call = expanding.send(world.sample(*call))
    with pytest.raises(StopIteration):
        expanding.send(world.sample(*call))
    assert [child.units for child in node.children] == [(("0 2", "two"),), ()]


def test_widths_and_token_limits_of_each_role() -> None:
    """Guards against other values than the paper's: widths 8, 6 and 3, tokens 256, 64 and 128, temperature 0.6."""
    world = World(ask=numbered)
    tree(world, iterations=8)
    votes, asks = (8, 1, 256), [(1, 6, 64), (6, 1, 128), (1, 3, 64), (3, 1, 128)]
    # The root's vote; 6 children and the exit in 7 iterations; the eighth expands a child.
    calls = [(len(prompts), n, s.max_tokens) for prompts, n, s in world.calls if s]
    assert calls == [votes, *asks[:2], *[votes] * 7, *asks[2:], votes]
    assert {s.temperature for _, _, s in world.calls if s} == {0.6}
    nodes = list(tree(World(ask=numbered), iterations=40).all())
    widths = {node.path: len(node.children) for node in nodes if node.children}
    assert widths.pop("0") == 7
    assert set(widths.values()) == {4}
    assert all(node.children[-1].exit and not node.children[-1].children for node in nodes if node.children)
    assert len({node.path for node in nodes}) == len(nodes)


def test_repeated_sub_questions_are_dropped() -> None:
    """Guards against repetitions that differ in case or punctuation, or repeat a unit, and "none" as a sub-question."""
    node = TreeNode((("Old one?", "x"),))
    asked = ["What  is A?", "what is a", "No further question.", " ?! ", "old ONE", " And B? "]
    assert new_sub_questions(PROMPTS, node, asked) == ["What  is A?", "And B?"]
    other = replace(PROMPTS, enough="Done")
    assert new_sub_questions(other, TreeNode(), ["done!", "No further question"]) == ["No further question"]


def test_without_new_sub_questions_the_search_ends() -> None:
    """Guards against endless loops at terminal leaves: 20 iterations visit them without new samples."""
    root = tree(world := World(ask=lambda units, i: "no further question"))
    assert (root.terminal, root.children, root.visits, len(world.calls), root.total) == (True, [], 21, 2, 21 * 0.5)
    root = tree(world := World(ask=lambda units, i: "what?"))  # in the child it is a repetition
    assert [(n.path, n.terminal) for n in root.all()] == [("0", False), ("0.0", True), ("0.exit", True)]
    assert len(world.calls) == 3 + 2 + 1  # votes at three nodes, questions at two, one answer


def test_the_depth_is_limited() -> None:
    """Guards against conversations that grow without end: 60 iterations in a tree of depth 2."""
    root = tree(World(ask=numbered), iterations=60, first_width=2, width=2, depth=2)
    assert all(node.terminal for node in root.all() if node.depth == 2)
    # 1 root, 2 children, 4 grandchildren, an exit each of the root and its children.
    assert (len(list(root.all())), root.visits) == (1 + 2 + 4 + 3, 61)


def test_five_iterations_by_hand() -> None:
    """V by node: the root and its exit 4/8, A 2/8, B 6/8, B's first child 7/8, its second 1/8; c = 1.4.

    1. The root is expanded; A: the root has N 2, W 0.75.
    2. B, not visited yet.   3. The exit likewise: N 4, W 2.0.
    4. A 0.25 + 1.4 sqrt(ln 4) = 1.898, B 2.398, exit 0.5: B is expanded, its first child seen: N 5, W 2.875; B 2, 1.625.
    5. A 0.25 + 1.4 sqrt(ln 5) = 2.026, B 0.8125 + 1.4 sqrt(ln 5 / 2) = 2.068: B's second child: N 6, W 3.0; B 3, 1.75.
    """
    shares = {"": 4, "A": 2, "B": 6, "B/A1": 7, "B/B1": 1}

    def end(units: str, k: int) -> str:
        asked = [line.partition(": ")[2] for line in units.splitlines() if line.startswith((FIRST, NEXT))]
        return "a" if k < shares["/".join(asked)] else "?"

    world = World(ask=lambda units, i: "AB"[i] + "1" * units.count(":"), end=end)
    root = tree(world, iterations=5, first_width=2, width=2)
    assert {node.path: (node.visits, node.total, node.value) for node in root.all()} == {
        "0": (6, 3.0, 0.5),
        "0.0": (1, 0.25, 0.25),
        "0.1": (3, 1.75, 0.75),
        "0.1.0": (1, 0.875, 0.875),
        "0.1.1": (1, 0.125, 0.125),
        "0.1.exit": (0, 0.0, 0.0),
        "0.exit": (1, 0.5, 0.5),
    }
    assert best_node(root).path == "0.1.0"


def test_the_largest_value_wins() -> None:
    """Ties go to more visits, then fewer units, then the older branch; nodes without a visit do not count."""
    root = TreeNode(visits=9, value=0.5)
    root.add_children([("s", "t"), ("u", "v")])
    left, right, out = root.children
    left.add_children([("w", "x")])
    deep = left.children[0]
    out.value = 1.0
    for node, visits in ((deep, 1), (right, 2), (deep, 3), (right, 3), (left, 3)):
        node.visits, node.value = visits, 0.9
        assert best_node(root) is node


def record(attempt: Attempt) -> tuple[object, ...]:
    samples = [(s.prompt.messages, s.prompt.seed, s.text) for s in attempt.samples]
    return [s.text for s in attempt.answers], samples, attempt.depth, attempt.notes


def test_problems_are_searched_together_as_if_alone() -> None:
    """Guards against randomness that depends on the batch or its order; seven searches take fewer calls together."""
    problems, together = [problem(f"p{n}") for n in range(7)], random_world()
    found = socratic(Setup(together, PROMPTS), problems, 11)
    worlds = [random_world() for _ in problems]
    alone = [run(world, 11, p) for world, p in zip(worlds, problems, strict=True)]
    assert [record(a) for a in found] == [record(a) for a in alone]
    assert len({a.depth for a in found}) > 2
    assert [a.depth for a in found] == [len(world.calls) for world in worlds]
    assert len(together.calls) < sum(len(world.calls) for world in worlds) / 2
    repeats = socratic(Setup(random_world(), PROMPTS), problems[:2], 11, repeats=2)
    assert [record(a) for a in repeats[::2]] == [record(a) for a in found[:2]]
    assert [a.answers[0].index for a in repeats] == [0, 1, 0, 1]
    other = socratic(Setup(random_world(), replace(PROMPTS, seed=17)), problems, 11)
    assert [record(a) for a in other] != [record(a) for a in found]


def test_all_calls_are_counted_and_have_their_own_seeds() -> None:
    """Guards against questions or votes that cost nothing, and nodes that draw with the same random numbers."""
    world = random_world()
    attempt = run(world)
    assert attempt.n_tokens == sum(len(s.ids) for s in world.drawn)
    assert [(s.prompt.group, s.ids) for s in attempt.samples] == [(s.prompt.group, s.ids) for s in world.drawn]
    assert attempt.depth == len(world.calls)
    assert attempt.n_prompt_tokens == sum(len(m.content.split()) for p in world.prompts for m in p.messages)
    assert len({p.seed for p in world.prompts}) == len(world.prompts)


def test_the_answer_is_the_whole_turn() -> None:
    """Guards against an answer without its units, and later stages in which the assistant speaks twice in a row."""
    world = World(end=lambda units, k: "so it is right" if units else "wrong" if k < 2 else "?")
    (attempt,) = socratic(Setup(world, PROMPTS), [problem()], 1)
    whole = f"{FIRST} what 0?\n<what 0?>\n\n{WRAP_UPS[0]} so it is right"
    assert [s.text for s in attempt.answers] == [whole]
    assert attempt.answers[0].prompt.messages == (Message("user", "question p"),)
    later = FakePolicy(lambda p, i, v: p.phase)
    refine(Setup(later, PROMPTS), [attempt])
    assert [(m.role, m.content) for m in later.shown[0].messages[:2]] == [("user", "question p"), ("assistant", whole)]


def test_boxes_in_units_do_not_spoil_the_answer() -> None:
    """Regression: an answer was graded together with the units, whose own boxes made it unreadable."""

    def only(reply: str) -> str | None:
        found = reply.split("answer=")[1:]
        return found[0].split()[0] if len(found) == 1 else None

    about = replace(problem(), extract_answer=only, verify=lambda reply, gold: Verdict(only(reply) == "right"))
    world = World(tell=lambda asked: "answer=7", end=lambda units, k: "so answer=right" if units else "?")
    attempt = run(world, 1, about)
    assert [s.text for s in attempt.answers] == [" so answer=right"]
    assert score(attempt) == 1


def test_without_any_answer_the_first_continuation_counts() -> None:
    """Guards against problems that are left out of the mean because nothing could be extracted: they are wrong."""
    attempt = run(World(end=lambda units, k: "?"), 5)
    assert [s.text for s in attempt.answers] == [f"{WRAP_UPS[0]} ?"]
    assert [s.right for s in grade([attempt.answers])[0]] == [False]


def test_answers_must_be_comparable() -> None:
    """Guards against a search that votes over texts."""
    with pytest.raises(UserError, match="the verifier of p does not extract the answer from a reply"):
        run(World(), about=replace(problem(), extract_answer=None, equal_answers=None))


def test_without_any_sample_there_is_no_answer() -> None:
    """8 continuations of the root and one question are skipped. Regression: a sub-question became the answer."""
    assert run(World(overlong=lambda text: True)) == Attempt(problem(), notes={"over-long prompts": 9})
    attempt = run(World(overlong=lambda text: text.endswith(WRAP_UPS)), 3)
    assert (len(attempt.samples), attempt.answers) == (6 + 6, ())


@pytest.mark.parametrize(
    ("what", "n_children", "n_skipped"),
    [
        ("ASK", 0, 1),  # the root stays a leaf
        ("TELL", 0, 6),  # likewise, after six sub-questions without an answer
        ("what 3?", 6, 1),  # one sub-question less: 5 children and the exit
        (WRAP_UPS[2], 7, 8),  # one continuation less at the root and each of its seven children
    ],
)
def test_overlong_prompts_are_left_out(what: str, n_children: int, n_skipped: int) -> None:
    """Guards against a crash, and answers that shift to another sub-question. Seven iterations: all the root's children."""
    world = World(overlong=lambda text: what in text and not (what == "what 3?" and FIRST in text))
    root = tree(world, iterations=n_children or 7)
    assert len(root.children) == n_children
    assert all(answer == f"<{asked}>" for node in root.all() for asked, answer in node.units)
    assert root.value == 0.5
    attempt = run(World(overlong=world.overlong), n_children or 7)
    assert attempt.notes == {"over-long prompts": n_skipped}
    assert len(attempt.answers) == 1
