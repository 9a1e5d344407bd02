"""Line charts as SVG text: the curves of a training run, and strategies by their cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rethink.evaluation.results import SuiteResult

COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#bf8700", "#0e7490", "#a21caf", "#57606a")


@dataclass(frozen=True)
class Point:
    """A point. `name` is its tooltip; `low` and `high` are the ends of its whisker, NaN for none."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    name: str = ""


Series = Mapping[str, Sequence[Point]]
"""The name of each line -> its points; a line joins them in the order of x."""


@dataclass(frozen=True)
class Panel:
    """The area of a chart in which points are drawn: its edges in pixels, and the values at the edges."""

    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    logarithmic: bool = False

    def x_pixel(self, x: float) -> float:
        """Return the pixel of a value on the x axis."""
        low, high = self.x_range
        if self.logarithmic:
            x, low, high = math.log(x), math.log(low), math.log(high)
        share = (x - low) / (high - low) if high > low else 0.5
        return self.left + share * (self.right - self.left)

    def y_pixel(self, y: float) -> float:
        """Return the pixel of a value on the y axis."""
        low, high = self.y_range
        return self.bottom - (y - low) / (high - low) * (self.bottom - self.top)

    def axes(self, x_ticks: Mapping[float, str], y_ticks: Mapping[float, str], margin: float) -> str:
        """Return both axes with their labels. The y axis is `margin` pixels left of the panel."""
        edge = self.left - margin
        parts = [f'<path d="M{edge} {self.top}V{self.bottom}H{self.right}" fill="none" stroke="#999"/>']
        for value, label in y_ticks.items():
            y = self.y_pixel(value)
            parts.append(f'<path d="M{edge} {y:.1f}H{self.right}" stroke="#ddd"/>')
            parts.append(f'<text x="{edge - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
        for value, label in x_ticks.items():
            x = self.x_pixel(value)
            parts.append(f'<path d="M{x:.1f} {self.bottom}v4" stroke="#999"/>')
            parts.append(f'<text x="{x:.1f}" y="{self.bottom + 17}" text-anchor="middle">{label}</text>')
        return "".join(parts)

    def line(self, points: Sequence[Point], color: str) -> str:
        """Return a line through the points."""
        ordered = sorted(points, key=lambda p: p.x)
        path = " ".join(f"{self.x_pixel(p.x):.1f},{self.y_pixel(p.y):.1f}" for p in ordered)
        return f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{path}"/>'

    def marker(self, point: Point, color: str) -> str:
        """Return a dot with its whisker and tooltip."""
        x, y = self.x_pixel(point.x), self.y_pixel(point.y)
        whisker = ""
        if not math.isnan(point.low):
            ends = f"M{x:.1f} {self.y_pixel(point.low):.1f}V{self.y_pixel(point.high):.1f}"
            whisker = f'<path d="{ends}" stroke="{color}" opacity="0.5"/>'
        title = f"{point.name}: {100 * point.y:.1f} at {point.x:.0f} tokens"
        dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"><title>{escape(title)}</title></circle>'
        return whisker + dot


# A training run: small charts over updates


def chart(title: str, series: Series) -> str:
    """Return a chart with a line per series that has points; an empty string if none has."""
    lines = {name: points for name, points in series.items() if points}
    if not lines:
        return ""
    xs: list[float] = [1.0]
    ys: list[float] = []
    for points in lines.values():
        for p in points:
            xs.append(p.x)
            ys.append(p.y)
    low = min(0.0, min(ys))
    high = max(ys) if max(ys) > low else low + 1.0
    right = max(xs)
    panel = Panel(64, 462, 26, 176, (0, right), (low, high))
    parts = [panel.axes({right: f"update {right:g}"}, {low: f"{low:.3g}", high: f"{high:.3g}"}, margin=0)]
    names: list[str] = []
    for (name, points), color in zip(lines.items(), COLORS, strict=False):
        parts.append(panel.line(points, color))
        names.append(f'<tspan fill="{color}" dx="8">{escape(name)}</tspan>')
    legend = f'<text x="462" y="14" text-anchor="end">{"".join(names)}</text>' if len(names) > 1 else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 500 200" width="500" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="11">'
        f'<text x="64" y="14" font-weight="bold">{escape(title)}</text>{legend}{"".join(parts)}</svg>'
    )


# Strategies: accuracy by sampled tokens, and the gain over a baseline of equal cost

WIDTH, LEFT, RIGHT, TOP, HEIGHT, BETWEEN = 760, 58, 190, 50, 250, 46


def strategy_curves(title: str, result: SuiteResult) -> str:
    """Return the chart of a benchmark. Strategies that differ only in a number, as in vote:2 and vote:8, share a line."""
    accuracy: dict[str, list[Point]] = {}
    gain: dict[str, list[Point]] = {}
    for name, summary in (result.strategies | result.baselines).items():
        family = "+".join(part.partition(":")[0] for part in name.split("+"))
        for series, estimate in ((accuracy, summary.accuracy), (gain, summary.cost.gain)):
            if estimate is not None:
                point = Point(summary.cost.tokens.value, estimate.value, estimate.low, estimate.high, name)
                series.setdefault(family, []).append(point)
    return cost_curves(title, accuracy, gain)


def cost_curves(title: str, accuracy: Series, gain: Series) -> str:
    """Return two panels over one logarithmic axis of sampled tokens per problem, with 95% intervals as whiskers.

    A line has the same color in both. Points without a value or tokens are left out. Return an empty string if no point is
    left.
    """
    panels: list[tuple[str, Series]] = []
    for name, series in (("accuracy, %", accuracy), ("minus a baseline of equal cost, points", gain)):
        drawable = _drawable(series)
        if drawable:
            panels.append((name, drawable))
    if not panels:
        return ""
    colors: dict[str, str] = {}
    tokens: list[float] = []
    for _, series in panels:
        for family, points in series.items():
            colors.setdefault(family, COLORS[len(colors) % len(COLORS)])
            tokens += [p.x for p in points]
    parts: list[str] = []
    for n, (name, series) in enumerate(panels):
        parts.append(_cost_panel(name, series, colors, (min(tokens), max(tokens)), TOP + n * (HEIGHT + BETWEEN)))
    for n, (family, color) in enumerate(colors.items()):
        x, y = WIDTH - RIGHT + 18, TOP + 10 + 20 * n
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="4" fill="{color}"/><text x="{x + 10}" y="{y + 4}">{escape(family)}</text>'
        )
    height = max(TOP + len(panels) * (HEIGHT + BETWEEN) - BETWEEN, TOP + 20 * len(colors)) + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="12">'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
        f'<text x="{LEFT}" y="18" font-weight="bold">{escape(title)}</text>{"".join(parts)}'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 6}" text-anchor="middle">sampled tokens per problem</text>'
        "</svg>\n"
    )


def _drawable(series: Series) -> dict[str, list[Point]]:
    drawable: dict[str, list[Point]] = {}
    for family, points in series.items():
        for point in points:
            if point.x > 0 and not math.isnan(point.y):
                drawable.setdefault(family, []).append(point)
    return drawable


def _cost_panel(name: str, series: Series, colors: Mapping[str, str], span: tuple[float, float], top: float) -> str:
    ends: list[float] = []
    for points in series.values():
        for p in points:
            ends += [y for y in (p.low, p.high, p.y) if not math.isnan(y)]
    pad = 0.06 * (max(ends) - min(ends)) or 0.02
    low, high = min(ends) - pad, max(ends) + pad
    panel = Panel(LEFT + 12, WIDTH - RIGHT - 12, top, top + HEIGHT, span, (low, high), logarithmic=True)
    parts = [
        panel.axes(_tick_labels(token_ticks(*span), "{:,.0f}"), _tick_labels(value_ticks(low, high), "{:.3g}", 100), 12)
    ]
    parts.append(f'<text x="{LEFT}" y="{top - 6}" fill="#57606a">{escape(name)}</text>')
    for family, points in series.items():
        parts.append(panel.line(points, colors[family]))
        for point in sorted(points, key=lambda p: p.x):
            parts.append(panel.marker(point, colors[family]))
    return "".join(parts)


def _tick_labels(values: Sequence[float], form: str, times: float = 1) -> dict[float, str]:
    return {value: form.format(times * value) for value in values}


def value_ticks(low: float, high: float) -> list[float]:
    """Return about five round values between low and high."""
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def token_ticks(low: float, high: float) -> list[float]:
    """Return the values 1, 2 and 5 times a power of ten between low and high; both ends if there are fewer than two."""
    ticks: list[float] = []
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for m in (1, 2, 5):
            if low <= m * 10.0**power <= high:
                ticks.append(m * 10.0**power)
    if len(ticks) > 1:
        return ticks
    return [low, high] if low < high else [low]
