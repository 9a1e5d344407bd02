"""Learning to merge: first answers by pass@k, merged answers of random sets by the ordinary advantage, in rounds."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rethink.methods.learn_to_merge import LearnToMerge, is_easy
from rethink.objectives import Objective, PolicyGradient, Update
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.training.loop import train
from rethink.training.run import open_run
from rethink.types import Prompt
from support.method_runs import Script, SkippingPolicy, graded_group, make_problem, run_batch
from support.runs import Make, assert_same, finished, make, problems

__all__ = ["make", "problems"]

TEXTS = Prompts("{question}", merge="{question} : {candidates}", candidate="<{candidate}>", between=" ", seed=5)
TWO = [make_problem(2), make_problem(3)]
SMALL: dict[str, Any] = {"n_solve": 4, "k": 2, "n_merge": 3, "solve": Objective("pass_at_k", pass_k=2)}


def scripted(first: str, merged: str) -> Script:
    """Replies by index: r(ight), w(rong) or ? (not graded). Each says how it came about."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        kinds = first if prompt.phase == "solve" else merged
        ending = {"r": prompt.problem.gold, "w": "no", "?": "?"}[kinds[index]]
        return f"{prompt.phase}{index} {ending}"

    return script


def run(policy: FakePolicy, asked: Any = TWO, **settings: Any) -> Update:
    (update,) = run_batch(LearnToMerge(**{**SMALL, **settings}), policy, TEXTS, asked)
    return update


def parts_of(update: Update) -> tuple[PolicyGradient, PolicyGradient]:
    solve, merge = update.parts
    assert isinstance(solve, PolicyGradient)
    assert isinstance(merge, PolicyGradient)
    return solve, merge


def test_advantages_by_hand() -> None:
    """Guards against one baseline for both kinds of answers, and first answers that are trained for pass@1.

    First answers r w w w: of the 6 pairs, 3 hold the right one, mean and std 1/2. All 3 pairs with it are right: its
    advantage is (1 - 1/2) / (1/2) = 1. A wrong one is in 3 pairs, 1 of them right: (1/3 - 1/2) / (1/2) = -1/3. Merged
    answers r w w, centered: 2/3, -1/3, -1/3."""
    update = run(FakePolicy(scripted("rwww", "rww")))
    solve, merge = parts_of(update)
    assert [s.prompt.phase for s in solve.samples] == ["solve"] * 8
    assert solve.advantages == pytest.approx((1, -1 / 3, -1 / 3, -1 / 3) * 2, abs=1e-5)
    assert [s.prompt.phase for s in merge.samples] == ["merge"] * 6
    assert merge.advantages == pytest.approx((2 / 3, -1 / 3, -1 / 3) * 2)
    assert {s.version for s in (*solve.samples, *merge.samples)} == {0}
    assert dict(update.metrics) == pytest.approx({"solve_accuracy": 1 / 4, "merge_accuracy_1": 1 / 3})
    assert [(g[0].problem.id, g[0].prompt.phase) for g in update.groups] == [
        ("p2", "solve"), ("p2", "merge"), ("p3", "solve"), ("p3", "merge"),
    ]  # fmt: skip


def test_prompts_show_random_sets_of_k_answers() -> None:
    """Guards against a set that is the same for all, answers shown twice, and two sets that are one group."""
    policy = FakePolicy(scripted("rwww", "rww"))
    asked = [make_problem(n) for n in range(7)]
    run(policy, asked, n_sets=5)
    merges = [p for p in policy.shown if p.phase == "merge"]
    assert len(merges) == len({p.group for p in merges}) == 35
    sets = set()
    for prompt in merges:
        question, candidates = prompt.messages[-1].content.split(" : ")
        assert question == prompt.problem.question
        shown = [n for n in range(4) if f"<solve{n} " in candidates]
        assert candidates.count("<") == len(shown) == 2
        sets.add(tuple(shown))
    assert len(sets) == 6
    again = FakePolicy(scripted("rwww", "rww"))
    run(again, asked, n_sets=5)
    assert [p.messages for p in again.shown] == [p.messages for p in policy.shown]


def test_rounds_merge_the_merged_answers() -> None:
    """Guards against rounds that start from first answers, or draw with the same random numbers."""
    policy = FakePolicy(scripted("rwww", "rww"))
    update = run(policy, rounds=3)
    phases = [p.messages[-1].content for p in policy.shown]
    assert len(phases) == 2 + 3 * 2
    assert all("<solve" in text for text in phases[2:4])
    assert all("<merge" in text and "<solve" not in text for text in phases[4:])
    assert len({p.group for p in policy.shown}) == 8
    assert len(parts_of(update)[1].samples) == 3 * 2 * 3
    assert sorted(update.metrics) == ["merge_accuracy_1", "merge_accuracy_2", "merge_accuracy_3", "solve_accuracy"]


def test_easy_sets_are_left_out() -> None:
    """Guards against a share that is applied to hard sets, and a problem that loses its first answers."""
    assert [is_easy(graded_group(*rights)) for rights in ((True, True, False), (True, False), (None, True), (None,))] == [
        True, False, True, False,
    ]  # fmt: skip
    update = run(FakePolicy(scripted("rrrr", "rww")), easy=0.0, rounds=2)
    solve, merge = parts_of(update)
    assert (len(solve.samples), len(merge.samples)) == (8, 0)
    assert math.isnan(update.metrics["merge_accuracy_1"])
    assert len(parts_of(run(FakePolicy(scripted("wwww", "rww")), easy=0.0))[1].samples) == 6
    asked = [make_problem(n) for n in range(40)]
    policy = FakePolicy(scripted("rrrr", "rww"))
    run(policy, asked, easy=0.5)
    assert 10 < sum(p.phase == "merge" for p in policy.shown) < 30


def is_of_p2(phase: str, prompt: Prompt) -> bool:
    return (prompt.problem.id, prompt.phase) == ("p2", phase)


def test_answers_that_are_not_graded_and_prompts_that_are_skipped() -> None:
    """Guards against rewards of 0 for ungraded answers, and a crash without candidates."""
    solve, merge = parts_of(run(FakePolicy(scripted("r?ww", "r?w"))))
    assert [s.index for s in solve.samples] == [0, 2, 3] * 2
    assert merge.advantages == pytest.approx((1 / 2, -1 / 2) * 2)

    for phase, n_samples in (("solve", (4, 3)), ("merge", (8, 3))):
        policy = SkippingPolicy(scripted("rwww", "rww"), partial(is_of_p2, phase))
        assert tuple(len(part.samples) for part in run(policy).parts) == n_samples
    assert run(FakePolicy(scripted("rwww", "rww")), []).groups == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 5}, "k = 5 candidates are drawn from n_solve = 4 first answers"),
        ({"k": 4, "rounds": 2}, r"in later rounds from n_sets \* n_merge = 3 merged ones; lower k"),
        ({"n_solve": 2}, "n_solve must be above pass_k = 2"),
        ({"n_merge": 1}, "n_merge must be at least 2"),
        ({"merge": Objective(n_steps=1)}, "set both to the same number"),
    ],
)
def test_settings_that_cannot_train_are_refused(settings: dict[str, Any], message: str) -> None:
    """Guards against an error in the middle of a run."""
    with pytest.raises(ValueError, match=message):
        LearnToMerge(**{**SMALL, **settings})


@pytest.mark.slow
def test_a_run_resumes_to_the_same_end(make: Make, problems: Path) -> None:
    """Guards against sets of candidates that change when a run resumes."""
    texts = ("prompts.merge={question} {candidates}", "prompts.candidate={candidate}", "problems_per_batch=2")
    numbers = ("method.n_solve=4", "method.k=2", "method.n_merge=3", "method.rounds=2", "method.solve.pass_k=2")
    settings = ("method.name=learn_to_merge", *texts, *numbers)
    whole = finished(make(*settings, "updates=4", out="whole"))
    finished(make(*settings, "updates=2"))
    run = open_run(make(*settings, "updates=4"), resume=True)
    list(train(run))
    assert_same(run, whole)
