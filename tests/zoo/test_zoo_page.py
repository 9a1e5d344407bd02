"""The tables of docs/results.md."""

from __future__ import annotations

import pytest

from zoo_page import FROM_FILES, PAGE, TABLES, WITH_NEW_SEEDS, with_tables
from zoo_results import RESULTS, Runs, read_runs

TEXT = PAGE.read_text()


def test_tables_are_replaced_and_all_else_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against lost text, and against a table that swallows what stands between it and the next one."""
    monkeypatch.setattr("zoo_page.TABLES", {"first": lambda _: "| 1 |\n"})
    monkeypatch.setattr("zoo_page.WITH_NEW_SEEDS", {"second": lambda _: "| 2 |\n"})
    page = "a\n<!-- table: first -->\nold\n<!-- end -->\nb\n<!-- table: second -->\n<!-- end -->\nc\n"
    first = "<!-- table: first -->\n\n| 1 |\n\n<!-- end -->"
    second = "<!-- table: second -->\n\n| 2 |\n\n<!-- end -->"
    runs: Runs = {}
    assert with_tables(page, runs) == f"a\n{first}\nb\n{second}\nc\n"
    assert with_tables(with_tables(page, runs), runs) == with_tables(page, runs)


def test_an_unknown_table_is_refused() -> None:
    """Guards against a table that is silently never written."""
    with pytest.raises(KeyError, match="al methods"):
        with_tables("<!-- table: al methods -->\n<!-- end -->", {})


def test_the_page_shows_every_table() -> None:
    """Guards against a table that is computed for nothing."""
    assert all(f"<!-- table: {name} -->" in TEXT for name in (*TABLES, *WITH_NEW_SEEDS, *FROM_FILES))


@pytest.mark.slow
def test_the_tables_are_those_of_the_result_files() -> None:
    """Guards against figures that were copied by hand, or that belong to older results."""
    assert with_tables(TEXT, read_runs(RESULTS)) == TEXT
