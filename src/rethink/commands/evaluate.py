"""`rethink eval`: problems solved, drafts refined, and whether the second look helped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from rethink import __version__, recipes
from rethink.commands.console import columns, new_folder, progress, quoted, say, show, warn
from rethink.config import Recipe, load_recipe, to_toml
from rethink.errors import UserError
from rethink.evaluate import look
from rethink.evaluate.answers import Answer, is_answers
from rethink.evaluate.drafts import DraftColumns, own_drafts, read_drafts
from rethink.evaluate.intervals import Estimate
from rethink.evaluate.summary import Macro, Summary, by_suite, macro_summary, summarise
from rethink.folder import RunFolder, to_json
from rethink.folder import replace as rewrite
from rethink.methods.actors import Policy
from rethink.problems.source import ProblemSource, load_problems
from rethink.types import Problem


@dataclass(frozen=True)
class Job:
    """One evaluation: what to ask whom, and where the answers go."""

    recipe: Recipe
    problems: list[Problem]
    drafts: look.Drafts | None
    folder: Path


def evaluate(
    model: str,
    on: Sequence[str],
    settings: Sequence[str],
    *,
    recipe: str = "",
    out: Path | None = None,
    resume: bool = False,
    drafts: Path | None = None,
    named: DraftColumns | None = None,
) -> None:
    """Run an evaluation and print its tables; everything is in the folder."""
    if resume and out is None:
        raise UserError("--resume goes on with an evaluation: say which with --out DIR")
    resolved = resolve(model, on, settings, recipe, drafts)
    problems, given = _problems(resolved, on, drafts, named or DraftColumns())
    job = Job(resolved, problems, given, out or new_folder("eval"))
    start = time.perf_counter()
    answers = run(job, open_policy(resolved), resume)
    report(model, job, answers, time.perf_counter() - start)


def run(job: Job, policy: Policy, resume: bool) -> list[Answer]:
    """All answers of a job, with a progress bar; they are in its folder's answers.jsonl."""
    from rethink.train.run import prompts

    folder = RunFolder(job.folder)
    if resume:
        folder.check_same(to_toml(job.recipe))
    else:
        folder.create(to_toml(job.recipe))
    with progress() as bar:
        task = bar.add_task("evaluate", total=len(job.problems), note="")
        return look.evaluate(
            policy,
            prompts(job.recipe, job.recipe.seed),
            job.problems,
            job.recipe.evaluation,
            job.folder / "answers.jsonl",
            given=job.drafts,
            resume=resume,
            progress=lambda done: bar.update(task, completed=done),
        )


def report(model: str, job: Job, answers: list[Answer], seconds: float) -> None:
    """Print the tables and write summary.json."""
    ks = job.recipe.evaluation.k
    suites = by_suite(answers)
    summaries = {name: summarise(some, ks) for name, some in suites.items()}
    mean = macro_summary(suites, ks) if len(suites) > 1 else None
    record = {
        "model": model,
        "suites": {name: summary.as_dict() for name, summary in summaries.items()},
        "mean": None if mean is None else asdict(mean),
        "judged_by": judged_by(job.recipe),
        "seed": job.recipe.seed,
        "seconds": seconds,
    }
    rewrite(job.folder / "summary.json", to_json(record, indent=1) + "\n")
    show(tables(model, summaries, mean))
    say(f"answers: {job.folder / 'answers.jsonl'}\nnumbers: {job.folder / 'summary.json'}")


def judged_by(recipe: Recipe) -> dict[str, str]:
    """What the verdicts depend on; scores of different verifiers are not comparable."""
    problems = recipe.evaluation.problems or ProblemSource()
    return {
        "rethink": __version__,
        "math-verify": version("math-verify"),
        "verifier": problems.verifier or "the suite's own",
        "extraction": problems.extraction,
    }


def open_policy(recipe: Recipe) -> Policy:
    """The model of a recipe, here or behind its endpoint."""
    endpoint = recipe.endpoint
    if not endpoint.url:
        from rethink.train.run import local_policy, open_model

        return local_policy(recipe, open_model(recipe.model, recipe.seed), recipe.evaluation.sampling)
    from rethink.policies.endpoint import EndpointPolicy

    return EndpointPolicy.open(endpoint, recipe.model.path, recipe.evaluation.sampling, recipe.limits.overlong, warn)


def tables(model: str, summaries: dict[str, Summary], mean: Macro | None) -> str:
    """Accuracy before and after, what a second pass changed and what it cost, per benchmark and in the mean."""
    parts = [_accuracy_table(summaries, mean), _pass_table(summaries, mean), _cost_table(summaries)]
    parts.append(_transition_table({name: s for name, s in summaries.items() if s.refine}))
    return f"{model}, in percent, with 95% intervals\n\n" + "\n\n".join(part for part in parts if part)


def _accuracy_table(summaries: dict[str, Summary], mean: Macro | None) -> str:
    refined = any(s.refine for s in summaries.values())
    lines = [["", "solve", *(("refined", "gain", "fix rate", "damage rate") if refined else ())]]
    for name, s in summaries.items():
        after = s.refine.accuracy.percent() if s.refine else "undefined"
        cells = [after, s.gain.percent("+"), s.fix.percent(), s.damage.percent()]
        lines.append([name, s.solve.accuracy.percent(), *(cells if refined else ())])
    if mean:
        cells = [mean.refined.percent(), mean.gain.percent("+"), mean.fix.percent(), mean.damage.percent()]
        lines.append([f"mean of {len(summaries)}", mean.solve.percent(), *(cells if refined else ())])
    return columns(lines)


def _pass_table(summaries: dict[str, Summary], mean: Macro | None) -> str:
    rows: list[tuple[str, dict[str, Estimate]]] = []
    for name, s in summaries.items():
        rows += [(f"{name}, solve", s.solve.pass_at_k)]
        rows += [(f"{name}, refined", s.refine.pass_at_k)] if s.refine else []
    if mean:
        rows += [("mean, solve", mean.pass_at_k), ("mean, refined", mean.refined_pass_at_k)]
    ks = list(dict.fromkeys(k for _, values in rows for k in values))
    if ks in ([], ["1"]):
        return ""
    nothing = Estimate(float("nan"), float("nan"), float("nan"), 0)
    lines = [["", *(f"pass@{k}" for k in ks)]]
    lines += [[name, *(values.get(k, nothing).percent() for k in ks)] for name, values in rows if values]
    return columns(lines)


def _cost_table(summaries: dict[str, Summary]) -> str:
    lines = [["", "cut at cap", "no answer", "tokens shown", "tokens sampled"]]
    for name, s in summaries.items():
        for phase, found in (("solve", s.solve), ("refine", s.refine)):
            if found is not None:
                shares = [share.percent() for share in (found.truncated, found.no_answer)]
                lines.append([f"{name}, {phase}", *shares, found.prompt_tokens.plain(), found.tokens.plain()])
    return columns(lines)


def _transition_table(summaries: dict[str, Summary]) -> str:
    """How many drafts went from which verdict to which."""
    if not summaries:
        return ""
    lines = [["", "right>right", "right>wrong", "wrong>right", "wrong>wrong", "not judged"]]
    for name, s in summaries.items():
        lines.append([name, *map(str, astuple(s.transitions)), str(s.n_not_judged)])
    return "\n".join([columns(lines), *filter(None, (_note(name, s) for name, s in summaries.items()))])


def _note(name: str, s: Summary) -> str:
    parts = [f"{s.n_not_refined} drafts not refined (over-long)"] if s.n_not_refined else []
    parts += [f"{s.n_skipped} problems skipped (over-long)"] if s.n_skipped else []
    parts += [f"{s.n_lenient} replies right by lenient extraction alone"] if s.n_lenient else []
    return f"{name}: {', '.join(parts)}" if parts else ""


def resolve(model: str, on: Sequence[str], settings: Sequence[str], recipe: str, drafts: Path | None = None) -> Recipe:
    """The recipe of an evaluation. Raises UserError where it names no problems."""
    source = [f"evaluation.problems.source={quoted(','.join(on))}"] if on else []
    if drafts is not None and not on:
        source = [f"evaluation.problems.source={quoted(str(drafts))}"]
    resolved = load_recipe(
        recipes.find(recipe) if recipe else None, [f"model.path={quoted(model)}", *source, *settings]
    )
    if resolved.evaluation.problems is None:
        raise UserError("no problems: name a suite or a file with --on, or drafts with --drafts")
    if resolved.evaluation.n > 1 and resolved.evaluation.sampling.temperature == 0 and drafts is None:
        warn(
            f"evaluation.n = {resolved.evaluation.n} greedy drafts are all the same; set evaluation.sampling.temperature"
        )
    return resolved


def _problems(
    recipe: Recipe, on: Sequence[str], drafts: Path | None, named: DraftColumns
) -> tuple[list[Problem], look.Drafts | None]:
    source = recipe.evaluation.problems
    assert source is not None
    if drafts is None:
        return load_problems(source, recipe.seed, "test"), None
    file = drafts / "answers.jsonl" if drafts.is_dir() else drafts
    if not is_answers(file):
        problems = load_problems(source, recipe.seed, "test") if on else None
        return read_drafts(file, source, named, problems)
    if not on:
        origin = load_recipe(file.with_name("config.toml"))
        source = replace(origin.evaluation.problems or source, extraction=source.extraction)
        return own_drafts(file, load_problems(source, origin.seed, "test"))
    return own_drafts(file, load_problems(source, recipe.seed, "test"))
