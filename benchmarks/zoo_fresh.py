"""What a refinement does that a fresh answer would not: a table for docs/results.md.

    python benchmarks/zoo_fresh.py [RESULTS]

Prints markdown. The fix rate of a model's refinements, minus the share of the same wrong drafts that a fresh answer would
repair, and the same for damage; paired by seed, with Student's 95% interval over seeds, not corrected.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rethink.evaluation.intervals import Difference
from rethink.evaluation.runs import over_seeds
from zoo import MARKS, NEW_SEEDS, SEEDS
from zoo_results import RESULTS, T1, Mark, Runs, read_runs, with_seeds
from zoo_table import MAIN, markdown, shown, title, values

HEADS = (
    "fix, seeds 0 to 4",
    "seeds 5 to 7",
    f"after {MARKS[-1]} updates",
    "damage, seeds 0 to 4",
    "seeds 5 to 7",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    print(fresh_table(read_runs(parser.parse_args().results)))


def fresh_table(runs: Runs) -> str:
    """Return a row per model, the start model first: at equal sampled tokens, and in the third column after the last mark,
    with the new seeds."""
    main, new = with_seeds(runs, SEEDS), with_seeds(runs, NEW_SEEDS)
    lines = [["refinement minus a fresh answer", *HEADS]]
    for arm in ("start", *MAIN):
        if runs.get(arm):
            lines.append([title(arm), *cells(main, new, arm)])
    return markdown(lines)


def cells(main: Runs, new: Runs, arm: str) -> list[str]:
    at: Mark = 0 if arm == "start" else "sampled"
    gaps = [minus_fresh(runs, arm, at, "fix") for runs in (main, new)]
    gaps.append(minus_fresh(new, arm, MARKS[-1], "fix"))
    gaps += [minus_fresh(runs, arm, at, "damage") for runs in (main, new)]
    return [shown(gap, "+") for gap in gaps]


def minus_fresh(runs: Runs, arm: str, mark: Mark, measure: str) -> Difference:
    """Return a rate of an arm's refinements minus that of its fresh answers to the same drafts."""
    own = list(runs.get(arm, {}).values())
    refined, fresh = values(own, mark, T1, measure), values(own, mark, T1, f"fresh {measure}")
    return over_seeds([refined[seed] - fresh[seed] for seed in sorted(refined.keys() & fresh.keys())])


if __name__ == "__main__":
    main()
