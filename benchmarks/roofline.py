"""The share of the machine's rate that an update reaches, and how its seconds grow: `python benchmarks/roofline.py`.

Measures the rates of matrix products and of copies, then runs updates with the real sampler and trainer. The share is the
operations that an update needs, divided by its seconds and by the rate of a large product in the same dtype on all threads.
With `--methods`, compares ThinkTwice with GRPO at the same number of samples per update, instead of the sweeps. Seconds of
updates are medians; the machine's rates are the best seen. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from rethink.models.load import load_model
from rethink.training.trainer import CPU_NUMBERS
from workloads import STAGES, A, B, Bench, Timed, Workload, finish, write_model

DTYPES = (torch.float32, torch.bfloat16)
LARGE, SMALL = 2**28, 2**17
"""Bytes of a tensor larger than any cache, and of one that fits a core's cache."""

EMULATED = 1e10
"""Operations per second: a core below this has no instructions for the dtype, and is not measured further."""

BASE = Workload("base", 192, 528, 4, 3, 64, prompt_tokens=32, max_tokens=64, n_problems=8, n_samples=4)
SWEEPS: Mapping[str, Sequence[Workload]] = {
    "samples": [replace(BASE, n_samples=n) for n in (2, 4, 8, 16)],
    "length": [replace(BASE, max_tokens=n) for n in (16, 32, 64, 128)],
    "parameters": [
        replace(BASE, hidden=64 * n, intermediate=176 * n, layers=layers, heads=n)
        for n, layers in ((2, 3), (3, 4), (4, 5), (6, 6))
    ],
}


def seconds_of(work: Callable[[], object], device: torch.device, budget_s: float = 0.4) -> float:
    """Return the seconds of the fastest call, of at least three within the budget, after one to warm up."""
    work()
    finish(device)
    seconds: list[float] = []
    while len(seconds) < 3 or sum(seconds) < budget_s:
        start = time.perf_counter()
        work()
        finish(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def product_rate(m: int, k: int, n: int, dtype: torch.dtype, device: torch.device) -> float:
    """Return the operations per second of a product [m, k] by [k, n]."""
    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((m, k), (n, k)))
    return 2 * m * k * n / seconds_of(lambda: torch.nn.functional.linear(a, b), device)


def large_product_rate(dtype: torch.dtype, device: torch.device, side: int = 2048) -> float:
    """Return the rate for two square matrices, small ones if bfloat16 is emulated: large ones would take a minute."""
    if device.type == "cpu":
        rate = product_rate(128, 128, 128, dtype, device)
        side = 256 if rate < EMULATED else side
    return product_rate(side, side, side, dtype, device)


def copy_rate(n_bytes: int, device: torch.device) -> float:
    """Return the bytes read and written per second by a copy of a tensor, many times for small ones."""
    source = torch.zeros(n_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    n = max(1, 2**24 // n_bytes)
    return 2 * n_bytes * n / seconds_of(lambda: [target.copy_(source) for _ in range(n)], device)


def shapes(workload: Workload) -> dict[str, tuple[int, int, int]]:
    """Return the largest product of a layer, for a decoding step of all rows and for a micro-batch."""
    n_rows, n_tokens = workload.n_problems * workload.n_samples, CPU_NUMBERS // workload.hidden
    sizes = (workload.hidden, 2 * workload.intermediate)
    return {f"{workload.name} sampling": (n_rows, *sizes), f"{workload.name} training": (n_tokens, *sizes)}


def column(dtype: torch.dtype, n_threads: int) -> str:
    return f"{str(dtype).removeprefix('torch.')} x{n_threads}"


def machine(workloads: Sequence[Workload]) -> dict[str, dict[str, float]]:
    """Return rates by kind, dtype (or size) and number of threads."""
    device, n_all = torch.device("cpu"), torch.get_num_threads()
    found: dict[str, dict[str, float]] = {"large product": {}, "copy": {}}
    for n in sorted({1, n_all}):
        torch.set_num_threads(n)
        for dtype in DTYPES:
            at = column(dtype, n)
            found["large product"][at] = rate = large_product_rate(dtype, device)
            for name, sizes in (pair for w in workloads if rate > EMULATED for pair in shapes(w).items()):
                found.setdefault(name, {})[at] = product_rate(*sizes, dtype, device)
        sizes_of = {"large": LARGE, "small": SMALL}
        found["copy"] |= {f"{size} x{n}": copy_rate(n_bytes, device) for size, n_bytes in sizes_of.items()}
    torch.set_num_threads(n_all)
    return found


def open_bench(workload: Workload) -> Bench:
    """Return a model of this shape, warmed up by an update of a few tokens."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(workload, Path(folder))
        model = load_model(folder)
    few = Bench(replace(workload, n_problems=2, max_tokens=4), model)
    few.batch(few.grpo())
    return Bench(workload, model)


def grpo(bench: Bench, n_batches: int) -> list[Timed]:
    """Run one update for each of so many problem batches."""
    return [update for _ in range(n_batches) for update in bench.batch(bench.grpo())]


def summary(updates: Sequence[Timed], rates: Mapping[str, float]) -> dict[str, Any]:
    """Return medians over updates: seconds by stage, and the share of the machine's rate, by stage with known operations
    and in total."""

    def share(u: Timed, needed: Sequence[str], taken: Sequence[str]) -> float:
        return sum(u.operations[s] / rates[s] for s in needed) / sum(u.seconds[s] for s in taken)

    return {
        "n_updates": len(updates),
        "tokens": statistics.median(u.n_sampled for u in updates),
        "total_s": statistics.median(u.total_s for u in updates),
        **{s: statistics.median(u.seconds[s] for u in updates) for s in STAGES},
        "operations": statistics.median(sum(u.operations.values()) for u in updates),
        "shares": {s: statistics.median(share(u, [s], [s]) for u in updates) for s in rates},
        "share": statistics.median(share(u, list(rates), STAGES) for u in updates),
    }


def rates_for(bench: Bench, large: Mapping[str, float]) -> dict[str, float]:
    """Return the rate of large products on all threads, in the dtypes of sampler and trainer."""
    dtypes = {"sample_s": bench.policy.dtype, "update_s": bench.trainer.dtype}
    return {stage: large[column(dtype, torch.get_num_threads())] for stage, dtype in dtypes.items()}


def sweep(workloads: Sequence[Workload], axis: str, n_updates: int) -> list[dict[str, float]]:
    """Return a point for each: x, and seconds by stage."""
    points = []
    for workload in workloads:
        bench = open_bench(workload)
        updates = grpo(bench, n_updates)
        n_samples = workload.n_problems * workload.n_samples
        sizes = {
            "samples": n_samples,
            "length": statistics.median(u.n_sampled for u in updates) / n_samples,
            "parameters": sum(p.numel() for p in bench.trainer.parameters),
        }
        seconds = {s: statistics.median(u.seconds[s] for u in updates) for s in ("sample_s", "update_s")}
        points.append({"x": sizes[axis], **seconds, "total_s": statistics.median(u.total_s for u in updates)})
    return points


def exponent(points: Sequence[Mapping[str, float]], stage: str) -> float:
    """Return b of seconds = a * x^b, by least squares on logarithms; 1 is proportional growth."""
    xs, ys = ([math.log(p[name]) for p in points] for name in ("x", stage))
    return statistics.linear_regression(xs, ys).slope


def show_machine(rates: Mapping[str, Mapping[str, float]]) -> None:
    products = {name: row for name, row in rates.items() if name != "copy"}
    columns = list(products["large product"])
    print(f"{'GFLOP/s':<16}" + "".join(f"{column:>14}" for column in columns))
    for name, row in products.items():
        print(f"{name:<16}" + "".join(f"{row[c] / 1e9:>14,.1f}" if c in row else f"{'-':>14}" for c in columns))
    print("copies, GB/s    " + ", ".join(f"{name} {rate / 1e9:.1f}" for name, rate in rates["copy"].items()))


def show(name: str, found: Mapping[str, Any]) -> None:
    shares = "  ".join(f"{stage[:-2]} {share:.0%}" for stage, share in found["shares"].items())
    parts = "  ".join(f"{stage[:-2]} {found[stage]:.3f}" for stage in STAGES)
    print(
        f"{name:<20}{found['total_s']:8.3f} s  ({parts})  {found['operations'] / 1e9:,.0f} GFLOP, {found['tokens']:,.0f} "
        f"tokens; of the large product's rate: {found['share']:.0%}  ({shares})"
    )


def show_sweep(axis: str, points: Sequence[Mapping[str, float]]) -> None:
    values = "  ".join(f"{p['x']:,.0f}: {p['total_s']:.3f} s" for p in points)
    powers = "  ".join(f"{stage[:-2]} {exponent(points, stage):.2f}" for stage in COLORS)
    print(f"{axis:<12}{values}   exponents: {powers}")


COLORS = {"sample_s": "#1f6feb", "update_s": "#d1242f", "total_s": "#1a7f37"}
WIDTH, HEIGHT, LEFT, TOP, SIDE = 900, 300, 56, 44, 220


def plot(sweeps: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Return an SVG with a panel per sweep; both axes are logarithmic with equal scales."""
    panels = [_panel(axis, points, LEFT + n * (SIDE + 70)) for n, (axis, points) in enumerate(sweeps.items())]
    names = "".join(f'<tspan fill="{c}" dx="10">{s[:-2]}</tspan>' for s, c in COLORS.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        f'<text x="{LEFT}" y="18"><tspan font-weight="bold">seconds of an update</tspan>{names}'
        f'<tspan dx="10" fill="#57606a">dashed: proportional</tspan></text>{"".join(panels)}</svg>\n'
    )


def _panel(axis: str, points: Sequence[Mapping[str, float]], left: int) -> str:
    xs = [p["x"] for p in points]
    ys = [p[stage] for p in points for stage in COLORS]
    unit = SIDE / max(math.log(max(xs) / min(xs)), math.log(max(ys) / min(ys)))

    def place(x: float, y: float) -> str:
        return f"{left + unit * math.log(x / min(xs)):.1f},{TOP + SIDE - unit * math.log(y / min(ys)):.1f}"

    far = min(max(xs) / min(xs), max(ys) / min(ys))
    along = f"{place(min(xs), min(ys))} {place(min(xs) * far, min(ys) * far)}"
    lines = [f'<path d="M{left} {TOP}V{TOP + SIDE}h{SIDE}" fill="none" stroke="#999"/>']
    lines.append(f'<polyline fill="none" stroke="#999" stroke-dasharray="4" points="{along}"/>')
    for stage, color in COLORS.items():
        path = " ".join(place(p["x"], p[stage]) for p in points)
        lines.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{path}"/>')
    for x, y in ((min(xs), min(ys)), (max(xs), max(ys))):
        across, down = place(x, y).split(",")
        lines.append(f'<text x="{across}" y="{TOP + SIDE + 18}" text-anchor="middle">{x:,.0f}</text>')
        lines.append(f'<text x="{left - 5}" y="{down}" text-anchor="end">{y:.3g}</text>')
    return "".join([*lines, f'<text x="{left + SIDE / 2}" y="{TOP - 8}" text-anchor="middle">{axis}</text>'])


def methods(workload: Workload, large: Mapping[str, float], n_batches: int) -> dict[str, Any]:
    """Run ThinkTwice and GRPO alternately, two updates each. Print the ratios of seconds per token that the model saw
    (prompts once per group, and replies: a refinement's prompt contains the draft), by stage and in total."""
    benches = {name: open_bench(workload) for name in ("grpo", "think_twice")}
    turns: dict[str, list[list[Timed]]] = {name: [] for name in benches}
    for _ in range(n_batches):
        turns["grpo"].append(grpo(benches["grpo"], 2))
        other = benches["think_twice"]
        turns["think_twice"].append(other.batch(other.think_twice()))
    found: dict[str, Any] = {}
    for name, bench in benches.items():
        updates = [u for turn in turns[name] for u in turn]
        for phase in dict.fromkeys(u.phase for u in updates):
            found[f"{name} {phase}"] = summary([u for u in updates if u.phase == phase], rates_for(bench, large))
            show(f"{workload.name} {name} {phase}", found[f"{name} {phase}"])
    ratios = {stage: _per_token(turns["think_twice"], stage) / _per_token(turns["grpo"], stage) for stage in COLORS}
    found["ratios"] = ratios
    said = "  ".join(f"{stage[:-2]} {ratio:.3f}" for stage, ratio in ratios.items())
    print(f"{workload.name} seconds per token seen, ThinkTwice over GRPO: {said}")
    return found


def _per_token(turns: Sequence[Sequence[Timed]], stage: str) -> float:
    """Return the median over turns of the stage's seconds per token that the model saw; all stages for "total_s"."""
    seconds = [sum(u.total_s if stage == "total_s" else u.seconds[stage] for u in turn) for turn in turns]
    return statistics.median(s / sum(u.n_seen for u in turn) for s, turn in zip(seconds, turns, strict=True))


def shares(workload: Workload, large: Mapping[str, float], n_batches: int) -> dict[str, Any]:
    """Print the rates that GRPO reaches."""
    bench = open_bench(workload)
    found = summary(grpo(bench, n_batches), rates_for(bench, large))
    show(workload.name, found)
    return found


def growth(n_updates: int, file: Path | None) -> dict[str, Any]:
    """Run all sweeps and plot them."""
    found = {}
    for axis, workloads in SWEEPS.items():
        found[axis] = sweep(workloads, axis, n_updates)
        show_sweep(axis, found[axis])
    if file:
        file.write_text(plot(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--problems", type=int, default=8, help="of workload B in each update")
    parser.add_argument("--methods", action="store_true")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    logging.disable_progress_bar()
    workloads = (A, replace(B, n_problems=given.problems))
    n_threads = torch.get_num_threads()
    print(f"torch {torch.__version__}, {n_threads} threads")
    rates = machine(workloads)
    show_machine(rates)
    found: dict[str, Any] = {"torch": torch.__version__, "threads": n_threads, "machine": rates}
    form = methods if given.methods else shares
    found["updates"] = {w.name: form(w, rates["large product"], given.updates) for w in workloads}
    if not given.methods:
        found["sweeps"] = growth(given.updates, given.plot)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
