"""Algebra in a worker."""

from __future__ import annotations

import pytest

from rethink.grading.pool import Pool
from support.answer_pairs import FORMULAS


@pytest.mark.slow
def test_verdicts_do_not_depend_on_the_order_of_the_questions() -> None:
    """Guards against caches and assumptions that one answer leaves for the next."""

    def ask(order: list[tuple[str, str]]) -> dict[tuple[str, str], bool | None]:
        pool = Pool(1, timeout_s=60)
        try:
            return {(a, b): pool.ask("formulas", [a, b]).right for a, b in order}
        finally:
            pool.close()

    assert ask(FORMULAS) == ask(FORMULAS[::-1])
