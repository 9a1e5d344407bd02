"""Write the tables of docs/results.md from the small result files, so that no figure is copied by hand.

    python benchmarks/zoo_page.py [--page docs/results.md] [--results benchmarks/results/zoo]

A table stands between the lines `<!-- table: NAME -->` and `<!-- end -->`. NAME is one of TABLES; all else is left alone.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from rethink.jsonl import write_text
from zoo_claims import CLAIMS, claim_table
from zoo_results import PAPER, RESULTS, T1, Runs, read_runs
from zoo_table import MAIN, cost_table, main_table, over_training, rate_table, solve_update_table

ROOT = Path(__file__).parent.parent

TRIES = ("fresh second try", "reflect", "self-refine", "merge:3", "vote:3", "vote:4", "refine:4")

TABLES: Mapping[str, Callable[[Runs], str]] = {
    "all methods": main_table,
    "claims": lambda runs: claim_table(runs, CLAIMS),
    "pass@4": lambda runs: rate_table(
        runs, MAIN, "sampled", PAPER, ("solve", "solve pass@4", "refined", "refined pass@4")
    ),
    "tries": lambda runs: rate_table(runs, MAIN, "sampled", T1, TRIES),
    "solve updates": lambda runs: solve_update_table(runs, T1),
    "solve updates, paper": lambda runs: solve_update_table(runs, PAPER),
    "solve over training": lambda runs: over_training(runs, T1, "solve"),
    "refined over training": lambda runs: over_training(runs, T1, "refined"),
    "costs": lambda runs: cost_table(runs, MAIN, "sampled"),
}

TABLE = re.compile(r"<!-- table: (?P<name>[^>]+) -->\n.*?<!-- end -->", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    write_text(given.page, with_tables(given.page.read_text(), read_runs(given.results)))


def with_tables(text: str, runs: Runs) -> str:
    """Return a page whose tables are those of the runs. Raise KeyError for a name that no table has."""

    def table(found: re.Match[str]) -> str:
        name = found["name"]
        return f"<!-- table: {name} -->\n\n{TABLES[name](runs)}\n<!-- end -->"

    return TABLE.sub(table, text)


if __name__ == "__main__":
    main()
