"""The study of test-time strategies in docs/results.md: models of `benchmarks/methods.py`, all strategies at what cost.

    python benchmarks/strategies.py OUT [--seeds 0,1,2] [--workers 2] [--every 5]

OUT is the folder that `benchmarks/methods.py` filled; outcomes go to OUT/strategies, and what is there is not made again.
Each model answers every fifth held-out problem; the start model, of which there is one, with other samples for each seed.
Prints markdown: seeds pooled, intervals over problems.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from rethink import recipes
from rethink.build import load_all_problems, local_policy, open_model, prompts
from rethink.evaluate.costs import Outcomes, cost, equal_votes, votes_of
from rethink.evaluate.gap import Gap, controls, merged_of, refinement_gap
from rethink.evaluate.outcomes import Outcome, by_strategy, read_outcomes
from rethink.evaluate.strategies import Trial, evaluate_strategies
from rethink.recipe import load_recipe
from rethink.strategies import Setup, Strategy, parse_all

MODELS = {"start": "start", "GRPO": "grpo", "ThinkTwice": "think-twice", "GSR": "gsr-six"}
STRATEGIES = parse_all(
    "solve,refine,refine:3,merge:2,merge:3,merge:3+refine,vote:5+refine,solve:5+refine+vote,reflect,blind-retry"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=int, default=5)
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    jobs = [(title, seed) for title in MODELS for seed in seeds]
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(run, given.out, given.every), jobs))
    for title in MODELS:
        print(f"**{title}**\n")
        outcomes = read(given.out, title, seeds)
        print(cost_table(outcomes, {s.name: n for s in STRATEGIES if (n := equal_votes(outcomes).get(s.name))}))
        print(gap_table(outcomes))


def run(out: Path, every: int, job: tuple[str, int]) -> None:
    """All outcomes of a model, then those of the votes that cost as much."""
    torch.set_num_threads(1)
    title, seed = job
    done = out / "strategies" / f"{MODELS[title]}-{seed}.done"
    if done.exists():
        return
    done.parent.mkdir(parents=True, exist_ok=True)
    folder = out / f"{MODELS[title]}-{seed}" / "checkpoints"
    path = "tiny-talk" if title == "start" else str(max(folder.iterdir()))
    recipe = load_recipe(recipes.find("demo-grpo"), [f"seed={seed}"])
    texts = replace(load_recipe(recipes.find("demo-gsr")).prompts, blind="again")  # a word that the tiny model knows
    policy = local_policy(recipe, open_model(replace(recipe.model, path=path), seed), recipe.evaluation.sampling)
    setup = Setup(policy, prompts(replace(recipe, prompts=texts), seed))
    trial = Trial(load_all_problems(recipe)[1][::every], [*STRATEGIES, *controls(STRATEGIES)])
    found = by_strategy(evaluate_strategies(setup, trial, done.with_suffix(".jsonl")))
    most = max(equal_votes(found).values()) + 1  # pooled over seeds, a mean may round to another number
    votes = votes_of(range(2, most + 1), trial.strategies)
    evaluate_strategies(setup, replace(trial, strategies=votes), done.with_suffix(".votes.jsonl"))
    done.touch()


def read(out: Path, title: str, seeds: Sequence[int]) -> Outcomes:
    """All outcomes of a model, seeds as repeats."""
    found: list[Outcome] = []
    for seed in seeds:
        for suffix in (".jsonl", ".votes.jsonl"):
            file = out / "strategies" / f"{MODELS[title]}-{seed}{suffix}"
            found += [replace(o, repeat=seed) for _, o in read_outcomes(file)]
    return by_strategy(found)


def cost_table(outcomes: Outcomes, counts: dict[str, int]) -> str:
    lines = [["strategy", "accuracy", "minus a vote of equal cost", "shown", "sampled", "calls"]]
    votes = votes_of(counts.values(), STRATEGIES)
    for strategy in [*STRATEGIES, *votes]:
        row = cost(strategy.name, outcomes, counts.get(strategy.name))
        gain = "-" if row.gain is None else f"{row.gain.percent('+')} (vote:{row.n_vote})"
        tokens = (f"{row.prompt_tokens.value:.0f}", f"{row.tokens.value:.0f}", f"{row.depth.value:.1f}")
        lines.append([strategy.name, row.accuracy.percent(), gain, *tokens])
    return markdown(lines)


def gap_table(outcomes: Outcomes) -> str:
    heads = ["refinement gap", "merged", "vote", "gap", "relative", "to a vote of k + 1", "all wrong: share"]
    lines = [[*heads, "merged right", "fresh answer right", "difference"]]
    for strategy in [s for s in STRATEGIES if merged_of(s)]:
        g = gap_of(strategy, outcomes)
        rates = [
            g.merged.percent(),
            g.vote.percent(),
            g.gap.percent("+"),
            g.relative.percent("+"),
            g.to_more.percent("+"),
        ]
        wrong = [g.all_wrong.percent(), g.rescued.percent(), g.fresh.percent(), g.rescue.percent("+")]
        lines.append([f"k = {g.k}", *rates, *wrong])
    return markdown(lines)


def gap_of(strategy: Strategy, outcomes: Outcomes) -> Gap:
    k = merged_of(strategy)
    return refinement_gap(k, outcomes[strategy.name], outcomes[f"vote:{k}"], outcomes[f"vote:{k + 1}"])


def markdown(lines: Sequence[Sequence[str]]) -> str:
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:], ""])


if __name__ == "__main__":
    main()
