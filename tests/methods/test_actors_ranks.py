"""Grading on several ranks: each rank grades the groups that it sampled. Ranks are threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from rethink.distributed import CommonError, Ranks
from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.policies.data_parallel import DataParallelPolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.types import Group, Sampling, Verdict
from support.samples import make_sample
from support.scripted_policy import ScriptedPolicy, make_prompts, script
from support.thread_ranks import SIZES, Exchange, ThreadRank, run_on_ranks

Grader = Callable[[Sequence[Group]], list[Group]]


class RecordingGrader:
    """A grader that records the replies it was passed."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        self.texts += [s.text for g in groups for s in g]
        return grade(groups)


def make_actors(ranks: Ranks, grader: Grader) -> Actors:
    return Actors(DataParallelPolicy(ScriptedPolicy(script), ranks), Prompts(), grader, ranks=ranks)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n_prompts", [0, 7])
def test_each_group_is_graded_by_the_rank_that_sampled_it(size: int, n_prompts: int) -> None:
    """Guards against verifiers that run on every rank, and verdicts that move if a group is empty or not graded."""

    def fails(reply: str, gold: str) -> Verdict:
        raise RuntimeError("a custom verifier")

    prompts = [replace(p, phase="long") if i in (1, 4) else p for i, p in enumerate(make_prompts(n_prompts))]
    prompts[2:3] = [replace(p, problem=replace(p.problem, verify=fails)) for p in prompts[2:3]]
    expected = grade(ScriptedPolicy(script).sample(prompts, 3))
    assert [len(g) for g in expected] == [3, 0, 3, 3, 0, 3, 3][:n_prompts]
    assert {s.right for g in expected for s in g} == ({True, False, None} if expected else set())

    def work(ranks: ThreadRank) -> Any:
        grader = RecordingGrader()
        return make_actors(ranks, grader).rollout(prompts, 3), grader.texts

    for rank, (graded, texts) in enumerate(run_on_ranks(size, work)):
        assert graded == expected
        assert texts == [s.text for g in expected[rank::size] for s in g]


def test_groups_that_were_not_sampled_are_split_over_ranks() -> None:
    """Guards against replies of a data set, or spliced ones, that one rank grades alone, or none."""
    groups = [(replace(make_sample((4, 5, 1), group=f"g{i}"), text="x" * i),) for i in range(5)]

    def work(ranks: Ranks) -> Any:
        grader = RecordingGrader()
        return make_actors(ranks, grader).grade(groups), grader.texts

    found = run_on_ranks(3, work)
    assert [texts for _, texts in found] == [["", "xxx"], ["x", "xxxx"], ["xx"]]
    assert all(graded == grade(groups) for graded, _ in found)


def test_every_rank_asks_the_grader_once_before_it_grades() -> None:
    """Guards against ranks without groups of their own that do not gather weights, for which the grader of others waits."""

    def work(ranks: Ranks) -> Any:
        calls: list[int] = []

        def grader(groups: Sequence[Group]) -> list[Group]:
            calls.append(len(groups))
            return grade(groups)

        make_actors(ranks, grader).grade([(make_sample((4, 5, 1)),)])
        return calls

    assert run_on_ranks(3, work) == [[0, 1], [0], [0]]


def test_all_ranks_get_the_same_rewards() -> None:
    """Guards against ranks that fill in a default where a reward is None or differs from the verdict."""

    def grader(groups: Sequence[Group]) -> list[Group]:
        rewards = {0: None, 1: 0.25}
        return [tuple(replace(s, verdict=Verdict(True), reward=rewards[s.index]) for s in g) for g in groups]

    for graded in run_on_ranks(3, lambda ranks: make_actors(ranks, grader).rollout(make_prompts(4), 2)):
        assert [[s.reward for s in g] for g in graded] == [[None, 0.25]] * 4


def test_an_error_in_grading_is_raised_on_all_ranks() -> None:
    """Guards against ranks that wait for one whose grader has failed."""

    def grader(groups: Sequence[Group]) -> list[Group]:
        if groups[0][0].problem.id == "p1":
            raise UserError("the reward of p1 is 'x'")
        return grade(groups)

    for size in SIZES:
        found = run_on_ranks(size, lambda ranks: make_actors(ranks, grader).rollout(make_prompts(5), 2))
        assert [type(e) for e in found] == [UserError if size == 1 else CommonError] * size
        assert str(found[0]).endswith("the reward of p1 is 'x'")


def test_samples_and_verdicts_use_the_sampling_group() -> None:
    """Guards against a sampler that uses the connection of training."""
    exchange = Exchange(2)

    def work(ranks: ThreadRank) -> Any:
        ranks.sampling_group = second = ThreadRank(ranks.rank, exchange)
        policy = DataParallelPolicy(ScriptedPolicy(script), ranks)
        Actors(policy, Prompts(), grade, ranks=ranks.sampling_group).rollout(make_prompts(3), 1)
        assert second.n_exchanges == 2
        policy.with_sampling(Sampling(0.5)).sample(make_prompts(3), 1)
        policy.score([])
        return ranks.n_exchanges, second.n_exchanges

    assert run_on_ranks(2, work) == [(0, 4)] * 2
