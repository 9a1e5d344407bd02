"""What a run has trained, in words."""

from __future__ import annotations

from rethink.jsonl import Record
from rethink.report.outcome import describe_alarms, describe_training, has_trained_nothing

NOTHING = "nothing was trained: the gradient is 0"


def update(n: int, *alarms: str, **more: object) -> Record:
    return {"update": n, "phase": "solve", "optimizer_steps": 4 * n, "alarms": list(alarms), **more}


def test_the_outcome_by_hand() -> None:
    """Guards against counts of the last update alone, and undefined shares that count as 0."""
    numbers = {"n_samples": 8, "n_not_graded": 1, "truncated_frac": 0.25}
    records = [
        update(1, zero_std_groups_frac=0.5, n_overlong=1, **numbers),
        update(2, zero_std_groups_frac=1.0, n_overlong=3, **numbers),
        update(3, zero_std_groups_frac=None, n_overlong=3, n_samples=0, n_not_graded=0, truncated_frac=None),
    ]
    assert describe_training(records) == (
        "trained: 3 updates, 12 optimizer steps; 25% of groups with unequal rewards; 16 replies (2 not graded, 4 cut at "
        "max_tokens); 3 prompts too long"
    )
    assert describe_training([]) == "trained: nothing, there was no update"
    assert describe_training([update(1)]) == "trained: 1 updates, 4 optimizer steps"  # imitation has no groups


def test_alarms_are_counted_by_kind() -> None:
    """Guards against a line per update, and against two lines of one kind in an update that count twice."""
    two = ["sampler and trainer disagree: mismatch/kl is 1", "sampler and trainer disagree: mismatch/prob_gap is 1"]
    records = [update(1), update(2, NOTHING), update(3, *two), update(4, "nothing was trained: the learning rate is 0")]
    assert describe_alarms(records) == [
        f"alarm in 2 of 4 updates, first in update 2: {NOTHING}",
        f"alarm in 1 of 4 updates, first in update 3: {two[0]}",
    ]


def test_a_run_that_trained_nothing() -> None:
    """Guards against an alarm for the first updates of a hard task that decides for the whole run."""
    assert has_trained_nothing([update(1, NOTHING), update(2, NOTHING)])
    assert not has_trained_nothing([update(1, NOTHING), update(2)])
    assert not has_trained_nothing([])
