"""Seconds per update with images, with a frozen tower and with one in training, against text of as many tokens:
`PYTHONPATH=tests:benchmarks python benchmarks/vision_update.py OUT`.

Small random models train GRPO on the generated questions `shapes`, and on the same questions with letters in place of the
vectors of their images. No reply of a random model is right, so the reward is the share of vowels in its letters, which
differs within a group: each update must have a gradient. Few replies end before `sampling.max_tokens`. In the first pass
over the problems, images are read and their vectors computed; later passes have them, unless the tower is trained
(`training.vision=all`). Rounds alternate, and medians are over the updates of all rounds. `--small` is a check that it
runs. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from rethink.jsonl import Record
from rethink.models.load import load_model
from rethink.problems.source import load_problems
from rethink.prompts import Prompts
from rethink.recipe import load_recipe
from rethink.settings import ProblemSource
from rethink.training import loop
from rethink.training.run import open_run
from rethink.types import Message
from support.vision_models import save_vision_model

SIZES = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "Idefics3": {"num_key_value_heads": 4},
    "Qwen2.5-VL": {
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
    },
}


def write_text_problems(model: Path, file: Path, n: int) -> int:
    """Write the first questions with as many tokens of text as theirs have with images; return the number of vectors."""
    chat = load_model(str(model)).chat
    rows = []
    n_vectors = 0
    for problem in load_problems(ProblemSource("shapes", limit=n)):
        with_image = len(chat.encode(Prompts(solve="{question}").messages(problem)))
        n_missing = with_image - len(chat.encode((Message("user", problem.question),)))
        rows.append({"key": problem.id, "question": problem.question + "x" * n_missing, "answer": problem.gold})
        n_vectors += n_missing
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return n_vectors


def vowels(reply: str, gold: str) -> float:
    """Return the share of vowels in the reply's letters: a reward that differs between random replies."""
    return sum(c in "aeiou" for c in reply.lower()) / max(1, sum(map(str.isalpha, reply)))


def train(model: Path, out: Path, n_updates: int, per_batch: int, *more: str) -> list[Record]:
    """Return the records of a run's updates."""
    settings = [
        *(f"model.path={model}", f"out={out}", "model.device=cpu", "method.name=grpo", "method.n_solve=8"),
        *(f"problems_per_batch={per_batch}", f"updates={n_updates}", "checkpoint_every=1000000"),
        *("sampling.max_tokens=24", "prompts.solve={question}", "training.lr=1e-5"),
        *('rewards.0={function="vision_update:vowels", only_if_right=false}', *more),
    ]
    records = [record for record in loop.train(open_run(load_recipe(None, settings))) if "update_s" in record]
    for record in records:
        assert record["grad_norm"] > 0, "an update without a gradient has skipped its samples"
    return records


def median(records: list[Record], stage: str) -> float:
    return statistics.median(float(record[stage]) for record in records)


def measure(name: str, out: Path, rounds: int, passes: int, n_problems: int) -> None:
    """Print the medians of one family: of the first pass, of later ones, and of text."""
    model = save_vision_model(out / name / "model", name, **SIZES, **FAMILIES[name])
    text = out / name / "text.jsonl"
    n_vectors = write_text_problems(model, text, n_problems)
    per_batch = n_problems // 2
    shapes = ("problems.source=shapes", f"problems.limit={n_problems}")
    found: dict[str, list[Record]] = {"first": [], "images": [], "trained": [], "text": []}
    sources = {
        "images": shapes,
        "trained": (*shapes, "training.vision=all"),
        "text": (f"problems.source={text}", "problems.id=key", "problems.verifier=shapes"),
    }
    for k in range(rounds):
        for kind in sorted(sources, reverse=bool(k % 2)):
            records = train(model, out / name / f"{kind}-{k}", 2 * passes, per_batch, *sources[kind])
            found[kind] += records[2:]
            found["first"] += records[:2] if kind == "images" else []
    for stage in ("sample_s", "update_s"):
        first, images, trained, plain = (median(found[kind], stage) for kind in ("first", "images", "trained", "text"))
        print(
            f"{name:<12}{n_vectors / n_problems:>8.0f}  {stage:<10}{first:>12.3f} s{images:>10.3f} s{trained:>10.3f} s"
            f"{plain:>10.3f} s{images / plain:>8.2f}{trained / plain:>9.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    if given.out.exists():
        parser.error(f"{given.out} exists already; name a new folder")
    rounds, passes, n = (1, 2, 4) if given.small else (given.rounds, given.passes, given.problems)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; seconds per update, median")
    columns = f"{'first pass':>14}{'images':>12}{'trained':>12}{'text':>12}{'ratios to text':>17}"
    print(f"{'family':<12}{'tokens':>8}  {'stage':<10}{columns}")
    for name in FAMILIES:
        measure(name, given.out, rounds, passes, n)


if __name__ == "__main__":
    main()
