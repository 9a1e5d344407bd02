"""The metrics of an update, by hand, and the alarm when sampler and trainer disagree."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rethink.models.language_model import LanguageModel
from rethink.objectives import Objective, PolicyGradient
from rethink.policies.local import LocalPolicy
from rethink.training.alarms import mismatches
from rethink.training.losses.policy_gradient import compare_to_sampler
from rethink.training.metrics import Statistics, describe_groups
from rethink.types import Sample, Sampling, Verdict
from support.method_runs import only_part
from support.samples import apply, make_prompt, make_sample, make_trainer

RIGHT, WRONG, NOT_GRADED = Verdict(True), Verdict(False), Verdict(None)


def test_statistics_by_hand() -> None:
    """Guards against a mean of means ((2 + 10) / 2 instead of 16 / 4), and an undefined mean of 0 or none at all."""
    statistics, other = Statistics(), Statistics()
    for some, values in ((statistics, [1.0, 2.0, 3.0]), (other, [10.0])):
        some.mean("x", torch.tensor(values))
        some.mean("empty", torch.empty(0))
        some.total("n", len(values))
        some.max("y", -values[0])
    other.last["a"] = 3.0
    statistics.add(other)
    assert statistics.metrics() == pytest.approx(
        {"a": 3.0, "empty": math.nan, "n": 4, "x": 4.0, "y": -1.0}, nan_ok=True
    )
    assert list(statistics.metrics()) == ["a", "empty", "n", "x", "y"]


def test_mismatch_by_hand() -> None:
    """Guards against a reversed KL and against gaps that cancel: log 2, log 2 and -log 2."""
    statistics = Statistics()
    trainer, sampler = torch.tensor([0.5, 0.5, 0.125]).log(), torch.full((3,), 0.25).log()
    compare_to_sampler(statistics, "mismatch", trainer, sampler)
    assert statistics.metrics() == {
        "mismatch/exp_log_prob_gap": pytest.approx(2.0, rel=1e-6),
        "mismatch/kl": pytest.approx(0.268951, rel=1e-5),
        "mismatch/log_prob_gap": pytest.approx(math.log(2), rel=1e-6),
        "mismatch/log_prob_gap_max": pytest.approx(math.log(2), rel=1e-6),
        "mismatch/prob_gap": pytest.approx(0.625 / 3, rel=1e-6),
    }


def alarms_of(model: LanguageModel, samples: list[Sample]) -> list[str]:
    """Return the alarms of one update of these samples."""
    advantages = tuple((-1.0) ** i for i in range(len(samples)))
    return mismatches(apply(make_trainer(model), PolicyGradient(tuple(samples), advantages)))


def test_alarm_for_wrong_log_probs_only(qwen: LanguageModel) -> None:
    """Guards against a mismatch that grows unseen, and against false alarms."""
    prompts = [make_prompt("a"), make_prompt("b", seed=3)]
    samples = [s for group in LocalPolicy(qwen, Sampling(max_tokens=7)).sample(prompts, 5) for s in group]
    assert alarms_of(qwen, samples) == []
    shifted = []
    for s in samples:
        shifted.append(replace(s, log_probs=tuple(lp + 0.2 * (-1) ** t for t, lp in enumerate(s.log_probs))))
    gap, kl = alarms_of(qwen, shifted)
    assert "mismatch/exp_log_prob_gap is 1.221, over 1.05" in gap
    assert 0.018731 < float(kl.split("mismatch/kl is ")[1].split(",")[0]) < 0.021403


def test_groups_by_hand() -> None:
    """Guards against ungraded samples in a mean, and against empty groups."""
    forced = make_sample((5, 6, 7), mask=(True, False, True), log_probs=(-1.0, -8.0, -1.0), verdict=WRONG)
    groups = (
        (make_sample((5, 1), log_probs=(-0.5, -0.5), verdict=RIGHT), forced),
        (),
        (make_sample((5, 6, 7, 8, 9), verdict=RIGHT, stop="length"), make_sample((), verdict=NOT_GRADED)),
        (make_sample((1,), verdict=RIGHT),),
        (),
    )
    assert describe_groups(groups) == {
        "reward": 0.75,
        "accuracy": 0.75,
        "zero_std_groups_frac": pytest.approx(2 / 3),
        "truncated_frac": 0.2,
        "entropy_nats": pytest.approx(0.9),
        "length_tokens": pytest.approx(11 / 5),
        "n_samples": 5,
        "n_not_graded": 1,
    }


def test_groups_of_equal_rewards_are_those_that_the_update_sees() -> None:
    """Guards against a share of the rewards before they change: the cut reply of the first group counts as wrong, and
    the long one of the second loses a half; both groups hide that from their verdicts."""
    cut = (make_sample((5, 1), verdict=WRONG), make_sample((5, 6), verdict=RIGHT, stop="length"))
    sampling = Sampling(max_tokens=4)
    long = tuple(replace(make_sample((5,) * n, verdict=RIGHT), sampling=sampling) for n in (2, 3))
    expected = {("keep", 0): 0.5, ("wrong", 0): 1.0, ("keep", 2): 0.0, ("wrong", 2): 0.5}
    for (truncated, buffer), share in expected.items():
        objective = Objective(truncated=truncated, overlong_buffer=buffer)  # type: ignore[arg-type]
        update = objective.update("solve", [cut, long])
        found = describe_groups(update.groups, update.rewards)
        assert found["zero_std_groups_frac"] == share, (truncated, buffer)
        assert found["reward"] == 0.75
        assert sum(map(bool, only_part(update).advantages)) == 4 * (1 - share)


def test_metrics_without_samples_are_nan() -> None:
    """Guards against a reward of 0 where nothing was sampled."""
    metrics = describe_groups([(), ()])
    assert {name for name in metrics if metrics[name] == 0} == {"n_samples", "n_not_graded"}
    assert sum(map(math.isnan, metrics.values())) == len(metrics) - 2


def refinement(before: Verdict | None, after: Verdict | None) -> Sample:
    """Return a refinement with its verdict, of a draft with its own."""
    return make_sample((5, 1), verdict=after, draft=make_sample((6, 1), verdict=before))


def test_fix_and_damage_by_hand() -> None:
    """Guards against rates over all drafts, ungraded drafts or refinements in a denominator, and rates without drafts."""
    pairs = [(WRONG, RIGHT)] * 2 + [(WRONG, WRONG)] + [(RIGHT, RIGHT)] * 4 + [(RIGHT, WRONG)]
    ungraded = [(NOT_GRADED, RIGHT), (None, WRONG), (WRONG, NOT_GRADED), (RIGHT, None)]
    metrics = describe_groups([tuple(refinement(*pair) for pair in pairs + ungraded)])
    assert (metrics["fix"], metrics["damage"]) == pytest.approx((2 / 3, 1 / 5))
    metrics = describe_groups([(refinement(RIGHT, RIGHT),)])
    assert math.isnan(metrics["fix"])
    assert metrics["damage"] == 0.0
    assert not {"fix", "damage", "accuracy/turn_2"} & describe_groups([(make_sample((5, 1), verdict=RIGHT),)]).keys()


def test_accuracy_by_turn_by_hand() -> None:
    """Guards against a gain per turn that nobody sees in a method that trains all turns together, checks between two
    answers that count as a turn, and ungraded replies that count as wrong."""
    firsts = [make_sample((5, 1), verdict=verdict) for verdict in (RIGHT, WRONG, WRONG, NOT_GRADED)]
    seconds = [make_sample((5, 1), verdict=RIGHT, draft=first) for first in firsts]
    checks = [make_sample((5, 1), draft=second) for second in seconds]
    thirds = [make_sample((5, 1), verdict=verdict, draft=checks[n]) for n, verdict in enumerate((WRONG, RIGHT))]
    metrics = describe_groups([tuple(turn) for turn in (firsts, seconds, checks, thirds)])
    by_turn = {name: value for name, value in metrics.items() if name.startswith("accuracy/")}
    assert by_turn == pytest.approx({"accuracy/turn_1": 1 / 3, "accuracy/turn_2": 1.0, "accuracy/turn_3": 0.5})
    assert "accuracy/turn_2" not in describe_groups([tuple(seconds)])  # one turn alone: `accuracy` has it
