"""The table of docs/results.md: all methods on the tiny model, at equal numbers of sampled and of trained tokens.

    python benchmarks/methods.py OUT [--seeds 0,1,2] [--workers 2] [--arms grpo,gsr] [--limit N]

Trains each arm for each seed with one thread (results do not depend on `--workers`), skips what is in OUT already, and
prints markdown. Three seeds of every arm take about an hour and a half on two cores; `--limit` makes everything smaller,
for a trial.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from rethink.build import build_prompts, load_all_problems, local_policy, open_model
from rethink.commands.prepare import prepare as prepare_data
from rethink.evaluation.answers import Answer, read_answers
from rethink.evaluation.evaluate import EvaluationSpec, evaluate, resumable_answers, run_evaluation
from rethink.evaluation.intervals import paired_difference, rate
from rethink.evaluation.outcomes import final_outcomes, refined_outcomes
from rethink.evaluation.summary import summarize
from rethink.jsonl import read_lines
from rethink.recipe import Recipe, load_recipe
from rethink.strategies import Setup, parse
from rethink.training.loop import train
from rethink.training.run import open_run

SECOND = parse("solve:2+reflect")


@dataclass(frozen=True)
class Arm:
    """A row of the table. `budget` names the tokens that equal GRPO's. Only for GSR: the `teacher` ("" for the start
    weights) and how often the data are prepared (`sets`), each time with different samples."""

    title: str
    recipe: str
    updates: int
    budget: str = "both"
    settings: tuple[str, ...] = ()
    teacher: str | None = None
    sets: int = 3


MAIN = ("grpo", "think-twice", "think-tuning", "gsr", "gsr-six", "rrr-sampled", "rrr-trained")
"""The rows of docs/results.md; the others are ablations."""
RRR = "demo-reflect-retry-reward"
ARMS = {
    "grpo": Arm("GRPO", "demo-grpo", 160),
    "think-twice": Arm("ThinkTwice", "demo-think-twice", 160),
    "think-tuning": Arm("ThinkTuning", "demo-think-tuning", 160),
    "gsr": Arm("GSR, taught by GRPO's model", "demo-gsr", 975, teacher="grpo"),
    "gsr-six": Arm("- twice the data", "demo-gsr", 975, "trained", teacher="grpo", sets=6),
    "rrr-sampled": Arm("Reflect-Retry-Reward", RRR, 170, "sampled"),
    "rrr-trained": Arm("Reflect-Retry-Reward", RRR, 900, "trained"),
    "rrr-all": Arm("- retries rewarded too", RRR, 170, "sampled", ("method.reward_retry=true",)),
    "rrr-shuffled": Arm("- shuffled reflections", RRR, 170, "sampled", ("method.shuffle=true",)),
    "gsr-direct": Arm("- direct answers alone", "demo-gsr", 1700, settings=("method.lam=1",), teacher="grpo"),
    "gsr-self": Arm("- its own teacher", "demo-gsr", 975, teacher=""),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--arms", default=",".join(MAIN))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=int, default=0)
    given = parser.parse_args()
    arms = [name for name in ARMS if name in given.arms.split(",")]
    jobs = [(name, int(seed)) for name in arms for seed in given.seeds.split(",")]
    first = [job for job in jobs if job[0] == "grpo"]  # the teacher of the others
    run = partial(run_arm, given.out, given.limit)
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(run, first))
        list(pool.map(run, [job for job in jobs if job not in first]))
    evaluate_start(given.out, given.limit)
    print(table(given.out, jobs))
    print(per_seed(given.out, jobs))


def run_arm(out: Path, limit: int, job: tuple[str, int]) -> None:
    """Train, then evaluate also with second tries after failures."""
    torch.set_num_threads(1)
    name, seed = job
    arm, folder = ARMS[name], out / f"{name}-{seed}"
    if (folder / "second.done").exists():
        return
    settings = ['model.path="tiny-talk"', f"seed={seed}", f"out={folder}", *arm.settings, *_smaller(limit)]
    settings.append(f"updates={min(arm.updates, limit or arm.updates)}")
    if arm.teacher is not None:
        data = _data(out, arm, seed, limit)
        settings += [f"problems.source={data}", "problems.id=key"]
    recipe = load_recipe(arm.recipe, settings)
    run = open_run(recipe, resume=(folder / "config.toml").exists())
    for _ in train(run):
        pass
    second_tries(recipe, str(run.newest_checkpoint()), folder / "second.jsonl")


def _smaller(limit: int) -> list[str]:
    return [f"evaluation.problems.limit={limit}"] if limit else []


def _data(out: Path, arm: Arm, seed: int, limit: int) -> Path:
    """Prepare GSR's two data sets `arm.sets` times, in one file."""
    import pyarrow as pa
    from pyarrow import compute, parquet

    stem = f"gsr-by-{arm.teacher or 'itself'}-{seed}"
    whole = out / f"{stem}-times-{arm.sets}.parquet"
    model = "teacher.path=" + (
        str(max((out / f"{arm.teacher}-{seed}" / "checkpoints").iterdir())) if arm.teacher else '""'
    )
    tables = []
    for n in range(arm.sets):
        part = out / f"{stem}.{n}.parquet"
        if not part.exists():
            settings = ['model.path="tiny-talk"', model, f"seed={6 * seed + n}"]
            prepare_data("demo-gsr-data", settings + ([f"problems.limit={max(limit, 64)}"] if limit else []), part)
        rows = parquet.read_table(part)
        keys = compute.binary_join_element_wise(rows["problem"].cast(pa.string()), pa.scalar(str(n)), "#")
        tables.append(rows.append_column("key", keys))
    parquet.write_table(pa.concat_tables(tables, promote_options="permissive"), whole)
    return whole


def second_tries(recipe: Recipe, model: str, file: Path) -> None:
    """Write two answers to each held-out problem to a file; wrong ones get a reflection and a second try."""
    texts = load_recipe(RRR).prompts
    policy = local_policy(
        recipe, open_model(replace(recipe.model, path=model), recipe.seed), recipe.evaluation.sampling
    )
    setup = Setup(policy, build_prompts(replace(recipe, prompts=texts), recipe.seed))
    file.unlink(missing_ok=True)
    run_evaluation(setup, EvaluationSpec(load_all_problems(recipe)[1], [SECOND]), resumable_answers(file))
    file.with_suffix(".done").touch()


def evaluate_start(out: Path, limit: int) -> None:
    folder = out / "start-0"
    if (folder / "second.done").exists():
        return
    torch.set_num_threads(1)
    recipe = load_recipe("demo-grpo", ['model.path="tiny-talk"', *_smaller(limit)])
    policy = local_policy(recipe, open_model(recipe.model, recipe.seed), recipe.evaluation.sampling)
    problems = load_all_problems(recipe)[1]
    (folder / "eval").mkdir(parents=True, exist_ok=True)
    evaluate(
        policy,
        problems,
        recipe.evaluation,
        prompts=build_prompts(recipe, recipe.seed),
        file=folder / "eval" / "000000.jsonl",
    )
    second_tries(recipe, "tiny-talk", folder / "second.jsonl")


def answers(out: Path, name: str, seeds: Iterable[int]) -> tuple[list[Answer], list[Answer]]:
    """Return all answers of an arm, refined ones and second tries. Problems keep their ids, which pools seeds per
    problem."""
    folders = [out / f"{name}-{seed}" for seed in seeds]
    refined = [a for folder in folders for a in read_answers(max((folder / "eval").glob("*.jsonl")))]
    return refined, [a for folder in folders for a in read_answers(folder / "second.jsonl")]


def tokens(out: Path, name: str, seed: int) -> tuple[int, int]:
    """Return the sampled and trained tokens of a run, including its prepared data."""
    records = [record for _, record in read_lines(out / f"{name}-{seed}" / "metrics.jsonl")]
    counts = [
        sum(int(r.get(key, 0)) for r in records) for key in ("n_sampled_tokens", "n_role_tokens", "n_trained_tokens")
    ]
    arm = ARMS[name]
    stem = f"gsr-by-{arm.teacher or 'itself'}-{seed}"
    cards = [] if arm.teacher is None else [out / f"{stem}.{n}.md" for n in range(arm.sets)]
    prepared = sum(int(word) for card in cards for word in _token_line(card).split() if word.isdigit())
    return counts[0] + counts[1] + prepared, counts[2]


def _token_line(card: Path) -> str:
    return next(line for line in card.read_text().splitlines() if line.startswith("Sampled tokens"))


def table(out: Path, jobs: Sequence[tuple[str, int]]) -> str:
    """Return a row per arm: seeds pooled, intervals over problems; the last column is paired with GRPO by problem."""
    heads = ["", "equal tokens", "solve", "refined", "fix rate", "damage rate", "second try", "refined, minus GRPO"]
    lines = [[*heads, "sampled", "trained"]]
    arms = {name: [seed for other, seed in jobs if other == name] for name, _ in jobs}
    baseline = refined_outcomes(answers(out, "grpo", arms["grpo"])[0]) if "grpo" in arms else None
    for name, seeds in {"start": [0], **arms}.items():
        refined, second = answers(out, name, seeds)
        s = summarize(refined)
        assert s.refined
        assert s.fix
        assert s.damage
        rates = [s.solve.accuracy, s.refined.accuracy, s.fix, s.damage, rate(final_outcomes(second))]
        gap = (
            paired_difference(refined_outcomes(refined), baseline).percent("+")
            if baseline and name not in ("start", "grpo")
            else "-"
        )
        used = [tokens(out, name, seed) for seed in seeds] if name in ARMS else [(0, 0)]
        cost = [f"{sum(count) / len(count):,.0f}" for count in zip(*used, strict=True)]
        title, budget = (ARMS[name].title, ARMS[name].budget) if name in ARMS else ("start", "-")
        lines.append([title, budget, *(rate.percent() for rate in rates), gap, *cost])
    return markdown(lines)


def per_seed(out: Path, jobs: Sequence[tuple[str, int]]) -> str:
    """Return a row per arm and seed."""
    lines = [["", "seed", "solve", "refined", "fix rate", "damage rate", "second try"]]
    for name, seed in jobs:
        refined, second = answers(out, name, [seed])
        s = summarize(refined)
        assert s.refined
        assert s.fix
        assert s.damage
        rates = [s.solve.accuracy, s.refined.accuracy, s.fix, s.damage, rate(final_outcomes(second))]
        lines.append([f"{ARMS[name].title} ({ARMS[name].budget})", str(seed), *(rate.percent() for rate in rates)])
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:], ""])


if __name__ == "__main__":
    main()
