"""The policy that splits prompts over ranks. Ranks are threads of this process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rethink.distributed import SINGLE_PROCESS, CommonError, Ranks
from rethink.models.language_model import LanguageModel
from rethink.policies.data_parallel import DataParallelPolicy
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.types import Message, Prompt, Sample, Sampling
from support.scripted_policy import ScriptedPolicy, make_prompts, script
from support.thread_ranks import SIZES, ThreadRank, run_on_ranks


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n_prompts", [0, 1, 2, 7])
def test_each_prompt_is_sampled_by_one_rank(size: int, n_prompts: int) -> None:
    """Guards against prompts that no rank or two ranks sample, and groups in another order; all get all samples."""
    prompts = make_prompts(n_prompts)
    expected = ScriptedPolicy(script).sample(prompts, 3)

    def work(ranks: ThreadRank) -> Any:
        own = ScriptedPolicy(script)
        return DataParallelPolicy(own, ranks).sample(prompts, 3), own.shown, ranks.n_exchanges

    for rank, (groups, shown, n_exchanges) in enumerate(run_on_ranks(size, work)):
        assert groups == expected
        assert all(s.prompt is p for p, g in zip(prompts, groups, strict=True) for s in g), "with its own verifier"
        assert shown == prompts[rank::size]
        assert n_exchanges <= 1


def test_samples_do_not_depend_on_the_number_of_ranks(qwen: LanguageModel) -> None:
    """Guards against seeds by rank, or by position in a rank's share."""
    prompts, sampling = make_prompts(4), Sampling(max_tokens=5)
    expected = LocalPolicy(qwen, sampling).sample(prompts, 3)
    for groups in run_on_ranks(
        3, lambda ranks: DataParallelPolicy(LocalPolicy(qwen, sampling), ranks).sample(prompts, 3)
    ):
        assert [[s.ids for s in g] for g in groups] == [[s.ids for s in g] for g in expected]
        # Other rows in a batch: the same float32 sums in another order.
        got, want = ([lp for g in x for s in g for lp in s.log_probs] for x in (groups, expected))
        assert got == pytest.approx(want, abs=1e-5)


def test_overlong_prompts_are_counted_once_over_all_ranks() -> None:
    """Guards against counts that differ between ranks; a resumed run sets the count."""
    prompts = [replace(p, phase="long") if i in (0, 3, 4) else p for i, p in enumerate(make_prompts(5))]

    def work(ranks: Ranks) -> Any:
        policy = DataParallelPolicy(ScriptedPolicy(script), ranks)
        counts = []
        for _ in range(2):
            groups = policy.sample(prompts, 2)
            counts.append(policy.n_overlong)
        policy.n_overlong = 50
        policy.sample(prompts, 2)
        return counts, [len(g) for g in groups], policy.n_overlong

    assert run_on_ranks(3, work) == [([3, 6], [0, 2, 2, 0, 0], 53)] * 3


def test_a_refused_prompt_is_an_error_on_all_ranks(qwen: LanguageModel) -> None:
    """Guards against ranks that wait for one that has refused its prompt."""
    prompts = make_prompts(3)
    prompts[1] = replace(prompts[1], messages=(Message("user", "7 " * 90),))

    def work(ranks: Ranks) -> Any:
        policy = LocalPolicy(qwen, Sampling(max_tokens=5), max_prompt_tokens=20, overlong="refuse")
        return DataParallelPolicy(policy, ranks).sample(prompts, 2)

    found = run_on_ranks(3, work)
    assert [type(e) for e in found] == [CommonError] * 3
    assert str(found[0]).startswith("rank 1: the solve prompt of problem p1 has ")


def test_own_groups_come_before_any_exchange() -> None:
    """Guards against groups that wait for all ranks: each is graded while others are sampled."""

    def work(ranks: ThreadRank) -> Any:
        policy = DataParallelPolicy(ScriptedPolicy(script), ranks)
        return [(i, ranks.n_exchanges) for i, _ in policy.groups(make_prompts(5), 2)]

    own0, own1 = [(0, 0), (2, 0), (4, 0)], [(1, 0), (3, 0)]
    assert run_on_ranks(2, work) == [[*own0, (1, 1), (3, 1)], [*own1, (0, 1), (2, 1), (4, 1)]]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", [0, 1, 5])
def test_each_sample_is_scored_by_one_rank(size: int, n: int) -> None:
    """Guards against scores in another order or of another prompt, and samples that every rank scores."""
    samples = [ScriptedPolicy(script).transcribe(prompt, "x " * i) for i, prompt in enumerate(make_prompts(n))]
    others = make_prompts(n + 1, "refine")[1:]
    scored: list[list[str]] = [[] for _ in range(size)]

    def work(ranks: Ranks) -> Any:
        def log_prob(sample: Sample, prompt: Prompt, version: int) -> float:
            scored[ranks.rank].append(sample.problem.id)
            return -prompt.seed / 8

        policy = DataParallelPolicy(FakePolicy(script, log_prob=log_prob), ranks)
        return policy.score(samples), policy.score(samples, others)

    own = [(-s.prompt.seed / 8,) * len(s.ids) for s in samples]
    under_others = [(-p.seed / 8,) * len(s.ids) for s, p in zip(samples, others, strict=True)]
    assert run_on_ranks(size, work) == [(own, under_others)] * size
    assert scored == [2 * [s.problem.id for s in samples[rank::size]] for rank in range(size)]


def test_publish_refreshes_weights_before_the_policy_uses_them() -> None:
    """Guards against a policy that prepares the old weights, and a replica that is filled while a batch is sampled."""
    versions: list[int] = []
    own = ScriptedPolicy(script)
    policy = DataParallelPolicy(own, SINGLE_PROCESS, lambda: versions.append(own.version))
    with pytest.raises(AssertionError), policy.frozen_weights():
        policy.publish(1)
    assert (versions, policy.version) == ([], 0)
    policy.publish(7)
    assert (versions, own.version, policy.version) == ([0], 7, 7)
    assert policy.sample(make_prompts(1), 1)[0][0].version == 7


def test_other_sampling_is_split_over_ranks_too() -> None:
    """Guards against an evaluation in which every rank does all the work, or samples as in training."""

    def work(ranks: Ranks) -> Any:
        own = ScriptedPolicy(script)
        other = DataParallelPolicy(own, ranks).with_sampling(Sampling(0.5, max_tokens=2))
        groups = other.sample(make_prompts(5), 2)
        assert isinstance(other.policy, ScriptedPolicy)
        return len(other.policy.shown), {s.sampling for g in groups for s in g}, own.shown

    assert run_on_ranks(3, work) == [(n, {Sampling(0.5, max_tokens=2)}, []) for n in (2, 2, 1)]


@pytest.mark.parametrize("size", SIZES)
def test_each_sample_is_continued_by_one_rank(size: int) -> None:
    """Guards against samples that two ranks continue, results in another order, and prompts of another rank."""
    samples = [s for g in ScriptedPolicy(script, Sampling(max_tokens=9)).sample(make_prompts(3), 2) for s in g]
    texts = [" wait" if i % 4 else " one two three four five six" for i in range(len(samples))]
    expected = ScriptedPolicy(script).extend(samples, texts)
    assert [s is None for s in expected] == [True, False, False, False, True, False]

    def work(ranks: ThreadRank) -> Any:
        own = ScriptedPolicy(script)
        found = DataParallelPolicy(own, ranks).extend(samples, texts)
        return found, [p.draft for p in own.shown], ranks.n_exchanges

    for rank, (found, shown, n_exchanges) in enumerate(run_on_ranks(size, work)):
        assert repr(found) == repr(expected)  # NaN differs from itself
        assert all(new.prompt is old.prompt for old, new in zip(samples, found, strict=True) if new)
        assert shown == [s for i, s in enumerate(samples) if i % size == rank and i % 4]
        assert n_exchanges <= 1
