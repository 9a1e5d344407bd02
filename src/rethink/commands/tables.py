"""The tables that `rethink eval` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

from rethink.evaluation.bounds import NOTE, kind_of, open_signs
from rethink.evaluation.costs import describe_baseline
from rethink.evaluation.fresh import NO_CONTROL
from rethink.evaluation.gap import Gap
from rethink.evaluation.intervals import Difference, Estimate
from rethink.evaluation.results import EvaluationResult, SuiteResult
from rethink.evaluation.summary import MacroSummary, Summary
from rethink.printable import align_columns, printable_line
from rethink.strategies import parse

MAX_REASON = 200
"""Reasons of ungraded replies are cut at so many characters."""

Rows = Mapping[str, Summary]
"""The title of each row -> its summary."""


def tables(model: str, result: EvaluationResult) -> str:
    """Return all tables that are not empty.

    For solve alone, or solve and one refinement, each benchmark is a row. Otherwise each benchmark has a table of
    strategies and their costs, and the changes from first to final answers follow.
    """
    rows: dict[str, Summary] = {}
    parts: list[str] = []
    for suite, own in result.suites.items():
        if result.at_equal_cost:
            parts += [cost_table(suite, own), gap_table(own.gaps), strata_table(own.gaps)]
        for name, summary in own.strategies.items():
            rows[f"{suite}, {name}" if result.at_equal_cost else suite] = summary
    revising = {title: summary for title, summary in rows.items() if summary.refined is not None}
    if result.at_equal_cost:
        title = f"{model}: rates in percent, tokens and sequential calls per problem, with 95% intervals"
        parts += [_mean_cost_table(result), accuracy_table(revising, result), fresh_table(revising, result)]
        parts.append(pass_table(rows, result))
    else:
        title = f"{model}: rates in percent, tokens per reply, with 95% intervals"
        parts += [accuracy_table(rows, result), fresh_table(revising, result), pass_table(rows, result)]
        parts.append(reply_table(rows))
    parts += [transition_table(revising), count_table(rows), _bounds_notes(rows, result)]
    return "\n\n".join([title, *(part for part in parts if part)])


def accuracy_table(rows: Rows, result: EvaluationResult) -> str:
    """Return the accuracy of first and refined answers, the gain, and the fix and damage rates, each with that of fresh
    answers if there are any.
    """
    if not rows:
        return ""
    revise = any(s.refined is not None for s in rows.values())
    has_fresh = _has_fresh(rows)
    fresh = ["fresh"] if has_fresh else []
    more = ["refined", "gain", "fix rate", *fresh, "damage rate", *fresh] if revise else []
    lines = [["", "solve", *more]]
    for title, s in rows.items():
        lines.append([title, s.solve.accuracy.percent()])
        if revise:
            lines[-1] += _revision_cells(None if s.refined is None else s.refined.accuracy, s, has_fresh)
    for name, mean in (result.mean or {}).items():
        if revise and mean.refined is None:
            continue
        lines.append([_mean_title(result, name), mean.solve.percent()])
        if revise:
            lines[-1] += _revision_cells(mean.refined, mean, has_fresh)
    return align_columns(lines)


def _revision_cells(refined: Estimate | None, s: Summary | MacroSummary, has_fresh: bool) -> list[str]:
    cells = [_percent(refined), _percent(s.gain, "+")]
    for own, fresh in ((s.fix, s.fix_fresh), (s.damage, s.damage_fresh)):
        cells.append(_percent(own))
        if has_fresh:
            cells.append("undefined" if fresh is None else fresh.value_percent())
    return cells


def fresh_table(rows: Rows, result: EvaluationResult) -> str:
    """Return the rates of fresh answers in place of refinements, and what those of the refinements are above them; without
    any, a line that says why. `rows` are those of strategies that revise. Strategies that see verdicts leave right drafts
    alone, so their damage rates are not compared.
    """
    if not _has_fresh(rows):
        return NO_CONTROL if rows else ""
    found: dict[str, Summary | MacroSummary] = {**rows}
    for name, mean in (result.mean or {}).items():
        if mean.refined is not None:
            found[_mean_title(result, name)] = mean
    lines = [["a fresh answer instead", "fixes", "fix rate minus fresh", "damages", "damage rate minus fresh"]]
    for title, s in found.items():
        fix = [_percent(s.fix_fresh), _percent(s.fix_minus_fresh, "+")]
        damage = [_percent(s.damage_fresh), _percent(s.damage_minus_fresh, "+")]
        sees_verdicts = "verifier" in parse(s.strategy).needs
        lines.append([title, *fix, *(["-", "-"] if sees_verdicts else damage)])
    return align_columns(lines)


def _has_fresh(rows: Rows) -> bool:
    return any(s.has_fresh for s in rows.values())


def pass_table(rows: Rows, result: EvaluationResult) -> str:
    """Return pass@k of first and final answers; an empty string if only pass@1 is known."""
    found: list[tuple[str, Mapping[str, Estimate]]] = []
    for title, s in rows.items():
        if result.at_equal_cost:
            found.append((title, s.pass_at_k))
        else:
            found.append((f"{title}, solve", s.solve.pass_at_k))
            found.append((f"{title}, refined", s.refined.pass_at_k if s.refined else {}))
    for name, mean in (result.mean or {}).items():
        if result.at_equal_cost:
            found.append((_mean_title(result, name), mean.pass_at_k))
        else:
            found.append(("mean, solve", mean.solve_pass_at_k))
            found.append(("mean, refined", mean.pass_at_k if mean.refined else {}))
    ks: dict[str, None] = {}
    for _, values in found:
        ks |= dict.fromkeys(values)
    if list(ks) in ([], ["1"]):
        return ""
    lines = [["", *(f"pass@{k}" for k in ks)]]
    for title, values in found:
        if values:
            lines.append([title, *(_percent(values.get(k)) for k in ks)])
    return align_columns(lines)


def reply_table(rows: Rows) -> str:
    """Return how many first and final replies were cut or gave no answer, their tokens and, if known, their entropy."""
    lines = [["", "cut at cap", "no answer", "prompt tokens", "sampled tokens", "entropy, nats"]]
    is_known = False
    for title, s in rows.items():
        for phase, stats in (("solve", s.solve), ("refine", s.refined)):
            if stats is not None:
                shares = [stats.truncated.percent(), stats.no_answer.percent()]
                means = [stats.prompt_tokens.plain(), stats.tokens.plain(), stats.entropy.plain(2)]
                lines.append([f"{title}, {phase}", *shares, *means])
                is_known = is_known or stats.entropy.n > 0
    return align_columns(lines if is_known else [line[:-1] for line in lines])


def transition_table(rows: Rows) -> str:
    """Return the number of answers for each change of verdict."""
    lines = [["refinements", "right>right", "right>wrong", "wrong>right", "wrong>wrong"]]
    for title, s in rows.items():
        if s.transitions is not None:
            lines.append([title, *(str(n) for n in astuple(s.transitions))])
    return align_columns(lines) if len(lines) > 1 else ""


def count_table(rows: Rows) -> str:
    """Return how many answers the rates leave out, with the most frequent reason of each kind, or accept leniently; an
    empty string if all counts are 0.
    """
    lines = [
        ["counts", "problems too long", "drafts too long to refine", "replies not graded", "right only if lenient"]
    ]
    found = False
    reasons: list[str] = []
    for title, s in rows.items():
        not_graded = f"{s.n_not_graded} of {s.n_replies}" if s.n_not_graded else "0"
        lines.append([title, str(s.n_skipped), str(s.n_not_refined), not_graded, str(s.n_lenient)])
        found = found or any((s.n_skipped, s.n_not_refined, s.n_not_graded, s.n_lenient))
        for kind, n in s.not_graded_by_kind.items():
            first = next(reason for reason in s.not_graded if kind_of(reason) == kind)
            detail = printable_line(first.removeprefix(f"{kind}: "))[:MAX_REASON]
            more = "" if detail in ("", kind) else f" (most often: {detail})"
            reasons.append(f"not graded, {title}: {n} {kind}{more}")
    return "\n".join([align_columns(lines), *reasons]) if found else ""


def cost_table(suite: str, own: SuiteResult) -> str:
    """Return a table with a row per strategy, and per baseline that strategies are compared with."""
    lines = [[suite, "accuracy", "minus a baseline of equal cost", "prompt tokens", "sampled tokens", "calls"]]
    counts: list[str] = []
    for name, row in (own.strategies | own.baselines).items():
        cost = row.cost
        gain = "-" if cost.gain is None else f"{cost.gain.percent('+')} ({describe_baseline(cost)})"
        means = (cost.prompt_tokens.plain(), cost.tokens.plain(), f"{cost.depth.value:.1f}")
        lines.append([name, row.accuracy.percent(), gain, *means])
        counted = {"problems not answered": row.n_skipped, "replies not graded": row.n_not_graded, **row.notes}
        counts += [f"{name}: {n} {what}" for what, n in counted.items() if n]
    note = f"\ncounts: {'; '.join(counts)}" if counts else ""
    return align_columns(lines) + note


def _mean_cost_table(result: EvaluationResult) -> str:
    if result.mean is None:
        return ""
    lines = [[f"mean of {len(result.suites)}", "accuracy", "minus a baseline of equal cost"]]
    for name, mean in result.mean.items():
        gain = "-" if mean.baseline_gain is None else mean.baseline_gain.percent("+")
        lines.append([name, mean.accuracy.percent(), gain])
    return align_columns(lines)


def gap_table(gaps: Sequence[Gap]) -> str:
    """Return the Refinement Gap by k; an empty string if there is none."""
    if not gaps:
        return ""
    lines = [["refinement gap", "merged", "vote", "gap, points", "relative, %", "vote of k + 1", "gap to that"]]
    wrong = [["all candidates wrong", "share", "merged right", "one fresh answer right", "difference"]]
    left: list[str] = []
    for g in gaps:
        title = f"k = {g.k}"
        rates = [g.merged.percent(), g.vote.percent(), g.gap.percent("+"), g.relative.percent("+")]
        lines.append([title, *rates, g.larger_vote.percent(), g.gap_to_larger_vote.percent("+")])
        shares = [g.all_wrong.percent(), g.rescued.percent(), g.fresh.percent()]
        wrong.append([title, *shares, g.rescue.percent("+")])
        left += [f"{title}: {g.n_overlong} too long to merge"] if g.n_overlong else []
        left += [f"{title}: {g.n_not_graded} not graded"] if g.n_not_graded else []
    note = f"\ncases left out, which may be harder than the rest: {'; '.join(left)}" if left else ""
    return f"{align_columns(lines)}{note}\n\n{align_columns(wrong)}"


def strata_table(gaps: Sequence[Gap]) -> str:
    """Return accuracy by the number of right candidates; an empty string if there is no gap."""
    lines = [["right candidates", "cases", "merged", "vote"]]
    for g in gaps:
        for s in g.strata:
            lines.append([f"{s.n_right} of {g.k}", str(s.n), s.merged.percent(), s.vote.percent()])
    return align_columns(lines) if gaps else ""


def _bounds_notes(rows: Rows, result: EvaluationResult) -> str:
    """Return what numbers in parentheses are, and which differences may have another sign; "" if all was graded."""
    gains: dict[str, Difference | None] = {}
    for title, s in rows.items():
        gains |= {f"gain, {title}": s.gain, f"minus a baseline, {title}": s.cost.gain}
    for name, mean in (result.mean or {}).items():
        title = _mean_title(result, name)
        gains |= {f"gain, {title}": mean.gain, f"minus a baseline, {title}": mean.baseline_gain}
    for suite, own in result.suites.items():
        for g in own.gaps:
            gains |= {f"gap, {suite}, k = {g.k}": g.gap, f"gap to vote of {g.k + 1}, {suite}": g.gap_to_larger_vote}
    ungraded = any(s.n_not_graded for own in result.suites.values() for s in (own.strategies | own.baselines).values())
    return "\n".join(filter(None, [NOTE, open_signs(gains)])) if ungraded else ""


def _percent(found: Estimate | None, sign: str = "") -> str:
    return "undefined" if found is None else found.percent(sign)


def _mean_title(result: EvaluationResult, strategy: str) -> str:
    title = f"mean of {len(result.suites)}"
    return f"{title}, {strategy}" if result.at_equal_cost else title
