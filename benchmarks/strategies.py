"""The test-time strategies of docs/results.md with the models of `benchmarks/methods.py`: results and costs.

    python benchmarks/strategies.py OUT [--seeds 0,1,2] [--workers 2] [--every 5]

OUT is the folder from `benchmarks/methods.py`; answers go to OUT/strategies, and existing ones are kept. Each model answers
every fifth held-out problem; the one start model answers with different samples for each seed. Prints markdown: seeds
pooled, intervals over problems.
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

from rethink.build import build_prompts, load_all_problems, local_policy, open_model
from rethink.evaluation.answers import Answer, by_strategy, read_answers
from rethink.evaluation.costs import AnswersByStrategy, equal_cost_votes, missing_votes, with_vote_gain
from rethink.evaluation.evaluate import EvaluationSpec, resumable_answers, run_evaluation
from rethink.evaluation.gap import Gap, control_votes, merge_size, refinement_gap
from rethink.evaluation.summary import summarize
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
        answers = read(given.out, title, seeds)
        print(cost_table(answers, {s.name: n for s in STRATEGIES if (n := equal_cost_votes(answers).get(s.name))}))
        print(gap_table(answers))


def run(out: Path, every: int, job: tuple[str, int]) -> None:
    """Return all answers of a model, then those of votes at equal cost."""
    torch.set_num_threads(1)
    title, seed = job
    done = out / "strategies" / f"{MODELS[title]}-{seed}.done"
    if done.exists():
        return
    done.parent.mkdir(parents=True, exist_ok=True)
    folder = out / f"{MODELS[title]}-{seed}" / "checkpoints"
    path = "tiny-talk" if title == "start" else str(max(folder.iterdir()))
    recipe = load_recipe("demo-grpo", [f"seed={seed}"])
    texts = replace(load_recipe("demo-gsr").prompts, blind="again")  # a word in the tiny model's vocabulary
    policy = local_policy(recipe, open_model(replace(recipe.model, path=path), seed), recipe.evaluation.sampling)
    setup = Setup(policy, build_prompts(replace(recipe, prompts=texts), seed))
    spec = EvaluationSpec(load_all_problems(recipe)[1][::every], [*STRATEGIES, *control_votes(STRATEGIES)])
    file = resumable_answers(done.with_suffix(".jsonl"))
    found = by_strategy(run_evaluation(setup, spec, file))
    most = max(equal_cost_votes(found).values()) + 1  # pooled over seeds, a mean may round to another number
    votes = missing_votes(range(2, most + 1), spec.strategies)
    run_evaluation(setup, replace(spec, strategies=votes), file)
    file.close()
    done.touch()


def read(out: Path, title: str, seeds: Sequence[int]) -> AnswersByStrategy:
    """Return all answers of a model, seeds as repeats."""
    found: list[Answer] = []
    for seed in seeds:
        file = out / "strategies" / f"{MODELS[title]}-{seed}.jsonl"
        found += [replace(answer, repeat=seed) for answer in read_answers(file)]
    return by_strategy(found)


def cost_table(answers: AnswersByStrategy, counts: dict[str, int]) -> str:
    lines = [["strategy", "accuracy", "minus a vote of equal cost", "shown", "sampled", "calls"]]
    votes = missing_votes(counts.values(), STRATEGIES)
    for strategy in [*STRATEGIES, *votes]:
        summary = with_vote_gain(summarize(answers[strategy.name]), counts.get(strategy.name), answers)
        row = summary.cost
        gain = "-" if row.gain is None else f"{row.gain.percent('+')} (vote:{row.n_vote})"
        tokens = (f"{row.prompt_tokens.value:.0f}", f"{row.tokens.value:.0f}", f"{row.depth.value:.1f}")
        lines.append([strategy.name, summary.accuracy.percent(), gain, *tokens])
    return markdown(lines)


def gap_table(answers: AnswersByStrategy) -> str:
    heads = ["refinement gap", "merged", "vote", "gap", "relative", "to a vote of k + 1", "all wrong: share"]
    lines = [[*heads, "merged right", "fresh answer right", "difference"]]
    for strategy in [s for s in STRATEGIES if merge_size(s)]:
        g = gap_of(strategy, answers)
        rates = [
            g.merged.percent(),
            g.vote.percent(),
            g.gap.percent("+"),
            g.relative.percent("+"),
            g.gap_to_larger_vote.percent("+"),
        ]
        wrong = [g.all_wrong.percent(), g.rescued.percent(), g.fresh.percent(), g.rescue.percent("+")]
        lines.append([f"k = {g.k}", *rates, *wrong])
    return markdown(lines)


def gap_of(strategy: Strategy, answers: AnswersByStrategy) -> Gap:
    k = merge_size(strategy)
    return refinement_gap(k, answers[strategy.name], answers[f"vote:{k}"], answers[f"vote:{k + 1}"])


def markdown(lines: Sequence[Sequence[str]]) -> str:
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:], ""])


if __name__ == "__main__":
    main()
