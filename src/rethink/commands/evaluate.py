"""`rethink eval`: problems solved, drafts refined, and whether the second look helped."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path

from rethink import __version__, recipes
from rethink.commands.console import columns, new_folder, progress, quoted, say, show, warn
from rethink.commands.strategies import run_strategies
from rethink.errors import UserError
from rethink.evaluate import look
from rethink.evaluate.answers import Answer, is_answers
from rethink.evaluate.drafts import DraftColumns, own_drafts, read_drafts
from rethink.evaluate.intervals import Estimate
from rethink.evaluate.summary import Macro, Summary, by_suite, macro_summary, summarize
from rethink.jsonl import replace as rewrite
from rethink.jsonl import to_json
from rethink.policies.base import Policy
from rethink.problems.source import load_problems
from rethink.recipe import Recipe, completed, load_recipe, to_toml
from rethink.run_folder import RunFolder
from rethink.settings import ProblemSource
from rethink.types import Problem


@dataclass(frozen=True)
class Job:
    """One evaluation: what to ask whom, where the answers go, and the options with which it goes on once killed."""

    recipe: Recipe
    problems: list[Problem]
    drafts: look.Drafts | None
    folder: Path
    again: str


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
    folder = out or new_folder("eval")
    if not resume and any((folder / name).exists() for name in ("config.toml", "answers.jsonl", "outcomes.jsonl")):
        raise UserError(
            f"{folder} holds an evaluation or a run already; go on with it by --resume, or choose another --out DIR"
        )
    resolved = resolve(model, on, settings, recipe, drafts)
    if resolved.evaluation.strategy not in look.TWO_LOOKS:
        if drafts is not None:
            raise UserError(f"--drafts goes with the strategy refine, not {resolved.evaluation.strategy!r}")
        problems, _ = _problems(resolved, on, None, DraftColumns())
        run_strategies(model, resolved, problems, open_policy(resolved), folder, resume)
        return
    warn_of_repeats(resolved, given=drafts is not None)
    problems, given = _problems(resolved, on, drafts, named or DraftColumns())
    job = Job(resolved, problems, given, folder, f"--out {shlex.quote(str(folder))} --resume")
    start = time.perf_counter()
    answers = run(job, open_policy(resolved), resume)
    report(model, job, answers, time.perf_counter() - start)


def run(job: Job, policy: Policy, resume: bool) -> list[Answer]:
    """All answers of a job, with a progress bar; they are in its folder's answers.jsonl."""
    from rethink.build import prompts

    folder = RunFolder(job.folder)
    if resume:
        folder.check_same(to_toml(job.recipe), completed)
    else:
        folder.create(to_toml(job.recipe))
    try:
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
    except look.OtherAnswersError:
        raise
    except (UserError, KeyboardInterrupt):
        say(f"stopped; what is done is in {job.folder}, and the same command with {job.again} goes on")
        raise


def report(model: str, job: Job, answers: list[Answer], seconds: float) -> None:
    """Print the tables and write summary.json."""
    ks = job.recipe.evaluation.k
    suites = by_suite(answers)
    summaries = {name: summarize(some, ks) for name, some in suites.items()}
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
        from rethink.build import local_policy, open_model

        return local_policy(recipe, open_model(recipe.model, recipe.seed), recipe.evaluation.sampling)
    from rethink.policies.endpoint.policy import open_endpoint

    return open_endpoint(endpoint, recipe.model.path, recipe.evaluation.sampling, recipe.limits.overlong, warn)


def tables(model: str, summaries: dict[str, Summary], mean: Macro | None) -> str:
    """Accuracy before and after, what a second pass changed and what it cost, per benchmark and in the mean."""
    parts = [_accuracy_table(summaries, mean), _pass_table(summaries, mean), _cost_table(summaries)]
    parts.append(_transition_table({name: s for name, s in summaries.items() if s.refine}))
    parts.append(_count_table(summaries))
    title = f"{model}: shares in percent, tokens per reply, with 95% intervals"
    return "\n\n".join([title, *(part for part in parts if part)])


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
    """How many refinements went from which verdict to which."""
    if not summaries:
        return ""
    lines = [["refinements", "right>right", "right>wrong", "wrong>right", "wrong>wrong"]]
    return columns([*lines, *([name, *map(str, astuple(s.transitions))] for name, s in summaries.items())])


def _count_table(summaries: dict[str, Summary]) -> str:
    """What the rates leave out, and what they let pass; nothing where there is no such thing."""
    counts = {name: (s.n_skipped, s.n_not_refined, s.n_not_judged, s.n_lenient) for name, s in summaries.items()}
    if not any(map(any, counts.values())):
        return ""
    header = [
        "numbers of",
        "over-long problems",
        "drafts over-long to refine",
        "replies not judged",
        "right by lenience",
    ]
    return columns([header, *([name, *map(str, row)] for name, row in counts.items())])


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
    path = model.startswith((".", "/", "~")) or model.count("/") > 1  # names on the hub have one slash at most
    if path and not resolved.endpoint.url and not Path(model).is_dir():
        raise UserError(f"no model folder {model}")
    return resolved


def warn_of_repeats(recipe: Recipe, given: bool = False) -> None:
    """Several greedy answers to one prompt tell no more than one."""
    plan = recipe.evaluation
    counts = {"n": 1 if given else plan.n, "n_refine": plan.n_refine if plan.strategy == "refine" else 1}
    for name, sampling in (("n", plan.sampling), ("n_refine", plan.refine_sampling or plan.sampling)):
        if counts[name] > 1 and sampling.temperature == 0:
            warn(
                f"evaluation.{name} = {counts[name]}, but greedy answers to one prompt are all the same: set a temperature"
            )


def _problems(
    recipe: Recipe, on: Sequence[str], drafts: Path | None, named: DraftColumns
) -> tuple[list[Problem], look.Drafts | None]:
    source = recipe.evaluation.problems
    assert source is not None
    if drafts is None:
        return load_problems(source, recipe.seed, "test"), None
    file = drafts / "answers.jsonl" if drafts.is_dir() else drafts
    own = is_answers(file)
    if not on:
        if own:
            return own_drafts(file, _origin(file, source), source.limit)
        return read_drafts(file, source, named, None, recipe.seed)
    asked = load_problems(source, recipe.seed, "test")
    problems, given = own_drafts(file, asked) if own else read_drafts(file, source, named, asked)
    if len(problems) < len(asked):
        warn(f"{len(asked) - len(problems)} of {len(asked)} problems have no draft in {file} and are left out")
    return problems, given


def _origin(file: Path, asked: ProblemSource) -> list[Problem]:
    """The problems of the evaluation that wrote a file, with what is set otherwise now."""
    places = (file.parent, file.resolve().parent.parent)  # an evaluation's folder; a training run's, above its eval/
    config = next((place / "config.toml" for place in places if (place / "config.toml").is_file()), None)
    if config is None:
        raise UserError(f"{file} has no config.toml beside it that tells its problems; name them with --on")
    origin = load_recipe(config)
    usual = ProblemSource()
    now = {f.name: getattr(asked, f.name) for f in fields(asked) if f.name not in ("source", "limit")}
    changed = {name: value for name, value in now.items() if value != getattr(usual, name)} | {
        "extraction": asked.extraction
    }
    return load_problems(replace(origin.evaluation.problems or usual, **changed), origin.seed, "test")
