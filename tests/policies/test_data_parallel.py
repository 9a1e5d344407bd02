"""What ranks exchange, and the policy whose work they share. Here ranks are threads of this process, without torchrun."""

from __future__ import annotations

import hashlib
import importlib
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._C._distributed_c10d import TCPStore

from rethink import distributed as ranks_group
from rethink.distributed import (
    SINGLE_PROCESS,
    CommonError,
    LostRankError,
    RankError,
    Ranks,
    check_same_package,
    check_same_software,
    connect,
    is_restart,
    raise_as_lost_rank,
    should_report,
)
from rethink.errors import UserError
from rethink.methods.actors import Actors
from rethink.models.language_model import LanguageModel
from rethink.objectives import AdvantageAwareShaping, Clip, Imitate, PolicyGradient, Prefer, Update
from rethink.policies.data_parallel import DataParallelPolicy
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.training.fsdp.engine import FSDPEngine
from rethink.training.update_hash import update_hash
from rethink.types import Group, Message, Problem, Prompt, Sample, Sampling, Verdict
from support.samples import factors, make_prompt, make_sample

T = TypeVar("T")
SIZES = [1, 2, 3, 5]


class Table:
    """Where the ranks of a test lay down what they have."""

    def __init__(self, size: int) -> None:
        self.places: list[bytes] = [b""] * size
        self.all_there = threading.Barrier(size)


class Thread(Ranks):
    """A rank that is a thread; what it exchanges is pickled, as it is between processes."""

    def __init__(self, rank: int, table: Table) -> None:
        super().__init__(rank, len(table.places))
        self.table = table
        self.n_exchanges = 0

    def gather(self, what: T) -> list[T]:
        self.n_exchanges += 1
        self.table.places[self.rank] = pickle.dumps(what)
        self.table.all_there.wait(60)
        found = [what if k == self.rank else pickle.loads(data) for k, data in enumerate(self.table.places)]
        self.table.all_there.wait(60)  # nobody puts down the next thing before all have seen this one
        return found


def on_all(size: int, work: Callable[[Thread], Any]) -> list[Any]:
    """What each rank makes of it, or the UserError it ends with; any other exception is raised here."""
    table = Table(size)
    found: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            found[rank] = work(Thread(rank, table))
        except UserError as err:
            found[rank] = err
        except BaseException as err:
            found[rank] = err
            table.all_there.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    faults = [x for x in found if isinstance(x, BaseException) and not isinstance(x, UserError)]
    # Those who waited for a rank that failed say only that; its own exception comes first.
    for fault in sorted(faults, key=lambda x: isinstance(x, threading.BrokenBarrierError)):
        raise fault
    return found


# ----------------------------------------------------------------------------------------------------- exchanges


@pytest.mark.parametrize("size", SIZES)
def test_everything_is_told_to_everyone_in_the_order_of_ranks(size: int) -> None:
    """Guards against results of other ranks in another order, and against flags that only some hear of."""

    def work(ranks: Ranks) -> Any:
        return (
            ranks.gather(ranks.rank**2),
            ranks.on_rank0(lambda: f"made by {ranks.rank}"),
            ranks.on_all_ranks(lambda: -ranks.rank),
            [ranks.any(ranks.rank == k) for k in range(size + 1)],
            ranks.is_rank0,
        )

    for k, found in enumerate(on_all(size, work)):
        assert found == (
            [n**2 for n in range(size)],
            "made by 0",
            [-n for n in range(size)],
            [True] * size + [False],
            k == 0,
        )


def test_alone_nothing_is_pickled_or_counted() -> None:
    """Guards against a single process that pays for ranks it does not have, or imports torch.distributed for them."""
    unpicklable = threading.Lock()
    assert SINGLE_PROCESS.gather(unpicklable) == SINGLE_PROCESS.on_all_ranks(lambda: unpicklable) == [unpicklable]
    assert SINGLE_PROCESS.on_rank0(lambda: unpicklable) is unpicklable
    assert (SINGLE_PROCESS.rank, SINGLE_PROCESS.is_rank0, SINGLE_PROCESS.n_bytes_gathered) == (0, True, 0)
    with pytest.raises(UserError, match="mine") as raised:
        SINGLE_PROCESS.on_all_ranks(lambda: fail("mine"))
    assert type(raised.value) is UserError


def fail(text: str) -> Any:
    raise UserError(text)


@pytest.mark.parametrize("size", SIZES[1:])
def test_an_error_of_rank_0_reaches_all(size: int) -> None:
    """Guards against ranks that go on, or wait, when the one that writes has failed; the others do nothing at all."""
    done: list[int] = []

    def work(ranks: Ranks) -> None:
        def write() -> None:
            done.append(ranks.rank)
            fail("no space")

        ranks.on_rank0(write)

    found = on_all(size, work)
    assert [type(e) for e in found] == [CommonError] * size
    assert {str(e) for e in found} == {"no space"}
    assert done == [0]


@pytest.mark.parametrize("failing", [{0}, {2}, {1, 2}])
def test_an_error_of_one_rank_reaches_all_with_its_number(failing: set[int]) -> None:
    """Guards against a fault that stops one rank and leaves the others waiting, and against a message without a place."""
    found = on_all(3, lambda ranks: ranks.on_all_ranks(lambda: fail("is full") if ranks.rank in failing else 1))
    assert [type(e) for e in found] == [CommonError] * 3
    assert {str(e) for e in found} == {"; ".join(f"rank {k}: is full" for k in sorted(failing))}


def test_a_fault_that_is_no_users_is_not_hidden() -> None:
    """Guards against a traceback that turns into somebody else's empty result."""
    with pytest.raises(ZeroDivisionError):
        on_all(2, lambda ranks: ranks.on_all_ranks(lambda: 1 // ranks.rank))
    with pytest.raises(ZeroDivisionError):
        on_all(2, lambda ranks: ranks.on_rank0(lambda: 1 // ranks.rank))


def test_agreement_names_what_differs_and_where() -> None:
    """Guards against ranks that go on with different things, and against an error without their numbers."""

    def work(ranks: Ranks) -> None:
        ranks.require_equal("the weather", "fine", "Stay")
        ranks.require_equal("the weather", "rain" if ranks.rank in (1, 3) else "fine", "Take an umbrella")

    found = on_all(5, work)
    assert [type(e) for e in found] == [CommonError] * 5
    said = "the ranks differ in the weather: fine on rank 0, 2, 4; rain on rank 1, 3. Take an umbrella"
    assert {str(e) for e in found} == {said}


# --------------------------------------------------------------------------------------------------- who reports


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what torchrun tells a process."""

    def set_all(rank: int, size: int, local: int | None = None, n_restarts: int = 0) -> None:
        values = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank if local is None else local}
        for name, value in {**values, "TORCHELASTIC_RESTART_COUNT": n_restarts}.items():
            monkeypatch.setenv(name, str(value))

    return set_all


def test_one_rank_tells_what_all_have_met(told: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against eight copies of one message, and against an error that nobody tells of."""
    everyone, before, mine = CommonError("x"), UserError("x"), RankError("x")
    assert [should_report(e) for e in (everyone, before, mine)] == [True] * 3, "without torchrun each process is alone"
    told(0, 4)
    assert [should_report(e) for e in (everyone, before, mine)] == [True, True, True]
    told(1, 4)
    assert [should_report(e) for e in (everyone, before, mine)] == [False, False, True]
    told(2, 4, local=0)  # the first of the second node: the mistake may be there alone
    assert [should_report(e) for e in (everyone, before, mine)] == [False, True, True]
    told(3, 4, local=1)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert [should_report(e) for e in (everyone, before, mine)] == [False, True, True], (
        "one rank's own, once they have met"
    )
    assert should_report(LostRankError("x"))


def test_a_restart_is_one_after_a_failure(told: Callable[..., None]) -> None:
    """Guards against a first start that takes an old folder for its own."""
    assert not is_restart()
    told(0, 2)
    assert not is_restart()
    told(0, 2, n_restarts=1)
    assert is_restart()


GLOO = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234\nmore",
    "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1000ms for recv operation",
    "[/pytorch/gloo/transport/tcp/buffer.cc:72] Connection reset by peer",
)


@pytest.mark.parametrize("text", GLOO)
def test_a_broken_connection_is_told_in_plain_words(text: str) -> None:
    """Guards against a traceback of a library where somebody else's process has died."""
    with pytest.raises(LostRankError) as raised, raise_as_lost_rank(3):
        raise RuntimeError(text)
    said = str(raised.value)
    assert said.startswith(
        "rank 3 got no answer from the others: one has ended, or took longer than distributed.timeout_s"
    )
    assert text.splitlines()[0] in said
    assert "\n" not in said
    assert said.endswith("the last checkpoint is untouched, resume from it with --resume")


def test_errors_of_torchs_store_are_of_the_connection_and_others_are_not() -> None:
    """Guards against a real fault that is told as if somebody else had died."""
    with pytest.raises(LostRankError, match="wait timeout"), raise_as_lost_rank(0):
        raise torch.distributed.DistStoreError("wait timeout after 60000ms")
    for other in (RuntimeError("shape mismatch"), ValueError("gloo"), UserError("Connection")):
        with pytest.raises(type(other)) as raised, raise_as_lost_rank(0):
            raise other
        assert raised.value is other


def test_too_few_gpus_are_told_before_anything_waits(
    told: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against two ranks on one GPU, and against a start that hangs because one rank has none."""
    told(5, 8, local=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RankError, match="rank 5 would need GPU 1, but this machine has 1; start torchrun with"):
        connect(1.0)


def test_each_start_has_addresses_of_its_own(told: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a restart that waits for processes that have died: torchrun keeps what they left in its store."""
    agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(agent.port))
    seen = []
    for n_restarts in (0, 0, 1):
        told(1, 2, n_restarts=n_restarts)
        store = ranks_group._rendezvous_store(timedelta(seconds=30))
        seen.append(store.check(["rank 0"]))
        store.set("rank 0", "an address")
    assert seen == [False, True, False]


# ---------------------------------------------------------------------------------------------------- software


OTHERS: dict[str, tuple[str, str, Any, str]] = {
    "torch": ("torch", "__version__", "1.9.1", "1.9.1"),
    "transformers": ("transformers", "__version__", "3.0.2", "3.0.2"),
    "rethink": ("rethink", "__version__", "0.0.0", "0.0.0"),
    "Python": ("platform", "python_version_tuple", lambda: ("2", "7", "18"), "2.7"),
}
"""Where each version is read, what stands there on another node, and how it is told."""


@pytest.mark.parametrize("name", OTHERS)
def test_other_versions_on_a_node_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a run of two versions: what rank 0 has was noted before, and rank 1 has another."""
    module, attribute, other, shown = OTHERS[name]
    seen: list[list[str]] = []

    class Recorded(Ranks):
        def gather(self, what: Any) -> list[Any]:
            seen.append([what])
            return [what]

    check_same_software(Recorded(0, 2), "recipe")
    ours = [value for (value,) in seen]
    monkeypatch.setattr(importlib.import_module(module), attribute, other)

    class Met(Ranks):
        def gather(self, what: Any) -> list[Any]:
            return [ours.pop(0), what]

    with pytest.raises(CommonError) as raised:
        check_same_software(Met(1, 2), "recipe")
    assert f"the ranks differ in the version of {name}: " in str(raised.value)
    assert f"{shown} on rank 1. Install the same on all nodes" in str(raised.value)


def test_a_package_that_is_another_or_missing_on_a_node() -> None:
    """Guards against optimizers, or adapters, of two versions, and a refusal that every rank tells."""

    def missing() -> str:
        raise UserError("pip install it")

    versions = [lambda: "1.2", lambda: "1.2", missing, lambda: "1.3"]
    assert on_all(2, lambda ranks: check_same_package(ranks, "ao", versions[ranks.rank])) == [None, None]
    refused = on_all(3, lambda ranks: check_same_package(ranks, "ao", versions[ranks.rank]))
    assert {(type(e), str(e)) for e in refused} == {(CommonError, "rank 2: pip install it")}
    refused = on_all(2, lambda ranks: check_same_package(ranks, "ao", versions[3 * ranks.rank]))
    told = "the ranks differ in the version of ao: 1.2 on rank 0; 1.3 on rank 1. Install the same on all nodes"
    assert {(type(e), str(e)) for e in refused} == {(CommonError, told)}


def test_another_recipe_on_a_node_is_refused() -> None:
    """Guards against nodes on which the file was edited, or that were started with other settings."""
    found = on_all(3, lambda ranks: check_same_software(ranks, "lr = 2" if ranks.rank == 2 else "lr = 1"))
    assert [type(e) for e in found] == [CommonError] * 3
    assert "the ranks differ in the recipe (its hash): " in str(found[0])
    assert "on rank 0, 1; " in str(found[0])
    assert "on rank 2. Start all nodes with the same file and the same settings" in str(found[0])
    assert on_all(3, lambda ranks: check_same_software(ranks, "lr = 1")) == [None] * 3


# ---------------------------------------------------------------------------------------------------- shared work


def hostile(reply: str, gold: str) -> Verdict:
    return Verdict(len(reply) % 2 == 0)


def problems(n: int) -> list[Problem]:
    """Their verifiers and demonstrations cannot be pickled: they stay on each rank."""
    lock = threading.Lock()
    return [
        Problem(
            f"p{i}",
            f"{i + 2} 7 5 -> 26",
            "26",
            lambda reply, gold: (lock.locked(), hostile(reply, gold))[1],
            demonstrate=lambda seed: (),
        )
        for i in range(n)
    ]


def asks(n: int, phase: str = "solve") -> list[Prompt]:
    return [Prompt(p, phase, (Message("user", p.question),), 3 + i) for i, p in enumerate(problems(n))]


def says(prompt: Prompt, index: int, version: int) -> str:
    return f"{prompt.problem.id} {prompt.phase} {'x' * index} {version}"


class Scripted(FakePolicy):
    """A fake policy that skips prompts of the phase "long"."""

    n_overlong = 0

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        for i, group in super().groups(prompts, n, sampling):
            if prompts[i].phase == "long":
                self.n_overlong += 1
                group = ()
            yield i, group

    def _encode(self, text: str) -> tuple[int, ...]:
        """Ids that do not depend on what was said before."""
        return tuple(1 + sum(map(ord, word)) for word in text.split())

    def with_sampling(self, sampling: Sampling) -> Scripted:
        return Scripted(self.script, sampling)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n_prompts", [0, 1, 2, 4, 7])
def test_prompts_are_dealt_once_and_samples_are_those_of_one_process(size: int, n_prompts: int) -> None:
    """Guards against prompts that no rank draws, or two do, and groups in another order than they were asked for."""
    prompts = asks(n_prompts)
    want = Scripted(says).sample(prompts, 3)

    def work(ranks: Thread) -> Any:
        own = Scripted(says)
        policy = DataParallelPolicy(own, ranks)
        return policy.sample(prompts, 3), own.shown, ranks.n_exchanges

    for rank, (groups, shown, n_exchanges) in enumerate(on_all(size, work)):
        assert groups == want
        assert [s.prompt for g in groups for s in g] == [s.prompt for g in want for s in g]
        assert all(s.prompt is p for p, g in zip(prompts, groups, strict=True) for s in g), "with its own verifier"
        assert shown == prompts[rank::size]
        assert n_exchanges == (size > 1) * 1 or size == 1


@pytest.mark.parametrize("size", [2, 3])
def test_a_real_policy_draws_the_same_whoever_draws(qwen: LanguageModel, size: int) -> None:
    """Guards against seeds by rank, or by place in a rank's share."""
    prompts = asks(4)
    how = Sampling(max_tokens=5)
    want = LocalPolicy(qwen, how).sample(prompts, 3)
    for groups in on_all(size, lambda ranks: DataParallelPolicy(LocalPolicy(qwen, how), ranks).sample(prompts, 3)):
        assert isinstance(groups, list)
        assert [[s.ids for s in g] for g in groups] == [[s.ids for s in g] for g in want]
        # Other neighbours in a batch: the same float32 sums in another order.
        got, ours = ([lp for g in x for s in g for lp in s.log_probs] for x in (groups, want))
        assert got == pytest.approx(ours, abs=1e-5)


def test_over_long_prompts_are_counted_over_all_ranks() -> None:
    """Guards against a count of one rank's own, which would differ between them, and against counting twice."""
    prompts = [replace(p, phase="long") if i in (0, 3, 4) else p for i, p in enumerate(asks(5))]

    def work(ranks: Ranks) -> Any:
        policy = DataParallelPolicy(Scripted(says), ranks)
        counts = []
        for _ in range(2):
            groups = policy.sample(prompts, 2)
            counts.append(policy.n_overlong)
        policy.n_overlong = 50  # as a run does that was resumed
        policy.sample(prompts, 2)
        return counts, [len(g) for g in groups], policy.n_overlong

    for found in on_all(3, work):
        assert found == ([3, 6], [0, 2, 2, 0, 0], 53)


def test_a_mistake_met_while_sampling_reaches_all(qwen: LanguageModel) -> None:
    """Guards against ranks that wait for one that has refused its prompt."""
    prompts = asks(3)
    prompts[1] = replace(prompts[1], messages=(Message("user", "7 " * 90),))

    def work(ranks: Ranks) -> Any:
        policy = LocalPolicy(qwen, Sampling(max_tokens=5), max_prompt_tokens=20, overlong="refuse")
        return DataParallelPolicy(policy, ranks).sample(prompts, 2)

    found = on_all(3, work)
    assert [type(e) for e in found] == [CommonError] * 3
    assert str(found[0]).startswith("rank 1: the solve prompt of problem p1 has ")


def test_own_groups_come_before_any_exchange() -> None:
    """Guards against groups that are held back until all ranks are done: each is graded while others are sampled."""
    prompts = asks(5)

    def work(ranks: Thread) -> Any:
        policy = DataParallelPolicy(Scripted(says), ranks)
        return [(i, ranks.n_exchanges) for i, _ in policy.groups(prompts, 2)]

    assert on_all(2, work) == [
        [(0, 0), (2, 0), (4, 0), (1, 1), (3, 1)],
        [(1, 0), (3, 0), (0, 1), (2, 1), (4, 1)],
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", [0, 1, 5])
def test_scores_are_computed_once_and_given_to_all(size: int, n: int) -> None:
    """Guards against scores in the order of ranks, of another prompt, and samples that every rank scores."""
    samples = [Scripted(says).transcribe(prompt, "x " * i) for i, prompt in enumerate(asks(n))]
    others = asks(n + 1, "refine")[1:]
    asked: list[list[str]] = [[] for _ in range(size)]

    def work(ranks: Ranks) -> Any:
        def log_prob(sample: Sample, prompt: Prompt, version: int) -> float:
            asked[ranks.rank].append(sample.problem.id)
            return -prompt.seed / 8

        policy = DataParallelPolicy(FakePolicy(says, log_prob=log_prob), ranks)
        return policy.score(samples), policy.score(samples, others)

    own = [(-s.prompt.seed / 8,) * len(s.ids) for s in samples]
    behind = [(-p.seed / 8,) * len(s.ids) for s, p in zip(samples, others, strict=True)]
    assert on_all(size, work) == [(own, behind)] * size
    assert asked == [2 * [s.problem.id for s in samples[rank::size]] for rank in range(size)]


def test_new_weights_are_brought_before_the_policy_hears_of_them() -> None:
    """Guards against a policy that puts its weights together from the old ones."""
    seen: list[int] = []
    policy = Scripted(says)
    shared = DataParallelPolicy(policy, SINGLE_PROCESS, lambda: seen.append(policy.version))
    shared.publish(7)
    assert (seen, policy.version, shared.version) == ([0], 7, 7)
    assert shared.sample(asks(1), 1)[0][0].version == 7


def test_another_sampling_is_shared_in_the_same_way() -> None:
    """Guards against an evaluation in which every rank does all the work, or draws as in training."""
    prompts = asks(5)

    def work(ranks: Ranks) -> Any:
        own = Scripted(says)
        other = DataParallelPolicy(own, ranks).with_sampling(Sampling(0.5, max_tokens=2))
        groups = other.sample(prompts, 2)
        assert isinstance(other.policy, Scripted)
        return len(other.policy.shown), {s.sampling for g in groups for s in g}, own.shown

    assert on_all(3, work) == [(n, {Sampling(0.5, max_tokens=2)}, []) for n in (2, 2, 1)]


def test_what_needs_no_sharing_is_passed_on() -> None:
    """Guards against methods that work in one process alone."""
    prompt, policy = asks(1)[0], Scripted(says)
    shared = DataParallelPolicy(policy, SINGLE_PROCESS)
    sample = shared.transcribe(prompt, "one two")
    assert sample == policy.transcribe(prompt, "one two")
    ours, theirs = (p.splice(sample, "three") for p in (shared, policy))
    assert ours is not None
    assert theirs is not None
    assert (ours.ids, ours.forced, ours.text) == (theirs.ids, theirs.forced, "one twothree")


# -------------------------------------------------------------------------------------------------------- grading


class Counted:
    """A grade that remembers whom it was asked about."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, groups: Sequence[Group]) -> list[Group]:
        self.asked += [s.text for g in groups for s in g]
        return grade(groups)


def actors_of(ranks: Ranks, grader: Callable[[Sequence[Group]], list[Group]]) -> Actors:
    return Actors(DataParallelPolicy(Scripted(says), ranks), Prompts(), grader, ranks=ranks)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n_prompts", [0, 1, 2, 7])
def test_each_group_is_graded_once_by_the_rank_that_drew_it(size: int, n_prompts: int) -> None:
    """Guards against verifiers that run on every rank, and verdicts that land at another group."""
    prompts = asks(n_prompts)
    want = grade(Scripted(says).sample(prompts, 3))
    assert {s.right for g in want for s in g} == ({True, False} if want else set())

    def work(ranks: Thread) -> Any:
        counted = Counted()
        return actors_of(ranks, counted).rollout(prompts, 3), counted.asked

    for rank, (graded, asked) in enumerate(on_all(size, work)):
        assert graded == want
        assert asked == [s.text for g in want[rank::size] for s in g]


def test_groups_that_nobody_drew_are_graded_in_turn() -> None:
    """Guards against replies of a data set, or spliced ones, that all land on one rank, or on none."""
    groups = [(replace(make_sample((4, 5, 1), group=f"g{i}"), text="x" * i),) for i in range(5)]

    def work(ranks: Ranks) -> Any:
        counted = Counted()
        return actors_of(ranks, counted).grade(groups), counted.asked

    found = on_all(3, work)
    assert [asked for _, asked in found] == [["", "xxx"], ["x", "xxxx"], ["xx"]]
    assert all(graded == grade(groups) for graded, _ in found)


@pytest.mark.parametrize("size", [1, 3])
def test_a_reward_is_shared_as_it_is(size: int) -> None:
    """Guards against ranks that fill in a reward of their own: the default where there is none, or where it differs."""

    def grader(groups: Sequence[Group]) -> list[Group]:
        rewards = {0: None, 1: 0.25}
        return [tuple(replace(s, verdict=Verdict(True), reward=rewards[s.index]) for s in g) for g in groups]

    for graded in on_all(size, lambda ranks: actors_of(ranks, grader).rollout(asks(4), 2)):
        assert isinstance(graded, list)
        assert [[s.reward for s in g] for g in graded] == [[None, 0.25]] * 4


def test_a_mistake_met_while_grading_reaches_all() -> None:
    """Guards against ranks that wait for one whose grader has refused: it still gives them its samples."""

    def grader(groups: Sequence[Group]) -> list[Group]:
        if groups[0][0].problem.id == "p1":
            raise UserError("the reward of p1 is 'x'")
        return grade(groups)

    for size in SIZES:
        found = on_all(size, lambda ranks: actors_of(ranks, grader).rollout(asks(5), 2))
        assert [type(e) for e in found] == [UserError if size == 1 else CommonError] * size
        assert str(found[0]).endswith("the reward of p1 is 'x'")


def test_empty_groups_and_ungraded_samples_pass_through() -> None:
    """Guards against verdicts that slip to the next group where one is empty or its verifier fails."""

    def fails(reply: str, gold: str) -> Verdict:
        raise RuntimeError("a verifier of one's own")

    prompts = [replace(p, phase="long") if i in (1, 4) else p for i, p in enumerate(asks(6))]
    prompts[2] = replace(prompts[2], problem=replace(prompts[2].problem, verify=fails))
    want = grade(Scripted(lambda p, g, v: says(p, g, v), None).sample(prompts, 2))

    for graded in on_all(3, lambda ranks: actors_of(ranks, grade).rollout(prompts, 2)):
        assert isinstance(graded, list)
        assert [len(g) for g in graded] == [2, 0, 2, 2, 0, 2]
        assert [s.verdict for i in (0, 2, 3, 5) for s in graded[i]] == [
            s.verdict for i in (0, 2, 3, 5) for s in want[i]
        ]
        assert [s.right for s in graded[2]] == [None, None]
    assert on_all(3, lambda ranks: actors_of(ranks, grade).grade([])) == [[]] * 3


def test_samples_and_verdicts_go_over_the_sampling_group() -> None:
    """Guards against a sampler that talks where training does, of the policy itself, of another sampling or of a role."""
    table = Table(2)

    def work(ranks: Thread) -> Any:
        ranks.sampling_group = second = Thread(ranks.rank, table)
        policy = DataParallelPolicy(Scripted(says), ranks)
        Actors(policy, Prompts(), grade, ranks=ranks.sampling_group).rollout(asks(3), 1)
        assert second.n_exchanges == 2
        policy.with_sampling(Sampling(0.5)).sample(asks(3), 1)
        policy.score([])
        return ranks.n_exchanges, second.n_exchanges

    assert on_all(2, work) == [(0, 4)] * 2


def test_nothing_is_published_beside_sampling() -> None:
    """Guards against ranks that fill the copy of the weights from which a batch is being sampled."""
    filled: list[int] = []
    policy = DataParallelPolicy(Scripted(says), SINGLE_PROCESS, lambda: filled.append(1))
    with pytest.raises(AssertionError), policy.frozen_weights():
        policy.publish(1)
    assert (filled, policy.version) == ([], 0)
    policy.publish(1)
    assert (filled, policy.version) == ([1], 1)


# -------------------------------------------------------------------------------------------------------- lockstep


CHOSEN, REJECTED = make_sample((7, 8, 1), group="c"), make_sample((9, 1), group="c")
GRADIENT = PolicyGradient((make_sample((4, 5, 1)), make_sample((6, 1), group="q")), (0.5, -0.5))
UPDATE = Update("solve", (GRADIENT, Imitate((CHOSEN,), (1.0,)), Prefer((CHOSEN,), (REJECTED,))), n_steps=2)


def with_sample(**changes: Any) -> Update:
    first, *others = GRADIENT.samples
    samples = (replace(first, **changes), *others)
    return replace(UPDATE, parts=(replace(GRADIENT, samples=samples), *UPDATE.parts[1:]))


def with_part(k: int, **changes: Any) -> Update:
    parts: list[Any] = list(UPDATE.parts)
    parts[k] = replace(parts[k], **changes)
    return replace(UPDATE, parts=tuple(parts))


DIFFERENT = {
    "name": replace(UPDATE, name="refine"),
    "n_steps": replace(UPDATE, n_steps=3),
    "on_policy": replace(UPDATE, on_policy=False),
    "a part less": replace(UPDATE, parts=UPDATE.parts[:2]),
    "other order of parts": replace(UPDATE, parts=UPDATE.parts[::-1]),
    "other kind of part": replace(UPDATE, parts=(Imitate(GRADIENT.samples, factors(GRADIENT)), *UPDATE.parts[1:])),
    "a sample less": with_part(0, samples=GRADIENT.samples[:1], advantages=(0.5,)),
    "other order of samples": with_part(0, samples=GRADIENT.samples[::-1]),
    "advantages": with_part(0, advantages=(0.5, -0.5 + 1e-12)),
    "other clip": with_part(0, surrogate=Clip(0.2, 0.3)),
    "other surrogate": with_part(0, surrogate=AdvantageAwareShaping()),
    "mean": with_part(0, loss_aggregation="sequence"),
    "length": with_part(0, constant_length=2),
    "kl": with_part(0, kl_coef=0.1),
    "coefficient": with_part(0, coefficient=2.0),
    "imitate: weights": with_part(1, weights=(0.5,)),
    "imitate: coefficient": with_part(1, coefficient=0.5),
    "prefer: beta": with_part(2, beta=0.2),
    "prefer: coefficient": with_part(2, coefficient=0.5),
    "prefer: the other way round": with_part(2, chosen=(REJECTED,), rejected=(CHOSEN,)),
    "prompt": with_sample(prompt=make_prompt("other")),
    "seed": with_sample(prompt=make_prompt("p", seed=3)),
    "index": with_sample(index=1),
    "prompt_ids": with_sample(prompt_ids=(2, 32, 3)),
    "ids": with_sample(ids=(4, 6, 1)),
    "mask": with_sample(mask=(True, False, True)),
    "log_probs": with_sample(log_probs=(-1.0, -1.0 - 1e-12, -1.0)),
    "forced": with_sample(forced=(False, True, False)),
    "sampling": with_sample(sampling=Sampling(0.9)),
    "stop": with_sample(stop="length"),
    "version": with_sample(version=1),
    "a token moves from prompt to reply": with_sample(
        prompt_ids=(2, 31), ids=(3, 4, 5, 1), mask=(True,) * 4, log_probs=(-1.0,) * 4
    ),
}


@pytest.mark.parametrize("change", DIFFERENT)
def test_the_hash_of_an_update_tells_every_change(change: str) -> None:
    """Guards against ranks that train on different things without a word."""
    assert update_hash(DIFFERENT[change]) != update_hash(UPDATE)


def test_no_two_of_these_updates_have_one_hash() -> None:
    """Guards against a hash in which one change undoes another; none of a Sample's fields was forgotten above."""
    hashes = [update_hash(u) for u in (UPDATE, *DIFFERENT.values())]
    assert len(set(hashes)) == len(hashes)
    assert all(len(h) == 12 and int(h, 16) >= 0 for h in hashes)
    not_trained = {"text", "verdict", "reward", "terms", "usage"}
    assert {f.name for f in fields(Sample)} <= not_trained | DIFFERENT.keys() | {"prompt"}


def test_equal_updates_have_one_hash_in_any_process() -> None:
    """Guards against a hash of identities, of Python's own `hash` (which is salted), or of verifiers."""
    again = pickle.loads(pickle.dumps(make_sample((4, 5, 1), group="x").ids))
    update = with_sample(ids=tuple(again), text="other words", verdict=Verdict(True))
    assert update_hash(update) == update_hash(with_sample(text="", verdict=None))
    assert update_hash(replace(UPDATE, groups=((CHOSEN,),))) == update_hash(UPDATE)
    assert update_hash(Update("empty", ())) == hashlib.sha256(b"('empty', 1, True)").hexdigest()[:12]


numbers = st.floats(allow_nan=False, width=64)


@given(st.lists(st.tuples(st.integers(0, 2**40), numbers), min_size=1, max_size=4), st.data())
def test_any_token_or_log_prob_counts(tokens: list[tuple[int, float]], data: st.DataObject) -> None:
    """Guards against values that are cut to fewer bits, or left out at an end."""
    ids, log_probs = (tuple(column) for column in zip(*tokens, strict=True))
    k = data.draw(st.integers(0, len(tokens) - 1))
    one = make_sample(ids, log_probs=log_probs)
    other_id = make_sample((*ids[:k], ids[k] + 1, *ids[k + 1 :]), log_probs=log_probs)
    near = torch.nextafter(torch.tensor(log_probs[k], dtype=torch.float64), torch.tensor(1e308, dtype=torch.float64))
    other_log_prob = make_sample(ids, log_probs=(*log_probs[:k], float(near), *log_probs[k + 1 :]))
    found = [update_hash(Update("u", (Imitate((s,), (1.0,)),))) for s in (one, other_id)]
    assert found[0] != found[1]
    if float(near) != log_probs[k]:
        assert update_hash(Update("u", (Imitate((other_log_prob,), (1.0,)),))) != found[0]


# ----------------------------------------------------------------------------------------------------------- dealing


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 6, 7])
def test_micro_batches_are_dealt_once_and_in_as_many_rounds_to_all(size: int, n: int) -> None:
    """Guards against a rank that goes through fewer forward passes than the others, who then wait for ever."""

    class Bare(FSDPEngine):
        def __init__(self, rank: int) -> None:
            self.ranks = Ranks(rank, size)

    rounds = [list(Bare(rank)._own_indices(n)) for rank in range(size)]
    assert len({len(places) for places in rounds}) == 1
    assert sorted(i for places in rounds for i in places if i < n) == list(range(n))
    assert all(i % size == rank for rank, places in enumerate(rounds) for i in places)


@pytest.fixture(autouse=True)
def _no_torchrun(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """These tests may themselves run under torchrun's variables."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    yield
    assert ranks_group.SINGLE_PROCESS.size == 1
