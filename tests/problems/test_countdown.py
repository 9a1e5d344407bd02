"""Countdown: verifier, solver and splits against a second implementation, and the teacher's demonstrations."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from typing import Any

import pytest

from rethink.problems import countdown
from rethink.problems.countdown import equal_answers, extract_answer, numbers_and_target, problems, solutions, verify
from rethink.settings import Replies
from rethink.types import Demonstration, Problem
from support.cpu_limit import cpu_limit

GOLD = "3 7 5 -> 26"

RIGHT = [
    "3 * 7 = 21 ; 21 + 5 = 26", "7 * 3 = 21 ; 5 + 21 = 26", "3 * 7 = 21 ;\n21 + 5 = 26",
    "7 - 3 = 4 ; 4 * 5 = 20 ? 3 * 7 = 21 ; 21 + 5 = 26", "nonsense ? ? 3 * 7 = 21 ; 21 + 5 = 26",
    "03 * 7 = 21 ; 21 + 5 = 26",
]  # fmt: skip

WRONG = {
    "": "not a step", "?": "not a step", "3 * 7 + 5 = 26": "not a step", "3 * 7 = 21 ; 21 + 5 = 26 ;": "not a step",
    "3 * 7 = 21 ; 21 + 5 = 26 ? 7 - 3 = 4 ; 4 * 5 = 20": "makes 20", "3 * 7 = 21 ; 21 + 5 = 27": "wrong arithmetic",
    "3 * 7 = 26": "wrong arithmetic", "3 * 7 = 21": "does not use every number",
    "3 * 7 = 21 ; 21 + 7 = 28": "not available", "3 + 3 = 6 ; 6 * 7 = 42": "not available",
    "3 * 7 = 21 ; 21 + 5 = 26 ; 26 + 0 = 26": "not available", "3 * 7 = 21 ; 3 + 7 = 10 ; 21 + 5 = 26": "not available",
    "3 - 7 = -4 ; 5 - -4 = 9": "not numbers", "15 / 3 = 5 ; 5 + 7 = 12": "not a step",
    "3.0 * 7 = 21 ; 21 + 5 = 26": "not numbers", "3 * 7 = 2_1 ; 21 + 5 = 26": "not numbers",
    "٣ * 7 = 21 ; 21 + 5 = 26": "not numbers",  # Arabic 3: int() would read it
    "³ * 7 = 21 ; 21 + 5 = 26": "not numbers",  # isdigit() is True, int() raises
    "9" * 5000 + " + 5 = 26": "not numbers",  # int() refuses over 4300 digits
    "3 * 7 == 21 ; 21 + 5 = 26": "not a step",
}  # fmt: skip


@pytest.mark.parametrize("reply", RIGHT)
def test_right_replies(reply: str) -> None:
    """Guards against rejecting replies that follow the rules: any order, any blanks, the last attempt counts."""
    assert verify(reply, GOLD).right is True


@pytest.mark.parametrize(("reply", "reason"), WRONG.items(), ids=lambda text: text[:30])
def test_wrong_replies(reply: str, reason: str) -> None:
    """Guards against cheating that is rewarded, and exceptions for what a policy may write."""
    verdict = verify(reply, GOLD)
    assert verdict.right is False
    assert reason in verdict.reason


BLANKS = "3" + " " * 10**6 + "* 7 = 22 ; 22 + 5 = 27"


@pytest.mark.parametrize("reply", ["3 * 7 = 21 ; " * 80_000, "?" * 10**6, "3 " * 500_000, "9" * 10**6, BLANKS])
def test_long_replies_have_a_short_reason(reply: str) -> None:
    """Guards against replies that stall the verifier, or fill the log with their reason."""
    with cpu_limit():
        verdict = verify(reply, GOLD)
    assert verdict.right is False
    assert len(verdict.reason) < 200


def reachable(given: tuple[int, ...]) -> set[int]:
    """Return all targets, by all splits of all orders instead of a search over steps."""

    def values(part: tuple[int, ...]) -> set[int]:
        found = set(part) if len(part) == 1 else set()
        for k in range(1, len(part)):
            for a, b in itertools.product(values(part[:k]), values(part[k:])):
                found |= {a + b, a - b, a * b}
        return {value for value in found if 0 <= value <= countdown.LARGEST}

    return set().union(*map(values, itertools.permutations(given))) - {0}


@pytest.mark.parametrize("given", [(1, 1, 1), (2, 2, 13), (2, 3, 5, 7)])
def test_solutions_reach_the_same_targets_as_enumeration(given: tuple[int, ...]) -> None:
    """Guards against targets that cannot be made, and targets that are missing."""
    assert set(solutions(given)) == reachable(given)


@pytest.mark.parametrize("given", [(4, 4, 11), (2, 3, 5, 7)])
def test_all_solutions_are_right(given: tuple[int, ...]) -> None:
    """Guards against a solver and a verifier with different rules."""
    numbers = " ".join(map(str, given))
    for target, texts in solutions(given).items():
        assert len(texts) == len(set(texts))
        wrong = [t for t in texts if not verify(t, f"{numbers} -> {target}").right]
        assert wrong == []
        assert not any(verify(t, f"{numbers} -> {target + 1}").right for t in texts[:3])


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("3 * 7 = 21 ; 21 + 5 = 26", "7 * 3 = 21 ; 5 + 21 = 26", True),
        ("2 * 3 = 6 ; 6 + 4 = 10", "4 + 3 = 7 ; 7 + 3 = 10", False),  # other numbers
        ("2 + 3 = 5 ; 5 + 4 = 9", "4 + 3 = 7 ; 7 + 2 = 9", True),
        ("2 + 3 = 5 ; 5 * 4 = 20", "4 + 3 = 7 ; 7 + 2 = 9", False),
        ("3 * 7 = 21 ; 21 + 5 = 26", "3 * 7 = 22 ; 22 + 4 = 26", False),
        ("2 + 2 = 4 ; 4 + 4 = 9", "4 + 4 = 9 ; 2 + 2 = 4", False),  # wrong arithmetic equals only itself
        ("2 + 2 = 5", "2 + 2 = 5", True),
        ("1 + 2 = 3 ; 3 + 4 = 7", "3 + 4 = 7 ; 1 + 2 = 3", False),  # the second leaves two numbers
        ("1 - 1 = 0 ; 3 + 4 = 7", "3 + 4 = 7 ; 1 - 1 = 0 ; 7 + 0 = 7", False),  # the first does
    ],
)
def test_votes_compare_what_attempts_make(a: str, b: str, equal: bool) -> None:
    """Guards against right attempts that split their votes, because they are written or found in another way."""
    first, second = extract_answer(a, lenient=False), extract_answer(b, lenient=False)
    assert first is not None
    assert second is not None
    assert equal_answers(first, second) == equal_answers(second, first) == equal


def test_equal_attempts_have_equal_verdicts() -> None:
    """Attempts with few numbers, and spoiled ones: equal attempts have the same verdict for every gold answer, and two
    attempts that are right for one are equal. Guards against a vote that knows more, or less, than the verifier."""
    texts: list[str] = []
    for given in ((1, 2, 3), (1, 1, 2), (2, 3), (1, 2, 2, 3)):
        texts += itertools.chain.from_iterable(solutions(given).values())
    texts = [str(extract_answer(text, lenient=False)) for text in texts][::9]
    texts += [text.replace("3", "4") for text in texts[::5]]
    texts += [" ; ".join(reversed(text.split(" ; "))) for text in texts[::5]]
    texts += [f"{text} ; 1 + 2 = 3" for text in texts[::7]] + [text.split(" ; ")[0] for text in texts[::7]]
    golds: list[str] = []
    for given in ((1, 2, 3), (1, 1, 2), (2, 3), (1, 2, 4), (1, 1, 2, 2), (1, 2, 2, 3)):
        golds += [f"{' '.join(map(str, given))} -> {target}" for target in range(13)]
    rights = {text: frozenset(gold for gold in golds if verify(text, gold).right) for text in texts}
    pairs = list(itertools.combinations(rights, 2))
    equal = [equal_answers(a, b) for a, b in pairs]
    assert 100 < sum(equal) < len(pairs) / 5
    for (a, b), same in zip(pairs, equal, strict=True):
        assert rights[a] == rights[b] if same else not rights[a] & rights[b], (a, b)


def multiset(question: str) -> tuple[tuple[int, ...], int]:
    numbers, target = question.split(" -> ")
    return tuple(sorted(map(int, numbers.split()))), int(target)


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Problem]]:
    return {name: problems(name, largest=13) for name in ("train", "validation", "test")}


def test_splits(splits: dict[str, list[Problem]]) -> None:
    """Guards against training on held-out problems in another order, missing ones, and a hash that favors a split."""
    seen = Counter(multiset(p.question) for found in splits.values() for p in found)
    assert max(seen.values()) == 1
    multisets = itertools.combinations_with_replacement(range(1, 14), 3)
    assert set(seen) == {(given, target) for given in multisets for target in solutions(given)}
    assert all(numbers_and_target(p) == multiset(p.question) for found in splits.values() for p in found[:50])
    assert len({p.id for found in splits.values() for p in found}) == len(seen) > 4500
    shares = {name: len(found) / len(seen) for name, found in splits.items()}
    assert shares == pytest.approx({"train": 0.55, "validation": 0.05, "test": 0.4}, abs=0.022)  # 3 standard errors


def demonstrations(problem: Problem, seed: int = 5) -> tuple[Demonstration, ...]:
    assert problem.demonstrate is not None
    return problem.demonstrate(seed)


def with_replies(n: int = 1000, numbers: int = 3, **settings: Any) -> list[tuple[Problem, dict[str, Demonstration]]]:
    """Return problems that have wrong attempts, with their demonstrations by phase."""
    found: list[tuple[Problem, dict[str, Demonstration]]] = []
    for problem in problems("train", numbers=numbers, replies=Replies(**settings)):
        if len(solutions(numbers_and_target(problem)[0])) > 1 and len(found) < n:
            found.append((problem, {d.phase: d for d in demonstrations(problem)}))
    return found


def is_right(problem: Problem, reply: str) -> bool:
    return problem.grade(reply).right is True


@pytest.mark.parametrize(("attempts", "expected"), [(1, 0.3), (3, 0.657)])  # 1 - 0.7^3 = 0.657
def test_share_of_right_replies(attempts: int, expected: float) -> None:
    """Guards against searches with another chance of success, or that continue after success or stop early."""
    found = with_replies(attempts=attempts, p_right=0.3)
    right = [is_right(p, by_phase["solve"].reply) for p, by_phase in found]
    assert sum(right) / len(right) == pytest.approx(expected, abs=4 * (expected * (1 - expected) / len(right)) ** 0.5)
    for p, by_phase in found[:300]:
        *failed, last = by_phase["solve"].reply.split(" ? ")
        assert not any(is_right(p, attempt) for attempt in failed)
        assert len(failed) == attempts - 1 or is_right(p, last)


def test_careful_refinements() -> None:
    """Guards against refinements that damage a right draft, or repeat an attempt that failed."""
    n_right = 0
    for p, by_phase in with_replies(attempts=2, p_right=0.5, p_careful=1.0):
        refine = by_phase["refine"]
        attempts = refine.shown[0].split(" ? ")
        if is_right(p, attempts[-1]):
            n_right += 1
            assert refine.reply == attempts[-1]
        else:
            assert not {*attempts} & {*refine.reply.split(" ? ")}
    assert 500 < n_right < 1000


def test_careless_refinements_repeat_half_of_the_drafts() -> None:
    """Guards against a careless teacher that knows the verdict: it repeats right and wrong drafts equally often."""
    repeats: dict[bool, list[bool]] = {True: [], False: []}
    for p, by_phase in with_replies(attempts=1, p_right=0.5, p_careful=0.0):
        refine = by_phase["refine"]
        repeats[is_right(p, refine.shown[0])].append(refine.reply == refine.shown[0])
    for repeated in repeats.values():  # 0.5 and a little more: a new attempt may by chance be the same
        assert 0.45 < sum(repeated) / len(repeated) < 0.70


def test_demonstrations_are_unchanged() -> None:
    """Guards against changed draws, which the tiny model was trained on, a seed that is ignored and a global generator."""
    some = problems("train")[200:99:-1]
    assert sum(demonstrations(p, 2) != demonstrations(p, 1) for p in some) > 50
    found = hashlib.sha256()
    for p in problems("train"):
        solve, refine = demonstrations(p)
        assert (solve.phase, solve.shown, refine.phase) == ("solve", (), "refine")
        found.update("\n".join((p.id, solve.reply, *refine.shown, refine.reply, "")).encode())
    assert found.hexdigest()[:16] == "de1f8582830b2a99"


ALL_PHASES: tuple[str, ...] = ("solve", "refine", "reflect", "retry", "merge")


def follows(reply: str, hint: str) -> bool:
    return reply.startswith(f"{hint} ;")


def test_careful_merges() -> None:
    """Guards against merged answers that take a wrong candidate, or repeat an attempt that failed."""
    n_right = 0
    for p, by_phase in with_replies(700, phases=ALL_PHASES, p_careful=1.0, candidates=3):
        merge = by_phase["merge"]
        assert len(merge.shown) == 3
        right = [c.split(" ? ")[-1] for c in merge.shown if is_right(p, c)]
        n_right += bool(right)
        if right:
            assert merge.reply == right[0]
        else:
            tried = {attempt for c in merge.shown for attempt in c.split(" ? ")}
            assert not tried & {*merge.reply.split(" ? ")}
    assert 100 < n_right < 700


@pytest.mark.parametrize("phases", [("merge",), ("solve", "reflect"), ALL_PHASES])
def test_phases(phases: tuple[str, ...]) -> None:
    """Guards against phases that nobody asked for, or that are missing."""
    for p, by_phase in with_replies(5, phases=phases):
        assert [d.phase for d in demonstrations(p)] == [*by_phase]
        assert by_phase.keys() == {*phases}


@pytest.mark.parametrize(
    ("settings", "helpful", "followed"),  # between these shares; wrong hints may help too
    [
        ({"p_hint": 0.3, "p_careful": 1.0}, (0.25, 0.75), (1.0, 1.0)),
        ({"p_hint": 1.0, "p_careful": 0.0}, (1.0, 1.0), (0.0, 0.3)),
    ],
)
def test_reflections_and_retries(settings: Any, helpful: tuple[float, ...], followed: tuple[float, ...]) -> None:
    """Guards against reflections on right tries, another share of helpful hints, and retries that ignore their hint."""
    n_helpful = n_followed = 0
    for p, by_phase in with_replies(700, phases=ALL_PHASES, **settings):
        reflect, retry = by_phase["reflect"], by_phase["retry"]
        assert not is_right(p, reflect.shown[0])
        assert retry.shown == (*reflect.shown, reflect.reply)
        given, target = numbers_and_target(p)
        n_helpful += any(follows(text, reflect.reply) for text in solutions(given)[target])
        n_followed += all(follows(attempt, reflect.reply) for attempt in retry.reply.split(" ? "))
    assert helpful[0] <= n_helpful / 700 <= helpful[1]
    assert followed[0] <= n_followed / 700 <= followed[1]


def test_retries_with_two_numbers() -> None:
    """With two numbers a hint is a whole attempt; drawing the retry once raised IndexError."""
    for _, by_phase in with_replies(numbers=2, phases=ALL_PHASES, p_careful=1.0):
        assert by_phase["retry"].reply == by_phase["retry"].shown[1]
