"""Write the tables of docs/results.md from the small result files, so that no figure is copied by hand.

    python benchmarks/zoo_page.py [--page docs/results.md] [--results benchmarks/results/zoo]

A table stands between the lines `<!-- table: NAME -->` and `<!-- end -->`. NAME is one of TABLES,
WITH_NEW_SEEDS and FROM_FILES; all else is left alone.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import demos
import zoo_strategies
from rethink.jsonl import write_text
from zoo import SEEDS, SHORT
from zoo_claims import CLAIMS, claim_table
from zoo_fresh import fresh_table
from zoo_results import PAPER, RESULTS, T1, Runs, read_runs, with_seeds
from zoo_strategies import strategy_table
from zoo_table import (
    ACCURACY,
    CHAIN,
    MAIN,
    ablation_table,
    cost_table,
    difference_table,
    gap_table,
    main_table,
    over_training,
    rate_table,
    repeated_table,
    solve_update_table,
)

PAGE = Path(__file__).parent.parent / "docs" / "results.md"

TRIES = ("fresh second try", "reflect", "self-refine", "merge:3", "vote:3", "vote:4", "refine:4")

DIFFERENCES = ("solve", "fix", "damage", "reflect", "self-refine", "merge:3", "refine:4")

TABLES: Mapping[str, Callable[[Runs], str]] = {
    "all methods": main_table,
    "pass@4": lambda runs: rate_table(runs, MAIN, "sampled", PAPER, ACCURACY),
    "tries": lambda runs: rate_table(runs, MAIN, "sampled", T1, TRIES),
    "chain": lambda runs: rate_table(runs, MAIN, "sampled", T1, CHAIN),
    "pass@4, temperature 1": lambda runs: rate_table(runs, MAIN, "sampled", T1, ACCURACY),
    "differences": lambda runs: difference_table(runs, MAIN, SHORT, T1, ACCURACY),
    "differences, sampled tokens": lambda runs: difference_table(runs, MAIN, "sampled", T1, DIFFERENCES),
    "differences, trained tokens": lambda runs: difference_table(runs, MAIN, "trained", T1, ACCURACY),
    "gap": lambda runs: gap_table(runs, MAIN, "sampled"),
    "solve updates": lambda runs: solve_update_table(runs, T1),
    "solve updates, paper": lambda runs: solve_update_table(runs, PAPER),
    "ablations": lambda runs: ablation_table(runs, SHORT),
    "costs": lambda runs: cost_table(runs, MAIN, "sampled"),
}
"""By name, the tables about runs with the seeds of the main comparison."""

WITH_NEW_SEEDS: Mapping[str, Callable[[Runs], str]] = {
    "claims": lambda runs: claim_table(runs, CLAIMS),
    "solve over training": lambda runs: over_training(runs, T1, "solve"),
    "refined over training": lambda runs: over_training(runs, T1, "refined"),
    "fix over training": lambda runs: over_training(runs, T1, "fix"),
    "damage over training": lambda runs: over_training(runs, T1, "damage"),
    "fresh fix over training": lambda runs: over_training(runs, T1, "fresh fix"),
    "fresh damage over training": lambda runs: over_training(runs, T1, "fresh damage"),
    "solve pass@4 over training": lambda runs: over_training(runs, T1, "solve pass@4"),
    "refined pass@4 over training": lambda runs: over_training(runs, T1, "refined pass@4"),
    "solve pass@4 over training, paper": lambda runs: over_training(runs, PAPER, "solve pass@4"),
    "refined pass@4 over training, paper": lambda runs: over_training(runs, PAPER, "refined pass@4"),
    "entropy over training": lambda runs: over_training(runs, T1, "entropy"),
    "fresh": fresh_table,
    "repeated": repeated_table,
}
"""By name, the tables that also show runs with new seeds."""

FROM_FILES: Mapping[str, Callable[[], str]] = {
    "strategies": lambda: strategy_table(zoo_strategies.read_rows()),
    "demos": lambda: demos.demo_table(demos.read_rows()),
}
"""By name, the tables from other result files."""

TABLE = re.compile(r"<!-- table: (?P<name>[^>]+) -->\n.*?<!-- end -->", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    write_text(given.page, with_tables(given.page.read_text(), read_runs(given.results)))


def with_tables(text: str, runs: Runs) -> str:
    """Return a page whose tables are those of the runs. Raise KeyError for a name that no table has."""
    main = with_seeds(runs, SEEDS)

    def table(found: re.Match[str]) -> str:
        name = found["name"]
        if name in FROM_FILES:
            shown = FROM_FILES[name]()
        elif name in WITH_NEW_SEEDS:
            shown = WITH_NEW_SEEDS[name](runs)
        else:
            shown = TABLES[name](main)
        return f"<!-- table: {name} -->\n\n{shown}\n<!-- end -->"

    return TABLE.sub(table, text)


if __name__ == "__main__":
    main()
