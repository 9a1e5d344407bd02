"""ThinkTwice: the order of its two updates, and the choice of drafts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from statistics import fmean

import pytest

from rethink.errors import UserError
from rethink.methods.think_twice import Pick, ThinkTwice, pick_drafts
from rethink.objectives import Clip, Objective
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.seeds import rng
from rethink.types import Message, Prompt
from support.method_runs import NOT_GRADED, R, SkippingPolicy, W, graded_group, only_part, reply_group, run_batch
from support.samples import factors

TEXTS = Prompts("{question}", "again", seed=13)


def script(prompt: Prompt, index: int, version: int) -> str:
    """A reply that is sometimes right, and says where it comes from."""
    lucky = rng(prompt.seed, index, version).random() < 0.4
    return f"{prompt.phase} {index} version {version} {prompt.problem.gold if lucky else 'no'}"


def test_solves_then_refines_with_new_weights() -> None:
    """Guards against refinements that are sampled before the solve update."""
    solve, refine = run_batch(ThinkTwice(n_solve=3, n_refine=5), FakePolicy(script), TEXTS)
    assert (solve.name, refine.name) == ("solve", "refine")
    for update, size, version in ((solve, 3, 0), (refine, 5, 1)):
        assert [len(group) for group in update.groups] == [size] * 7
        assert {sample.version for group in update.groups for sample in group} == {version}
        assert update.on_policy


def test_refines_one_own_draft_per_problem() -> None:
    """Guards against drafts of other problems, and against drafts chosen by verdict."""
    solve, refine = run_batch(ThinkTwice(n_solve=3, n_refine=5), FakePolicy(script), TEXTS)
    verdicts = set()
    for n, (solved, refined) in enumerate(zip(solve.groups, refine.groups, strict=True)):
        (prompt,) = {sample.prompt for sample in refined}
        assert prompt.draft in solved
        assert prompt.messages == (
            Message("user", f"{n} + 0"), Message("assistant", prompt.draft.text), Message("user", "again")
        )  # fmt: skip
        verdicts.add(prompt.draft.right)
    assert verdicts == {True, False}


def test_every_sample_is_trained_against_its_own_group() -> None:
    """Guards against a baseline over drafts and refinements together, and an objective that is not used."""
    method = ThinkTwice(n_solve=3, n_refine=5, refine=Objective(clip_low=0.1, n_steps=2))
    solve, refine = run_batch(method, FakePolicy(script), TEXTS)
    for update in (solve, refine):
        expected = []
        for group in update.groups:
            expected += [bool(s.right) - fmean(bool(s.right) for s in group) for s in group]
        assert factors(only_part(update)) == pytest.approx(expected)
    assert (only_part(refine).surrogate, refine.n_steps) == (Clip(0.1, 0.28, 3.0), 2)
    assert (only_part(solve).surrogate, solve.n_steps) == (Clip(0.2, 0.28, 3.0), 4)


def test_skipped_prompts_give_empty_updates() -> None:
    """Guards against a draft taken from an empty group."""
    updates = run_batch(ThinkTwice(), SkippingPolicy(script, lambda prompt: True), TEXTS)
    assert [only_part(update).samples for update in updates] == [(), ()]
    groups = [graded_group(R, seed=2), (), graded_group(W, seed=5)]
    assert pick_drafts(groups) == [groups[0][0], groups[2][0]]


def test_drafts_are_drawn_uniformly() -> None:
    """Guards against a preference for the first or the right drafts, and a choice that a resumed run changes."""
    groups = [graded_group(R, W, W, R, W, seed=seed) for seed in range(2000)]
    drafts = pick_drafts(groups)
    assert [draft.prompt.seed for draft in drafts] == list(range(2000))
    counts = Counter(draft.index for draft in drafts)
    # Each of 5 is drawn 400 +- 17.9 times; 4 standard deviations.
    assert all(abs(counts[index] - 400) < 72 for index in range(5))
    assert pick_drafts(groups[::-1]) == drafts[::-1]
    later = [tuple(replace(sample, version=1) for sample in group) for group in groups]
    assert [draft.index for draft in pick_drafts(later)] != [draft.index for draft in drafts]


PICKED: dict[Pick, tuple[set[int], set[int], set[int]]] = {
    # Of wrong, right, wrong and not graded; of right twice; of not graded twice.
    "any": ({0, 1, 2, 3}, {0, 1}, {0, 1}),
    "wrong_first": ({0, 2}, {0, 1}, {0, 1}),
    "right_first": ({1}, {0, 1}, {0, 1}),
}


@pytest.mark.parametrize("pick", PICKED)
def test_drafts_may_be_wrong_or_right_ones_first(pick: Pick) -> None:
    """Guards against problems that lose their draft, replies without a verdict that count as wrong, and a choice of the
    first reply only."""
    found = []
    for verdicts in ((W, R, W, NOT_GRADED), (R, R), (NOT_GRADED, NOT_GRADED)):
        groups = [graded_group(*verdicts, seed=seed) for seed in range(50)]
        found.append({draft.index for draft in pick_drafts(groups, pick)})
    assert tuple(found) == PICKED[pick]
    assert pick_drafts([()], pick) == []


def test_the_method_refines_the_drafts_it_picks() -> None:
    """Guards against a setting that is not used, and drafts that are chosen after the first update."""
    for pick, right in (("wrong_first", False), ("right_first", True)):
        method = ThinkTwice(n_solve=12, n_refine=2, pick=pick)  # type: ignore[arg-type]
        _, refine = run_batch(method, FakePolicy(script), TEXTS)
        drafts = [group[0].prompt.draft for group in refine.groups]
        assert {(draft.right, draft.version) for draft in drafts if draft is not None} == {(right, 0)}


GOLD_VERDICTS = {
    "both": ({"if_right": "right again", "if_wrong": "wrong again"}, ["right again", "wrong again", "again"]),
    "wrong only": ({"if_wrong": "wrong again"}, ["again", "wrong again", "again"]),
    "neither": ({}, ["again", "again", "again"]),
}


@pytest.mark.parametrize(("settings", "requests"), GOLD_VERDICTS.values(), ids=GOLD_VERDICTS.keys())
def test_the_refine_prompt_may_tell_the_verdict(settings: dict[str, str], requests: list[str]) -> None:
    """Guards against swapped texts, a verdict on a draft that was not graded, and a prompt that differs in more: its seed,
    draft, or the thinking that `show_reasoning` keeps."""
    texts = Prompts("{question}", "again", thinking=("<think>", "</think>"), seed=13)
    drafts = reply_group(2, ["<think> 1 </think> 2", "no", "?"])
    for draft, plain, request in zip(drafts, texts.ask_to_refine(drafts), requests, strict=True):
        prompt = ThinkTwice(**settings).ask_to_refine(texts, draft)  # type: ignore[arg-type]
        *turns, last = plain.messages
        assert last.content.endswith("again")
        last = replace(last, content=last.content.removesuffix("again") + request)
        assert prompt == replace(plain, messages=(*turns, last))


def test_training_asks_with_these_texts() -> None:
    """Guards against texts that training does not use, and placeholders that would be shown as they are."""
    method = ThinkTwice(n_solve=3, n_refine=2, if_right="right again", if_wrong="wrong again")
    _, refine = run_batch(method, FakePolicy(script), TEXTS)
    told = {(group[0].prompt.draft.right, group[0].prompt.messages[-1].content) for group in refine.groups}  # type: ignore[union-attr]
    assert told == {(True, "right again"), (False, "wrong again")}
    with pytest.raises(UserError, match=r"^if_wrong would show \{draft\} as it is"):
        ThinkTwice(if_wrong="{draft} is wrong")
