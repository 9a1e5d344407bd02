"""Countdown: the verifier, the solver and the splits against a second implementation; demonstrations as configured."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import pytest

from rethink.problems import countdown
from rethink.problems.countdown import numbers_and_target, problems, solutions, verify
from rethink.settings import Replies
from rethink.types import Demonstration, Phase, Problem

GOLD = "3 7 5 -> 26"

RIGHT = [
    "3 * 7 = 21 ; 21 + 5 = 26",
    "7 * 3 = 21 ; 5 + 21 = 26",
    "  3   *  7 = 21;21 + 5 = 26  ".replace(";", " ; "),
    "3 * 7 = 21 ;\n21 + 5 = 26",
    "7 - 3 = 4 ; 4 * 5 = 20 ? 3 * 7 = 21 ; 21 + 5 = 26",
    "nonsense ? ? 3 * 7 = 21 ; 21 + 5 = 26",
    "03 * 7 = 21 ; 21 + 5 = 26",
]

WRONG = {
    "": "not a step",
    "?": "not a step",
    ";": "not a step",
    "26": "not a step",
    "3 * 7 + 5 = 26": "not a step",
    "3 * 7 = 21 ; 21 + 5 = 26 ;": "not a step",
    "3 * 7 = 21 ; 21 + 5 = 26 ?": "not a step",
    "3 * 7 = 21 ; 21 + 5 = 26 ? 7 - 3 = 4 ; 4 * 5 = 20": "makes 20",
    "3 * 7 = 21 ; 21 + 5 = 27": "wrong arithmetic",
    "3 * 7 = 26": "wrong arithmetic",
    "3 * 7 = 21": "does not use every number",
    "3 * 7 = 21 ; 21 + 7 = 28": "not there",
    "3 + 3 = 6 ; 6 * 7 = 42": "not there",
    "3 * 7 = 21 ; 21 + 5 = 26 ; 26 + 0 = 26": "not there",
    "3 * 7 = 21 ; 21 + 5 = 26 ; 26 * 26 = 676": "not there",
    "21 + 5 = 26": "not there",
    "3 * 7 = 21 ; 3 + 7 = 10 ; 21 + 5 = 26": "not there",
    "3 - 7 = -4 ; 5 - -4 = 9": "not numbers",
    "3 ** 7 = 2187 ; 2187 + 5 = 2192": "not a step",
    "15 / 3 = 5 ; 5 + 7 = 12": "not a step",
    "3.0 * 7 = 21 ; 21 + 5 = 26": "not numbers",
    "+3 * 7 = 21 ; 21 + 5 = 26": "not numbers",
    "3 * 7 = 2_1 ; 21 + 5 = 26": "not numbers",
    "٣ * 7 = 21 ; 21 + 5 = 26": "not numbers",  # Arabic 3: int() would read it
    "³ * 7 = 21 ; 21 + 5 = 26": "not numbers",  # isdigit() is True, int() raises
    "\uff13 * 7 = 21 ; 21 + 5 = 26": "not numbers",  # full-width 3
    "9" * 5000 + " + 5 = 26": "not numbers",  # int() refuses over 4300 digits
    "3 * 7 = 21 \uff1b 21 + 5 = 26": "not a step",
    "3 * 7 = 21 ; 21 + 5 = 26 right": "not a step",
    "3 * 7 == 21 ; 21 + 5 = 26": "not a step",
}


@pytest.mark.parametrize("reply", RIGHT)
def test_right_replies(reply: str) -> None:
    """Guards against rejecting what follows the rules: any order, any blanks, only the last attempt counts."""
    assert verify(reply, GOLD).right is True


@pytest.mark.parametrize(("reply", "reason"), WRONG.items(), ids=lambda text: text[:30])
def test_wrong_replies(reply: str, reason: str) -> None:
    """Guards against rewarded cheating and against crashes on what a policy may write; the reason tells which rule."""
    verdict = verify(reply, GOLD)
    assert verdict.right is False
    assert reason in verdict.reason


BLANKS = "3" + " " * 10**6 + "* 7 = 22 ; 22 + 5 = 27"


@pytest.mark.parametrize(
    "flood", ["3 * 7 = 21 ; " * 80_000, "?" * 10**6, "3 " * 500_000, "9" * 10**6, ";" * 10**6, BLANKS]
)
def test_a_megabyte_is_wrong_and_leaves_a_short_reason(flood: str) -> None:
    """Guards against replies that stall the verifier or fill the log with their reason."""
    verdict = verify(flood, GOLD)
    assert verdict.right is False
    assert len(verdict.reason) < 200


def test_a_number_given_twice_can_be_used_twice() -> None:
    """Guards against a verifier that keeps sets where the numbers are a multiset."""
    assert verify("4 + 4 = 8 ; 8 * 2 = 16", "4 4 2 -> 16").right is True
    assert verify("4 + 4 = 8 ; 8 * 2 = 16", "4 2 3 -> 16").right is False


# A second implementation: all binary trees over all orders, evaluated as Fractions, without any search over steps.


def trees(leaves: tuple[int, ...]) -> Iterator[str]:
    if len(leaves) == 1:
        yield str(leaves[0])
    for k in range(1, len(leaves)):
        for left, sign, right in itertools.product(trees(leaves[:k]), "+-*", trees(leaves[k:])):
            yield f"({left} {sign} {right})"


def value(tree: str) -> tuple[Fraction, bool]:
    """The value of a tree, and whether all inner results are in the range that countdown keeps."""
    if not tree.startswith("("):
        return Fraction(tree), True
    left, sign, right = split(tree[1:-1])
    (a, ok_a), (b, ok_b) = value(left), value(right)
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return result, ok_a and ok_b and 0 <= result <= countdown.LARGEST


def split(inside: str) -> tuple[str, str, str]:
    depth = 0
    for i, c in enumerate(inside):
        depth += {"(": 1, ")": -1}.get(c, 0)
        if depth == 0 and c == " ":
            return inside[:i], inside[i + 1], inside[i + 3 :]
    raise AssertionError(inside)


def reachable(given: tuple[int, ...]) -> set[int]:
    found = {value(tree) for order in set(itertools.permutations(given)) for tree in trees(order)}
    return {int(result) for result, in_range in found if in_range and result >= 1}


@pytest.mark.parametrize("given", [(3, 5, 7), (1, 1, 1), (2, 2, 13), (15, 15, 15), (2, 3, 5, 7)])
def test_the_solver_reaches_what_enumeration_reaches(given: tuple[int, ...]) -> None:
    """Guards against targets that cannot be made, or that can be made and are left out."""
    assert set(solutions(given)) == reachable(given)


@pytest.mark.parametrize("given", [(3, 5, 7), (4, 4, 11), (2, 3, 5, 7)])
def test_every_listed_solution_is_right(given: tuple[int, ...]) -> None:
    """Guards against a solver and a verifier with different rules, on every gold answer there is."""
    numbers = " ".join(map(str, given))
    for target, texts in solutions(given).items():
        assert len(texts) == len(set(texts))
        wrong = [t for t in texts if not verify(t, f"{numbers} -> {target}").right]
        assert wrong == []
        assert not any(verify(t, f"{numbers} -> {target + 1}").right for t in texts[:3])


def multiset(question: str) -> tuple[tuple[int, ...], int]:
    numbers, target = question.split(" -> ")
    return tuple(sorted(map(int, numbers.split()))), int(target)


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Problem]]:
    return {name: problems(name, largest=13) for name in ("train", "validation", "test")}


def test_splits_are_disjoint_and_complete(splits: dict[str, list[Problem]]) -> None:
    """Guards against held-out instances that were trained on with their numbers in another order."""
    seen = Counter(multiset(p.question) for found in splits.values() for p in found)
    assert max(seen.values()) == 1
    every = {
        (given, target)
        for given in itertools.combinations_with_replacement(range(1, 14), 3)
        for target in solutions(given)
    }
    assert set(seen) == every
    assert all(numbers_and_target(p) == multiset(p.question) for found in splits.values() for p in found[:50])


def test_shares_of_the_splits(splits: dict[str, list[Problem]]) -> None:
    """Guards against a hash that favors a split; 3 standard errors of a share of 4,500 are at most 0.022."""
    total = sum(map(len, splits.values()))
    shares = {name: len(found) / total for name, found in splits.items()}
    assert total > 4500
    assert shares == pytest.approx({"train": 0.55, "validation": 0.05, "test": 0.4}, abs=0.022)


def test_ids_are_unique(splits: dict[str, list[Problem]]) -> None:
    """Guards against problems that share an id, and with it their random numbers and their group."""
    ids = [p.id for found in splits.values() for p in found]
    assert len(ids) == len(set(ids))


def test_an_unknown_split_is_refused() -> None:
    """Guards against an empty list of problems for a misspelt split."""
    with pytest.raises(ValueError, match="train, validation, test, not 'dev'"):
        problems("dev")


def both(problem: Problem, seed: int) -> tuple[Demonstration, Demonstration]:
    assert problem.demonstrate is not None
    solve, refine = problem.demonstrate(seed)
    return solve, refine


def shown(replies: Replies, n: int = 2000) -> list[tuple[Problem, Demonstration, Demonstration]]:
    chosen = [p for p in problems("train", replies=replies) if has_wrong(p)][:n]
    return [(p, *both(p, 5)) for p in chosen]


def has_wrong(problem: Problem) -> bool:
    return len(solutions(numbers_and_target(problem)[0])) > 1


def last_is_right(problem: Problem, reply: str) -> bool:
    return problem.grade(reply).right is True


def test_share_of_right_attempts() -> None:
    """Guards against a teacher other than configured: one attempt each, right with chance 0.3, within 4 s.e. (0.041)."""
    found = [last_is_right(p, solve.reply) for p, solve, _ in shown(Replies(attempts=1, p_right=0.3))]
    assert len(found) == 2000
    assert sum(found) / len(found) == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 2000) ** 0.5)


def test_share_of_right_replies_with_three_attempts() -> None:
    """Guards against searches that go on after success or stop early: 1 - 0.7^3 = 0.657 end right."""
    found = shown(Replies(attempts=3, p_right=0.3))
    right = [last_is_right(p, solve.reply) for p, solve, _ in found]
    assert sum(right) / len(right) == pytest.approx(0.657, abs=4 * (0.657 * 0.343 / 2000) ** 0.5)
    for p, solve, _ in found[:300]:
        attempts = solve.reply.split(" ? ")
        assert [last_is_right(p, a) for a in attempts[:-1]] == [False] * (len(attempts) - 1)
        assert len(attempts) == 3 or last_is_right(p, attempts[-1])


def test_careful_refinements_repeat_a_right_draft() -> None:
    """Guards against demonstrations that teach damage: with p_careful = 1 a right draft's attempt is repeated exactly."""
    found = shown(Replies(attempts=2, p_right=0.5, p_careful=1.0))
    n_right = 0
    for p, _, refine in found:
        if last_is_right(p, refine.shown[0]):
            n_right += 1
            assert refine.reply == refine.shown[0].split(" ? ")[-1]
    assert n_right > 1000


def test_careful_refinements_try_what_a_wrong_draft_has_not() -> None:
    """Guards against careful refinements that repeat a failed attempt."""
    for p, _, refine in shown(Replies(attempts=2, p_right=0.3, p_careful=1.0)):
        if not last_is_right(p, refine.shown[0]):
            assert not {*refine.shown[0].split(" ? ")} & {*refine.reply.split(" ? ")}


def test_careless_refinements_repeat_half_of_the_drafts() -> None:
    """Guards against a careless teacher that looks at the verdict: it repeats right and wrong drafts equally often."""
    found = shown(Replies(attempts=1, p_right=0.5, p_careful=0.0))
    for verdict in (True, False):
        repeats = [
            refine.reply == refine.shown[0] for p, _, refine in found if last_is_right(p, refine.shown[0]) is verdict
        ]
        # 0.5, and a little more: a fresh start may by chance give the same attempt.
        assert 0.45 < sum(repeats) / len(repeats) < 0.70


def test_demonstrations_are_a_function_of_the_seed() -> None:
    """Guards against a global generator: same seed, same text, in any order of calls; another seed, another text."""
    some = problems("train")[100:200]
    first = [both(p, 1) for p in some]
    again = [both(p, 1) for p in reversed(problems("train")[100:200])]
    assert first == again[::-1]
    assert sum(both(p, 2) != found for p, found in zip(some, first, strict=True)) > 50


def test_the_usual_demonstrations_are_as_they_always_were() -> None:
    """Guards against more phases that change what the first two draw: the tiny model was made from these."""
    found = hashlib.sha256()
    for p in problems("train"):
        solve, refine = both(p, 5)
        assert (solve.phase, solve.shown, refine.phase) == ("solve", (), "refine")
        found.update("\n".join((p.id, solve.reply, *refine.shown, refine.reply, "")).encode())
    assert found.hexdigest()[:16] == "de1f8582830b2a99"


FIVE: tuple[Phase, ...] = ("solve", "refine", "reflect", "retry", "merge")


def every(problem: Problem) -> tuple[Demonstration, ...]:
    assert problem.demonstrate is not None
    return problem.demonstrate(5)


def of_phase(phase: Phase, replies: Replies, numbers: int = 3) -> list[tuple[Problem, Demonstration]]:
    made = [p for p in problems("train", numbers=numbers, replies=replies) if has_wrong(p)]
    found = [(p, d) for p in made[:700] for d in every(p) if d.phase == phase]
    assert len(found) == min(700, len(made))
    return found


@pytest.mark.parametrize("phase", FIVE)
def test_phases_are_those_asked_for(phase: Phase) -> None:
    """Guards against a phase that is shown unasked, and against the others' draws that depend on it."""
    (p, alone), *_ = of_phase(phase, Replies(phases=(phase,)))
    assert every(p) == (alone,)
    ((whole, _), *_) = of_phase("solve", Replies(phases=FIVE))
    assert sorted(d.phase for d in every(whole)) == sorted(FIVE)


def test_reflections_are_on_failures_and_hint_at_a_first_step() -> None:
    """Guards against reflections on right tries, and a share of helpful hints other than configured."""
    found = of_phase("reflect", Replies(phases=FIVE, p_hint=0.3))
    assert not any(last_is_right(p, d.shown[0]) for p, d in found)
    helpful = [any(s.startswith(f"{d.reply} ;") for s in solutions_of(p)) for p, d in found]
    # 0.3, and more: the first step of a wrong attempt may by chance begin a right one too.
    assert 0.25 < sum(helpful) / len(helpful) < 0.75
    never = of_phase("reflect", Replies(phases=FIVE, p_hint=1.0))
    assert all(any(s.startswith(f"{d.reply} ;") for s in solutions_of(p)) for p, d in never)


def solutions_of(problem: Problem) -> tuple[str, ...]:
    given, target = numbers_and_target(problem)
    return solutions(given)[target]


def test_heeded_hints_are_followed() -> None:
    """Guards against retries that do not look at their reflection, and against ones that always do."""
    for p_careful, low, high in ((1.0, 1.0, 1.0), (0.0, 0.0, 0.3)):
        found = of_phase("retry", Replies(phases=FIVE, p_careful=p_careful))
        followed = [all(a.startswith(f"{d.shown[1]} ;") for a in d.reply.split(" ? ")) for _, d in found]
        assert low <= sum(followed) / len(followed) <= high
        assert not any(last_is_right(p, d.shown[0]) for p, d in found)


def test_the_retry_belongs_to_the_reflection() -> None:
    """Guards against a retry that continues another conversation."""
    for p in problems("train", replies=Replies(phases=FIVE))[:100]:
        shown = {d.phase: d for d in every(p)}
        if "reflect" in shown:
            assert shown["retry"].shown == (*shown["reflect"].shown, shown["reflect"].reply)


def test_careful_merges_repeat_what_is_right_and_try_what_is_new() -> None:
    """Guards against merged answers that take a wrong candidate, or repeat an attempt that failed."""
    n_right = 0
    for p, merged in of_phase("merge", Replies(phases=FIVE, p_careful=1.0, candidates=3)):
        assert len(merged.shown) == 3
        good = [c.split(" ? ")[-1] for c in merged.shown if last_is_right(p, c)]
        n_right += bool(good)
        if good:
            assert merged.reply == good[0]
        else:
            tried = {attempt for c in merged.shown for attempt in c.split(" ? ")}
            assert not tried & {*merged.reply.split(" ? ")}
    assert 100 < n_right < 700


def test_reflections_with_two_numbers() -> None:
    """With one step there is nothing to go on with: drawing the retry ended in an IndexError."""
    found = of_phase("retry", Replies(phases=FIVE, p_careful=1.0), numbers=2)
    assert all(d.reply == d.shown[1] for _, d in found)
