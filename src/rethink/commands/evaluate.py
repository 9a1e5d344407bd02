"""`rethink eval`: answer problems by strategies, and report whether refinement helped and what it cost."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from rethink.commands.console import (
    new_folder,
    print_json,
    print_note,
    print_result,
    print_resume_hint,
    progress,
    toml_string,
    warn,
)
from rethink.commands.tables import tables
from rethink.commands.typed_settings import refuse_contradictions, refuse_with_drafts, refuse_without_effect
from rethink.errors import UserError
from rethink.evaluation.answers import Answer, is_answers_file, unmeasured
from rethink.evaluation.baselines import kind_of_baseline, missing_baselines
from rethink.evaluation.drafts import DraftColumns, drafts_from_answers, read_drafts, with_enough_drafts
from rethink.evaluation.evaluate import Drafts, EvaluationSpec, make_setup, resumable_answers, run_evaluation
from rethink.evaluation.gap import control_votes
from rethink.evaluation.outcomes import mostly_unrefined
from rethink.evaluation.results import compute_results, needs_equal_cost
from rethink.evaluation.unchanged import ANSWERS_FILE, SUMMARY_FILE, describe_file, refuse_changed_on_resume
from rethink.grading.sandbox.lockdown import lesser_guard
from rethink.jsonl import Record, RecordMismatchError, Resumable, make_folder, to_json, write_text
from rethink.lock import Lock
from rethink.models import bundled
from rethink.policies.base import Policy
from rethink.problems.answer_format import read_after
from rethink.problems.rewards import VERDICT_ONLY
from rethink.problems.source import load_problems
from rethink.recipe import Recipe, add_new_defaults, load_recipe, name_checkpoints, to_toml
from rethink.report.chart import strategy_curves
from rethink.run_folder import RunFolder
from rethink.settings import ProblemSource
from rethink.strategies import Setup, Strategy, check_needs, parse_all
from rethink.training import problem_hash
from rethink.types import Problem
from rethink.version import __version__

KEPT_FILE = "replies.partial.jsonl"
"""The file that holds an endpoint's replies until the evaluation is complete."""


@dataclass(frozen=True)
class Job:
    """One evaluation: recipe, problems, given drafts if any, output folder, and the options that resume it."""

    recipe: Recipe
    problems: list[Problem]
    drafts: Drafts | None
    folder: Path
    resume_options: str

    @property
    def requested(self) -> list[Strategy]:
        """The strategies that the recipe names."""
        return parse_all(self.recipe.evaluation.strategy)

    @property
    def at_equal_cost(self) -> bool:
        """True if the strategies are compared with baselines of the same cost."""
        return self.drafts is None and needs_equal_cost(self.requested)

    @property
    def can_vote(self) -> bool:
        """True if the answers to all problems can be compared."""
        return all(p.extract_answer is not None for p in self.problems)

    @property
    def strategies(self) -> list[Strategy]:
        """The requested strategies, and the votes that merged answers are compared with."""
        votes = control_votes(self.requested) if self.at_equal_cost and self.can_vote else []
        return [*self.requested, *votes]

    @property
    def spec(self) -> EvaluationSpec:
        plan = self.recipe.evaluation
        return EvaluationSpec(self.problems, self.strategies, plan.n, plan.batch_size, self.drafts)

    def check(self) -> None:
        """Warn of settings that make numbers misleading. Raise UserError if a strategy lacks something it needs."""
        plan = self.recipe.evaluation
        check_strategies(self.recipe, self.strategies, self.problems)
        self.spec.check()
        for s in self.requested:
            if "verifier" in s.needs:
                warn(f"{s.name} uses the verifier to see which answers are wrong: compare it only with others that do")
        if needs_equal_cost(self.requested) and self.drafts is not None:
            warn("drafts are given: no comparison at equal cost, and no refinement gap")
        elif self.at_equal_cost and not self.can_vote and any(kind_of_baseline(s) == "vote" for s in self.requested):
            warn(
                "this verifier does not extract answers: no comparison with votes of equal cost, and no refinement gap"
            )
        warn_of_repeats(self.recipe, self.drafts is not None, self.at_equal_cost)
        n_refining = sum(s.stages[-1][0] == "refine" for s in self.requested)
        if plan.n_refine > 1 and not n_refining and plan.strategy != "solve":
            warn("evaluation.n_refine has no effect: no strategy ends with refine")


def evaluate(
    model: str,
    on: Sequence[str],
    settings: Sequence[str],
    recipe: str,
    out: Path | None,
    resume: bool,
    drafts: Path | None,
    columns: DraftColumns,
    as_json: bool = False,
) -> None:
    """Run an evaluation, write its folder and print its tables, or summary.json.

    Raise UserError, at the end, if no reply was graded."""
    if resume and out is None:
        raise UserError("--resume needs the folder of the evaluation: --out DIR")
    if drafts is None:
        _refuse_draft_columns(columns)
    if out is not None and not resume:
        RunFolder(out).check_unused()
    resolved = resolve(model, on, settings, recipe, drafts)
    problems, given = _load_problems(resolved, on, drafts, columns)
    problems = read_after(problems, resolved.model.thinking)
    if given is not None:
        problems = with_enough_drafts(problems, given, n_drafts_needed(resolved))
    job = Job(resolved, problems, given, out or Path("runs"), "")
    job.check()
    folder = out or new_folder("eval")  # only now: a refused command leaves nothing
    job = replace(job, folder=folder, resume_options=f"--out {shlex.quote(str(folder))} --resume")
    if lesser := lesser_guard():
        warn(lesser)
    start = time.perf_counter()
    with Lock(folder, warn) if folder.is_dir() else nullcontext():  # before the model is loaded; `run` locks new ones
        answers = run(job, partial(open_policy, resolved), resume)
        report(model, job, answers, time.perf_counter() - start, as_json)
    for alarm in unmeasured(answers):
        raise UserError(alarm)
    for alarm in mostly_unrefined(answers):
        warn(alarm)


def run(job: Job, open_: Callable[[], Policy], resume: bool) -> list[Answer]:
    """Run an evaluation with a progress bar and return its answers; they are also in answers.jsonl of its folder."""
    kept = job.folder / KEPT_FILE
    if not resume:
        setup = open_keeping_setup(job.recipe, open_(), kept)
        make_folder(job.folder)
    folder, problems = RunFolder(job.folder), {"evaluation": job.problems}
    with Lock(job.folder, warn) as lock:
        if resume:
            folder.check_settings(to_toml(job.recipe), add_new_defaults)
            problem_hash.check_unchanged(folder, problems, VERDICT_ONLY, "For the new ones, choose another --out DIR")
            refuse_changed_on_resume(job.folder / ANSWERS_FILE, warn)
            setup = open_keeping_setup(job.recipe, open_(), kept)  # what is refused loads no model
        else:
            before = folder.create(to_toml(job.recipe))
            problem_hash.write(folder, problems)
            kept.unlink(missing_ok=True)
        try:
            answers = _answers(job, setup)
            kept.unlink(missing_ok=True)
            return answers
        except RecordMismatchError:
            raise
        except (UserError, KeyboardInterrupt):
            if (job.folder / ANSWERS_FILE).exists() or kept.exists():
                print_resume_hint(job.folder, job.resume_options)
            elif not resume:
                lock.release()
                folder.discard(before)  # nothing was answered (a wrong key, say): the next try may use the folder
            raise


def _answers(job: Job, setup: Setup) -> list[Answer]:
    """Return the answers of the strategies, then those of the baselines that they are compared with."""
    file = resumable_answers(job.folder / ANSWERS_FILE)
    answers = _run_with_progress("evaluate", setup, job.spec, file)
    while job.at_equal_cost:
        baselines = missing_baselines(answers, job.strategies, job.can_vote)
        if not baselines:
            break
        answers += _run_with_progress("equal cost", setup, replace(job.spec, strategies=baselines), file)
    file.close()
    return answers


def _run_with_progress(label: str, setup: Setup, spec: EvaluationSpec, file: Resumable) -> list[Answer]:
    with progress() as bar:
        task = bar.add_task(label, total=len(spec.problems), note="")
        return run_evaluation(setup, spec, file, lambda done: bar.update(task, completed=done))


def report(model: str, job: Job, answers: list[Answer], seconds: float, as_json: bool = False) -> None:
    """Print the tables, or their numbers as JSON. Write summary.json and curves of strategies compared at equal cost."""
    result = compute_results(answers, job.strategies, job.recipe.evaluation.k)
    numbers = asdict(result)
    weights = origin_of_weights(job.recipe, job.recipe.model.path)
    record = {
        "model": model,
        "weights": weights,
        "suites": numbers["suites"],
        "mean": numbers["mean"],
        "graded_by": graded_by(job.recipe),
        "seed": job.recipe.seed,
        "answers": describe_file(job.folder / ANSWERS_FILE),
        "seconds": seconds,
    }
    write_text(job.folder / SUMMARY_FILE, to_json(record, indent=1) + "\n")
    if weights:
        model = f"{model} ({weights})"
    if as_json:
        print_json({"folder": str(job.folder), **record})
    else:
        print_result(tables(model, result))
    to_read = "" if as_json else f"\nto read the answers: rethink view {shlex.quote(str(job.folder))}"
    print_note(f"answers: {job.folder / ANSWERS_FILE}\nnumbers: {job.folder / SUMMARY_FILE}{to_read}")
    for number, (suite, own) in enumerate(result.suites.items(), start=1):
        svg = strategy_curves(f"{model}, {suite}", own) if result.at_equal_cost else ""
        if svg:
            file = job.folder / curve_name(suite, number if len(result.suites) > 1 else 0)
            write_text(file, svg)
            print_note(f"curve: {file}")


def curve_name(suite: str, number: int) -> str:
    """Return the file name of a suite's curve; `number` is 0 for a single suite."""
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in suite)
    return f"curve-{number}-{safe}.svg" if number else "curve.svg"


def origin_of_weights(recipe: Recipe, model: str) -> str:
    """Return what figures of a model should say of its weights: that they were quantized; "" otherwise.

    Nothing is known of a model behind the recipe's endpoint."""
    if recipe.endpoint.url:
        return ""
    from rethink.models.gguf.folder import origin

    return origin(bundled.resolve(model))


def graded_by(recipe: Recipe) -> dict[str, str]:
    """Return what the verdicts depend on: scores of different verifiers are not comparable."""
    problems = recipe.evaluation.problems or ProblemSource()
    return {
        "rethink": __version__,
        "mpmath": version("mpmath"),
        "verifier": problems.verifier or "the suite's own",
        "extraction": problems.extraction,
    }


def open_policy(recipe: Recipe) -> Policy:
    """Return the policy of a recipe's model, loaded here or served by its endpoint."""
    endpoint = recipe.endpoint
    if not endpoint.url:
        from rethink.build import local_policy, open_model

        policy = local_policy(recipe, open_model(recipe.model, recipe.seed), recipe.evaluation.sampling)
        return policy.take_weights()
    from rethink.policies.endpoint.policy import EndpointPolicy

    sampling, overlong = recipe.evaluation.sampling, recipe.sampler.overlong_prompts
    return EndpointPolicy(endpoint, recipe.model.path, sampling, overlong=overlong, warn=warn)


def open_keeping_setup(recipe: Recipe, policy: Policy, file: Path, settings: str = "") -> Setup:
    """Return `open_setup`, with replies of endpoints written to a file as they come (see `Journal`), also a judge's."""
    from rethink.policies.endpoint.journal import Journal

    setup = open_setup(recipe, Journal(policy, file, settings) if recipe.endpoint.url else policy)
    if setup.judge is None or not recipe.judge.endpoint.url:
        return setup
    return replace(setup, judge=Journal(setup.judge, file, settings, source="judge"))


def open_setup(recipe: Recipe, policy: Policy) -> Setup:
    """Return the setup of strategies, with the recipe's prompts and, if a strategy needs it, its judge."""
    from rethink.build import build_prompts, has_model, open_auxiliary_model

    plan, settings = recipe.evaluation, recipe.judge
    judge: Policy | None = None
    if any("judge" in s.needs for s in parse_all(plan.strategy)):
        if settings.path == "self":
            warn("the model rates its own answers; for an independent judge, name another model with judge.path=...")
            judge = policy
        elif has_model(settings):
            judge = open_auxiliary_model(recipe, settings, warn)
    return make_setup(policy, build_prompts(recipe, recipe.seed), plan, judge)


def resolve(model: str, on: Sequence[str], settings: Sequence[str], recipe: str, drafts: Path | None = None) -> Recipe:
    """Return the recipe of an evaluation. Raise UserError if it names no problems, or a model that is not there."""
    source = [f"evaluation.problems.source={toml_string(','.join(on))}"] if on else []
    if drafts is not None and not on:
        source = [f"evaluation.problems.source={toml_string(str(drafts))}"]
    refuse_contradictions({"model.path": model, "evaluation.problems.source": ",".join(on)}, settings)
    resolved = load_recipe(recipe or None, [f"model.path={toml_string(model)}", *source, *settings])
    if resolved.evaluation.problems is None or not resolved.evaluation.problems.source:
        raise UserError("no problems: name a suite or a file with --on, or give answers with --drafts")
    refuse_without_effect(settings, resolved)
    if drafts is not None:
        refuse_with_drafts(settings)
    return name_checkpoints(resolved, print_note)


def check_strategies(recipe: Recipe, strategies: Sequence[Strategy], problems: Sequence[Problem]) -> None:
    """Raise UserError if a strategy needs a judge or extracted answers that this recipe does not have, or if the judge
    takes no images and problems have some."""
    check_needs(strategies, problems, bool(recipe.judge.path or recipe.judge.endpoint.url))
    if any("judge" in strategy.needs for strategy in strategies) and any(problem.all_images for problem in problems):
        from rethink.build import check_auxiliary_model

        check_auxiliary_model("judge", recipe.judge, problems)


def warn_of_repeats(recipe: Recipe, given: bool = False, at_equal_cost: bool = False) -> None:
    """Warn if several samples of one prompt are greedy, and therefore equal. `given`: the drafts are not sampled."""
    plan = recipe.evaluation
    strategies = parse_all(plan.strategy)
    repeating = [s.name for s in strategies if s.n_solve * plan.n > 1 or "fresh-retry" in dict(s.stages)]
    equal = "greedy answers to one prompt are all equal"
    remedy = "set evaluation.sampling.temperature"
    if not given and plan.sampling.temperature == 0:
        if repeating:
            warn(f"{', '.join(repeating)}: {equal}, so pass@k and fresh answers say nothing; {remedy}")
        elif at_equal_cost:
            warn(f"{equal}, so every baseline of equal cost is one answer; {remedy}")
    refine_sampling = plan.refine_sampling or plan.sampling
    refines = any(s.stages[-1][0] == "refine" for s in strategies)
    if plan.n_refine > 1 and refine_sampling.temperature == 0 and refines:
        warn("greedy refinements of one answer are all equal; set evaluation.refine_sampling.temperature")


def _load_problems(
    recipe: Recipe, on: Sequence[str], drafts: Path | None, columns: DraftColumns
) -> tuple[list[Problem], Drafts | None]:
    source = recipe.evaluation.problems
    assert source is not None
    if drafts is None:
        return load_problems(source, recipe.seed, "test"), None
    is_run = drafts.is_dir() and any((drafts / name).exists() for name in (ANSWERS_FILE, "config.toml"))
    file = drafts / ANSWERS_FILE if is_run else drafts
    is_evaluation = is_answers_file(file)
    if is_run and not is_evaluation:
        raise UserError(f"{drafts} holds no answers that this version can read")
    if not on:
        if is_evaluation:
            return drafts_from_answers(file, _original_problems(file, source), source.limit)
        return read_drafts(file, source, columns, None, recipe.seed)
    requested = load_problems(source, recipe.seed, "test")
    if is_evaluation:
        problems, given = drafts_from_answers(file, requested)
    else:
        problems, given = read_drafts(file, source, columns, requested)
    if len(problems) < len(requested):
        n_missing = len(requested) - len(problems)
        warn(f"{n_missing} of {len(requested)} problems have no draft in {file} and are skipped")
    return problems, given


def n_drafts_needed(recipe: Recipe) -> int:
    """Return the number of drafts per problem that the recipe's strategies begin with."""
    return max(1, *(strategy.n_solve for strategy in parse_all(recipe.evaluation.strategy)))


def _refuse_draft_columns(columns: DraftColumns) -> None:
    """Raise UserError if an option names a column of --drafts, and there are none."""
    for f in fields(DraftColumns):
        value = getattr(columns, f.name)
        if value != f.default:
            instead = "" if f.name == "response" else f"; write evaluation.problems.{f.name}={value}"
            raise UserError(f"--{f.name} {value} has no effect without --drafts{instead}")


def _original_problems(file: Path, requested: ProblemSource) -> list[Problem]:
    """Return the problems of the evaluation that wrote a file, with the settings that this command changes."""
    folders = (file.parent, file.resolve().parent.parent)  # of an evaluation; of a run, whose file is in eval/
    configs = [folder / "config.toml" for folder in folders if (folder / "config.toml").is_file()]
    if not configs:
        raise UserError(f"{file} has no config.toml next to it that names its problems; name them with --on")
    original = load_recipe(configs[0])
    defaults = ProblemSource()
    changed: Record = {"extraction": requested.extraction}
    for f in fields(requested):
        value = getattr(requested, f.name)
        if f.name not in ("source", "limit") and value != getattr(defaults, f.name):
            changed[f.name] = value
    return load_problems(replace(original.evaluation.problems or defaults, **changed), original.seed, "test")
