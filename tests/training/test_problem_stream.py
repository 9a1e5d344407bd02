"""The order of a run's problems: passes, batches, and problems that fill a batch up."""

from __future__ import annotations

import copy

import pytest

from rethink.seeds import rng, stable_hash
from rethink.training.problem_stream import ProblemStream
from support.method_runs import make_problem

SEVEN = [make_problem(n) for n in range(7)]


def order(pass_number: int) -> list[str]:
    """Return the ids of a pass, shuffled with the pass's seed: the rule that earlier versions had, too."""
    ids = [problem.id for problem in SEVEN]
    rng(stable_hash(3, "pass", pass_number), "order").shuffle(ids)
    return ids


def ids(stream: ProblemStream, n: int | None = None) -> list[str]:
    return [problem.id for problem in (stream.next_batch() if n is None else stream.more(n))]


def test_batches_without_filling_up() -> None:
    """Guards against another order than that of earlier versions: batches of 2, and the seventh problem left out."""
    stream = ProblemStream(SEVEN, 3, 2)
    for number in range(7):
        expected = order(number // 3)[number % 3 * 2 : number % 3 * 2 + 2]
        start = stream.at_batch(number)
        assert start.next_batch() == stream.next_batch()
        assert start.position == stream.position
        assert [problem.id for problem in start.problems if problem.id in expected] == sorted(expected)
        assert stream.pass_seed == stable_hash(3, "pass", number // 3)
    assert ids(ProblemStream(SEVEN, 3, 2)) == order(0)[:2]


def test_filling_up_moves_the_position() -> None:
    """Guards against a problem that comes twice in a pass, and a pass that ends within a batch."""
    stream = ProblemStream(SEVEN, 3, 2)
    assert [ids(stream), ids(stream, 3), ids(stream)] == [order(0)[:2], order(0)[2:5], order(0)[5:]]
    assert (ids(stream, 4), stream.position) == ([], (0, 7))
    assert [ids(stream), ids(stream, 3)] == [order(1)[:2], order(1)[2:5]]
    again = ProblemStream(SEVEN, 3, 2, *stream.position)
    other = copy.copy(stream)
    assert ids(other, 9) == ids(again, 9) == order(1)[5:]
    assert stream.position == (1, 5), "a copy moves alone"


@pytest.mark.parametrize("left", [0, 1])
def test_a_rest_that_fills_no_batch_is_left_out(left: int) -> None:
    """Guards against a short batch, or one of two passes."""
    stream = ProblemStream(SEVEN, 3, 2, 0, 7 - left)
    assert ids(stream) == order(1)[:2]
