"""Replay: the probabilities of the draw, what is remembered for how long, and that a resumed run draws the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from rethink.methods.actors import Actors
from rethink.methods.vl_rethinker_replay import KEY, Replay, choose
from rethink.policies.fake import FakePolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.seeds import rng
from rethink.types import Message, Sample
from support.method_runs import graded_sample


def actors(state: dict[str, Any], version: int, seed: int = 5) -> Actors:
    policy = FakePolicy(lambda prompt, index, version: "")
    policy.publish(version)
    return Actors(policy, Prompts("{question}", seed=seed), grade, state=state)


def sample_of(index: int, version: int) -> Sample:
    return replace(graded_sample(index, True, seed=version), version=version, log_probs=(-0.1, float("nan"), -0.7))


def pairs(version: int, *advantages: float) -> list[tuple[Sample, float]]:
    return [(sample_of(index, version), a) for index, a in enumerate(advantages)]


@pytest.mark.parametrize(
    ("alpha", "expected"),
    # |A| = 0.5, 0.5, 0.25: weights 1 : 1 : 1, then 2 : 2 : 1, then 4 : 4 : 1.
    [(0.0, (1 / 3, 1 / 3, 1 / 3)), (1.0, (0.4, 0.4, 0.2)), (2.0, (0.4444, 0.4444, 0.1111))],
)
def test_samples_are_drawn_in_proportion_to_their_advantage(alpha: float, expected: Sequence[float]) -> None:
    """Guards against probabilities by the signed advantage, and another exponent."""
    random = rng("replay draw", str(alpha)).random
    drawn = Counter(choose([0.5, -0.5, 0.25], alpha, 1, random)[0] for _ in range(20_000))
    chi_square = sum((drawn[i] - 20_000 * p) ** 2 / (20_000 * p) for i, p in enumerate(expected))
    assert chi_square < 13.8  # of two degrees of freedom: exceeded once in a thousand


def test_the_draw_is_without_replacement() -> None:
    """Guards against a sample that fills several places. After 0.5 is drawn, 0.25 and 0.25 are equally likely."""
    random = rng("without replacement").random
    orders = Counter(tuple(choose([0.5, 0.25, 0.25], 1.0, 5, random)) for _ in range(20_000))
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    # P(0, 1, 2) = 1/2 * 1/2, P(1, 0, 2) = 1/4 * 2/3, P(1, 2, 0) = 1/4 * 1/3; four standard deviations are 245, 211, 157.
    for order, p, margin in (((0, 1, 2), 1 / 4, 245), ((1, 0, 2), 1 / 6, 211), ((1, 2, 0), 1 / 12, 157)):
        assert abs(orders[order] - 20_000 * p) < margin


def test_only_samples_with_an_advantage_are_remembered() -> None:
    """Guards against replayed samples that teach nothing."""
    state: dict[str, Any] = {}
    Replay().add(actors(state, 0), pairs(0, 0.5, 0.0, -0.25))
    assert [a for _, a in sorted(Replay().draw(actors(state, 1), 7), key=lambda pair: pair[1])] == [-0.25, 0.5]


def test_old_samples_are_forgotten() -> None:
    """Guards against a buffer that grows without end, and an update too many or too few."""
    state: dict[str, Any] = {}
    replay = Replay(updates=2)
    for version in range(5):
        ages = {version - sample.version for sample, _ in replay.draw(actors(state, version), 100)}
        assert ages == {1, 2} & set(range(version + 1))
        replay.add(actors(state, version), pairs(version, 0.5, -0.5))
    assert len(state[KEY]) == 6
    Replay(updates=0).add(actors(state, 5), pairs(5, 0.5))
    assert state[KEY] == []


def test_a_drawn_sample_is_what_was_remembered() -> None:
    """Guards against log-probs, masks, versions or advantages that change on the way, and against another group."""
    state: dict[str, Any] = {}
    sample = replace(sample_of(3, 7), mask=(True, False, True), forced=(False, True, False), stop="length")
    Replay().add(actors(state, 7), [(sample, -0.375)])
    ((found, advantage),) = Replay().draw(actors(json.loads(json.dumps(state)), 8), 1)
    assert advantage == -0.375
    for name in ("index", "prompt_ids", "ids", "mask", "forced", "text", "stop", "sampling", "version", "reward"):
        assert getattr(found, name) == getattr(sample, name), name
    assert found.right is True
    assert found.key == sample.key
    assert found.log_probs[::2] == (-0.1, -0.7)
    assert found.log_probs[1] != found.log_probs[1], "a forced token has no log-prob"
    assert found.prompt.messages == (Message("user", "?"),)


def test_a_resumed_run_draws_the_same_and_another_run_does_not() -> None:
    """Guards against a draw that depends on the process, and one that is the same in every update or run."""
    state: dict[str, Any] = {}
    Replay().add(actors(state, 0), pairs(0, *[0.5] * 50))
    first = [s.index for s, _ in Replay().draw(actors(state, 1), 10)]
    assert [s.index for s, _ in Replay().draw(actors(json.loads(json.dumps(state)), 1), 10)] == first
    assert [s.index for s, _ in Replay().draw(actors(state, 2), 10)] != first
    assert [s.index for s, _ in Replay().draw(actors(state, 1, seed=6), 10)] != first
