"""The tables of docs/results.md about the models that `benchmarks/zoo.py` trained, from their result files alone.

    python benchmarks/zoo_table.py [RESULTS]

Prints markdown. RESULTS is a folder from `benchmarks/zoo_evaluate.py`, by default benchmarks/results/zoo.

Rates are means over runs in percent, with Student's 95% interval over runs, cut at 0 and 100. Differences are paired by
seed, and have two intervals: over runs (other runs with the same settings), and over problems (these models, other
problems). P-values are those over runs, corrected in each column for its number of arms (Holm), but not for the number of
columns and tables.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from rethink.evaluation.intervals import Difference, Outcome, difference
from rethink.evaluation.runs import over_seeds
from zoo import MARKS, NEW_SEEDS, SEEDS
from zoo_arms import ARMS
from zoo_results import BASELINE, PAPER, RESULTS, T1, Mark, Run, Runs, read_runs, trained_longest, with_seeds

MAIN = [name for name, arm in ARMS.items() if not arm.of]
BUDGETS = ("sampled", "trained")
ABLATIONS = [name for name, arm in ARMS.items() if arm.of]
LONG = [*MAIN, *(name for name in ABLATIONS if ARMS[name].is_long)]
"""The arms that are trained until the last mark."""

ACCURACY = ("solve", "refined", "solve pass@4", "refined pass@4")
TRANSITIONS = ("fix", "fresh fix", "damage", "fresh damage")
TRIES = ("fresh second try", "reflect", "self-refine", "merge:3", "vote:3", "vote:4")
CHAIN = ("solve", "refined", "refine:2", "refine:3", "refine:4")
COMPARED_TRIES = ("reflect", "self-refine", "merge:3", "refine:4")

HEADINGS = {
    "refined": "refined once",
    "fresh fix": "a fresh answer fixes",
    "fresh damage": "a fresh answer damages",
    "fresh second try": "a fresh second try",
    "reflect": "a check, then a second try",
    "self-refine": "checked and corrected",
    "merge:3": "merged from 3",
    "vote:3": "vote of 3",
    "vote:4": "vote of 4",
    "refine:2": "twice",
    "refine:3": "three times",
    "refine:4": "four times",
}
"""The headings of measures that have other names in the files."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    all_runs = read_runs(parser.parse_args().results)
    runs = with_seeds(all_runs, SEEDS)
    print(f"# All methods\n\n{main_table(runs)}")
    for mark, title in (("sampled", "equal sampled tokens"), ("trained", "equal trained tokens"), (160, "160 updates")):
        print_point(runs, mark, title)
    print(f"## Equal solve updates\n\n{solve_update_table(runs, T1)}\n{solve_update_table(runs, PAPER)}")
    print("## Over training\n")
    for measure in (*ACCURACY, *TRANSITIONS, "entropy"):
        print(over_training(all_runs, T1, measure))
    for measure in (*ACCURACY, *TRANSITIONS):
        print(f"The paper's sampling:\n\n{over_training(all_runs, PAPER, measure)}")
    print(f"## Other seeds\n\n{repeated_table(all_runs)}")
    print(f"## Ablations after 160 updates\n\n{ablation_table(runs, 160)}")


def print_point(runs: Runs, mark: Mark, title: str) -> None:
    """Print all tables about one point of training."""
    print(f"## At {title}\n\n{rate_table(runs, MAIN, mark, T1, ACCURACY)}")
    absent = [ARMS[arm].title for arm in MAIN if arm in runs and not seeds_at(runs, arm, mark)]
    if absent:
        print(f"Not trained for so long: {', '.join(absent)}.\n")
    print(f"### What refinement does\n\n{rate_table(runs, MAIN, mark, T1, TRANSITIONS)}")
    print(f"### Refined again\n\n{rate_table(runs, MAIN, mark, T1, CHAIN)}")
    print(f"### Second tries, merged answers and votes\n\n{rate_table(runs, MAIN, mark, T1, TRIES)}")
    print(f"### The refinement gap\n\n{gap_table(runs, MAIN, mark)}")
    print(f"### Minus GRPO\n\n{difference_table(runs, MAIN, mark, T1, ACCURACY)}")
    print(f"The same differences, with intervals over problems:\n\n{problem_table(runs, MAIN, mark, T1, ACCURACY)}")
    print(difference_table(runs, MAIN, mark, T1, TRANSITIONS))
    print(difference_table(runs, MAIN, mark, T1, COMPARED_TRIES))
    print(f"### The paper's sampling\n\n{rate_table(runs, MAIN, mark, PAPER, ACCURACY)}")
    print(rate_table(runs, MAIN, mark, PAPER, TRANSITIONS))
    print(difference_table(runs, MAIN, mark, PAPER, ACCURACY))
    print(f"### Costs\n\n{cost_table(runs, MAIN, mark)}")


# Values and differences


def values(runs: Iterable[Run], mark: Mark, sampling: str, measure: str) -> dict[int, float]:
    """Return the measure of each run that has it, by seed."""
    found: dict[int, float] = {}
    for run in runs:
        answers = run.answers(mark, sampling)
        value = math.nan if answers is None else answers.value(measure)
        if not math.isnan(value):
            found[run.seed] = value
    return found


def pooled(runs: Iterable[Run], mark: Mark, sampling: str, measure: str) -> list[Outcome]:
    """Return the outcomes of all runs."""
    found: list[Outcome] = []
    for run in runs:
        answers = run.answers(mark, sampling)
        found += [] if answers is None else answers.outcomes(measure)
    return found


Side = tuple[str, Mark]
"""An arm at a mark."""


def gap_over_seeds(runs: Runs, ours: Side, theirs: Side, sampling: str, measure: str) -> Difference:
    """Return ours minus theirs, paired by seed."""
    (first, second) = (values(runs.get(arm, {}).values(), mark, sampling, measure) for arm, mark in (ours, theirs))
    return over_seeds([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])


def gap_over_problems(runs: Runs, ours: Side, theirs: Side, sampling: str, measure: str) -> Difference:
    """Return ours minus theirs over the seeds that both have, paired by problem."""
    sides: list[list[Outcome]] = []
    both = seeds_at(runs, *ours) & seeds_at(runs, *theirs)
    for arm, mark in (ours, theirs):
        sides.append(pooled([runs[arm][seed] for seed in sorted(both)], mark, sampling, measure))
    return difference(*sides)


def seeds_at(runs: Runs, arm: str, mark: Mark) -> set[int]:
    return {seed for seed, run in runs.get(arm, {}).items() if run.at(mark) is not None}


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Return Holm's corrected p-values: p times the number of hypotheses not yet rejected, never falling, at most 1.
    Undefined ones stay, and are not counted."""
    found = dict(p_values)
    defined = {name: p for name, p in p_values.items() if not math.isnan(p)}
    largest = 0.0
    for rank, name in enumerate(sorted(defined, key=lambda name: defined[name])):
        largest = max(largest, min(1.0, defined[name] * (len(defined) - rank)))
        found[name] = largest
    return found


# Tables


def rate_table(runs: Runs, arms: Sequence[str], mark: Mark, sampling: str, measures: Sequence[str]) -> str:
    """Return the rates of the start model and of each arm."""
    lines = [["", "runs", *(HEADINGS.get(measure, measure) for measure in measures)]]
    for arm in ("start", *arms):
        own = list(runs.get(arm, {}).values())
        at = 0 if arm == "start" else mark
        n_runs = sum(run.answers(at, sampling) is not None for run in own)
        if n_runs:
            cells = [shown(over_seeds([*values(own, at, sampling, measure).values()])) for measure in measures]
            lines.append([title(arm), str(n_runs), *cells])
    return markdown(lines)


MAIN_HEADS = (
    "updates",
    "tokens",
    "solve",
    "refined",
    "minus GRPO",
    "the same at equal trained tokens",
    *TRANSITIONS,
    "as trained",
)


def main_table(runs: Runs) -> str:
    """Return what docs/results.md shows: the main arms where the budget of sampled tokens is spent.

    "tokens" are those of a draft and of its refinement. The columns "minus GRPO" are about refined answers, there and
    where the budget of trained tokens is spent. "as trained" is the accuracy of the final answers that an arm trains, if
    these are no plain refinements.
    """
    pairs = dict.fromkeys(MAIN, BASELINE)
    gaps = [corrected_gaps(runs, pairs, budget, T1, "refined") for budget in BUDGETS]
    lines = [["", *(head if head == "refined" else HEADINGS.get(head, head) for head in MAIN_HEADS)]]
    for arm in ("start", *MAIN):
        mark: Mark = 0 if arm == "start" else "sampled"
        own = [run for run in runs.get(arm, {}).values() if run.at(mark) is not None]
        if own:
            minus = [gap.get(arm, "-") for gap in gaps]
            lines.append([title(arm), *main_cells(own, mark, minus)])
    return markdown(lines)


def main_cells(runs: Sequence[Run], mark: Mark, minus: Sequence[str]) -> list[str]:
    """Return the cells of an arm in the main table, with those of its differences to the baseline."""

    def rate(measure: str) -> str:
        return shown(over_seeds([*values(runs, mark, T1, measure).values()]))

    updates = sorted({run.marks.get("sampled", 0) for run in runs})
    spent = str(updates[0]) if len(updates) == 1 else f"{updates[0]}-{updates[-1]}"
    strategy = as_trained(runs[0].arm)
    trained = "-" if strategy == "refine" else f"{rate(strategy)} ({HEADINGS[strategy]})"
    tokens = [over_seeds([*values(runs, mark, T1, measure).values()]) for measure in ("tokens", "refined tokens")]
    lengths = " + ".join("-" if not mean.n else f"{mean.value:.0f}" for mean in tokens)
    return [spent, lengths, rate("solve"), rate("refined"), *minus, *map(rate, TRANSITIONS), trained]


def difference_table(runs: Runs, arms: Sequence[str], mark: Mark, sampling: str, measures: Sequence[str]) -> str:
    """Return each arm minus the baseline, paired by seed, with p-values corrected over the arms."""
    others = [arm for arm in arms if arm != BASELINE]
    lines = [["minus GRPO", *(HEADINGS.get(measure, measure) for measure in measures)]]
    columns = [corrected_gaps(runs, dict.fromkeys(others, BASELINE), mark, sampling, measure) for measure in measures]
    for arm in others:
        cells = [column[arm] for column in columns]
        if any(cell != "-" for cell in cells):
            lines.append([title(arm), *cells])
    return markdown(lines)


def as_trained(arm: str) -> str:
    """Return the strategy whose answers an arm trains."""
    return "refine" if arm == "start" else ARMS[arm].trained or ARMS[arm].judged


def ablation_table(runs: Runs, mark: Mark) -> str:
    """Return each ablation minus its method, paired by seed, not corrected. "as trained" is as in the main table."""
    lines = [["minus the whole method", "runs", *ACCURACY[:2], "fix", "damage", "as trained"]]
    for arm in ABLATIONS:
        sides = (arm, mark), (ARMS[arm].of, mark)
        gaps = [gap_over_seeds(runs, *sides, T1, measure) for measure in (*ACCURACY[:2], "fix", "damage")]
        if gaps[0].n > 1:
            strategy = as_trained(arm)
            trained = f"{gap_over_seeds(runs, *sides, T1, strategy).percent('+')} ({HEADINGS.get(strategy)})"
            cells = [*(shown(gap, "+") for gap in gaps), "-" if strategy == "refine" else trained]
            lines.append([title(arm), str(gaps[0].n), *cells])
    return markdown(lines)


LATER = (*ACCURACY[:2], "fix", "damage", "refine:4")


def repeated_table(runs: Runs) -> str:
    """Return refined answers minus those of GRPO, with the seeds of the main table and with new ones, and measures after
    the last mark; paired by seed, not corrected."""
    main, new, last = with_seeds(runs, SEEDS), with_seeds(runs, NEW_SEEDS), MARKS[-1]
    heads = [HEADINGS.get(measure, measure) for measure in LATER]
    lines = [["minus GRPO", "refined, seeds 0 to 4", "seeds 5 to 7", f"{last} updates: {heads[0]}", *heads[1:]]]
    for arm in MAIN:
        if arm != BASELINE and seeds_at(new, arm, last):
            (ours, theirs), at_last = ((arm, "sampled"), (BASELINE, "sampled")), ((arm, last), (BASELINE, last))
            gaps = [gap_over_seeds(some, ours, theirs, T1, "refined") for some in (main, new)]
            gaps += [gap_over_seeds(new, *at_last, T1, measure) for measure in LATER]
            lines.append([title(arm), *(shown(gap, "+") for gap in gaps)])
    return markdown(lines)


def corrected_gaps(runs: Runs, pairs: dict[str, str], mark: Mark, sampling: str, measure: str) -> dict[str, str]:
    """Return each arm minus its partner, paired by seed, with p-values corrected over the arms."""
    gaps = {a: gap_over_seeds(runs, (a, mark), (b, mark), sampling, measure) for a, b in pairs.items() if a != b}
    corrected = holm({arm: gap.p for arm, gap in gaps.items()})
    return {arm: with_p(gap, corrected[arm]) for arm, gap in gaps.items()}


def problem_table(runs: Runs, arms: Sequence[str], mark: Mark, sampling: str, measures: Sequence[str]) -> str:
    """Return each arm minus the baseline, with intervals over problems."""
    lines = [["minus GRPO", *(HEADINGS.get(measure, measure) for measure in measures)]]
    for arm in arms:
        sides = (arm, mark), (BASELINE, mark)
        if arm != BASELINE and seeds_at(runs, *sides[0]) & seeds_at(runs, *sides[1]):
            cells = [shown(gap_over_problems(runs, *sides, sampling, measure), "+") for measure in measures]
            lines.append([title(arm), *cells])
    return markdown(lines)


def gap_table(runs: Runs, arms: Sequence[str], mark: Mark) -> str:
    """Return what a merged answer gains over votes, one among as many drafts and one that costs as much, and how often
    drafts were too long to merge."""
    lines = [["merged from 3 minus", "vote of 3", "vote of 4", "too long to merge"]]
    for arm in ("start", *arms):
        own = list(runs.get(arm, {}).values())
        at = 0 if arm == "start" else mark
        merged = values(own, at, T1, "merge:3")
        if merged:
            votes = [values(own, at, T1, vote) for vote in ("vote:3", "vote:4")]
            gaps = [over_seeds([merged[seed] - vote[seed] for seed in merged]) for vote in votes]
            unmerged = over_seeds([*values(own, at, T1, "not merged").values()])
            lines.append([title(arm), *(shown(gap, "+") for gap in gaps), shown(unmerged)])
    return markdown(lines)


def solve_update_table(runs: Runs, sampling: str) -> str:
    """Return the differences of arms that train first answers in a part of their updates to GRPO after as many updates as
    that part."""
    lines = [["", *(HEADINGS.get(measure, measure) for measure in ACCURACY)]]
    for arm in MAIN:
        for updates in MARKS:
            n_solve = solve_updates(runs, arm, updates)
            if n_solve in MARKS and n_solve < updates:
                sides = (arm, updates), (BASELINE, n_solve)
                cells = [shown(gap_over_seeds(runs, *sides, sampling, measure), "+") for measure in ACCURACY]
                lines.append([f"{title(arm)} after {updates} minus GRPO after {n_solve}", *cells])
    return markdown(lines)


def solve_updates(runs: Runs, arm: str, updates: int) -> int:
    """Return how many of an arm's first updates train first answers; 0 if its runs have none of that name."""
    counts: set[int] = set()
    for run in runs.get(arm, {}).values():
        point = run.at(updates)
        if point is not None:
            counts.add(point.phases.get("solve", 0))
    return counts.pop() if len(counts) == 1 else 0


def over_training(runs: Runs, sampling: str, measure: str) -> str:
    """Return a measure after each number of updates, of the runs that were trained longest."""
    lines = [[HEADINGS.get(measure, measure), "seeds", *map(str, (0, *MARKS))]]
    for arm in LONG:
        seeds = [run.seed for run in trained_longest(runs.get(arm, {}).values(), MARKS)]
        cells = [f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else str(*seeds)]
        for updates in (0, *MARKS):
            own = trained_longest(runs.get(arm if updates else "start", {}).values(), MARKS)
            found = over_seeds([*values(own, updates, sampling, measure).values()])
            cells.append(number(found, measure))
        if runs.get(arm):
            lines.append([title(arm), *cells])
    return markdown(lines)


def cost_table(runs: Runs, arms: Sequence[str], mark: Mark) -> str:
    """Return what training has cost at a mark, as means over runs, and the length and entropy of replies."""
    lines = [["", "rate", "updates", "sampled for data", "sampled", "trained", "tokens", "refined", "cut", "entropy"]]
    for arm in arms:
        spent: list[tuple[int, int, int, int]] = []
        for run in runs.get(arm, {}).values():
            point = run.at(mark)
            if point is not None:
                updates = run.marks[mark] if isinstance(mark, str) else mark
                spent.append((updates, run.prepared, point.sampled, point.trained))
        if spent:
            own = runs[arm].values()
            updated, *tokens = (statistics.fmean(numbers) for numbers in zip(*spent, strict=True))
            costs = [f"{next(iter(own)).rate:g}", f"{updated:.0f}", *(f"{n / 1e6:.2f}" for n in tokens)]
            means = [(over_seeds([*values(own, mark, T1, measure).values()]), measure) for measure in NUMBERS]
            lines.append([title(arm), *costs, *(number(*mean) for mean in means)])
    return "Tokens of training in millions; tokens per draft and refinement.\n\n" + markdown(lines)


NUMBERS = ("tokens", "refined tokens", "cut", "entropy")


# Cells


def title(arm: str) -> str:
    return "start" if arm == "start" else ARMS[arm].title


def shown(gap: Difference, sign: str = "") -> str:
    """Return a difference with a sign, or a rate without, whose interval is cut at 0 and 100 percent."""
    if not gap.n:
        return "-"
    if sign or math.isnan(gap.low):
        return gap.percent(sign)
    return replace(gap, low=max(0.0, gap.low), high=min(1.0, gap.high)).percent()


def with_p(gap: Difference, p: float) -> str:
    if math.isnan(p):
        return shown(gap, "+")
    return f"{gap.percent('+')}, p {'< 0.001' if p < 0.0005 else f'{p:.3f}'}"


def number(gap: Difference, measure: str) -> str:
    """Return a mean of tokens or nats with its interval, or a share as `shown` does."""
    if gap.n and measure in ("tokens", "refined tokens", "entropy"):
        return gap.plain()
    return shown(gap)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:], ""])


if __name__ == "__main__":
    main()
