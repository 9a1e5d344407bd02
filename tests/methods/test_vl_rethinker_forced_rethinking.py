"""Forced rethinking: which replies are continued and from where, and which continuations are kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from rethink.methods.actors import Actors
from rethink.methods.vl_rethinker_forced_rethinking import Rethinking
from rethink.policies.fake import FakePolicy
from rethink.problems.rewards import grade
from rethink.prompts import Prompts
from rethink.types import Group, Prompt, Sample, Sampling, Verdict
from support.method_runs import NOT_GRADED, PROBLEMS, R, W, graded_group, graded_sample

TEXTS = Prompts("{question}", seed=5)
EVERY = Rethinking(share=1.0, cut=0.0)


def indices(rethinking: Rethinking, group: Group) -> list[int]:
    return [sample.index for sample in rethinking.choose(group)]


def test_finished_and_graded_replies_are_continued() -> None:
    """Guards against a trigger behind a reply that was cut, or behind one that the verifier could not read."""
    group = (*graded_group(R, W, NOT_GRADED), graded_sample(3, False, "length"), graded_sample(4, True))
    assert indices(EVERY, group) == [0, 1, 4]
    assert indices(EVERY, ()) == []


@pytest.mark.parametrize(
    ("rights", "expected"),
    [
        ((R, R, R, R, R, R, R, W, W, W), list(range(10))),  # a share of 0.7 is not above 0.7
        ((R, R, R, W), [0, 1, 2]),
        ((R, R, R, NOT_GRADED, W), [0, 1, 2]),  # 3 of 4 graded ones
        ((R, W, W, W), [0, 1, 2, 3]),
    ],
)
def test_wrong_replies_of_easy_groups_stay(rights: tuple[bool | None, ...], expected: list[int]) -> None:
    """Guards against easy groups that lose their last wrong reply, and so their gradient."""
    assert indices(EVERY, graded_group(*rights)) == expected


def test_the_share_of_continued_replies() -> None:
    """Guards against a share of groups in place of replies, and a choice that is the same in each update."""
    rethinking = Rethinking(share=0.65)
    groups = [graded_group(R, W, W, R, seed=seed) for seed in range(500)]
    counts = Counter(sample.index for group in groups for sample in rethinking.choose(group))
    # 500 * 0.65 = 325 +- 10.7 for each place in the group; 4 standard deviations.
    assert all(abs(counts[index] - 325) < 43 for index in range(4))
    later = tuple(replace(sample, version=1) for sample in groups[0])
    again = [indices(rethinking, tuple(replace(s, version=v) for s in groups[0])) for v in range(20)]
    assert indices(rethinking, later) == again[1]
    assert len(set(map(tuple, again))) > 1


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("one\n\ntwo Wait, three", "one"),
        ("one\n\nso \\boxed{2}", "one"),
        ("one, the answer is 2", "one, the"),
        ("one ANSWER two answer three", "one ANSWER two"),
        ("so 2", "so 2"),
        ("\\boxed{2}", ""),
        ("", ""),
    ],
)
def test_where_replies_are_cut(text: str, kept: str) -> None:
    """Guards against a cut inside a box, at the first mark, or that depends on upper case."""
    assert text[: EVERY.place_of_cut(text)] == kept


def script(prompt: Prompt, index: int, version: int) -> str:
    """First replies of three words; right ones have an even index. Continuations are right if the trigger is "go"."""
    gold = prompt.problem.gold
    if prompt.phase == "extend":
        return f"so {gold if prompt.messages[-1].content.endswith('go') else 'no'}"
    return f"a wait {gold if index % 2 == 0 else 'no'}"


def run(rethinking: Rethinking, cap: int = 100, version: int = 0) -> tuple[list[tuple[Sample, Sample]], FakePolicy]:
    policy = FakePolicy(script, Sampling(max_tokens=cap))
    policy.publish(version)
    actors = Actors(policy, TEXTS, grade)
    groups = actors.rollout(TEXTS.ask(PROBLEMS[:3]), 4)
    return rethinking.continued(actors, groups), policy


def test_a_continuation_follows_the_reply_and_the_trigger() -> None:
    """Guards against ids that change, an end token before the trigger, and a verdict of the first reply."""
    pairs, _ = run(replace(EVERY, triggers=("wait go",)))
    assert len(pairs) == 12
    for sample, longer in pairs:
        assert longer.text == f"{sample.text} wait go so {sample.problem.gold}"
        assert longer.ids[:3] == sample.ids[:3]
        assert longer.forced == (False,) * 3 + (True,) * 2 + (False,) * 3
        assert longer.right is True
        assert longer.key == sample.key


def test_a_cut_reply_is_continued_from_the_cut() -> None:
    """Guards against ids of what was cut, and a reply that is cut to nothing."""
    pairs, _ = run(replace(EVERY, cut=1.0, triggers=("go",)))
    assert {longer.text.removesuffix(f" {longer.problem.gold}") for _, longer in pairs} == {"a go so"}
    assert {longer.forced for _, longer in pairs} == {(False, True, False, False, False)}
    pairs, _ = run(replace(EVERY, cut=1.0, cut_before=("a wait",), triggers=("go",)))
    assert all(longer.text.startswith(f"{sample.text} go") for sample, longer in pairs)


def test_half_of_the_replies_are_cut_and_all_triggers_are_used() -> None:
    """Guards against a cut or a trigger that is the same for a whole group."""
    pairs: list[tuple[Sample, Sample]] = []
    for version in range(20):
        pairs += run(Rethinking(share=1.0, triggers=("go", "hm", "oh")), version=version)[0]
    assert len(pairs) == 240
    n_cut = sum(not longer.text.startswith(sample.text) for sample, longer in pairs)
    assert abs(n_cut - 120) < 31  # 4 standard deviations
    used = Counter(word for _, longer in pairs for word in longer.text.split() if word in ("go", "hm", "oh"))
    assert all(abs(used[word] - 80) < 30 for word in ("go", "hm", "oh"))


def test_replies_without_room_are_left_out() -> None:
    """Guards against a continuation over max_tokens. Three words, two of the trigger: one more token fits into 6."""
    assert run(replace(EVERY, triggers=("wait go",)), cap=5)[0] == []
    pairs, _ = run(replace(EVERY, triggers=("wait go",)), cap=6)
    assert {longer.stop for _, longer in pairs} == {"length"}


@pytest.mark.parametrize("rethinking", [Rethinking(share=0.0), replace(EVERY, after=3)])
def test_without_rethinking_nothing_is_sampled(rethinking: Rethinking) -> None:
    """Guards against the cost of rethinking where it is off, and in the first stage."""
    pairs, policy = run(rethinking, version=2)
    assert pairs == []
    assert {prompt.phase for prompt in policy.shown} == {"solve"}
    assert bool(run(replace(EVERY, after=3), version=3)[0])


def longer_reply(n_new: int, n_waits: int = 1, **changes: Any) -> Sample:
    """A reply of two words, a trigger of one, and `n_new` new tokens."""
    n = 3 + n_new
    values: dict[str, Any] = {
        "ids": tuple(range(5, 5 + n)),
        "mask": (True,) * n,
        "forced": (False, False, True, *(False,) * n_new),
        "log_probs": (-1.0,) * n,
        "text": "Wait " * n_waits,
        "stop": "stop",
        "verdict": Verdict(True),
    }
    return replace(graded_sample(0, True), **{**values, **changes})


@pytest.mark.parametrize(
    ("longer", "expected"),
    [
        (longer_reply(30), False),
        (longer_reply(31), True),
        (longer_reply(1023), True),
        (longer_reply(1024), False),
        (longer_reply(31, n_waits=4), True),
        (longer_reply(31, n_waits=5), False),
        (longer_reply(31, verdict=Verdict(False)), False),
        (longer_reply(31, verdict=Verdict(None)), False),
        (longer_reply(31, stop="length"), False),
    ],
)
def test_what_is_kept(longer: Sample, expected: bool) -> None:
    """Guards against bounds that are off by one, a trigger that counts as new, and wrong or cut continuations."""
    assert EVERY.is_acceptable(longer) is expected


def test_at_most_two_are_kept_per_problem() -> None:
    """Guards against a group of continuations only, and a count over all problems."""
    rethinking = replace(EVERY, triggers=("go",), min_tokens=1)
    pairs, _ = run(rethinking)
    kept = [(sample.problem.id, sample.index) for sample, _ in rethinking.kept(pairs)]
    assert kept == [(f"p{n}", index) for n in range(3) for index in (0, 1)]


@pytest.mark.parametrize(
    "changes",
    [
        {"triggers": ()},
        {"triggers": ("a", "")},
        {"cut_before": ("",)},
        {"wait": ""},
        {"min_tokens": 8, "max_tokens": 7},
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any]) -> None:
    """Guards against a trigger of no tokens, and a rule that nothing meets."""
    with pytest.raises(ValueError, match="rethink"):
        Rethinking(**changes)
