"""`rethink eval --strategy a,b,c`: strategies side by side, at what cost, against votes of equal cost, and the gap."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rethink.commands.console import columns, progress, say, show, warn
from rethink.errors import UserError
from rethink.evaluate.costs import Cost, Outcomes, cost, equal_votes, mean_accuracy, mean_gain, vote_name, votes_of
from rethink.evaluate.gap import Gap, controls, merged_of, refinement_gap
from rethink.evaluate.look import OtherAnswersError
from rethink.evaluate.outcomes import Outcome, by_strategy
from rethink.evaluate.strategies import Trial, evaluate_strategies
from rethink.jsonl import replace as rewrite
from rethink.jsonl import to_json
from rethink.policies.base import Policy
from rethink.recipe import Recipe, completed, to_toml
from rethink.report.curve import Point, curve
from rethink.run_folder import RunFolder
from rethink.strategies import Setup, Strategy, parse, parse_all
from rethink.types import Problem


def open_setup(recipe: Recipe, policy: Policy) -> Setup:
    """What strategies work with, as the recipe says. Raises UserError where one needs a judge and none is named."""
    from rethink.build import open_role, prompts

    plan, judge = recipe.evaluation, recipe.judge
    rater: Policy | None = policy if judge.path == "self" else None
    if any("judge" in s.needs for s in parse_all(plan.strategy)):
        if judge.path == "self":
            warn("the model rates its own answers; name a judge with judge.path=... for an opinion from outside")
        elif judge.path or judge.endpoint.url:
            rater = open_role(recipe, judge)
        else:
            raise UserError('"best" needs a judge: name a model with judge.path=..., or "self" for the model itself')
    return Setup(policy, prompts(recipe, recipe.seed), plan.sampling, plan.refine_sampling, rater)


def check_needs(strategies: Sequence[Strategy], problems: Sequence[Problem]) -> None:
    """Say what strategies need before anything starts. Raises UserError where answers cannot be compared."""
    for s in strategies:
        if "verifier" in s.needs:
            warn(
                f"{s.name} is told which answers are wrong, by the verifier: not to be compared with what goes without"
            )
        lacking = next((p for p in problems if p.answer is None), None) if "comparable answers" in s.needs else None
        if lacking is not None:
            raise UserError(
                f"{s.name} compares answers with one another, and the verifier of {lacking.id} does not say what the "
                "answer in a reply is; use one of the verifiers here"
            )


def warn_of_repeats(recipe: Recipe, strategies: Sequence[Strategy]) -> None:
    """Greedy answers to one prompt are all alike: there is nothing to choose from."""
    plan = recipe.evaluation
    if plan.k or plan.n_refine > 1:
        warn("evaluation.k and evaluation.n_refine are for the strategy refine alone, and have no effect here")
    several = [s.name for s in strategies if s.n_solve * plan.n > 1]
    if several and plan.sampling.temperature == 0:
        warn(
            f"{', '.join(several)}: greedy answers to one prompt are all the same; set evaluation.sampling.temperature"
        )


def run_strategies(
    model: str, recipe: Recipe, problems: list[Problem], policy: Policy, folder: Path, resume: bool
) -> None:
    """Evaluate, print the tables, write summary.json and curve.svg."""
    started = time.perf_counter()
    asked = parse_all(recipe.evaluation.strategy)
    comparable = all(p.answer is not None for p in problems)
    strategies = [*asked, *(controls(asked) if comparable else [])]
    setup = open_setup(recipe, policy)
    check_needs(strategies, problems)
    if not comparable:
        warn("this verifier does not say what the answer in a reply is: no votes of equal cost, and no refinement gap")
    warn_of_repeats(recipe, asked)
    home = RunFolder(folder)
    if resume:
        home.check_same(to_toml(recipe), completed)
    else:
        home.create(to_toml(recipe))
    trial = Trial(problems, strategies, recipe.evaluation.n, recipe.evaluation.batch)
    try:
        outcomes = by_strategy(_evaluated("strategies", setup, trial, folder / "outcomes.jsonl", resume))
        counts = {suite: equal_votes(own) if comparable else {} for suite, own in by_suite(outcomes).items()}
        votes = votes_of((n for own in counts.values() for n in own.values()), strategies)
        if votes:
            trial = replace(trial, strategies=votes)
            outcomes |= by_strategy(_evaluated("equal votes", setup, trial, folder / "votes.jsonl", resume))
    except OtherAnswersError:
        raise
    except (UserError, KeyboardInterrupt):
        again = f"--out {shlex.quote(str(folder))} --resume"
        say(f"stopped; what is done is in {folder}, and the same command with {again} goes on")
        raise
    _report(model, recipe, strategies, outcomes, counts, folder, time.perf_counter() - started)


def _evaluated(label: str, setup: Setup, trial: Trial, file: Path, resume: bool) -> list[Outcome]:
    with progress() as bar:
        task = bar.add_task(label, total=len(trial.problems), note="")
        return evaluate_strategies(
            setup, trial, file, resume=resume, progress=lambda done: bar.update(task, completed=done)
        )


def by_suite(outcomes: Outcomes) -> dict[str, Outcomes]:
    """The outcomes of each benchmark, in order of appearance."""
    suites = dict.fromkeys(o.suite for some in outcomes.values() for o in some)
    return {suite: {n: [o for o in some if o.suite == suite] for n, some in outcomes.items()} for suite in suites}


def _report(
    model: str,
    recipe: Recipe,
    strategies: Sequence[Strategy],
    outcomes: Outcomes,
    counts: Mapping[str, Mapping[str, int]],
    folder: Path,
    seconds: float,
) -> None:
    names = [s.name for s in strategies]
    suites = by_suite(outcomes)
    record: dict[str, Any] = {"model": model, "seed": recipe.seed, "seconds": seconds, "suites": {}}
    parts: list[str] = [f"{model}: shares in percent with 95% intervals; tokens and calls in sequence per problem"]
    files = [folder / "outcomes.jsonl", folder / "summary.json"]
    for suite, own in suites.items():
        rows = [cost(name, own, counts[suite].get(name)) for name in names]
        votes = [cost(name, own, None) for name in own if name not in names]
        # Where answers cannot be compared there are no votes, hence no gap.
        gaps = [] if controls(strategies) else [_gap(s, own, strategies) for s in strategies if merged_of(s)]
        parts += [cost_table(suite, [*rows, *votes]), gap_table(gaps), strata_table(gaps)]
        if drawn := _curve(f"{model}, {suite}", rows, votes):
            files.append(folder / curve_name(suite, list(suites)))
            rewrite(files[-1], drawn)
        record["suites"][suite] = {"strategies": _plain(rows), "votes": _plain(votes), "gaps": _plain(gaps)}
    parts.append(_mean_table(names, suites, counts) if len(suites) > 1 else "")
    rewrite(folder / "summary.json", to_json(record, indent=1) + "\n")
    show("\n\n".join(part for part in parts if part))
    for name, file in zip(("outcomes", "numbers", *["curve"] * len(suites)), files, strict=False):
        say(f"{name}: {file}")


def _plain(rows: Sequence[Cost | Gap]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def curve_name(suite: str, suites: Sequence[str]) -> str:
    """The file of a suite's curve."""
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in suite)
    return "curve.svg" if len(suites) == 1 else f"curve-{suites.index(suite) + 1}-{safe}.svg"


def _gap(merged: Strategy, own: Outcomes, strategies: Sequence[Strategy]) -> Gap:
    k = merged_of(merged)
    votes = [next(s.name for s in strategies if s.stages == parse(f"vote:{n}").stages) for n in (k, k + 1)]
    return refinement_gap(k, own[merged.name], *(own[name] for name in votes))


def cost_table(suite: str, rows: Sequence[Cost]) -> str:
    """A row per strategy, and per vote that others are compared with."""
    lines = [[suite, "accuracy", "minus a vote of equal cost", "tokens shown", "sampled", "calls"]]
    for row in rows:
        gain = "-" if row.gain is None else f"{row.gain.percent('+')} (vote:{row.n_vote})"
        means = (row.prompt_tokens.plain(), row.tokens.plain(), f"{row.depth.value:.1f}")
        lines.append([row.strategy, row.accuracy.percent(), gain, *means])
    counts = [f"{row.strategy}: {n} {name}" for row in rows for name, n in _counted(row).items() if n]
    return "\n".join([columns(lines), *(["counts: " + "; ".join(counts)] if counts else [])])


def _counted(row: Cost) -> dict[str, int]:
    return {"problems not answered": row.n_skipped, "answers not judged": row.n_not_judged, **row.notes}


def gap_table(gaps: Sequence[Gap]) -> str:
    """The Refinement Gap by k; nothing without one."""
    if not gaps:
        return ""
    lines = [["refinement gap", "merged", "vote", "gap, points", "relative, %", "vote of k + 1", "gap to that"]]
    for g in gaps:
        rates = [g.merged.percent(), g.vote.percent(), g.gap.percent("+"), g.relative.percent("+")]
        lines.append([f"k = {g.k}", *rates, g.vote_more.percent(), g.to_more.percent("+")])
    wrong = [["all candidates wrong", "share", "merged right", "one fresh answer right", "difference"]]
    wrong += [
        [f"k = {g.k}", g.all_wrong.percent(), g.rescued.percent(), g.fresh.percent(), g.rescue.percent("+")]
        for g in gaps
    ]
    counts = {"over-long to merge": [g.n_overlong for g in gaps], "not judged": [g.n_not_judged for g in gaps]}
    left = [f"k = {g.k}: {n} {name}" for name, some in counts.items() for g, n in zip(gaps, some, strict=True) if n]
    noted = f"\ncases left out, which may be harder ones: {'; '.join(left)}" if left else ""
    return f"{columns(lines)}{noted}\n\n{columns(wrong)}"


def strata_table(gaps: Sequence[Gap]) -> str:
    """Accuracy by the number of right candidates; nothing without a gap."""
    lines = [["right candidates", "cases", "merged", "vote"]]
    lines += [[f"{s.n_right} of {g.k}", str(s.n), s.merged.percent(), s.vote.percent()] for g in gaps for s in g.strata]
    return columns(lines) if gaps else ""


def _mean_table(names: Sequence[str], suites: Mapping[str, Outcomes], counts: Mapping[str, Mapping[str, int]]) -> str:
    lines = [[f"mean of {len(suites)}", "accuracy", "minus a vote of equal cost"]]
    for name in names:
        votes = {suite: vote_name(n, own) for suite, own in suites.items() if (n := counts[suite].get(name))}
        pairs = [(suites[suite][name], suites[suite][vote]) for suite, vote in votes.items() if vote not in ("", name)]
        gain = mean_gain(pairs).percent("+") if len(pairs) == len(suites) else "-"
        lines.append([name, mean_accuracy([own[name] for own in suites.values()]).percent(), gain])
    return columns(lines)


def _curve(title: str, rows: Sequence[Cost], votes: Sequence[Cost]) -> str:
    """Families are strategies that differ in numbers alone; further votes belong to theirs."""
    accuracy: dict[str, list[Point]] = {}
    gain: dict[str, list[Point]] = {}
    for row in (*rows, *votes):
        family = "+".join(part.partition(":")[0] for part in row.strategy.split("+"))
        e = row.accuracy
        if e.n and row.tokens.n:
            accuracy.setdefault(family, []).append(Point(row.strategy, row.tokens.value, e.value, e.low, e.high))
        if row.gain is not None and row.gain.n and row.tokens.n:
            d = row.gain
            gain.setdefault(family, []).append(Point(row.strategy, row.tokens.value, d.value, d.low, d.high))
    return curve(title, accuracy, gain)
