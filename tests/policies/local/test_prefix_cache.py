"""The prefix cache: replies do not change, prompts never mix, the limit holds, and new weights clear it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.policies.local import LocalPolicy
from rethink.policies.local.prefix_cache import Ids, KeyValues, PrefixCache, PrefixNode, shared_prefixes
from rethink.types import Message, Prompt, Sampling
from support.local_sampling import (
    GREEDY,
    PROMPTS,
    WINDOWS,
    assert_same_groups,
    prompt,
    record_forward_passes,
    row_bytes,
    uninitialized_memory_is_nan,
    windowed_model,
    with_many_stop_ids,
)

SAMPLED = Sampling(max_tokens=13)
BASE = " ".join(str(n) for n in range(2, 43))  # 41 words, 42 tokens with <user>


def talk(*turns: str, seed: int = 3) -> Prompt:
    """A conversation: user and assistant turns alternate."""
    messages = tuple(Message("assistant" if i % 2 else "user", turn) for i, turn in enumerate(turns))
    return Prompt(PROMPTS[0].problem, "solve", messages, seed)


CALLS = (
    PROMPTS,
    [prompt(f"{BASE} {end}", seed) for seed, end in enumerate(["+ 2", "- 3 5", "* 7 11 13", "+ 2"])],
    [talk(BASE, "2 + 3", "again"), talk(BASE, "2 + 5", "again ?"), PROMPTS[2], talk(BASE, "2 + 3", "again", seed=5)],
    [talk("3 7 5 -> 26", "3 * 7", "again"), talk("2 -> 11")],
)


def tensors(prefixes: PrefixCache) -> list[Tensor]:
    """Return all cached tensors, from the root."""

    def below(node: PrefixNode) -> Iterator[Tensor]:
        yield from node.kept
        for child in node.children.values():
            yield from below(child)

    return list(below(prefixes._root))


def kept_bytes(policy: LocalPolicy) -> int:
    assert policy._prefiller.prefixes is not None
    return sum(t.numel() * t.element_size() for t in tensors(policy._prefiller.prefixes))


def check_all_calls(model: LanguageModel, sampling: Sampling) -> None:
    """Check that replies with the prefix cache equal those without, over several calls."""
    plain, keeping = (LocalPolicy(model, sampling) for _ in range(2))
    expected = [plain.sample(prompts, 3) for prompts in CALLS]
    with keeping.reuse_prefixes(), uninitialized_memory_is_nan():
        for prompts, groups in (*zip(CALLS, expected, strict=True), *zip(CALLS, expected, strict=True)):
            assert_same_groups(keeping.sample(prompts, 3), groups)
        again = [talk(p.messages[0].content, g[0].text, "again") for p, g in zip(prompts, groups, strict=True)]
        assert_same_groups(keeping.sample(again, 2), plain.sample(again, 2))
    assert keeping.n_reused_tokens > keeping.n_prefilled_tokens
    assert (plain.n_reused_tokens, plain.n_prefilled_tokens > 250) == (0, True)


def test_replies_do_not_change(any_model: LanguageModel) -> None:
    """Guards against keys at wrong positions, a wrong mask, and NaN in padding."""
    check_all_calls(with_many_stop_ids(any_model), SAMPLED)


@pytest.mark.parametrize(("kind", "changes"), WINDOWS)
def test_sliding_windows(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Guards against a window that is counted from the first new token."""
    check_all_calls(with_many_stop_ids(windowed_model(tmp_path, kind, changes)), SAMPLED)


@pytest.fixture(scope="module")
def shared_qwen(model_folders: dict[str, Path]) -> LanguageModel:
    return with_many_stop_ids(load_model(str(model_folders["qwen3"])))


WORDS = st.lists(st.sampled_from(["2", "3", "5"]), max_size=7)


@given(
    calls=st.lists(
        st.lists(st.tuples(st.sampled_from([0, 1, 17, 41]), WORDS), min_size=1, max_size=5), min_size=1, max_size=3
    ),
    n_tokens=st.sampled_from([19, 97, 1000]),
)
@settings(max_examples=10, deadline=None, derandomize=True)
def test_random_prompts_never_mix(
    shared_qwen: LanguageModel, calls: list[list[tuple[int, list[str]]]], n_tokens: int
) -> None:
    """Guards against confused prompts, whatever they share and whatever was dropped; and against the limit."""
    plain, keeping = (LocalPolicy(shared_qwen, Sampling(max_tokens=3)) for _ in range(2))
    with keeping.reuse_prefixes():
        assert keeping._prefiller.prefixes is not None
        keeping._prefiller.prefixes.limit_bytes = row_bytes(n_tokens) + 1
        for call in calls:
            prompts = [prompt(" ".join([*BASE.split()[:n], *words]), seed) for seed, (n, words) in enumerate(call)]
            assert_same_groups(keeping.sample(prompts, 2), plain.sample(prompts, 2))
            assert kept_bytes(keeping) <= row_bytes(n_tokens)


@pytest.mark.parametrize(("n_rows", "n_reused"), [(5, 2), (2, 2 + 101), (1, 2 + 2)])
def test_cache_limit(qwen: LanguageModel, n_rows: int, n_reused: int) -> None:
    """Guards against uncounted tensors, and wrong groups when a prompt is dropped between two batches."""
    limit = 2 * row_bytes(13 + 19) * n_rows + 1
    policy = LocalPolicy(qwen, Sampling(max_tokens=19), cache_bytes=limit)
    plain = LocalPolicy(qwen, Sampling(max_tokens=19)).sample(PROMPTS, 7)
    with policy.reuse_prefixes():
        for _ in range(2):
            assert_same_groups(policy.sample(PROMPTS, 7), plain)
            assert limit // 2 * (n_rows > 0) <= kept_bytes(policy) <= limit
        long = prompt(" ".join(["2"] * 100), 7)
        before = policy.n_reused_tokens
        policy.sample([long], 2)
    # The limit fits 320, 128 or 64 tokens, and the long prompt has 102. Its first reply reuses <user> 2 of "2 -> 11", the
    # second, if decoded later, all but the last token of a cached prompt.
    assert policy.n_reused_tokens - before == n_reused


def test_token_counts(qwen: LanguageModel) -> None:
    """Guards against counting padding, recomputed tokens, or a shared prefix once per prompt."""
    policy = LocalPolicy(qwen, GREEDY)

    def counts(prompts: Sequence[Prompt], n: int = 1) -> tuple[int, int]:
        before = policy.n_prefilled_tokens, policy.n_reused_tokens
        policy.sample(prompts, n)
        return policy.n_prefilled_tokens - before[0], policy.n_reused_tokens - before[1]

    # Words + 2 marks: 7, 5, 13, 6, 8 tokens.
    assert counts(PROMPTS) == (7 + 5 + 13 + 6 + 8, 0)
    assert counts(PROMPTS, n=3) == (39, 0)
    with policy.reuse_prefixes():
        # Only <user> is shared: too short for a separate pass.
        assert counts(PROMPTS, n=3) == (39, 0)
        # The last token of each is computed again.
        assert counts(PROMPTS[:2]) == (2, 6 + 4)
        # <user> 2 is the beginning of "2 -> 11", of 6 tokens here 4 are new.
        assert counts([prompt("2 + 3 5", 7)]) == (4, 2)
        # <user> and 41 words are shared: 42, of which <user> 2 3 are kept from the fifth prompt. Then come 2, 3 and 5
        # words and <reply>.
        ends = ["+ 2", "- 3 5", "* 7 11 13 17"]
        assert counts([prompt(f"{BASE} {end}", 7) for end in ends]) == (39 + 3 + 4 + 6, 3 * 42)
    assert counts(PROMPTS) == (39, 0)


MIDDLES = [" ".join(f"{sign} {n}" for n in range(19)) for sign in "+-"]
SHARED: dict[str, tuple[list[str], list[tuple[int, int]]]] = {
    "31 tokens": ([f"{BASE[:80]} {end} 2" for end in "+-*"], [(3, 3 * 34)]),
    "32 tokens": ([f"{BASE[:83]} {end} 2" for end in "+-*"], [(1, 32), (3, 3 * 3)]),
    "all but the last token": ([f"{BASE} +"] * 5, [(1, 44), (5, 5)]),
    # <user> and 41 words; two times 38 words; six times 2 words and <reply>.
    "nested": ([f"{BASE} {m} {end} 2" for m in MIDDLES for end in "+-*"], [(1, 42), (2, 2 * 38), (6, 6 * 3)]),
}


@pytest.mark.parametrize("case", SHARED)
def test_shared_prefixes_are_computed_once(qwen: LanguageModel, case: str) -> None:
    """Guards against computing them once per prompt, level or seed, and a pass that costs more than it saves."""
    questions, shapes = SHARED[case]
    policy = LocalPolicy(qwen, Sampling(max_tokens=1))
    with policy.reuse_prefixes(), record_forward_passes(qwen) as seen:
        policy.sample([prompt(question, seed) for seed, question in enumerate(questions)], 1)
    assert seen == shapes
    assert policy.n_prefilled_tokens == sum(n for _, n in shapes)


def test_new_weights_clear_the_cache(qwen: LanguageModel) -> None:
    """Guards against keys of the old weights."""
    policy = LocalPolicy(qwen, SAMPLED)
    with policy.reuse_prefixes():
        policy.sample(PROMPTS, 2)
        with torch.no_grad():
            for weight in qwen.module.parameters():
                weight.mul_(0.9)
        policy.publish(5)
        assert kept_bytes(policy) == 0
        groups = policy.sample(PROMPTS, 2)
        assert policy.n_reused_tokens == 0
        assert_same_groups(groups, LocalPolicy(qwen, SAMPLED).sample(PROMPTS, 2))
        policy.sample(PROMPTS, 2)
        assert policy.n_reused_tokens > 0


def test_the_outermost_context_frees_the_cache(qwen: LanguageModel) -> None:
    """Guards against an inner context that frees it, and tensors that wait for the cycle collector."""
    policy = LocalPolicy(qwen, SAMPLED)
    gc.disable()
    try:
        with policy.reuse_prefixes():
            with policy.reuse_prefixes():
                policy.sample(PROMPTS, 2)
            policy.sample(PROMPTS, 2)
            assert policy._prefiller.prefixes is not None
            kept = [weakref.ref(tensor) for tensor in tensors(policy._prefiller.prefixes)]
            assert len(kept) > 5 * 4
        assert {ref() for ref in kept} == {None}
    finally:
        gc.enable()
    assert policy.n_reused_tokens == 39 - 5
    with pytest.raises(KeyError), policy.reuse_prefixes():
        raise KeyError
    policy.sample(PROMPTS, 2)
    assert policy.n_reused_tokens == 39 - 5


def columns_of(ids: Ids, start: int, end: int) -> KeyValues:
    """Keys and values of two layers with three heads that encode all ids up to their own."""
    codes = torch.tensor([float(hash(ids[: t + 1]) % 1_000_003) for t in range(start, end)])
    keys = [codes[:, None, None].repeat(1, 3, 5) + number for number in range(2)]
    return [tensor for k in keys for tensor in (k, -k[..., :2].contiguous())]


TOKEN_BYTES = 2 * 3 * (5 + 2) * 4  # layers, heads, sizes of key and value, float32


def keep(prefixes: PrefixCache, *sequences: Ids) -> None:
    for ids in sequences:
        prefixes.store(ids, lambda start, end, ids=ids: columns_of(ids, start, end))  # type: ignore[misc]


def store(n_tokens: int) -> PrefixCache:
    return PrefixCache(n_tokens * TOKEN_BYTES)


SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=11).map(tuple), max_size=13)


@given(kept=SEQUENCES, asked=SEQUENCES, limit=st.sampled_from([2, 7, 13, 10_000]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_find_returns_the_longest_prefix(kept: list[Ids], asked: list[Ids], limit: int) -> None:
    """Guards against wrong splits and lost segments; without a limit, compared with a linear search."""
    prefixes = store(limit)
    for ids in kept:
        keep(prefixes, ids)
        assert prefixes.n_bytes == sum(t.numel() * 4 for t in tensors(prefixes)) <= limit * TOKEN_BYTES
        assert prefixes.n_cached(ids) == (len(ids) if len(ids) <= limit else prefixes.n_cached(ids))
    for ids in (*asked, *kept):
        found = prefixes.find(ids)
        n = sum(len(stretch[0]) for stretch in found)
        assert n == prefixes.n_cached(ids)
        if limit == 10_000:
            starts = {other[:k] for other in kept for k in range(len(other) + 1)}
            assert n == max((k for k in range(len(ids) + 1) if ids[:k] in starts), default=0)
        for i, tensor in enumerate(columns_of(ids, 0, n) if n else []):
            assert torch.equal(torch.cat([stretch[i] for stretch in found]), tensor)


def test_least_recently_used_is_dropped() -> None:
    """Guards against dropping the newest, or one that was found in between."""
    prefixes = store(7)
    keep(prefixes, (1, 2, 3), (4, 5, 6))
    prefixes.find((1, 2, 3, 9))
    keep(prefixes, (7, 8))
    assert [prefixes.n_cached(ids) for ids in ((1, 2, 3), (4, 5, 6), (7, 8))] == [3, 0, 2]
    # A stretch goes whole.
    keep(prefixes, (5, 6, 7))
    assert [prefixes.n_cached(ids) for ids in ((1, 2, 3), (7, 8), (5, 6, 7))] == [0, 2, 3]


def test_a_shared_prefix_outlives_its_children() -> None:
    """Guards against dropping a parent before its child: 1 2 is shared, 3 4 5 is dropped for 7 8 9."""
    prefixes = store(7)
    keep(prefixes, (1, 2, 3, 4, 5), (1, 2, 7, 8, 9))
    assert [prefixes.n_cached(ids) for ids in ((1, 2, 3, 4, 5), (1, 2, 7, 8, 9))] == [2, 5]
    assert prefixes.n_bytes == 5 * TOKEN_BYTES


def test_ids_over_the_limit_are_not_stored() -> None:
    """Guards against a long prompt that evicts all others and still does not fit."""
    prefixes = store(5)
    keep(prefixes, (1, 2, 3), (1, 2, 3, 4, 5, 6))
    assert prefixes.n_cached((1, 2, 3, 4, 5, 6)) == 3
    keep(prefixes, (1, 2, 3, 4, 5))
    assert prefixes.n_cached((1, 2, 3, 4, 5, 6)) == 5


def test_shared_prefixes() -> None:
    """Guards against prefixes of returned prefixes, and those already cached."""
    a, b, c, d = (1, 2, 3, 4, 5), (1, 2, 3, 7), (1, 2, 9), (5, 5, 5)
    prefixes = store(100)
    assert shared_prefixes([d, a, c, b], prefixes, min_new=2) == [(1, 2, 3)]
    assert shared_prefixes([d, a, c, b, d], prefixes, min_new=2) == [(1, 2, 3), (5, 5, 5)]
    assert shared_prefixes([d, a, c], prefixes, min_new=2) == [(1, 2)]
    assert shared_prefixes([d, a], prefixes, min_new=1) == []
    keep(prefixes, (1, 2))
    assert shared_prefixes([d, a, c, b], prefixes, min_new=2) == []
    assert shared_prefixes([d, a, c, b], prefixes, min_new=1) == [(1, 2, 3)]
