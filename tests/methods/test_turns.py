"""Later turns: one reply to each prompt, the replies that they follow, and the order of what is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rethink.methods.turns import by_first_try, feedback_on, in_problem_order, one_each
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.training.loop import train
from rethink.training.run import open_run
from rethink.types import Verdict
from support.method_runs import PROBLEMS, R, SkippingPolicy, W, graded_group, graded_sample
from support.runs import OFF_POLICY, Make, assert_same, finished, make, problems, records

__all__ = ["make", "problems"]

TEXTS = Prompts("{question}", "again")


def test_replies_stay_with_their_problem() -> None:
    """Guards against replies that move to another problem if a prompt is too long, or if a problem has no prompts."""
    policy = SkippingPolicy(
        lambda prompt, index, version: f"{prompt.phase} {prompt.problem.id} {prompt.seed}",
        lambda prompt: prompt.phase == "refine" and prompt.draft is not None and prompt.draft.index == 1,
    )
    solved = policy.sample(TEXTS.ask(PROBLEMS[:3]), 3)
    asks = [TEXTS.ask_to_refine(solved[0]), [], TEXTS.ask_to_refine(solved[2][:1])]
    found = one_each(asks, policy.sample)
    assert [[sample.prompt for sample in group] for group in found] == [[asks[0][0], asks[0][2]], [], [asks[2][0]]]
    assert one_each([[], []], policy.sample) == [(), ()]


def test_samples_are_sorted_in_problem_order_only() -> None:
    """Guards against an order by id, and turns of one problem that change places."""
    policy = SkippingPolicy(lambda prompt, index, version: f"{prompt.problem.id} {index}", lambda prompt: False)
    shuffled = [PROBLEMS[5], PROBLEMS[0], PROBLEMS[3]]
    pairs = []
    for group in policy.sample(TEXTS.ask([PROBLEMS[0], PROBLEMS[5], PROBLEMS[3], PROBLEMS[5]]), 2):
        pairs += [(sample, float(sample.index)) for sample in group]
    assert [sample.text for sample, _ in in_problem_order(pairs, shuffled)] == [
        "p5 0", "p5 1", "p5 0", "p5 1", "p0 0", "p0 1", "p3 0", "p3 1"
    ]  # fmt: skip
    assert [advantage for _, advantage in in_problem_order(pairs, shuffled)] == [0, 1] * 4


def test_a_second_try_belongs_to_the_last_judged_try() -> None:
    """Guards against second tries that are found by the comment before them, which has no verdict."""
    prompts, policy = Prompts("{question}"), FakePolicy(lambda prompt, index, version: "word")
    firsts = graded_group(W, R, W)
    asks = [prompts.follow_up(first, "critique", "why?") for first in firsts]
    comments = [group[0] for group in policy.sample(asks, 1)]
    seconds = policy.sample([prompts.follow_up(comment, "retry", "again") for comment in comments], 1)
    seconds[1] = ()  # its prompt was too long
    assert by_first_try(seconds) == {firsts[0].key: seconds[0][0], firsts[2].key: seconds[2][0]}


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
