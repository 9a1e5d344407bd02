"""The picture of the README: held-out accuracy before and after one refinement, over the demo's updates.

    python benchmarks/learning_curves.py runs/curves docs/learning-curves.svg

Trains the demo's two recipes at seed 0 and evaluates every 20 updates on 400 held-out problems, two answers each. Finished
runs are not repeated. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import rethink

METHODS = {"demo-grpo": ("GRPO", "#57606a"), "demo-think-twice": ("ThinkTwice", "#1f6feb")}
EVERY, N_PROBLEMS = 20, 400


def evaluations(recipe: str, folder: Path) -> list[dict[str, Any]]:
    """Return the records of a run's evaluations, the start model's first; train the run unless it is there."""
    out = folder / recipe
    start = out / "start.json"
    if not start.is_file():
        settings = [f"out={out}", f"evaluation.every={EVERY}", f"evaluation.problems.limit={N_PROBLEMS}"]
        run = rethink.open_run(rethink.load_recipe(recipe, settings))
        answers = rethink.evaluate(run.policy, run.held_out, run.recipe.evaluation, prompts=run.actors(0).prompts)
        before = rethink.summarize(answers)
        for record in rethink.train(run):
            print(recipe, record["update"], record["phase"], flush=True)
        assert before.refined is not None
        rates = {"solve": before.solve.accuracy, "refined": before.refined.accuracy}
        start.write_text(json.dumps({"update": 0} | {key: vars(rate) for key, rate in rates.items()}))
    found = [json.loads(start.read_text())]
    for line in (out / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["phase"] == "evaluation":
            found.append(record)
    return found


def draw(folder: Path, file: Path) -> None:
    """Draw drafts as dashed lines, refinements as solid ones, with bands of 95% intervals."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rethink"  # the same file each time
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    for recipe, (name, color) in METHODS.items():
        records = evaluations(recipe, folder)
        updates = [record["update"] for record in records]
        for key, label, style in (("solve", "draft", "--"), ("refined", "after refinement", "-")):
            values = [100 * record[key]["value"] for record in records]
            low = [100 * record[key]["low"] for record in records]
            high = [100 * record[key]["high"] for record in records]
            axes.plot(updates, values, style, color=color, label=f"{name}, {label}")
            axes.fill_between(updates, low, high, color=color, alpha=0.1, linewidth=0)
    axes.set_xlabel("update")
    axes.set_ylabel("held-out accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    for recipe in METHODS:
        evaluations(recipe, given.folder)
    draw(given.folder, given.file)


if __name__ == "__main__":
    main()
