"""Accuracy against sampled tokens, as SVG text: what each strategy reaches, and what it gains over a vote of equal cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df", "#bf8700", "#0e7490", "#a21caf", "#57606a")
WIDTH, LEFT, RIGHT, TOP, PANEL, BETWEEN = 760, 58, 190, 50, 250, 46


@dataclass(frozen=True)
class Point:
    """A strategy: its tokens per problem, and a value with its limits, as shares."""

    name: str
    tokens: float
    value: float
    low: float
    high: float


Series = Mapping[str, Sequence[Point]]
"""Points by family; those of one family are joined by a line in the order of their tokens."""


def curve(title: str, accuracy: Series, gain: Series) -> str:
    """Two panels over one logarithmic axis of sampled tokens per problem; whiskers are 95% intervals. Families keep their
    colors. What has no value, or no tokens, is left out. Empty where there is nothing to draw."""
    accuracy, gain = _drawable(accuracy), _drawable(gain)
    tokens = [p.tokens for series in (accuracy, gain) for some in series.values() for p in some]
    if not tokens:
        return ""
    colors = {name: COLORS[n % len(COLORS)] for n, name in enumerate(dict.fromkeys((*accuracy, *gain)))}
    span = (min(tokens), max(tokens))
    shown = [one for one in (("accuracy, %", accuracy), ("minus a vote at equal tokens, points", gain)) if one[1]]
    panels = [(name, series, TOP + n * (PANEL + BETWEEN)) for n, (name, series) in enumerate(shown)]
    height = max(panels[-1][2] + PANEL, TOP + 20 * len(colors)) + 40
    drawn = "".join(_panel(name, series, colors, span, top) for name, series, top in panels)
    keys = "".join(_key(name, color, n) for n, (name, color) in enumerate(colors.items()))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" '
        f'aria-label="{escape(title)}" font-family="sans-serif" font-size="12">'
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
        f'<text x="{LEFT}" y="18" font-weight="bold">{escape(title)}</text>{drawn}{keys}'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 6}" text-anchor="middle">sampled tokens per problem</text>'
        "</svg>\n"
    )


def _drawable(series: Series) -> Series:
    some = {name: [p for p in points if p.tokens > 0 and not math.isnan(p.value)] for name, points in series.items()}
    return {name: points for name, points in some.items() if points}


def _panel(name: str, series: Series, colors: Mapping[str, str], span: tuple[float, float], top: float) -> str:
    shown = [p for some in series.values() for p in some]
    ends = [x for p in shown for x in (p.low, p.high, p.value) if not math.isnan(x)]
    low, high = _padded(min(ends), max(ends))
    parts = [_axes(name, low, high, span, top)]
    for family, some in series.items():
        placed = [
            (p, _across(p.tokens, span), _down(p.value, low, high, top)) for p in sorted(some, key=lambda p: p.tokens)
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for _, x, y in placed)
        parts.append(f'<polyline fill="none" stroke="{colors[family]}" points="{line}"/>')
        parts += [_marker(p, x, y, colors[family], (low, high, top)) for p, x, y in placed]
    return "".join(parts)


def _marker(point: Point, x: float, y: float, color: str, frame: tuple[float, float, float]) -> str:
    whisker = ""
    if not math.isnan(point.low):
        ends = (_down(end, *frame) for end in (point.low, point.high))
        whisker = f'<path d="M{x:.1f} {next(ends):.1f}V{next(ends):.1f}" stroke="{color}" opacity="0.5"/>'
    title = f"{point.name}: {100 * point.value:.1f} at {point.tokens:.0f} tokens"
    return f'{whisker}<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"><title>{escape(title)}</title></circle>'


def _axes(name: str, low: float, high: float, span: tuple[float, float], top: float) -> str:
    floor, end = top + PANEL, WIDTH - RIGHT
    parts = [f'<path d="M{LEFT} {top}V{floor}H{end}" fill="none" stroke="#999"/>']
    parts.append(f'<text x="{LEFT}" y="{top - 6}" fill="#57606a">{escape(name)}</text>')
    for value in _ticks(low, high):
        y = _down(value, low, high, top)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{end}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * value:.3g}</text>')
    for tokens in _round_tokens(*span):
        x = _across(tokens, span)
        parts.append(f'<path d="M{x:.1f} {floor}v4" stroke="#999"/>')
        parts.append(f'<text x="{x:.1f}" y="{floor + 17}" text-anchor="middle">{tokens:,.0f}</text>')
    return "".join(parts)


def _key(name: str, color: str, n: int) -> str:
    x, y = WIDTH - RIGHT + 18, TOP + 10 + 20 * n
    return f'<circle cx="{x}" cy="{y}" r="4" fill="{color}"/><text x="{x + 10}" y="{y + 4}">{escape(name)}</text>'


def _across(tokens: float, span: tuple[float, float]) -> float:
    room = WIDTH - RIGHT - LEFT - 24
    wide = math.log(span[1] / span[0])
    return LEFT + 12 + (room * math.log(tokens / span[0]) / wide if wide else room / 2)


def _down(value: float, low: float, high: float, top: float) -> float:
    return top + PANEL - (value - low) / (high - low) * PANEL


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = 0.06 * (high - low) or 0.02
    return low - pad, high + pad


def _ticks(low: float, high: float) -> list[float]:
    """Five or so round values."""
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    width = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw)
    return [n * width for n in range(math.ceil(low / width), math.floor(high / width) + 1)]


def _round_tokens(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten that lie between; where there is at most one of them, the ends."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    return found if len(found) > 1 else [low, high][: 1 + (low < high)]
