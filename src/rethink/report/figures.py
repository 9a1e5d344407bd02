"""Figures for papers, drawn by matplotlib from the folders alone: accuracy before and after refinement, fix and damage."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from rethink.errors import UserError, install_extra
from rethink.jsonl import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colors, which most people with color blindness can tell apart."""

PANELS = (
    ("accuracy, %", {"solve": "before", "refined": "after refinement"}),
    ("share of drafts, %", {"fix": "wrong ones fixed", "damage": "right ones damaged"}),
)
"""What each panel shows: its axis, and the rates with their names."""

FRESH = {"fix": "fix_fresh", "damage": "damage_fresh"}
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "rethink"}


def draw(rows: Sequence[Record], kind: Literal["svg", "png"]) -> bytes:
    """Return a figure of such rows as `numbers.number_rows` returns. Raise UserError if matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as err:
        raise UserError(f"--{kind} needs matplotlib: {install_extra('figures')}") from err
    data = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        is_training = "update" in rows[0]
        figure = Figure(figsize=(8, 3.1 if is_training else 1.6 + 0.3 * len(rows)), layout="constrained")
        if is_training:
            _draw_training(figure, rows)
        else:
            _draw_evaluations(figure, rows)
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {}  # the same bytes at any time
        figure.savefig(data, format=kind, dpi=200, metadata=metadata)
    return data.getvalue()


def _draw_training(figure: Figure, rows: Sequence[Record]) -> None:
    """Draw lines over updates with 95% bands; of a single run, also what fresh answers would do instead."""
    runs = list(dict.fromkeys(row["run"] for row in rows))
    for place, (axis, rates) in enumerate(PANELS):
        axes = figure.add_subplot(1, 2, place + 1)
        for number, run in enumerate(runs):
            own = [row for row in rows if row["run"] == run]
            for nth, (name, title) in enumerate(rates.items()):
                color = COLORS[(2 * place + nth if len(runs) == 1 else number) % len(COLORS)]
                label = title if len(runs) == 1 else f"{run}: {title}"
                _line(axes, own, name, label, color, "-" if len(runs) == 1 or nth else "--")
                if len(runs) == 1 and name in FRESH:
                    _line(axes, own, FRESH[name], f"{title}, by fresh answers", color, ":")
        axes.set_xlabel("updates")
        _finish(axes, axis)


def _line(axes: Axes, rows: Sequence[Record], name: str, label: str, color: str, style: str) -> None:
    known = [row for row in rows if row[name] is not None]
    if not known:
        return
    updates = [row["update"] for row in known]
    axes.plot(updates, _percent(known, name), style, color=color, label=_literal(label), marker=".", linewidth=1.5)
    if not name.endswith("_fresh"):
        low, high = _percent(known, f"{name}_low"), _percent(known, f"{name}_high")
        axes.fill_between(updates, low, high, color=color, alpha=0.15, linewidth=0)


def _draw_evaluations(figure: Figure, rows: Sequence[Record]) -> None:
    """Draw a line of points per suite and strategy, with 95% intervals."""
    several = len({row["run"] for row in rows}) > 1
    titles: list[str] = []
    for row in rows:
        titles.append(_literal(", ".join([*([row["run"]] if several else []), row["suite"], row["strategy"]])))
    first = None
    for place, (axis, rates) in enumerate(PANELS):
        axes = figure.add_subplot(1, 2, place + 1, sharey=first)
        for nth, (name, title) in enumerate(rates.items()):
            _points(axes, rows, name, title, COLORS[2 * place + nth], 0.12 - 0.24 * nth)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), titles)
        if first is not None:
            axes.tick_params(labelleft=False)
        first = axes
        _finish(axes, axis, vertical=False)


def _points(axes: Axes, rows: Sequence[Record], name: str, title: str, color: str, shift: float) -> None:
    label = title
    for number, row in enumerate(rows):
        if row[name] is not None:
            x, low, high = _percent([row], name)[0], _percent([row], f"{name}_low"), _percent([row], f"{name}_high")
            ends = [[max(0.0, x - low[0])], [max(0.0, high[0] - x)]]  # rounding
            axes.errorbar([x], [number - shift], xerr=ends, fmt="o", color=color, label=label, markersize=4)
            label = "_"  # one entry in the legend


def _finish(axes: Axes, axis: str, vertical: bool = True) -> None:
    (axes.set_ylabel if vertical else axes.set_xlabel)(axis)
    axes.grid(axis="y" if vertical else "x", color="#dddddd", linewidth=0.6)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=7)


def _percent(rows: Sequence[Record], name: str) -> list[float]:
    """Return values in percent; an end of an interval that is not known is the value itself."""
    plain = name.removesuffix("_low").removesuffix("_high")
    return [100 * (row[plain] if row[name] is None else row[name]) for row in rows]


def _literal(text: str) -> str:
    """Return a text that matplotlib shows as it is: a dollar begins no formula, and "_" hides no entry of a legend."""
    shown = text.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
