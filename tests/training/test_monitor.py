"""The numbers that a run logs, by hand, and the alarm on a sampler that disagrees with the trainer."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rethink.models.language_model import LanguageModel
from rethink.objectives import PolicyGradient
from rethink.policies.local import LocalPolicy
from rethink.training.losses.clip import compare_to_sampler
from rethink.training.monitor import ALARMS, Statistics, alarms, describe_groups
from rethink.types import Sample, Sampling, Verdict
from support.samples import apply, make_prompt, make_sample, make_trainer

RIGHT, WRONG, NOT_JUDGED = Verdict(True), Verdict(False), Verdict(None)


def test_means_run_over_values_and_not_over_calls() -> None:
    """Guards against a mean of micro-batch means: (1 + 2 + 3 + 10) / 4 = 4, not (2 + 10) / 2."""
    monitor = Statistics()
    monitor.mean("x", torch.tensor([1.0, 2.0, 3.0]))
    monitor.mean("x", torch.tensor([10.0]))
    monitor.max("y", -7.0)
    monitor.max("y", -5.0)
    monitor.last["a"] = 3.0
    numbers = monitor.metrics()
    assert numbers == {"a": 3.0, "x": 4.0, "y": -5.0}
    assert list(numbers) == ["a", "x", "y"]


def test_a_mean_over_nothing_is_nan() -> None:
    """Guards against an undefined mean that vanishes from the log, or is 0."""
    monitor = Statistics()
    monitor.mean("x", torch.empty(0))
    assert math.isnan(monitor.metrics()["x"])


def test_mismatch_by_hand() -> None:
    """Guards against a reversed KL and against gaps that cancel.

    Trainer 1/2, 1/2 and 1/8, sampler 1/4 each: gaps of log 2, log 2 and -log 2. KL(sampler | trainer) per token, k3:
    twice 2 - log 2 - 1 = 0.306853, and 1/2 + log 2 - 1 = 0.193147; mean 0.268951. Probabilities: (1/4 + 1/4 + 1/8) / 3.
    """
    monitor = Statistics()
    compare_to_sampler(
        monitor, "mismatch", torch.tensor([0.5, 0.5, 0.125]).log(), torch.tensor([0.25, 0.25, 0.25]).log()
    )
    assert monitor.metrics() == {
        "mismatch/exp_log_prob_gap": pytest.approx(2.0, rel=1e-6),
        "mismatch/kl": pytest.approx(0.268951, rel=1e-5),
        "mismatch/log_prob_gap": pytest.approx(math.log(2), rel=1e-6),
        "mismatch/log_prob_gap_max": pytest.approx(math.log(2), rel=1e-6),
        "mismatch/prob_gap": pytest.approx(0.625 / 3, rel=1e-6),
    }


def test_statistics_add_up() -> None:
    """Guards against ranks or threads whose numbers replace one another: means over all values, sums of totals."""
    monitor, other = Statistics(), Statistics()
    for some, values in ((monitor, [1.0, 2.0, 3.0]), (other, [10.0])):
        some.mean("x", torch.tensor(values))
        some.total("n", len(values))
        some.max("y", -values[0])
    monitor.add(other)
    assert monitor.metrics() == {"n": 4, "x": 4.0, "y": -1.0}


def test_alarms_name_the_number_its_limit_and_the_causes() -> None:
    """Guards against an alarm at its own threshold, and against one that nobody can act upon."""
    assert alarms(dict(ALARMS)) == []
    assert alarms({}) == []
    (line,) = alarms({**ALARMS, "mismatch/kl": 0.0125})
    assert line.startswith("sampler and trainer disagree: mismatch/kl is 0.0125, over 0.001")
    assert "temperature, top-p" in line


def sampled(model: LanguageModel) -> tuple[Sample, ...]:
    """Ten replies to two prompts, drawn by the sampler."""
    prompts = [make_prompt("a"), make_prompt("b", seed=3)]
    return tuple(s for group in LocalPolicy(model, Sampling(max_tokens=7)).sample(prompts, 5) for s in group)


def noisy(sample: Sample, nats: float) -> Sample:
    """The sample with log-probs that are off by so many nats, up and down in turn."""
    shifted = (log_prob + nats * (-1) ** t for t, log_prob in enumerate(sample.log_probs))
    return replace(sample, log_probs=tuple(shifted))


def alarmed(model: LanguageModel, samples: tuple[Sample, ...]) -> list[str]:
    """The alarms of one update of these samples."""
    weights = tuple((-1.0) ** i for i in range(len(samples)))
    return alarms(apply(make_trainer(model), PolicyGradient(samples, weights)))


def test_a_clean_run_raises_no_alarm(qwen: LanguageModel) -> None:
    """Guards against alarms that cry wolf, and against a sampler that drifts from the trainer."""
    assert alarmed(qwen, sampled(qwen)) == []


def test_injected_noise_raises_the_alarm(qwen: LanguageModel) -> None:
    """Guards against a mismatch between sampler and trainer that grows unseen.

    0.2 nats up or down: exp(0.2) = 1.221; k3 is exp(0.2) - 1.2 = 0.021403 or exp(-0.2) - 0.8 = 0.018731. Probabilities
    of a random model are too small for a gap of 0.01.
    """
    gap, kl = alarmed(qwen, tuple(noisy(s, 0.2) for s in sampled(qwen)))
    assert "mismatch/exp_log_prob_gap is 1.221, over 1.05" in gap
    assert 0.018731 < float(kl.split("mismatch/kl is ")[1].split(",")[0]) < 0.021403


def test_groups_by_hand() -> None:
    """Guards against samples that were not graded slipping into a mean, and against empty groups.

    Lengths 2, 3, 5, 0 and 1: 11 tokens. Graded: right, wrong, right, right: 3/4. The groups of graded samples are
    {right, wrong}, {right}, {right} and none twice: 2 of 3 silent. Chosen tokens: 2 + 2 + 5 + 0 + 1 = 10 with
    -log p of 1, but for the two of 0.5 each: 9 nats in all; the forced token (of 3) has 8 nats and does not count.
    """
    forced = make_sample((5, 6, 7), mask=(True, False, True), log_probs=(-1.0, -8.0, -1.0), verdict=WRONG)
    groups = (
        (make_sample((5, 1), log_probs=(-0.5, -0.5), verdict=RIGHT), forced),
        (),
        (make_sample((5, 6, 7, 8, 9), verdict=RIGHT, stop="length"), make_sample((), verdict=NOT_JUDGED)),
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


def test_no_samples_have_no_means() -> None:
    """Guards against a reward of 0 where nothing was sampled: undefined is NaN, counts are 0."""
    numbers = describe_groups([(), ()])
    counts = {name for name in numbers if name.startswith("n_")}
    assert counts == {"n_samples", "n_not_graded"}
    assert {numbers[name] for name in counts} == {0}
    assert all(math.isnan(numbers[name]) for name in numbers.keys() - counts)


def refinement(before: Verdict | None, after: Verdict | None) -> Sample:
    """A refinement with its verdict, of a draft with its own."""
    return make_sample((5, 1), verdict=after, draft=make_sample((6, 1), verdict=before))


def test_fix_and_damage_by_hand() -> None:
    """Guards against rates over all drafts, and against ungraded drafts or refinements in a denominator.

    Wrong drafts with a graded refinement: 3, of which 2 were made right. Right drafts: 5, of which 1 was made wrong.
    """
    pairs = [(WRONG, RIGHT)] * 2 + [(WRONG, WRONG)] + [(RIGHT, RIGHT)] * 4 + [(RIGHT, WRONG)]
    ungraded = [(NOT_JUDGED, RIGHT), (None, WRONG), (WRONG, NOT_JUDGED), (RIGHT, None)]
    numbers = describe_groups([tuple(refinement(*pair) for pair in pairs + ungraded)])
    assert numbers["fix"] == pytest.approx(2 / 3)
    assert numbers["damage"] == pytest.approx(1 / 5)


def test_a_rate_without_drafts_of_its_kind_is_nan() -> None:
    """Guards against a fix rate of 0 where no draft was wrong; a phase without drafts has no rates at all."""
    numbers = describe_groups([(refinement(RIGHT, RIGHT),)])
    assert math.isnan(numbers["fix"])
    assert numbers["damage"] == 0.0
    assert not {"fix", "damage"} & describe_groups([(make_sample((5, 1), verdict=RIGHT),)]).keys()
