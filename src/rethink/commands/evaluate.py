"""`rethink eval`: problems answered by strategies, and whether looking back helped, and at what cost."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path

from rethink import __version__
from rethink.commands.console import (
    new_folder,
    print_note,
    print_result,
    print_resume_hint,
    progress,
    toml_string,
    warn,
)
from rethink.commands.tables import tables
from rethink.errors import UserError
from rethink.evaluation.answers import FILE, Answer, is_answers_file
from rethink.evaluation.drafts import DraftColumns, drafts_from_answers, read_drafts
from rethink.evaluation.evaluate import Drafts, EvaluationSpec, make_setup, resumable_answers, run_evaluation
from rethink.evaluation.gap import control_votes
from rethink.evaluation.results import compute_results, needs_equal_cost, votes_at_equal_cost
from rethink.jsonl import Record, RecordMismatchError, Resumable, to_json, write_text
from rethink.policies.base import Policy
from rethink.problems.source import load_problems
from rethink.recipe import Recipe, add_new_defaults, load_recipe, to_toml
from rethink.report.chart import strategy_curves
from rethink.run_folder import RunFolder
from rethink.settings import ProblemSource
from rethink.strategies import Setup, Strategy, check_needs, parse_all
from rethink.types import Problem


@dataclass(frozen=True)
class Job:
    """One evaluation: what to ask whom, where the answers go, and the options with which it goes on once killed."""

    recipe: Recipe
    problems: list[Problem]
    drafts: Drafts | None
    folder: Path
    again: str

    @property
    def asked(self) -> list[Strategy]:
        """The strategies that the recipe names."""
        return parse_all(self.recipe.evaluation.strategy)

    @property
    def at_cost(self) -> bool:
        """Whether votes are to be drawn that cost as much as the strategies."""
        are_comparable = all(p.extract_answer is not None for p in self.problems)
        return self.drafts is None and needs_equal_cost(self.asked) and are_comparable

    @property
    def strategies(self) -> list[Strategy]:
        """Those asked for, and the votes that go with merged answers."""
        return [*self.asked, *control_votes(self.asked)] if self.at_cost else self.asked

    def check(self) -> None:
        """Warn of what the numbers will not tell. Raises UserError for what the strategies lack."""
        recipe, plan = self.recipe, self.recipe.evaluation
        check_needs(self.strategies, self.problems, bool(recipe.judge.path or recipe.judge.endpoint.url))
        self.spec.check()
        for s in self.asked:
            if "verifier" in s.needs:
                warn(
                    f"{s.name} sees which answers are wrong, by the verifier: do not compare it with others that do not"
                )
        if needs_equal_cost(self.asked) and not self.at_cost:
            why = "drafts are given" if self.drafts is not None else "this verifier does not say what an answer is"
            warn(f"{why}: no votes of equal cost, and none for a refinement gap")
        warn_of_repeats(recipe, self.drafts is not None)
        n_refining = sum(s.stages[-1][0] == "refine" for s in self.asked)
        if plan.n_refine > 1 and not n_refining and plan.strategy != "solve":
            warn("evaluation.n_refine is for strategies that end with refine, and has no effect here")

    @property
    def spec(self) -> EvaluationSpec:
        plan = self.recipe.evaluation
        return EvaluationSpec(self.problems, self.strategies, plan.n, plan.batch_size, self.drafts)


def evaluate(
    model: str,
    on: Sequence[str],
    settings: Sequence[str],
    recipe: str,
    out: Path | None,
    resume: bool,
    drafts: Path | None,
    named: DraftColumns,
) -> None:
    """Run an evaluation and print its tables; everything is in the folder."""
    if resume and out is None:
        raise UserError("--resume goes on with an evaluation: say which with --out DIR")
    folder = out or new_folder("eval")
    if not resume and any((folder / name).exists() for name in ("config.toml", FILE)):
        raise UserError(
            f"{folder} holds an evaluation or a run already; go on with it by --resume, or choose another --out DIR"
        )
    resolved = resolve(model, on, settings, recipe, drafts)
    problems, given = _problems(resolved, on, drafts, named)
    job = Job(resolved, problems, given, folder, f"--out {shlex.quote(str(folder))} --resume")
    job.check()
    start = time.perf_counter()
    answers = run(job, open_policy(resolved), resume)
    report(model, job, answers, time.perf_counter() - start)


def run(job: Job, policy: Policy, resume: bool) -> list[Answer]:
    """All answers of a job, with a progress bar; they are in its folder's answers.jsonl."""
    setup = open_setup(job.recipe, policy)
    folder = RunFolder(job.folder)
    if resume:
        folder.check_settings(to_toml(job.recipe), add_new_defaults)
    else:
        folder.create(to_toml(job.recipe))
    file = resumable_answers(job.folder / FILE)
    try:
        answers = _evaluated("evaluate", setup, job.spec, file)
        votes = votes_at_equal_cost(answers, job.strategies) if job.at_cost else []
        if votes:
            answers += _evaluated("equal votes", setup, replace(job.spec, strategies=votes), file)
        file.close()
    except RecordMismatchError:
        raise
    except (UserError, KeyboardInterrupt):
        if (job.folder / FILE).exists():
            print_resume_hint(job.folder, job.again)
        elif not resume:
            folder.discard()  # nothing was answered (a wrong name, a wrong key): the corrected command may use it
        raise
    return answers


def _evaluated(label: str, setup: Setup, spec: EvaluationSpec, file: Resumable) -> list[Answer]:
    with progress() as bar:
        task = bar.add_task(label, total=len(spec.problems), note="")
        return run_evaluation(setup, spec, file, lambda done: bar.update(task, completed=done))


def report(model: str, job: Job, answers: list[Answer], seconds: float) -> None:
    """Print the tables and write summary.json, and the curves where strategies are compared at cost."""
    result = compute_results(answers, job.strategies, job.recipe.evaluation.k)
    numbers = asdict(result)
    record = {
        "model": model,
        "suites": numbers["suites"],
        "mean": numbers["mean"],
        "graded_by": graded_by(job.recipe),
        "seed": job.recipe.seed,
        "seconds": seconds,
    }
    write_text(job.folder / "summary.json", to_json(record, indent=1) + "\n")
    print_result(tables(model, result))
    print_note(f"answers: {job.folder / FILE}\nnumbers: {job.folder / 'summary.json'}")
    for number, (suite, own) in enumerate(result.suites.items(), start=1):
        drawn = strategy_curves(f"{model}, {suite}", own) if result.at_equal_cost else ""
        if drawn:
            file = job.folder / curve_name(suite, number if len(result.suites) > 1 else 0)
            write_text(file, drawn)
            print_note(f"curve: {file}")


def curve_name(suite: str, number: int) -> str:
    """The file of a suite's curve; 0 where it is the only one."""
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in suite)
    return f"curve-{number}-{safe}.svg" if number else "curve.svg"


def graded_by(recipe: Recipe) -> dict[str, str]:
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
    from rethink.policies.endpoint.policy import EndpointPolicy

    sampling, overlong = recipe.evaluation.sampling, recipe.sampler.overlong_prompts
    return EndpointPolicy(endpoint, recipe.model.path, sampling, overlong=overlong, warn=warn)


def open_setup(recipe: Recipe, policy: Policy) -> Setup:
    """What strategies work with, as the recipe says."""
    from rethink.build import build_prompts, has_model, open_auxiliary_model

    plan, settings = recipe.evaluation, recipe.judge
    judge: Policy | None = None
    if any("judge" in s.needs for s in parse_all(plan.strategy)):
        if settings.path == "self":
            warn("the model rates its own answers; name a judge with judge.path=... for an opinion from outside")
            judge = policy
        elif has_model(settings):
            judge = open_auxiliary_model(recipe, settings)
    return make_setup(policy, build_prompts(recipe, recipe.seed), plan, judge)


def resolve(model: str, on: Sequence[str], settings: Sequence[str], recipe: str, drafts: Path | None = None) -> Recipe:
    """The recipe of an evaluation. Raises UserError where it names no problems."""
    source = [f"evaluation.problems.source={toml_string(','.join(on))}"] if on else []
    if drafts is not None and not on:
        source = [f"evaluation.problems.source={toml_string(str(drafts))}"]
    resolved = load_recipe(recipe or None, [f"model.path={toml_string(model)}", *source, *settings])
    if resolved.evaluation.problems is None:
        raise UserError("no problems: name a suite or a file with --on, or drafts with --drafts")
    path = model.startswith((".", "/", "~")) or model.count("/") > 1  # names on the hub have one slash at most
    if path and not resolved.endpoint.url and not Path(model).is_dir():
        raise UserError(f"no model folder {model}")
    return resolved


def warn_of_repeats(recipe: Recipe, given: bool = False) -> None:
    """Several greedy answers to one prompt tell no more than one."""
    plan = recipe.evaluation
    strategies = parse_all(plan.strategy)
    several = [s.name for s in strategies if s.n_solve * plan.n > 1]
    if several and not given and plan.sampling.temperature == 0:
        warn(
            f"{', '.join(several)}: greedy answers to one prompt are all the same; set evaluation.sampling.temperature"
        )
    later = plan.refine_sampling or plan.sampling
    if plan.n_refine > 1 and later.temperature == 0 and any(s.stages[-1][0] == "refine" for s in strategies):
        warn("greedy refinements of one answer are all the same; set evaluation.refine_sampling.temperature")


def _problems(
    recipe: Recipe, on: Sequence[str], drafts: Path | None, named: DraftColumns
) -> tuple[list[Problem], Drafts | None]:
    source = recipe.evaluation.problems
    assert source is not None
    if drafts is None:
        return load_problems(source, recipe.seed, "test"), None
    file = drafts / FILE if drafts.is_dir() else drafts
    own = is_answers_file(file)
    if drafts.is_dir() and not own:
        raise UserError(f"{drafts} holds no answers of an evaluation that this version can read")
    if not on:
        if own:
            return drafts_from_answers(file, _origin(file, source), source.limit)
        return read_drafts(file, source, named, None, recipe.seed)
    asked = load_problems(source, recipe.seed, "test")
    problems, given = drafts_from_answers(file, asked) if own else read_drafts(file, source, named, asked)
    if len(problems) < len(asked):
        warn(f"{len(asked) - len(problems)} of {len(asked)} problems have no draft in {file} and are left out")
    return problems, given


def _origin(file: Path, asked: ProblemSource) -> list[Problem]:
    """The problems of the evaluation that wrote a file, with what is set otherwise now."""
    places = (file.parent, file.resolve().parent.parent)  # an evaluation's folder; a training run's, above its eval/
    configs = [place / "config.toml" for place in places if (place / "config.toml").is_file()]
    if not configs:
        raise UserError(f"{file} has no config.toml beside it that tells its problems; name them with --on")
    origin = load_recipe(configs[0])
    usual = ProblemSource()
    changed: Record = {"extraction": asked.extraction}
    for f in fields(asked):
        value = getattr(asked, f.name)
        if f.name not in ("source", "limit") and value != getattr(usual, f.name):
            changed[f.name] = value
    return load_problems(replace(origin.evaluation.problems or usual, **changed), origin.seed, "test")
