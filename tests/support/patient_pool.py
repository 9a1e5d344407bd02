"""Algebra in workers that have time enough on a busy machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rethink.grading.pool import Pool
from rethink.problems import mathematics


def patient() -> Iterator[Pool]:
    """For a fixture: mathematics asks this pool, whose limit no ordinary comparison comes near."""
    pool = Pool(size=2, timeout_s=60)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mathematics, "grade_in_worker", pool.ask)
        yield pool
    pool.close()
