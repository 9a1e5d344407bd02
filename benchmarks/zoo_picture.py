"""The picture of docs/results.md: accuracy before and after refinement against sampled tokens, a panel per method.

    python benchmarks/zoo_picture.py docs/zoo.svg [--results RESULTS] [--arms think-twice,pag]

Needs only result files (`benchmarks/zoo_evaluate.py`). By default, it shows all methods, without objectives and ablations.
The colors are readable on light and on dark backgrounds.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rethink.evaluation.runs import over_seeds
from rethink.jsonl import write_text
from rethink.report.chart import Panel, value_ticks
from zoo import MARKS, SEEDS
from zoo_arms import ARMS
from zoo_results import BASELINE, RESULTS, T1, Mark, Run, Runs, read_runs, trained_longest, with_seeds

METHODS = [name for name, arm in ARMS.items() if arm.is_method and not arm.of and name != BASELINE]

COLUMNS, WIDTH, HEIGHT = 4, 214, 150
LEFT, TOP, TITLE, BELOW = 40, 34, 20, 40
"""Of the picture: the space for labels at the left, for the legend at the top, for a title, and for labels below."""

INK, GRAY, BLUE = "#6e7781", "#8c959f", "#2f81f7"
DASHES = {"solve": ' stroke-dasharray="4 3"', "refined": ""}


@dataclass(frozen=True)
class Place:
    """A point of a curve: mean accuracy with its interval over runs (NaN for one run), after so many sampled tokens."""

    tokens: float
    value: float
    low: float
    high: float


Curves = Mapping[str, Sequence[Place]]
"""The curves of an arm: "solve" and "refined"."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--arms", default=",".join(METHODS))
    given = parser.parse_args()
    runs = with_seeds(read_runs(given.results), SEEDS)
    shown = [arm for arm in given.arms.split(",") if arm in runs]
    write_text(given.file, picture({ARMS[arm].title: curves(runs, arm) for arm in shown}, curves(runs, BASELINE)))


def curves(runs: Runs, arm: str) -> Curves:
    """Return the curves of an arm from the start model on, with the point at which the budget of sampled tokens is spent.

    They are means over the runs that were trained longest."""
    found: dict[str, list[Place]] = {"solve": [], "refined": []}
    for mark in (0, *MARKS, "sampled"):
        own = trained_longest(runs.get(arm if mark else "start", {}).values(), MARKS)
        for measure, places in found.items():
            place = _place(own, mark, measure)
            if place is not None:
                places.append(place)
    return {measure: sorted(places, key=lambda place: place.tokens) for measure, places in found.items()}


def _place(runs: Iterable[Run], mark: Mark, measure: str) -> Place | None:
    tokens: list[int] = []
    values: list[float] = []
    for run in runs:
        point, answers = run.at(mark), run.answers(mark, T1)
        if point is not None and answers is not None:
            tokens.append(run.prepared + point.sampled)
            values.append(answers.value(measure))
    if not values:
        return None
    found = over_seeds(values)
    return Place(statistics.fmean(tokens), found.value, found.low, found.high)


def picture(panels: Mapping[str, Curves], baseline: Curves) -> str:
    """Return the picture as SVG. All panels have the same axes: tokens up to those of the baseline's last point."""
    most = max(place.tokens for place in baseline["refined"])
    values = [place.value for one in (baseline, *panels.values()) for places in one.values() for place in places]
    low, high = math.floor(10 * min(values)) / 10, math.ceil(10 * max(values)) / 10
    rows = math.ceil(len(panels) / COLUMNS)
    width, height = LEFT + COLUMNS * WIDTH, TOP + rows * HEIGHT + BELOW
    parts = [_legend(), _definitions()]
    for n, (title, own) in enumerate(panels.items()):
        left, top = LEFT + n % COLUMNS * WIDTH, TOP + n // COLUMNS * HEIGHT
        area = Panel(0, WIDTH - 18, TITLE, HEIGHT - 8, (0, most), (low, high))
        labels = (n + COLUMNS >= len(panels), n % COLUMNS == 0)
        parts.append(f'<g transform="translate({left} {top})">{_panel(title, own, baseline, area, labels)}</g>')
    axis = f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">million sampled tokens</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="Accuracy before and after refinement against sampled tokens" font-family="sans-serif" '
        f'font-size="11" fill="{INK}">\n' + "\n".join([*parts, axis]) + "\n</svg>\n"
    )


def _panel(title: str, own: Curves, baseline: Curves, area: Panel, labels: tuple[bool, bool]) -> str:
    """Return a panel: grid, title, the baseline's curves in gray, and the arm's own, with bands. `labels` says whether the
    axes of tokens and of accuracy have labels."""
    parts = [f'<text x="0" y="13" font-weight="bold">{escape(title)}</text>']
    for value in value_ticks(*area.y_range):
        y = f"{area.y_pixel(value):.1f}"
        parts.append(f'<path d="M0 {y}H{area.right}" stroke="{GRAY}" opacity="0.3"/>')
        if labels[1]:
            parts.append(f'<text x="-6" y="{float(y) + 4:.1f}" text-anchor="end">{100 * value:.0f}</text>')
    for tokens in value_ticks(0, area.x_range[1]) if labels[0] else ():
        label = f"{tokens / 1e6:g}"
        parts.append(f'<text x="{area.x_pixel(tokens):.1f}" y="{area.bottom + 15}" text-anchor="middle">{label}</text>')
    lines = [_line(baseline[measure], area, GRAY, measure) for measure in DASHES]
    for measure in DASHES:
        lines += [_band(own[measure], area), _line(own[measure], area, BLUE, measure)]
    return "".join([*parts, '<g clip-path="url(#area)">', *lines, "</g>"])


def _line(places: Sequence[Place], area: Panel, color: str, measure: str) -> str:
    points = " ".join(f"{area.x_pixel(p.tokens):.1f},{area.y_pixel(p.value):.1f}" for p in places)
    return f'<polyline fill="none" stroke="{color}" stroke-width="1.6"{DASHES[measure]} points="{points}"/>'


def _band(places: Sequence[Place], area: Panel) -> str:
    """Return the interval over runs as a shaded band. The start model is one run; there the band is closed."""
    upper: list[str] = []
    lower: list[str] = []
    for p in places:
        low, high = (p.value, p.value) if math.isnan(p.low) else (p.low, p.high)
        upper.append(f"{area.x_pixel(p.tokens):.1f},{area.y_pixel(high):.1f}")
        lower.append(f"{area.x_pixel(p.tokens):.1f},{area.y_pixel(low):.1f}")
    return f'<polygon fill="{BLUE}" opacity="0.18" points="{" ".join([*upper, *reversed(lower)])}"/>'


def _definitions() -> str:
    area = f'<rect y="{TITLE}" width="{WIDTH - 18}" height="{HEIGHT - 8 - TITLE}"/>'
    return f'<defs><clipPath id="area">{area}</clipPath></defs>'


def _legend() -> str:
    """Return the legend: drafts are dashed, refinements solid, GRPO is gray."""
    parts: list[str] = []
    entries = (("draft", BLUE, "solve"), ("after refinement", BLUE, "refined"), ("draft of GRPO", GRAY, "solve"))
    for n, (name, color, measure) in enumerate((*entries, ("GRPO after refinement", GRAY, "refined"))):
        x = LEFT + 165 * n
        parts.append(f'<path d="M{x} 12h26" stroke="{color}" stroke-width="1.6"{DASHES[measure]}/>')
        parts.append(f'<text x="{x + 32}" y="16">{name}</text>')
    return "".join(parts)


if __name__ == "__main__":
    main()
