"""Second tries by the first tries that they follow; runs of the methods that learn from them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from rethink.methods.second_tries import accuracy, by_first_try, feedback_on, mean_reward
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.training.loop import train
from rethink.training.run import open_run
from rethink.types import Verdict
from support.method_runs import NOT_GRADED, R, W, graded_group, graded_sample
from support.runs import OFF_POLICY, Make, assert_same, finished, make, problems, records

__all__ = ["make", "problems"]


def test_a_second_try_belongs_to_the_last_judged_try() -> None:
    """Guards against second tries that are found by the comment before them, which has no verdict."""
    prompts, policy = Prompts("{question}"), FakePolicy(lambda prompt, index, version: "word")
    firsts = graded_group(W, R, W)
    asks = [prompts.follow_up(first, "critique", "why?") for first in firsts]
    comments = [group[0] for group in policy.sample(asks, 1)]
    seconds = policy.sample([prompts.follow_up(comment, "retry", "again") for comment in comments], 1)
    seconds[1] = ()  # its prompt was too long
    assert by_first_try(seconds) == {firsts[0].key: seconds[0][0], firsts[2].key: seconds[2][0]}


def test_means_leave_out_what_was_not_graded() -> None:
    """Guards against replies without a grade that count as 0, and against means of nothing that are 0."""
    group = graded_group(R, NOT_GRADED, W, W)
    assert mean_reward(group) == pytest.approx(1 / 3)
    assert accuracy([group, (), graded_group(R)]) == 0.5
    assert math.isnan(mean_reward(graded_group(NOT_GRADED)))
    assert math.isnan(accuracy([(), graded_group(NOT_GRADED)]))


def test_feedback_is_the_reason_or_the_verdict() -> None:
    """Guards against an empty turn in a conversation."""
    sample = graded_sample(0, W)
    assert feedback_on(sample) == "wrong"
    assert feedback_on(replace(sample, verdict=Verdict(False, "makes 5, not 6"))) == "makes 5, not 6"


RUNS = {
    "rltf": ("method.name=rltf", "method.n_solve=3", "method.feedback=policy", "method.min_log_prob=-20"),
    "erl": ("method.name=erl", "method.n_solve=3", "method.second_try_sees=conversation"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("more", [(), (OFF_POLICY,)])
def test_a_stopped_run_resumes_to_the_same_bits(name: str, more: tuple[str, ...], make: Make) -> None:
    """Guards against a memory that a checkpoint does not keep, and imitated tokens of another model."""
    settings = (*RUNS[name], *more, "updates=5", "prompts.critique=check", "method.solve.n_steps=2")
    whole = finished(make(*settings, out="whole"))
    logged = records(whole)
    assert all(0 <= record["method/first_accuracy"] <= 1 for record in logged)
    assert any(record["grad_norm"] > 0 for record in logged)
    if name == "erl":
        assert whole.state["memory"] != "none"
    run = open_run(make(*settings))
    for record in train(run):
        run.interrupted = record["update"] >= 2
    run = open_run(make(*settings), resume=True)
    list(train(run))
    assert_same(run, whole)
