"""Small line charts as SVG text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 470, 200, 64, 24, 26
COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df")

Points = Sequence[tuple[float, float]]


def chart(title: str, series: Mapping[str, Points]) -> str:
    """One chart with a line per series that has points; an empty string where none has."""
    drawn = {name: points for name, points in series.items() if points}
    if not drawn:
        return ""
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for points in drawn.values() for _, y in points]
    low, high = min(0.0, *ys), max(ys)
    high = high if high > low else low + 1.0
    right = max(*xs, 1)

    def place(x: float, y: float) -> str:
        across = LEFT + x / right * (WIDTH - LEFT - 8)
        down = HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - BOTTOM - TOP)
        return f"{across:.1f},{down:.1f}"

    lines = []
    for points, color in zip(drawn.values(), COLORS, strict=False):
        path = " ".join(place(x, y) for x, y in points)
        lines.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{path}"/>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{escape(title)}">'
        f'<text x="{LEFT}" y="14" font-weight="bold">{escape(title)}</text>{_legend(list(drawn))}{_axes(low, high, right)}'
        f"{''.join(lines)}</svg>"
    )


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    spans = "".join(f'<tspan fill="{c}" dx="8">{escape(n)}</tspan>' for n, c in zip(names, COLORS, strict=False))
    return f'<text x="{WIDTH - 8}" y="14" text-anchor="end">{spans}</text>'


def _axes(low: float, high: float, right: float) -> str:
    floor = HEIGHT - BOTTOM
    return (
        f'<path d="M{LEFT} {TOP}V{floor}H{WIDTH - 8}" fill="none" stroke="#999"/>'
        f'<text x="{LEFT - 4}" y="{TOP + 8}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT - 4}" y="{floor}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{WIDTH - 8}" y="{HEIGHT - 8}" text-anchor="end">update {right:g}</text>'
    )
