"""The work of a problem batch, counted instead of timed: a change that needs more has to change a bound here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rethink.jsonl import Record
from rethink.models.forward import AttentionFn, FusedWeights
from rethink.objectives import Part, PolicyGradient, Update
from rethink.policies.local.decode import COMPACT_BELOW
from rethink.policies.local.kv_cache import MIN_SHARED_TOKENS, Cache
from rethink.policies.local.policy import LocalPolicy
from rethink.recipe import load_recipe
from rethink.training.engine import LocalEngine
from rethink.training.loop import train
from rethink.training.metrics import Statistics
from rethink.training.run import open_run
from rethink.training.trainer import Trainer
from rethink.types import Group, Prompt, Sample, Sampling

N_PROMPTS, N_REPLIES, CAP = 4, 8, 24


@dataclass
class Call:
    """One `sample` call: its groups and its forward passes."""

    groups: list[Group] = field(default_factory=list)
    prefills: list[int] = field(default_factory=list)  # tokens of each forward pass over prompts
    steps: list[int] = field(default_factory=list)  # rows of each decoding step
    caches: list[tuple[Cache, list[int]]] = field(default_factory=list)  # with the first addresses of their tensors

    @property
    def samples(self) -> list[Sample]:
        return [s for group in self.groups for s in group]


@dataclass
class Counts:
    """The work of a problem batch."""

    calls: list[Call] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    micro_batches: list[list[int]] = field(default_factory=list)  # by update, tokens of forward passes with gradient
    n_backward: int = 0
    n_recomputed: int = 0  # samples whose log-probs were computed again
    n_optimizer_steps: int = 0
    records: list[Record] = field(default_factory=list)


def count_work(monkeypatch: pytest.MonkeyPatch, counts: Counts) -> None:
    """Count the work from now on."""
    hidden, cache, groups = FusedWeights.hidden, Cache.__init__, LocalPolicy.groups
    apply, log_probs, adam = Trainer.apply, Trainer.log_probs, torch.optim.AdamW.step
    backward = LocalEngine.backward

    def counted_hidden(self: FusedWeights, ids_T: Tensor, positions_T: Tensor, attend: AttentionFn) -> Tensor:
        if torch.is_grad_enabled():
            counts.micro_batches[-1].append(len(ids_T))
        elif counts.calls:
            (counts.calls[-1].steps if isinstance(attend, Cache) else counts.calls[-1].prefills).append(len(ids_T))
        return hidden(self, ids_T, positions_T, attend)

    def counted_cache(self: Cache, *args: Any, **named: Any) -> None:
        cache(self, *args, **named)
        counts.calls[-1].caches.append((self, addresses(self)))

    def counted_groups(
        self: LocalPolicy, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        counts.calls.append(call := Call())
        call.groups = [()] * len(prompts)
        for i, group in groups(self, prompts, n, sampling):
            call.groups[i] = group
            yield i, group

    def counted_apply(self: Trainer, update: Update, lag: int = 0) -> dict[str, float]:
        counts.updates.append(update)
        counts.micro_batches.append([])
        return apply(self, update, lag)

    def counted_log_probs(self: Trainer, samples: Sequence[Sample], *others: Any) -> list[Tensor]:
        counts.n_recomputed += len(samples)
        return log_probs(self, samples, *others)

    def counted_backward(*args: Any) -> tuple[float, Statistics]:
        counts.n_backward += 1
        return backward(*args)

    def counted_adam(self: torch.optim.AdamW, *args: Any) -> Any:
        counts.n_optimizer_steps += 1
        return adam(self, *args)

    monkeypatch.setattr(FusedWeights, "hidden", counted_hidden)
    monkeypatch.setattr(Cache, "__init__", counted_cache)
    monkeypatch.setattr(LocalPolicy, "groups", counted_groups)
    monkeypatch.setattr(Trainer, "apply", counted_apply)
    monkeypatch.setattr(Trainer, "log_probs", counted_log_probs)
    monkeypatch.setattr(LocalEngine, "backward", counted_backward)
    monkeypatch.setattr(torch.optim.AdamW, "step", counted_adam)


def addresses(cache: Cache) -> list[int]:
    return [tensor.data_ptr() for tensor in (*cache.prompts, *cache.replies)]


def batch_of(method: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Train one problem batch on one core: 4 problems with 8 replies each, from a fixed seed."""
    fixed = [
        "updates=1",
        f"problems_per_batch={N_PROMPTS}",
        f"sampling.max_tokens={CAP}",
        "seed=3",
        "n_logged_samples=0",
    ]
    one_step = [f"method.{name}.n_steps=1" for name in (("solve", "refine") if method == "think-twice" else ("solve",))]
    recipe = load_recipe(f"demo-{method}", [*fixed, f"out={folder}", f"method.n_solve={N_REPLIES}", *one_step])
    run = open_run(replace(recipe, evaluation=replace(recipe.evaluation, problems=None)))
    counts = Counts()
    with monkeypatch.context() as patched:
        count_work(patched, counts)
        counts.records = list(train(run))
    return counts


@pytest.fixture(scope="module")
def grpo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counts]:
    with pytest.MonkeyPatch.context() as patched:
        yield batch_of("grpo", tmp_path_factory.mktemp("grpo") / "run", patched)


@pytest.fixture(scope="module")
def think_twice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counts]:
    with pytest.MonkeyPatch.context() as patched:
        yield batch_of("think-twice", tmp_path_factory.mktemp("twice") / "run", patched)


@pytest.fixture(params=["grpo", "think_twice"])
def counts(request: pytest.FixtureRequest) -> Counts:
    found: Counts = request.getfixturevalue(request.param)
    return found


def test_workload(counts: Counts) -> None:
    """Guards against bounds that hold because nothing happens: replies of several lengths, groups that differ."""
    for call in counts.calls:
        assert [len(group) for group in call.groups] == [N_REPLIES] * N_PROMPTS
        assert len({len(s.ids) for s in call.samples}) > 1
    assert len(counts.calls) == len(counts.updates) == len(counts.records)
    assert all(record["n_trained_tokens"] for record in counts.records)


def test_forward_passes_of_the_sampler(counts: Counts) -> None:
    """One over the prompts gives every first token, and each further one a token more: as many as the longest reply has."""
    for call in counts.calls:
        assert len(call.prefills) == 1
        assert len(call.prefills) + len(call.steps) <= 1 + max(len(s.ids) for s in call.samples)


def test_rows_of_decoding_steps(counts: Counts) -> None:
    """Guards against decoding finished rows: they are computed until they are a share of 1 - COMPACT_BELOW.

    The last token of a reply is never fed."""
    for call in counts.calls:
        n_fed = sum(len(s.ids) - 1 for s in call.samples)
        assert n_fed <= sum(call.steps) <= n_fed / COMPACT_BELOW


def test_prompts_are_computed_once(counts: Counts) -> None:
    """Guards against computing a prompt for each of the 8 replies, and padding."""
    for call in counts.calls:
        assert sum(call.prefills) == sum(len(group[0].prompt_ids) for group in call.groups)


def max_cache_tokens(call: Call) -> int:
    """Return the bound on a cache's tokens: replies without their last token, and prompts padded to the longest, once if
    they are long enough to share, else for each reply."""
    longest = max(len(group[0].prompt_ids) for group in call.groups)
    n_copies = N_PROMPTS if longest >= MIN_SHARED_TOKENS else N_PROMPTS * N_REPLIES
    return n_copies * longest + N_PROMPTS * N_REPLIES * (CAP - 1)


def test_memory_of_the_cache(counts: Counts) -> None:
    """Guards against several caches, and tensors that are replaced: a cache that grows is copied with each token."""
    n_layers = 3
    for call in counts.calls:
        ((cache, first),) = call.caches
        assert cache.shape.n_tokens <= max_cache_tokens(call)
        assert sum(tensor[:, 0, :, 0].numel() for tensor in (*cache.prompts, *cache.replies)) == (
            2 * n_layers * cache.shape.n_tokens
        )
        assert len(first) == 4 * n_layers
        assert addresses(cache) == first


def trained(parts: Sequence[Part]) -> list[Sample]:
    """Return the samples with an advantage."""
    assert all(isinstance(part, PolicyGradient) and not part.kl_coef for part in parts)
    return [
        s
        for part in parts
        if isinstance(part, PolicyGradient)
        for s, w in zip(part.samples, part.advantages, strict=True)
        if w
    ]


def test_tokens_of_the_trainer(counts: Counts) -> None:
    """Guards against repeated prompts, last tokens of replies, samples with advantage 0, and padding.

    Everything is one micro-batch at this size; some samples have advantage 0."""
    for update, sizes in zip(counts.updates, counts.micro_batches, strict=True):
        samples = trained(update.parts)
        prompts = {s.prompt_ids for s in samples}
        assert sizes == [sum(map(len, prompts)) + sum(len(s.ids) - 1 for s in samples)]
    n_samples = sum(len(part.samples) for update in counts.updates for part in update.parts)
    assert sum(len(trained(update.parts)) for update in counts.updates) < n_samples
    assert counts.n_recomputed == 0
    assert counts.n_backward == counts.n_optimizer_steps == len(counts.updates)


def test_refinement_samples_only_its_own_tokens(grpo: Counts, think_twice: Counts) -> None:
    """Guards against sampling drafts again: two calls, the first equal to GRPO's."""
    solve, refine = think_twice.calls
    (alone,) = grpo.calls
    assert (solve.prefills, solve.steps) == (alone.prefills, alone.steps)
    assert {s.prompt.phase for s in refine.samples} == {"refine"}
    assert len(refine.prefills) + len(refine.steps) <= 1 + max(len(s.ids) for s in refine.samples)
    sampled = sum(len(s.ids) for call in think_twice.calls for s in call.samples)
    assert sampled == sum(record["n_sampled_tokens"] for record in think_twice.records)
