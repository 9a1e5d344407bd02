"""Socratic-MCTS over scripted worlds: the tree by hand, what each role is shown, and what the search gains."""

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
from rethink.strategies import Attempt, Setup, parse, socratic
from rethink.strategies.socratic import (
    FIRST,
    NEXT,
    WRAP_UPS,
    Settings,
    TreeNode,
    best_node,
    evaluate_node,
    new_sub_questions,
    search,
    select_leaf,
    uct,
    weight,
)
from rethink.types import Group, Message, Problem, Prompt, Sample, Sampling, Verdict
from support.evaluations import equal, last_word

TEXTS = Prompts(sub_question="ASK {question} | {units}", sub_answer="TELL {question} | {sub_question}", seed=13)


def problem(name: str = "p") -> Problem:
    verify = lambda reply, gold: Verdict(last_word(reply) == gold)  # noqa: E731
    return Problem(name, f"question {name}", "right", verify, extract_answer=last_word, equal_answers=equal)


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

    def shown(self, role: str) -> list[str]:
        """The last turns that a role was shown, in order."""
        last = [p.messages[-1].content for prompts, _, _ in self.calls for p in prompts]
        return [text for text in last if text.startswith(role)]


def tree(world: World, about: Problem | None = None, **settings: Any) -> TreeNode:
    """The searched tree, one search on its own."""
    going = search(TEXTS, about or problem(), Settings(**settings))
    ask = next(going)
    try:
        while True:
            ask = going.send(world.sample(*ask))
    except StopIteration as end:
        root: TreeNode = end.value
    return root


def shares(by_units: dict[str, int]) -> Callable[[str, int], str]:
    """So many of eight continuations say "a", by the sub-questions among the units; the others have no answer."""

    def end(units: str, k: int) -> str:
        asked = [line.partition(": ")[2] for line in units.splitlines() if line.startswith((FIRST, NEXT))]
        return "a" if k < by_units["/".join(asked)] else "?"

    return end


# 1. Selection


@pytest.mark.parametrize(("visits", "value"), [(2, 2.00218), (5, 1.45006)])
def test_uct_by_hand(visits: int, value: float) -> None:
    """The specification's numbers: Q 0.5, c 1.4, a parent of 10 visits."""
    parent = TreeNode(visits=10)
    assert uct(TreeNode(parent=parent, visits=visits, total=visits / 2), 1.4) == pytest.approx(value, abs=5e-6)
    assert uct(TreeNode(parent=parent, visits=visits, total=visits / 2, exit=True), 1.4) == 0.5
    assert uct(TreeNode(parent=parent), 1.4) == uct(TreeNode(parent=parent, exit=True), 1.4) == math.inf


def test_unvisited_children_come_first_in_order() -> None:
    """Guards against a leaf that is chosen by its index, and a search that stays at the root."""
    root = TreeNode(visits=7)
    root.add_children([("s0", "a0"), ("s1", "a1"), ("s2", "a2")])
    assert [(n.path, n.units, n.exit, n.terminal) for n in root.children] == [
        ("0.0", (("s0", "a0"),), False, False),
        ("0.1", (("s1", "a1"),), False, False),
        ("0.2", (("s2", "a2"),), False, False),
        ("0.exit", (), True, True),
    ]
    first, second, third, out = root.children
    assert select_leaf(root, 1.4) is first
    first.visits = second.visits = 1
    assert select_leaf(root, 1.4) is third
    third.visits = out.visits = 1
    out.total = 0.999
    assert select_leaf(root, 1.4) is first  # 0 + 1.4 sqrt(ln 7) = 1.95 thrice, and the exit's 0.999 without exploration
    assert select_leaf(root, 0.1) is out  # 0.139 thrice


# 2. The vote


def looked(*ends: str) -> TreeNode:
    """A node after a look at these continuations."""
    node = TreeNode()
    going = evaluate_node(TEXTS, problem(), node, Settings())
    prompts, n, sampling = next(going)
    with pytest.raises(StopIteration):
        going.send(FakePolicy(lambda p, i, v: ends[prompts.index(p)]).sample(prompts, n, sampling))
    return node


def test_the_vote_divides_by_all_continuations() -> None:
    """By hand: a, a, a, b, b, c and twice no answer, with weights 1, 0.5, 1, 1, 1, 1: a has 2.5 of 8, not of 5.5. Four
    words in a row that come five times halve the weight."""
    node = looked("a", "one two three four " * 5 + "a", "so a", "b", "b", "c", "?", "?")
    assert node.value == 2.5 / 8
    assert node.answer is not None
    assert last_word(node.answer.text) == "a"
    none = looked(*"????????")
    assert (none.answer, none.value) == (None, 0.0)


def test_the_vote_is_by_weight_and_by_equality() -> None:
    """By hand: "1/2", "0.5" and "2/4" with weights 1, 1 and, for a loop, 0.5 make 2.5; so do five of b that are twice too
    long, and what came first wins. Four of these make 2."""
    long = " ".join(f"x{n}" for n in range(254)) + " b"  # 255 words and an end: 256 tokens
    loop = "one two three four " * 5 + "2/4"
    tied = looked(long, "1/2", "0.5", loop, *[long] * 4)
    assert (tied.value, last_word(tied.answer.text) if tied.answer else None) == (2.5 / 8, "b")
    won = looked(long, "1/2", "0.5", loop, *[long] * 3, "?")
    assert (won.value, last_word(won.answer.text) if won.answer else None) == (2.5 / 8, "1/2")


@pytest.mark.parametrize(
    ("text", "n_tokens", "expected"),
    [
        ("a", 128, 1.0),
        ("a", 129, 128 / 129),
        ("a", 256, 0.5),
        ("a", 0, 1.0),
        ("a b c d " * 3, 5, 1.0),  # "a b c d" comes three times, which is not more than three
        ("a b c d " * 4, 5, 0.5),
        ("a b c d " * 4, 512, 0.125),
        ("a " * 6, 5, 1.0),
        ("a " * 7, 5, 0.5),  # "a a a a" comes four times in seven words
        ("x " * 256 + "a", None, 0.5 * 128 / 257),  # an endpoint that states no usage: words count
    ],
)
def test_verbose_and_looping_texts_weigh_less(text: str, n_tokens: int | None, expected: float) -> None:
    """Guards against weights above 1, and a count that is off by one."""
    (group,) = FakePolicy(lambda *_: text, Sampling(max_tokens=1000)).sample(TEXTS.ask([problem()]), 1)
    assert weight(replace(group[0], usage=(3, n_tokens))) == expected


# 3. Early exit


def test_agreement_ends_the_search_at_once() -> None:
    """Eight equal answers are 1 > 0.9; seven are 0.875, and the search goes on."""
    world = World(end=lambda units, k: "a")
    (attempt,) = socratic(Setup(world, TEXTS), [problem()])
    assert [(len(prompts), n) for prompts, n, _ in world.calls] == [(8, 1)]
    assert (len(attempt.samples), attempt.depth) == (8, 1)
    world = World(end=lambda units, k: "a" if k else "b")
    assert tree(world).value == 0.875
    assert world.shown("ASK")


def test_the_threshold_is_exceeded_not_reached() -> None:
    """Guards against 0.875 that passes as 0.9, and 0.9 that ends a search at a threshold of its own size."""
    world = World(end=lambda units, k: "a" if k else "b")
    assert not tree(world, confident=0.874).children
    assert tree(world, confident=0.875, iterations=1).children


# 4. What each role sees


def test_who_answers_sees_no_unit_and_who_asks_sees_all() -> None:
    """Guards against errors that propagate: sentinels in the units never reach an answer's prompt, and always, in order,
    a question's. Continuations show the problem, then the units with their phrases, then the wrap-up."""
    world = World(ask=lambda units, i: f"asked-{units.count('asked-')}-{i}", tell=lambda asked: f"told-{asked[-3:]}")
    root = tree(world, iterations=30, first_width=2, width=2)
    nodes = {node.path: node for node in root.all()}
    assert max(node.depth for node in nodes.values()) >= 3
    for text in world.shown("TELL"):
        assert "told-" not in text
        assert text.count("asked-") == 1
    parts = {
        "".join(f"{NEXT if n else FIRST} {s}\n{a}\n\n" for n, (s, a) in enumerate(node.units))
        for node in nodes.values()
    }
    assert {t.removeprefix("ASK question p | ") for t in world.shown("ASK")} <= {*parts, "nothing yet"}
    assert world.shown("ASK")[0] == "ASK question p | nothing yet"
    ends = [p.messages for prompts, _, _ in world.calls for p in prompts if p.messages[-1].role == "assistant"]
    assert {turns[:-1] for turns in ends} == {(Message("user", "question p"),)}
    assert {turns[-1].content for turns in ends} <= {part + wrap_up for part in parts for wrap_up in WRAP_UPS}
    assert f"{FIRST} asked-0-0\ntold-0-0\n\n{NEXT} asked-1-0\ntold-1-0\n\n{WRAP_UPS[5]}" in {
        turns[-1].content for turns in ends
    }


def test_each_role_has_its_own_cap() -> None:
    """Eight continuations in one call with up to 256 tokens, six sub-questions of one prompt with 64, and their answers in
    one call with 128; then three deeper down. All at temperature 0.6."""
    world = World(ask=lambda units, i: f"{units.count(':')} {i}")
    tree(world, iterations=8)
    looks, asks = (8, 1, 256), [(1, 6, 64), (6, 1, 128), (1, 3, 64), (3, 1, 128)]
    calls = [(len(prompts), n, s.max_tokens) for prompts, n, s in world.calls if s]
    # The root's look; 6 children and the exit in 7 iterations; the eighth expands a child.
    assert calls == [looks, *asks[:2], *[looks] * 7, *asks[2:], looks]
    assert {s.temperature for _, _, s in world.calls if s} == {0.6}


# 5. Branching


def test_widths_and_direct_exits() -> None:
    """6 + 1 children at the root, 3 + 1 deeper, the exit last; nobody's exit is expanded."""
    root = tree(World(ask=lambda units, i: f"{units.count(':')} {i}"), iterations=40)
    widths = {node.path: len(node.children) for node in root.all() if node.children}
    assert widths.pop("0") == 7
    assert widths
    assert set(widths.values()) == {4}
    assert all(node.children[-1].exit and not node.children[-1].children for node in root.all() if node.children)
    assert len({node.path for node in root.all()}) == len(list(root.all()))


def test_repeated_sub_questions_are_dropped() -> None:
    """By hand: of six, the second repeats the first but for case and marks, two say that none is needed or nothing."""
    node = TreeNode((("Old one?", "x"),))
    asked = ["What  is A?", "what is a", "No further question.", " ?! ", "old ONE", " And B? "]
    assert new_sub_questions(TEXTS, node, asked) == ["What  is A?", "And B?"]
    assert new_sub_questions(replace(TEXTS, enough="Done"), TreeNode(), ["done!", "No further question"]) == [
        "No further question"
    ]


@pytest.mark.parametrize("text", ["no further question", "", "what?"])
def test_without_sub_questions_the_search_ends(text: str) -> None:
    """Guards against endless loops at terminal leaves. With one sub-question for ever: a child with it, in which it is a
    repetition, and an exit; 20 iterations visit them without new samples."""
    world = World(ask=lambda units, i: text)
    root = tree(world)
    assert root.visits == 21
    if text != "what?":
        assert (root.terminal, root.children, len(world.calls)) == (True, [], 2)
        assert root.total == 21 * 0.5
    else:
        assert [(n.path, n.terminal) for n in root.all()] == [("0", False), ("0.0", True), ("0.exit", True)]
        # Looks at three nodes, questions at two, one answer.
        assert len(world.calls) == 3 + 2 + 1
        assert sum(n.visits for n in root.children) == 20


def test_the_depth_is_limited() -> None:
    """Guards against conversations that grow until they fit nowhere; 60 iterations in a tree of depth 2."""
    world = World(ask=lambda units, i: f"{units.count(':')} {i}")
    root = tree(world, iterations=60, first_width=2, width=2, depth=2)
    assert {node.depth for node in root.all()} == {0, 1, 2}
    assert all(node.terminal for node in root.all() if node.depth == 2)
    # 1 root, 2 children, 4 grandchildren, an exit each of the root and its children.
    assert len(list(root.all())) == 1 + 2 + 4 + 3
    assert len([1 for prompts, _, _ in world.calls if len(prompts) == 8]) == 10
    assert root.visits == 61


# 6. What a visit teaches


def test_five_iterations_by_hand() -> None:
    """V by node: the root and its exit 4/8, A 2/8, B 6/8, B's first child 7/8, its second 1/8; c = 1.4.

    1. The root is expanded; A: the root has N 2, W 0.75.
    2. B, not visited yet.   3. The exit likewise: N 4, W 2.0.
    4. A 0.25 + 1.4 sqrt(ln 4) = 1.898, B 2.398, exit 0.5: B is expanded, its first child seen: N 5, W 2.875; B 2, 1.625.
    5. A 0.25 + 1.4 sqrt(ln 5) = 2.026, B 0.8125 + 1.4 sqrt(ln 5 / 2) = 2.068: B's second child: N 6, W 3.0; B 3, 1.75.
    """
    ends = shares({"": 4, "A": 2, "B": 6, "B/A1": 7, "B/B1": 1})
    world = World(ask=lambda units, i: "AB"[i] + "1" * units.count(":"), end=ends)
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
    for node in root.all():
        assert node.visits == sum(child.visits for child in node.children) + (node.visits > 0)
    assert best_node(root).path == "0.1.0"


# 7. The result


def test_the_best_own_value_wins() -> None:
    """0.9 two units down beats the root's 0.5; ties go to more visits, then fewer units, then the elder branch; a node that
    was never visited has no say."""
    root = TreeNode(visits=9, value=0.5)
    root.add_children([("s", "t"), ("u", "v")])
    left, right, out = root.children
    right.add_children([("w", "x")])
    deep, deep_out = right.children
    deep.visits, deep.value = 1, 0.9
    assert best_node(root) is deep
    left.visits, left.value = 2, 0.9
    assert best_node(root) is left
    deep.visits = 3
    assert best_node(root) is deep
    left.visits = 3
    assert best_node(root) is left
    right.visits, right.value = 3, 0.9
    assert best_node(root) is left
    out.value = deep_out.value = 1.0
    assert best_node(root) is left


def told(attempt: Attempt) -> tuple[object, ...]:
    used = [(s.prompt.messages, s.prompt.seed, s.text) for s in attempt.samples]
    return ([s.text for s in attempt.answers], used, attempt.depth, attempt.notes, attempt.n_tokens)


def random_world() -> World:
    """Everything that is said derives from the prompt's own seed."""
    world = World()

    def script(prompt: Prompt, index: int, version: int) -> str:
        draw = rng(prompt.seed, index)
        return draw.choice("abc?") if prompt.messages[-1].role == "assistant" else f"what {draw.randrange(5)}"

    world.policy = FakePolicy(script)
    return world


def test_lockstep_is_the_same_as_one_by_one() -> None:
    """Guards against randomness that depends on the batch or its order; the searches of seven problems take different
    ways, and go out in fewer calls than alone."""
    problems, together = [problem(f"p{n}") for n in range(7)], random_world()
    found = socratic(Setup(together, TEXTS), problems, 11)
    worlds = [random_world() for _ in problems]
    alone = [socratic(Setup(world, TEXTS), [p], 11)[0] for world, p in zip(worlds, problems, strict=True)]
    assert [told(a) for a in found] == [told(a) for a in alone]
    backwards = socratic(Setup(random_world(), TEXTS), problems[::-1], 11)
    assert [told(a) for a in backwards[::-1]] == [told(a) for a in found]
    assert len({a.depth for a in found}) > 2
    assert [a.depth for a in found] == [len(world.calls) for world in worlds]
    assert len(together.calls) < sum(len(world.calls) for world in worlds) / 2
    other = socratic(Setup(random_world(), replace(TEXTS, seed=17)), problems, 11)
    assert [told(a) for a in other] != [told(a) for a in found]


def test_no_two_calls_share_a_seed() -> None:
    """Guards against continuations of two nodes, or of two wrap-ups, that are drawn with the same random numbers."""
    world = random_world()
    socratic(Setup(world, TEXTS), [problem("p"), problem("q")], 20)
    seeds = [p.seed for prompts, _, _ in world.calls for p in prompts]
    assert len(set(seeds)) == len(seeds)


# 8. What the search gains


def test_a_useful_sub_question_is_found() -> None:
    """Continuations are right with 0.4, and with 0.9 once the one useful of 20 sub-questions was asked; each wrong one says
    the same. By the binomial distribution of 8 at 0.4 a direct vote is right in 0.1737 + 0.2322 / 2 = 0.290 of all cases
    (ties go to what came first, right or wrong alike). With 20 iterations the search is above it by more than the three
    standard errors that the vote itself may be off by."""
    world, problems = World(), [problem(f"p{n}") for n in range(101)]

    def script(prompt: Prompt, index: int, version: int) -> str:
        draw = rng(prompt.seed, index)
        if prompt.messages[-1].role == "assistant":
            return "right" if draw.random() < (0.9 if "useful" in prompt.messages[-1].content else 0.4) else "wrong"
        return draw.choice(["useful", *(f"useless {n}" for n in range(19))])

    world.policy = FakePolicy(script)

    def accuracy(attempts: Sequence[Attempt]) -> float:
        return sum(bool(s.right) for group in grade([a.answers for a in attempts]) for s in group) / len(problems)

    direct = sum(math.comb(8, k) * 0.4**k * 0.6 ** (8 - k) * (0.5 if k == 4 else 1) for k in range(4, 9))
    assert direct == pytest.approx(0.290, abs=5e-4)
    error = math.sqrt(direct * (1 - direct) / len(problems))
    assert abs(accuracy(socratic(Setup(world, TEXTS), problems, 0)) - direct) < 3 * error
    assert accuracy(socratic(Setup(world, TEXTS), problems, 20)) > direct + 3 * error


# 9. Gold


def test_gold_answers_and_verdicts_are_never_looked_at() -> None:
    """Guards against an oracle: any look at the gold answer or the verifier raises."""

    class Sealed(Problem):
        def __getattribute__(self, name: str) -> Any:
            assert name not in ("gold", "judge", "verify"), "gold answers and verdicts are out of bounds"
            return super().__getattribute__(name)

    sealed = Sealed("p", "question p", "right", lambda *_: Verdict(True), extract_answer=last_word, equal_answers=equal)
    (attempt,) = socratic(Setup(random_world(), TEXTS), [sealed], 20)
    assert attempt.answers
    with pytest.raises(AssertionError, match="out of bounds"):
        _ = sealed.gold


# 10. Costs, and what goes on with the answer


def test_all_calls_are_counted() -> None:
    """Guards against questions or looks that cost nothing; the eight continuations of a look are one call."""
    world = random_world()
    (attempt,) = socratic(Setup(world, TEXTS), [problem()], 20)
    assert attempt.n_tokens == sum(len(s.ids) for s in world.drawn)
    assert [(s.prompt.group, s.ids) for s in attempt.samples] == [(s.prompt.group, s.ids) for s in world.drawn]
    assert attempt.depth == len(world.calls)
    shown = [len(m.content.split()) for prompts, _, _ in world.calls for p in prompts for m in p.messages]
    assert attempt.n_prompt_tokens == sum(shown)
    asks = [(prompts, n) for prompts, n, _ in world.calls if prompts[0].messages[-1].role == "assistant"]
    assert {(len(prompts), n) for prompts, n in asks} == {(8, 1)}


def test_the_answer_is_the_whole_turn() -> None:
    """Guards against an answer without the units it rests on, and a conversation in which the assistant speaks twice: what
    goes on from the answer alternates."""
    world = World(end=lambda units, k: "so it is right" if units else "wrong" if k < 2 else "?")
    going_on = FakePolicy(lambda p, i, v: p.phase)

    class Both(World):
        def groups(
            self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
        ) -> Iterator[tuple[int, Group]]:
            socratic_ones = prompts[0].phase == "socratic"
            return (world if socratic_ones else going_on).groups(prompts, n, sampling)

    setup = Setup(Both(), TEXTS)
    (attempt,) = socratic(setup, [problem()], 1)
    assert [s.text for s in attempt.answers] == [
        f"{FIRST} what 0?\n<what 0?>\n\n{WRAP_UPS[0]} so it is right",
    ]
    assert attempt.answers[0].prompt.messages == (Message("user", "question p"),)
    (attempt,) = parse("socratic:1+self-refine+refine").run(setup, [problem()])
    for prompt in going_on.shown:
        assert [m.role for m in prompt.messages] == ["user", "assistant", "user", "assistant", "user"][
            : len(prompt.messages)
        ]


def test_what_was_found_on_the_way_does_not_spoil_the_answer() -> None:
    """Regression: an answer that the vote had read in the continuation was graded together with the units, whose own boxes
    made it unreadable. Here a reply with two answers has none."""

    def only(reply: str) -> str | None:
        found = reply.split("answer=")[1:]
        return found[0].split()[0] if len(found) == 1 else None

    about = replace(problem(), extract_answer=only, verify=lambda reply, gold: Verdict(only(reply) == gold))
    world = World(tell=lambda asked: "answer=7", end=lambda units, k: "so answer=right" if units else "?")
    (attempt,) = socratic(Setup(world, TEXTS), [about], 1)
    assert [s.text for s in attempt.answers] == [" so answer=right"]
    assert [s.right for s in grade([attempt.answers])[0]] == [True]


def test_without_any_answer_a_reply_stands() -> None:
    """Guards against problems that drop out of the mean because nothing could be read: they are wrong."""
    world = World(end=lambda units, k: "?")
    (attempt,) = socratic(Setup(world, TEXTS), [problem()], 5)
    assert [s.text for s in attempt.answers] == [f"{WRAP_UPS[0]} ?"]
    assert attempt.answers[0].prompt.messages == (Message("user", "question p"),)
    assert [s.right for s in grade([attempt.answers])[0]] == [False]


def test_answers_must_be_comparable() -> None:
    """Guards against a search that values texts."""
    with pytest.raises(UserError, match="the verifier of p does not extract the answer from a reply"):
        socratic(Setup(World(), TEXTS), [replace(problem(), extract_answer=None, equal_answers=None)])


# Over-long prompts


def test_where_all_is_overlong_there_is_no_answer() -> None:
    """8 continuations of the root and one question are skipped; nothing is drawn, nothing was waited for."""
    (attempt,) = socratic(Setup(World(overlong=lambda text: True), TEXTS), [problem()], 20)
    assert attempt == Attempt(problem(), notes={"over-long prompts": 9})


def test_a_sub_question_is_no_answer() -> None:
    """Regression: with room for questions and none for continuations, a question stood as the answer."""
    (attempt,) = socratic(Setup(World(overlong=lambda text: text.endswith(WRAP_UPS)), TEXTS), [problem()], 3)
    assert len(attempt.samples) == 6 + 6
    assert attempt.answers == ()


@pytest.mark.parametrize(
    ("what", "n_children", "n_skipped"),
    [
        ("ASK", 0, 1),  # the root is a leaf for ever
        ("TELL", 0, 6),  # likewise, after six sub-questions that nobody could answer
        ("what 3?", 6, 1),  # one sub-question less: 5 children and the exit
        (WRAP_UPS[2], 7, 8),  # one continuation less at the root and each of its seven children
    ],
)
def test_overlong_prompts_are_left_out(what: str, n_children: int, n_skipped: int) -> None:
    """Guards against a crash, and answers that slide to another sub-question where one was skipped. Seven iterations: all
    children of the root, if it has any."""
    overlong = lambda text: what in text and not (what == "what 3?" and FIRST in text)  # noqa: E731
    world = World(overlong=overlong)
    root = tree(world, iterations=n_children or 7)
    assert len(root.children) == n_children
    assert all(told == f"<{asked}>" for node in root.all() for asked, told in node.units)
    assert root.value == 0.5
    (attempt,) = socratic(Setup(World(overlong=overlong), TEXTS), [problem()], n_children or 7)
    assert attempt.notes == {"over-long prompts": n_skipped}
    assert len(attempt.answers) == 1
