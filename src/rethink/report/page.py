"""report.html of a run: held-out results, training curves, samples and settings."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from rethink.evaluation.bounds import NOTE
from rethink.evaluation.fresh import rate_columns, why_no_fresh
from rethink.evaluation.intervals import Estimate
from rethink.jsonl import Record, read_lines, write_text
from rethink.printable import printable
from rethink.report.chart import Point, chart
from rethink.report.outcome import describe_alarms, describe_training
from rethink.run_folder import RunFolder

CURVES = {
    "reward": "reward",
    "entropy_nats": "entropy, nats per token",
    "zero_std_groups_frac": "share of groups with equal rewards",
    "truncated_frac": "share of replies cut at the cap",
    "length_tokens": "reply length, tokens",
    "nll_nats": "negative log-likelihood, nats per token",
    "grad_norm": "gradient norm before clipping",
    "clip_high_frac": "share of tokens clipped from above",
    "mismatch/prob_gap": "sampler and trainer: gap of token probabilities",
}

UNGRADED = {"n_not_graded": "replies that were not graded"}
"""The curve that is shown only if there are any."""

STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; max-width: 1040px; margin: 2em auto; padding: 0 1em; color: #1f2328 }
svg { margin: 4px; font: 11px system-ui, sans-serif } table { border-collapse: collapse }
td, th { padding: 3px 12px; border-bottom: 1px solid #ddd; text-align: right } td:first-child { text-align: left }
pre { background: #f6f8fa; padding: 8px; white-space: pre-wrap; overflow-wrap: anywhere }
.right { color: #1a7f37 } .wrong { color: #d1242f }
"""


def write_report(folder: RunFolder) -> Path:
    """Write report.html from the folder's files and return its path."""
    updates: list[Record] = []
    evaluations: list[Record] = []
    for _, record in read_lines(folder.metrics):
        (evaluations if record["phase"] == "evaluation" else updates).append(record)
    samples = [record for _, record in read_lines(folder.samples)]
    body = [
        f"<h1>{_text(folder.path.name)}</h1>",
        _alarms(updates),
        _evaluations(evaluations),
        f"<h2>Training</h2>{_curves(updates)}",
        _samples(samples),
        f"<h2>Settings</h2><pre>{_text((folder.path / 'config.toml').read_text(encoding='utf-8', errors='replace'))}</pre>",
    ]
    file = folder.path / "report.html"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(folder.path.name)}</title>'
    write_text(file, f"{head}<style>{STYLE}</style><body>{''.join(body)}</body></html>\n")
    return file


def _alarms(updates: Sequence[Record]) -> str:
    """Return what was trained, and a line per kind of alarm."""
    lines = [f"<li>{_text(line)}</li>" for line in describe_alarms(updates)]
    alarms = f"<h2>Alarms</h2><ul>{''.join(lines)}</ul>" if lines else ""
    return f"<p>{_text(describe_training(updates))}</p>{alarms}"


def _text(text: str) -> str:
    """Return the text for the page: neither markup nor control characters have an effect."""
    return html.escape(printable(text))


def _curves(updates: Sequence[Record]) -> str:
    titles = CURVES | (UNGRADED if any(record.get("n_not_graded") for record in updates) else {})
    return "".join(chart(title, _by_phase(updates, key)) for key, title in titles.items())


def _by_phase(updates: Sequence[Record], key: str) -> dict[str, list[Point]]:
    series: dict[str, list[Point]] = {}
    for record in updates:
        if record.get(key) is not None:
            series.setdefault(record["phase"], []).append(Point(record["update"], record[key]))
    return series


def _evaluations(evaluations: Sequence[Record]) -> str:
    """Return a table with a row per evaluation; each strategy besides solve and refine has a column."""
    if not evaluations:
        return ""
    strategies: dict[str, None] = {}
    for record in evaluations:
        strategies |= dict.fromkeys(record.get("strategies", ()))
    columns = rate_columns(evaluations)
    rows = [_row("th", ["update", *columns.values(), *strategies])]
    for record in evaluations:
        cells = [str(record["update"])]
        for rate in columns:
            cells.append(Estimate(**record[rate]).percent())
        for name in strategies:
            accuracy = record.get("strategies", {}).get(name)
            cells.append("" if accuracy is None else Estimate(**accuracy).percent())
        rows.append(_row("td", cells))
    graded = NOTE if any(record.get("n_not_graded") for record in evaluations) else ""
    fresh = why_no_fresh(evaluations)
    if "fix_fresh" in columns:
        fresh = "fresh: with another first answer in place of each refinement"
    about = "; ".join(filter(None, ["In percent, with 95% intervals", graded, fresh]))
    return f"<h2>Held-out problems</h2><p>{_text(about)}.</p><table>{''.join(rows)}</table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_text(cell)}</{tag}>' for cell in cells)}</tr>"


def _samples(samples: Sequence[Record], n: int = 12) -> str:
    """Return n samples of the last batch: the first and the last ones."""
    if not samples:
        return ""
    last = [s for s in samples if s["batch"] == samples[-1]["batch"]]
    return "<h2>Samples of the last batch</h2>" + "".join(_sample(s) for s in (*last[: n // 2], *last[-(n // 2) :]))


def _sample(sample: Record) -> str:
    turns = "\n".join(f"[{role}] {text}" for role, text in sample["prompt"])
    verdict = sample["verdict"]
    css_class = verdict if verdict in ("right", "wrong") else ""
    reward = "" if sample["reward"] in (None, 0, 1) and verdict else f" (reward {sample['reward']})"
    return (
        f"<pre>{_text(turns)}\n[reply] {_text(sample['reply'])}\n"
        f'<b class="{css_class}">{_text(verdict)}</b> {_text(sample["reason"])}{reward}</pre>'
    )
