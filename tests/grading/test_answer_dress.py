"""Generated pairs of answers: no different one is right, and hardly an equal one wrong."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from rethink.problems.mathematics import compare, parse_gold
from support.answer_dress import Pair, pairs
from support.dress_formulas import PI, add, agree, changed, differ, name, number, power, rewritten, root, times
from support.grading_workers import long_timeout_pool

_long_timeouts = pytest.fixture(scope="module", autouse=True)(long_timeout_pool)


def mistakes(found: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Return the different pairs that are called right, and the equal ones that are called wrong."""
    called_right, called_wrong = [], []
    for pair in found:
        right = compare(pair.answer, parse_gold(pair.gold)).right
        if right and not pair.equal:
            called_right.append(pair)
        if right is False and pair.equal:
            called_wrong.append(pair)
    return called_right, called_wrong


def test_300_pairs() -> None:
    """Guards against a wrong answer that looks like the right one, and a right one that looks different."""
    called_right, called_wrong = mistakes(list(pairs(seed=3, n=300)))
    assert called_right == []
    assert len(called_wrong) <= 1, called_wrong


@pytest.mark.slow
def test_4000_pairs() -> None:
    """As above, for what is rare: at most 1% of the equal ones are called wrong."""
    called_right, called_wrong = mistakes(list(pairs(seed=4, n=4000)))
    assert called_right == []
    assert len(called_wrong) <= 20, called_wrong


def test_pairs_follow_from_the_seed_and_every_kind_takes_its_turn() -> None:
    """Guards the proof itself: a failure must be found again, and no kind may be missing."""
    found = list(pairs(seed=5, n=200))
    assert found[:100] == list(pairs(seed=5, n=100))
    assert found != list(pairs(seed=6, n=200))
    counts = Counter((pair.kind, pair.equal) for pair in found)
    assert len(counts) == 2 * len({pair.kind for pair in found}) >= 60
    assert min(counts.values()) >= 2
    assert all(pair.answer != pair.gold for pair in found)


@pytest.mark.parametrize("seed", range(40))
def test_other_forms_keep_the_value_and_changes_change_it(seed: int) -> None:
    """Guards the proof itself: (x - 3)(x + 4) + sqrt(12) / 5 - 2 pi, rewritten and changed."""
    x = name("x")
    surd = times(number(1, 5), root(number(12)))
    formula = add(times(add(x, number(-3)), add(x, number(4))), surd, times(number(-2), PI), power(x, -1))
    draw = random.Random(seed)
    assert agree(formula, rewritten(formula, draw), draw)
    assert differ(formula, changed(formula, draw), draw)
