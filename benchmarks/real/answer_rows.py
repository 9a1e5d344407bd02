"""The rows of `answers.py`: a strategy's rates with their intervals, what changed, and what it cost; and their table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from real.result_files import markdown
from rethink.evaluation.costs import describe_baseline
from rethink.evaluation.intervals import UNDEFINED, Estimate
from rethink.evaluation.results import EvaluationResult
from rethink.evaluation.summary import Summary
from rethink.recipe import Recipe
from rethink.types import Sampling

KEY = ("model", "weights", "problems", "sampling", "strategy")
"""The columns that say what a row is about: another row with the same ones is replaced."""

CHANGES = ("right_right", "right_wrong", "wrong_right", "wrong_wrong")
Values = dict[str, object]


def rows_of(result: EvaluationResult, about: Mapping[str, str], recipe: Recipe) -> list[Values]:
    """Return a row per suite and strategy; `about` are columns that all of them share."""
    sampling = describe_sampling(recipe.evaluation.sampling, recipe.evaluation.refine_sampling)
    found: list[Values] = []
    for suite, own in result.suites.items():
        for summary in own.strategies.values():
            found.append({**about, "problems": suite, "sampling": sampling, **row(summary)})
    return found


def row(summary: Summary) -> Values:
    """Return the numbers of one strategy. Rates are shares of 1; what is undefined is nan."""
    changes = asdict(summary.transitions) if summary.transitions else dict.fromkeys(CHANGES, math.nan)
    refined = summary.refined
    numbers: Values = {"strategy": summary.strategy, "n_problems": summary.n_problems}
    for name, estimate in rates(summary).items():
        numbers |= {
            name: number(estimate.value),
            f"{name}_low": number(estimate.low),
            f"{name}_high": number(estimate.high),
        }
    return {
        **numbers,
        **changes,
        "baseline": describe_baseline(summary.cost) or "-",
        "gain_p": number(summary.gain.p if summary.gain else math.nan),
        "baseline_gain_p": number(summary.cost.gain.p if summary.cost.gain else math.nan),
        "prompt_tokens": number(summary.cost.prompt_tokens.value),
        "sampled_tokens": number(summary.cost.tokens.value),
        "cut_frac": number(summary.solve.truncated.value),
        "refined_cut_frac": number(refined.truncated.value if refined else math.nan),
        "no_answer_frac": number(summary.solve.no_answer.value),
        "n_not_graded": summary.n_not_graded,
        "n_skipped": summary.n_skipped,
    }


def rates(summary: Summary) -> dict[str, Estimate]:
    """Return the rates of a row, undefined where a strategy has none.

    `fix_fresh` and `damage_fresh` are what fresh answers in place of refinements would do. `baseline_gain` is the accuracy
    minus that of first answers, and votes over them, with as many sampled tokens."""
    return {
        "accuracy": summary.accuracy,
        "solve": summary.solve.accuracy,
        "gain": summary.gain or UNDEFINED,
        "fix": summary.fix or UNDEFINED,
        "damage": summary.damage or UNDEFINED,
        "fix_fresh": summary.fix_fresh or UNDEFINED,
        "damage_fresh": summary.damage_fresh or UNDEFINED,
        "baseline_gain": summary.cost.gain or UNDEFINED,
    }


def number(value: float) -> str:
    return f"{value:.6g}"


def describe_sampling(first: Sampling, others: Sampling | None) -> str:
    """Return how first answers and refinements are sampled, in words."""
    return f"{in_words(first)}; refinements {in_words(others or first)}"


def in_words(sampling: Sampling) -> str:
    if sampling.temperature == 0:
        return f"greedy, at most {sampling.max_tokens} tokens"
    cuts = [f"temperature {sampling.temperature:g}"]
    cuts += [f"top-p {sampling.top_p:g}"] if sampling.top_p < 1 else []
    cuts += [f"top-k {sampling.top_k}"] if sampling.top_k else []
    return f"{', '.join(cuts)}, at most {sampling.max_tokens} tokens"


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows, new ones or those of a file, as a table in markdown: percent with 95% intervals."""
    header = ["model", "problems", "strategy", "accuracy", "gain", "fix rate", "damage rate", "sampled tokens"]
    lines = [[*header, "minus a baseline of equal cost"]]
    for one in rows:
        model = f"{one['model']}, {one['weights']}"
        cells = [model, f"{one['problems']}, {one['n_problems']}", str(one["strategy"])]
        cells += [percent(one, "accuracy"), percent(one, "gain", "+"), percent(one, "fix"), percent(one, "damage")]
        gain = percent(one, "baseline_gain", "+")
        cells += [f"{float(str(one['sampled_tokens'])):.0f}", gain if gain == "-" else f"{gain} ({one['baseline']})"]
        lines.append(cells)
    return markdown(lines)


def percent(one: Mapping[str, object], name: str, sign: str = "") -> str:
    """Return 61.2 [59.3, 63.1] for a rate of a row, or "-"."""
    value, low, high = (100 * float(str(one[f"{name}{end}"])) for end in ("", "_low", "_high"))
    if math.isnan(value):
        return "-"
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"
