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
from rethink.settings import Evaluation
from rethink.training.loop import train
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
    n_recomputed: int = 0  # samples whose log-probs were computed again
    records: list[Record] = field(default_factory=list)


def count_work(monkeypatch: pytest.MonkeyPatch, counts: Counts) -> None:
    """Count the work from now on."""
    hidden, cache, groups = FusedWeights.hidden, Cache.__init__, LocalPolicy.groups
    apply, log_probs = Trainer.apply, Trainer.log_probs

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

    monkeypatch.setattr(FusedWeights, "hidden", counted_hidden)
    monkeypatch.setattr(Cache, "__init__", counted_cache)
    monkeypatch.setattr(LocalPolicy, "groups", counted_groups)
    monkeypatch.setattr(Trainer, "apply", counted_apply)
    monkeypatch.setattr(Trainer, "log_probs", counted_log_probs)


def addresses(cache: Cache) -> list[int]:
    return [tensor.data_ptr() for tensor in (*cache.prompts, *cache.replies)]


def batch_of(method: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Train one problem batch on one core: 4 problems with 8 replies each, from a fixed seed."""
    fixed = [f"problems_per_batch={N_PROMPTS}", f"sampling.max_tokens={CAP}"]
    fixed += ["updates=1", "seed=3", "n_logged_samples=0"]
    one_step = [f"method.{name}.n_steps=1" for name in (("solve", "refine") if method == "think-twice" else ("solve",))]
    recipe = load_recipe(f"demo-{method}", [*fixed, f"out={folder}", f"method.n_solve={N_REPLIES}", *one_step])
    run = open_run(replace(recipe, evaluation=Evaluation()))
    counts = Counts()
    with monkeypatch.context() as patched:
        count_work(patched, counts)
        counts.records = list(train(run))
    return counts


@pytest.fixture(scope="module")
def by_method(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Counts]:
    found = {}
    for method in ("grpo", "think-twice"):
        with pytest.MonkeyPatch.context() as patched:
            found[method] = batch_of(method, tmp_path_factory.mktemp(method) / "run", patched)
    return found


@pytest.fixture(params=["grpo", "think-twice"])
def counts(request: pytest.FixtureRequest, by_method: dict[str, Counts]) -> Counts:
    return by_method[request.param]


def test_forward_passes_of_the_sampler(counts: Counts) -> None:
    """Guards against a prompt computed for each of its replies, padding, more steps than tokens, and finished rows."""
    assert len(counts.calls) == len(counts.updates) == len(counts.records)
    for call in counts.calls:
        assert [len(group) for group in call.groups] == [N_REPLIES] * N_PROMPTS
        assert len({len(s.ids) for s in call.samples}) > 1, "replies of several lengths"
        assert call.prefills == [sum(len(group[0].prompt_ids) for group in call.groups)]
        assert len(call.steps) <= max(len(s.ids) for s in call.samples)
        # The last token of a reply is never fed. Finished rows are computed until they are a share of 1 - COMPACT_BELOW.
        n_fed = sum(len(s.ids) - 1 for s in call.samples)
        assert n_fed <= sum(call.steps) <= n_fed / COMPACT_BELOW


def test_memory_of_the_cache(counts: Counts) -> None:
    """Guards against several caches, and tensors that are replaced: a cache that grows is copied with each token."""
    n_layers = 3
    for call in counts.calls:
        ((cache, first),) = call.caches
        # Replies without their last token; prompts padded to the longest, once if they are long enough to share.
        longest = max(len(group[0].prompt_ids) for group in call.groups)
        n_copies = N_PROMPTS if longest >= MIN_SHARED_TOKENS else N_PROMPTS * N_REPLIES
        assert cache.shape.n_tokens <= n_copies * longest + N_PROMPTS * N_REPLIES * (CAP - 1)
        n_numbers = sum(tensor[:, 0, :, 0].numel() for tensor in (*cache.prompts, *cache.replies))
        assert n_numbers == 2 * n_layers * cache.shape.n_tokens
        assert len(first) == 4 * n_layers
        assert addresses(cache) == first


def trained(parts: Sequence[Part]) -> list[Sample]:
    """Return the samples with an advantage."""
    found = []
    for part in parts:
        assert isinstance(part, PolicyGradient)
        assert not part.kl_coef
        found += [s for s, w in zip(part.samples, part.advantages, strict=True) if w]
    return found


def test_tokens_of_the_trainer(counts: Counts) -> None:
    """Guards against repeated prompts, last tokens of replies, samples with advantage 0, and padding."""
    for update, sizes in zip(counts.updates, counts.micro_batches, strict=True):
        samples = trained(update.parts)
        prompts = {s.prompt_ids for s in samples}
        assert sizes == [sum(map(len, prompts)) + sum(len(s.ids) - 1 for s in samples)]
    n_samples = sum(len(part.samples) for update in counts.updates for part in update.parts)
    assert sum(len(trained(update.parts)) for update in counts.updates) < n_samples
    assert counts.n_recomputed == 0
    assert counts.records[-1]["optimizer_steps"] == len(counts.updates)


def test_refinement_samples_only_its_own_tokens(by_method: dict[str, Counts]) -> None:
    """Guards against sampling drafts again: two calls, the first equal to GRPO's."""
    solve, refine = by_method["think-twice"].calls
    (alone,) = by_method["grpo"].calls
    assert (solve.prefills, solve.steps) == (alone.prefills, alone.steps)
    assert {s.prompt.phase for s in refine.samples} == {"refine"}
