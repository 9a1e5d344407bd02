"""The in-process sampler against transformers' own generation and forward pass, on models made on the spot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from rethink.errors import UserError
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.policies.local import LocalPolicy, decode
from rethink.policies.local.decode import COMPACT_BELOW
from rethink.policies.local.kv_cache import MIN_SHARED_TOKENS, Cache, CacheShape
from rethink.policies.local.prefill import Prefilled
from rethink.types import Group, Prompt, Sampling
from support.local_sampling import (
    GREEDY,
    PROMPTS,
    WINDOWS,
    assert_same,
    prompt,
    record_forward_passes,
    reference_generate,
    reference_log_probs,
    row_bytes,
    windowed_model,
    with_many_stop_ids,
)


@contextmanager
def record_caches() -> Iterator[list[CacheShape]]:
    """Record the shape of each cache that is allocated."""
    seen: list[CacheShape] = []

    def record(shape: CacheShape, like: Prefilled, *, recorded: bool) -> Cache:
        seen.append(shape)
        cache = Cache(shape, like, recorded=recorded)
        held = sum(t.numel() for t in (*cache.prompts, *cache.replies)) // (2 * 2 * 2 * 6)
        assert held == shape.n_tokens, "what is allocated must be what is counted"
        return cache

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "Cache", record)
        yield seen


def test_greedy_equals_generate(any_model: LanguageModel) -> None:
    """Guards against padding without positions (GPT-2's are absolute), a wrong mask, and a stale cache."""
    groups = LocalPolicy(with_many_stop_ids(any_model), GREEDY).sample(PROMPTS, 2)
    for shown, group in zip(PROMPTS, groups, strict=True):
        assert [list(s.ids) for s in group] == 2 * [reference_generate(any_model, shown, 23)]
        assert {s.log_probs for s in group} == {(0.0,) * len(group[0].ids)}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_equal_a_full_forward_pass(any_model: LanguageModel, temperature: float) -> None:
    """Guards against log-probs without the temperature, at wrong positions, or of a drifting cache."""
    policy = LocalPolicy(with_many_stop_ids(any_model), Sampling(temperature, max_tokens=23))
    samples = [s for group in policy.sample(PROMPTS, 5) for s in group]
    assert len({len(s.ids) for s in samples}) > 5
    for s in samples:
        torch.testing.assert_close(torch.tensor(s.log_probs), reference_log_probs(any_model, s), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "changes"), WINDOWS)
def test_sliding_windows_equal_generate(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Guards against a window that is ignored or off by one, and one mask for layers that need two."""
    model = windowed_model(tmp_path, kind, changes)
    replies = [group[0] for group in LocalPolicy(model, GREEDY).sample(PROMPTS, 1)]
    assert [list(s.ids) for s in replies] == [reference_generate(model, shown, 23) for shown in PROMPTS]


def test_a_prompt_is_prefilled_once_for_its_group(qwen: LanguageModel) -> None:
    """Guards against prefilling P x G rows, and padding: the prompts have 7, 5 and 13 tokens."""
    with record_forward_passes(qwen) as seen:
        LocalPolicy(qwen, Sampling(max_tokens=7)).sample(PROMPTS[:3], 5)
    assert seen[0] == (3, 7 + 5 + 13)
    assert seen[1:] == [(0, 3 * 5)] * (len(seen) - 1)
    # The last token needs no forward pass.
    assert len(seen) == 1 + 6


def test_finished_rows_leave_the_batch(qwen: LanguageModel) -> None:
    """Guards against rows that run until the longest reply ends."""
    policy = LocalPolicy(with_many_stop_ids(qwen), Sampling(max_tokens=23))
    with record_forward_passes(qwen) as seen:
        groups = policy.sample(PROMPTS, 13)
    lengths = [len(s.ids) for group in groups for s in group]
    decoded = [n for n_prompts, n in seen if not n_prompts]
    running = [sum(length > t for length in lengths) for t in range(1, max(lengths))]
    assert len(decoded) == len(running)
    assert all(r <= rows and (rows == r or r > COMPACT_BELOW * rows) for rows, r in zip(decoded, running, strict=True))
    assert decoded[0] <= 65
    assert decoded[-1] < 13


def test_replies_of_only_the_end_token(qwen: LanguageModel) -> None:
    """Guards against `ids[-1]` of an empty reply, and decoding after all rows have ended."""
    qwen.chat.stop_ids = frozenset(reference_generate(qwen, shown, 1)[0] for shown in PROMPTS)
    with record_forward_passes(qwen) as seen:
        groups = LocalPolicy(qwen, GREEDY).sample(PROMPTS, 2)
    assert len(seen) == 1
    assert {(len(s.ids), s.mask, s.text, s.stop) for g in groups for s in g} == {(1, (True,), "", "stop")}


def reply_of_target(model: LanguageModel, prompts: Sequence[Prompt], n: int, cache_bytes: int = 2**30) -> Group:
    """Return the group of PROMPTS[1], sampled together with others."""
    policy = LocalPolicy(model, Sampling(max_tokens=19), cache_bytes=cache_bytes)
    return policy.sample(prompts, n)[list(prompts).index(PROMPTS[1])]


@pytest.mark.parametrize(
    ("prompts", "n", "cache_bytes"),
    [
        (PROMPTS[::-1], 3, 2**30),
        ([PROMPTS[1]], 7, 2**30),
        (PROMPTS, 7, 1),
    ],
    ids=["among others", "a larger group", "one row at a time"],
)
def test_a_sample_does_not_depend_on_its_batch(
    any_model: LanguageModel, prompts: Sequence[Prompt], n: int, cache_bytes: int
) -> None:
    """Guards against random numbers, padding or a cache limit that depend on the batch."""
    alone = reply_of_target(with_many_stop_ids(any_model), [PROMPTS[1]], 3)
    assert_same(reply_of_target(any_model, prompts, n, cache_bytes)[:3], alone)


LONG = [prompt(" ".join([*["2"] * n, "->"]), seed) for seed, n in enumerate((29, 37, 41))]


@pytest.mark.parametrize(
    ("prompts", "n_tokens", "n_rows"),
    [
        # 13 columns for the copy of a prompt and 18 for a reply (its last token is not processed): 31 for each row.
        (PROMPTS[:3], 21 * 31, 21),
        (PROMPTS[:3], 21 * 31 - 1, 14),
        # 44 columns for a prompt, once, and 18 for each reply.
        (LONG, 3 * 44 + 21 * 18 - 1, 14),
        (LONG, 44 + 5 * 18, 5),
        (LONG, 1, 1),
    ],
)
def test_the_cache_limit_splits_groups(qwen: LanguageModel, prompts: list[Prompt], n_tokens: int, n_rows: int) -> None:
    """Guards against a limit that is exceeded, for shared and copied prompts, and groups out of order."""
    assert (max(len(qwen.chat.encode(p.messages)) for p in prompts) < MIN_SHARED_TOKENS) == (prompts is not LONG)
    policy = LocalPolicy(qwen, Sampling(max_tokens=19), cache_bytes=row_bytes(n_tokens))
    with record_forward_passes(qwen) as seen, record_caches() as shapes:
        groups = policy.sample(prompts, 7)
    assert all(shape.n_tokens <= n_tokens for shape in shapes) or n_rows == 1
    rows = max(n for n_prompts, n in seen if not n_prompts)
    # A little less than the maximum is fine: split groups, and a prompt slot that is still in use.
    assert n_rows / 2 <= rows <= n_rows
    assert rows <= max(shape.n_rows for shape in shapes)
    assert [[s.index for s in group] for group in groups] == 3 * [list(range(7))]


def test_samples_depend_on_seed_and_index_alone(qwen: LanguageModel) -> None:
    """Guards against equal members, an ignored seed, and using or changing the global generator."""
    policy = LocalPolicy(qwen, Sampling(max_tokens=11))
    before = torch.get_rng_state()
    first = policy.sample([prompt("2 3 -> 5", 17), prompt("2 3 -> 5", 19)], 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    again = policy.sample([prompt("2 3 -> 5", 17), prompt("2 3 -> 5", 19)], 5)
    torch.set_rng_state(before)
    assert len({s.ids for group in first for s in group}) == 10
    assert [s.ids for g in first for s in g] == [s.ids for g in again for s in g]
    assert [s.log_probs for g in first for s in g] == [s.log_probs for g in again for s in g]


def test_overlong_prompts_are_skipped_and_counted(qwen: LanguageModel) -> None:
    """Guards against truncated prompts, and groups that move to the wrong problem."""
    policy = LocalPolicy(qwen, Sampling(max_tokens=7), max_prompt_tokens=7)
    # Words + 2 marks: 7, 5, 13, 6, 8 tokens.
    groups = policy.sample(PROMPTS, 3)
    assert [len(group) for group in groups] == [3, 3, 0, 3, 0]
    assert policy.n_overlong == 2
    assert [group[0].prompt for group in groups if group] == [PROMPTS[0], PROMPTS[1], PROMPTS[3]]
    assert_same(groups[3], LocalPolicy(qwen, Sampling(max_tokens=7)).sample([PROMPTS[3]], 3)[0])
    assert policy.sample([PROMPTS[2]], 3) == [()]
    assert policy.n_overlong == 3
    assert policy.sample([], 3) == []
    assert policy.sample(PROMPTS[:2], 0) == [(), ()]


def test_prompts_without_room_are_refused(qwen: LanguageModel) -> None:
    """Guards against max_tokens above the model's positions, which skipped every prompt without a message."""
    policy = LocalPolicy(qwen, Sampling(max_tokens=7), max_prompt_tokens=7, overlong="refuse")
    with pytest.raises(UserError, match=r"problem p2 has 13 tokens, over the limit of 7; raise sampler\.max_p"):
        policy.sample(PROMPTS, 3)
    with pytest.raises(UserError, match=r"max_tokens = 128 leaves no room for a prompt in the model's 128"):
        LocalPolicy(qwen, Sampling(max_tokens=128)).sample(PROMPTS, 3)


def test_the_last_position_is_used(any_model: LanguageModel) -> None:
    """Guards against an off-by-one at the model's 128 positions: prompt and reply must fit together."""
    any_model.chat.stop_ids = frozenset({1})
    fits, too_long = (prompt(" ".join(["2"] * (n - 2)), n) for n in (128 - 23, 128 - 22))
    policy = LocalPolicy(any_model, GREEDY)
    group, empty = policy.sample([fits, too_long], 1)
    assert len(group[0].prompt_ids) == 105
    assert list(group[0].ids) == reference_generate(any_model, fits, 23)
    assert (empty, policy.n_overlong) == ((), 1)


def test_bfloat16_log_probs_are_near_float32(model_folders: dict[str, Path]) -> None:
    """Guards against a softmax in bfloat16, whose log-probs are multiples of 2^-8."""
    model = with_many_stop_ids(load_model(str(model_folders["qwen3"]), dtype="bfloat16"))
    assert model.dtype == torch.bfloat16
    samples = [s for g in LocalPolicy(model, Sampling(max_tokens=19)).sample(PROMPTS, 5) for s in g]
    model.module.float()
    gaps = torch.cat([torch.tensor(s.log_probs) - reference_log_probs(model, s) for s in samples])
    assert gaps.abs().max() < 0.2
    assert gaps.abs().mean() < 0.04
    assert any(lp != torch.tensor(lp).bfloat16().item() for s in samples for lp in s.log_probs)


def state(model: LanguageModel) -> list[Any]:
    """Return what sampling must not change."""
    modules = [(m.training, len(m._forward_hooks) + len(m._forward_pre_hooks)) for m in model.module.modules()]
    weights = [(p.requires_grad, p.grad, p.tolist()) for p in model.module.parameters()]
    return [modules, weights, model.module.config.to_dict(), model.module.generation_config.to_dict()]


def test_sampling_does_not_change_the_module(qwen: LanguageModel) -> None:
    """Guards against train mode, `use_cache` or frozen weights that leak."""
    next(qwen.module.parameters()).requires_grad_(False)
    before = state(qwen)
    LocalPolicy(qwen, GREEDY).sample(PROMPTS[:2], 3)
    assert state(qwen) == before


def test_publish_uses_the_new_weights(qwen: LanguageModel) -> None:
    """Guards against caches that outlive the weights, and samples with the wrong version."""
    policy = LocalPolicy(qwen, Sampling(max_tokens=11))
    old = policy.sample(PROMPTS[:1], 1)[0][0]
    with torch.no_grad():
        for weight in qwen.module.parameters():
            weight.mul_(0.9)
    policy.publish(5)
    new = policy.sample(PROMPTS[:1], 1)[0][0]
    assert (old.version, new.version) == (0, 5)
    torch.testing.assert_close(torch.tensor(new.log_probs), reference_log_probs(qwen, new), rtol=0, atol=1e-4)
    assert (torch.tensor(old.log_probs) - reference_log_probs(qwen, old)).abs().max() > 0.01


def test_transcribe(qwen: LanguageModel) -> None:
    """Guards against demonstrations without an end token, and log-probs that look known."""
    shown = LocalPolicy(qwen, Sampling()).transcribe(PROMPTS[0], "3 * 7")
    number = qwen.chat.tokenizer.convert_tokens_to_ids
    assert shown.ids == (number("3"), number("*"), number("7"), number("<end>"))
    assert shown.prompt_ids == tuple(map(number, ["<user>", "3", "7", "5", "->", "26", "<reply>"]))
    assert (shown.mask, shown.stop, shown.text) == ((True,) * 4, "stop", "3 * 7")
    assert shown.forced == (True,) * 4
    assert all(math.isnan(lp) for lp in shown.log_probs)
