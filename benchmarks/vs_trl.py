"""Seconds per update against TRL's GRPOTrainer: `python benchmarks/vs_trl.py [--quick] [--json FILE]`.

Both train the same random models (workloads A and B of `workloads.py`) on the same prompts, 8 samples each, with GRPO and
one optimizer step, in separate processes, with alternating updates. TRL is installed into a separate environment,
`.bench-venv` (or `--env`), on the first run. Prints medians, spread and the ratio (TRL's seconds over ours).

It checks that both do the same work: about the same number of sampled tokens, and our trainer's loss and gradient norm on
the samples of TRL's first update equal TRL's. `--quick` makes fewer updates, and gives B 8 prompts instead of 32; the
samples and the model do not get smaller.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from workloads import A, B, Workload, prompts, write_model

HERE = Path(__file__).parent
TRL = "1.16.0"
TOLERANCE = 0.01
"""Relative tolerance of gradient norms: the same float32 sums in another order."""


def environment(folder: Path) -> Path:
    """Return the Python of an environment with TRL and our version of torch."""
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        print(f"installing TRL {TRL} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        version = torch.__version__.partition("+")[0]
        packages = [f"torch=={version}", f"trl=={TRL}"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        done.touch()
    return python


class Side:
    """A worker process; each `update` call makes it train one update."""

    def __init__(self, python: Path | str, script: str, folder: Path) -> None:
        self.script = script
        self.errors = (folder / f"{script}.log").open("w+")
        self.process = subprocess.Popen(
            [python, HERE / script, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=HERE,
        )
        self.about = self._read()
        self.updates: list[dict[str, Any]] = []

    def update(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.updates.append(self._read())

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise SystemExit(f"{self.script} ended early:\n{self.errors.read()[-3000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()

    def seconds(self) -> list[float]:
        """Return the seconds of each update except the first, which warms up."""
        return [u["seconds"] for u in self.updates[1:]] or [self.updates[0]["seconds"]]


def measure(python: Path, workload: Workload, n_updates: int, accumulation: int) -> dict[str, Any]:
    """Run updates of both, interleaved; which one is first alternates."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(workload, folder)
        settings = {
            "n_problems": workload.n_problems,
            "n_samples": workload.n_samples,
            "max_tokens": workload.max_tokens,
            "n_updates": n_updates,
            "lr": 1e-5,
            "bf16": False,
            "accumulation": accumulation,
            "prompts": prompts(workload, n_updates),
        }
        (folder / "workload.json").write_text(json.dumps(settings))
        sides = {"rethink": Side(sys.executable, "our_worker.py", folder), "TRL": Side(python, "trl_worker.py", folder)}
        for n in range(n_updates):
            for side in list(sides.values())[:: 1 if n % 2 else -1]:
                side.update()
        for side in sides.values():
            side.end()
        checked = same_work(folder, sides["TRL"].updates[0])
    return summary(sides["rethink"], sides["TRL"], checked)


def same_work(folder: Path, first: dict[str, Any]) -> dict[str, float]:
    """Return loss and gradient norm of TRL's first update, theirs and ours on the same samples."""
    file = folder / "drawn.json"
    file.write_text(json.dumps(first))
    command = [sys.executable, *map(str, (HERE / "our_worker.py", folder, "--check", file))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE)
    ours = json.loads(done.stdout.splitlines()[-1])
    return {
        "trl_loss": first["loss"],
        "our_loss": ours["loss"],
        "trl_grad_norm": first["grad_norm"],
        "our_grad_norm": ours["grad_norm"],
    }


def summary(ours: Side, theirs: Side, checked: dict[str, float]) -> dict[str, Any]:
    """Return all numbers of a workload."""
    mine, trl = statistics.median(ours.seconds()), statistics.median(theirs.seconds())
    n_trl = statistics.fmean(sum(map(len, u["ids"])) for u in theirs.updates)
    n_mine = statistics.fmean(u["n_sampled_tokens"] for u in ours.updates)
    off = abs(checked["our_grad_norm"] / checked["trl_grad_norm"] - 1)
    same = off < TOLERANCE and abs(checked["our_loss"] - checked["trl_loss"]) < 1e-3 and 0.8 < n_mine / n_trl < 1.25
    return {
        "ratio": trl / mine,
        "rethink_s": mine,
        "trl_s": trl,
        "rethink_all_s": ours.seconds(),
        "trl_all_s": theirs.seconds(),
        "stages_s": {k: statistics.median(u[k] for u in ours.updates) for k in ("sample_s", "grade_s", "update_s")},
        "rethink_tokens": n_mine,
        "trl_tokens": n_trl,
        "same_work": same,
        **checked,
        "versions": {**theirs.about, **ours.about},
    }


def show(name: str, found: dict[str, Any]) -> None:
    """Print a few lines per workload."""
    for who, key in (("rethink", "rethink"), ("TRL", "trl")):
        every = found[f"{key}_all_s"]
        spread = f"{min(every):.2f} to {max(every):.2f} s, {len(every)} updates"
        print(f"{name} {who:<8} {found[f'{key}_s']:8.2f} s/update ({spread}), {found[f'{key}_tokens']:,.0f} tokens")
    stages = "  ".join(f"{key[:-2]} {value:.2f}" for key, value in found["stages_s"].items())
    print(f"{name} ratio    {found['ratio']:8.2f}   ({stages})")
    norms = f"gradient norm {found['our_grad_norm']:.5f} and {found['trl_grad_norm']:.5f}"
    losses = f"loss {found['our_loss']:.5f} and {found['trl_loss']:.5f}"
    print(f"{name} {'the same work' if found['same_work'] else 'NOT THE SAME WORK'}: {norms}, {losses}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer updates, and 8 prompts in B")
    parser.add_argument("--only", choices=("A", "B"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--env", type=Path, default=HERE.parent / ".bench-venv")
    given = parser.parse_args(arguments)
    python = environment(given.env)
    few = replace(B, n_problems=8) if given.quick else B
    # By workload: number of updates, and the pieces that TRL splits its batch into, chosen to be fastest for TRL.
    plans = {"A": (A, 8 if given.quick else 21, 1), "B": (few, 3 if given.quick else 2, 1)}
    results = {}
    for name, (workload, n_updates, accumulation) in plans.items():
        if given.only in (None, name):
            results[name] = measure(python, workload, n_updates, accumulation)
            show(name, results[name])
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(found["same_work"] for found in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
