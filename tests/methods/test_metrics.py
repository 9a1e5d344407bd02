"""Means of methods: which samples they leave out, and when they are undefined."""

from __future__ import annotations

import math

import pytest

from rethink.methods.metrics import accuracy, mean_reward
from support.method_runs import NOT_GRADED, R, W, graded_group


def test_means_leave_out_what_was_not_graded() -> None:
    """Guards against replies without a grade that count as 0, and against means of nothing that are 0."""
    group = graded_group(R, NOT_GRADED, W, W)
    assert mean_reward(group) == pytest.approx(1 / 3)
    assert accuracy([group, (), graded_group(R)]) == 0.5
    assert math.isnan(mean_reward(graded_group(NOT_GRADED)))
    assert math.isnan(accuracy([(), graded_group(NOT_GRADED)]))
