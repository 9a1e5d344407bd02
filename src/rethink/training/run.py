"""Open a run: load everything that a recipe names, for a new run or from the last checkpoint."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from rethink.build import (
    build_prompts,
    has_model,
    local_policy,
    open_auxiliary_model,
    open_model,
)
from rethink.distributed import (
    CommonError,
    Ranks,
    check_same_software,
    connect,
    is_restart,
    launch_id,
    open_sampling_group,
)
from rethink.errors import UserError
from rethink.jsonl import make_folder, write_text
from rethink.methods.actors import Actors, Method
from rethink.policies.base import Policy, Role, TrainedPolicy
from rethink.policies.data_parallel import DataParallelPolicy
from rethink.problems.rewards import VERDICT_ONLY, Grader
from rethink.recipe import Recipe, name_checkpoints, to_toml
from rethink.run_folder import RunFolder
from rethink.seeds import stable_hash
from rethink.training import checkpoint, logs, problem_hash
from rethink.training.check import Inputs, check_run
from rethink.training.meter import Meter, MeteredPolicy
from rethink.training.open_trainer import open_policy_and_trainer, why_unsupported
from rethink.training.problem_stream import ProblemStream
from rethink.training.run_start import RunLock, begin, check_can_begin, checkpoint_to_resume
from rethink.training.trackers import Trackers
from rethink.training.trainer import Trainer
from rethink.types import Problem

NOTHING_YET = checkpoint.Counters(0, 0, 0, 0)


@dataclass
class Run:
    """A run, as `loop.train` needs it. `n_batches` counts finished problem batches, and `stream` is the position in the
    problems after them. Set `interrupted` to stop after the current batch. `sampled_ahead` is what
    `training.sampling_ahead` has sampled for later ones, and `before_save` completes it. `saved` is the version of the
    newest checkpoint, and `evaluation_due` says that the held-out evaluation of the weights comes next."""

    recipe: Recipe
    folder: RunFolder
    method: Method
    problems: list[Problem]
    held_out: list[Problem]
    policy: TrainedPolicy
    trainer: Trainer
    lock: RunLock
    grader: Grader = VERDICT_ONLY
    n_batches: int = 0
    interrupted: bool = False
    state: dict[str, Any] = field(default_factory=dict)
    stream: ProblemStream = field(init=False)
    roles: dict[str, Policy] = field(default_factory=dict)
    sampled_ahead: list[dict[str, Any]] = field(default_factory=list)
    before_save: Callable[[], None] = lambda: None
    saved: int | None = None
    evaluation_due: bool = False
    trackers: Trackers = field(default_factory=Trackers)

    def __post_init__(self) -> None:
        self.stream = ProblemStream(self.problems, self.recipe.seed, self.recipe.problems_per_batch)

    def role(self, name: Role) -> Policy:
        """Return a policy that is not trained, opened on first use: the start weights, the reference, or the recipe's
        teacher or judge."""
        if name == "reference" and not self.recipe.training.reference_every:
            return self.role("initial")
        if name not in self.roles:
            policy = _open_role(self.recipe, name)
            if name == "reference":
                refuse_moving_role(self.recipe)
                policy = local_policy(self.recipe, self.trainer.reference.model, self.recipe.sampling)
            elif policy is None:
                policy = local_policy(self.recipe, self.trainer.initial, self.recipe.sampling)
            self.roles[name] = policy if self.ranks.size == 1 else DataParallelPolicy(policy, self.ranks)
        return self.roles[name]

    @property
    def ranks(self) -> Ranks:
        """The processes of this run."""
        return self.trainer.engine.ranks

    def pass_seed(self, batch: int) -> int:
        """Return the seed of a batch's prompts, which depends on the run's seed and the pass over the data, if no earlier
        batch was filled up."""
        return self.stream.at_batch(batch).pass_seed

    def problems_of_batch(self, number: int) -> list[Problem]:
        """Return the problems of a batch, if no earlier batch was filled up (`problem_stream.ProblemStream`)."""
        return self.stream.at_batch(number).next_batch()

    def actors(self, number: int) -> Actors:
        """Return what the method of this run needs for a batch: policy, prompts with the batch's seed, and grader."""
        prompts = build_prompts(self.recipe, self.pass_seed(number))
        return Actors(self.policy, prompts, self.grader, self.role, self.state, self.ranks.sampling_group)

    def save(self, interim: bool = False) -> Path:
        """Write a checkpoint and return its path. The next checkpoint replaces an interim one."""
        self.before_save()
        counters = checkpoint.Counters(
            self.n_batches,
            self.trainer.version,
            self.trainer.n_optimizer_steps,
            self.policy.n_overlong,
            self.state,
            self.sampled_ahead,
            self.evaluation_due,
            interim,
            self.ranks.on_rank0(lambda: logs.measure(self.folder)),
            self.stream.position,
        )
        path = checkpoint.save(self.folder.checkpoints, self.trainer, counters, self.recipe.keep_checkpoints)
        self.saved = self.trainer.version
        return path

    def newest_checkpoint(self) -> Path | None:
        """Return the path of the newest valid checkpoint, or None."""
        return checkpoint.newest(self.folder.checkpoints, lambda _: None)


def open_run(recipe: Recipe, *, resume: bool = False, warn: Callable[[str], None] = print) -> Run:
    """Load everything that the recipe names, and create its run folder or reopen it with `resume`.

    Raise UserError, before anything is written, for settings or data that do not fit. `warn` gets warnings as text.

    >>> import rethink
    >>> recipe = rethink.load_recipe("demo-grpo", ["out=runs/open-run", "updates=2", "evaluation.problems.limit=5"])
    >>> run = rethink.open_run(recipe)
    >>> len(run.problems_of_batch(0)), run.trainer.version
    (32, 0)
    """
    if not isinstance(recipe, Recipe):
        raise UserError(f"open_run needs a recipe: open_run(load_recipe({recipe!r}))")
    recipe = name_checkpoints(recipe, warn)
    inputs = check_run(recipe)
    ranks = _connect(recipe)
    folder = RunFolder(Path(recipe.out))
    # After a failure, torchrun restarts the ranks: resume the run of the same launch, but refuse any other.
    resume = resume or ranks.on_rank0(lambda: is_restart() and folder.was_launched_by(launch_id()))
    lock = RunLock(folder, warn)
    try:
        ranks.on_rank0(lock.take)
        return _open_in_folder(recipe, inputs, ranks, folder, lock, resume, warn)
    except BaseException:
        lock.release()
        raise


def _open_in_folder(
    recipe: Recipe,
    inputs: Inputs,
    ranks: Ranks,
    folder: RunFolder,
    lock: RunLock,
    resume: bool,
    warn: Callable[[str], None],
) -> Run:
    """Return the run in this folder, which rank 0 has locked."""
    all_problems = {problem_hash.TRAINING: inputs.problems, "held-out": inputs.held_out}
    found = ranks.on_rank0(lambda: _checkpoint_to_start_from(folder, recipe, resume, all_problems, inputs.grader, warn))
    policy, trainer = open_policy_and_trainer(recipe, found, ranks, warn)
    run = Run(recipe, folder, inputs.method, inputs.problems, inputs.held_out, policy, trainer, lock, inputs.grader)
    counters = _restore(run, found) if found is not None else NOTHING_YET
    policy.publish(trainer.version)
    check_vllm_model(run)
    if resume:
        ranks.on_rank0(lambda: _reopen(run, counters, found, warn))
    else:
        ranks.on_rank0(lambda: begin(folder, recipe, all_problems, lock, warn))
        if ranks.size > 1:
            ranks.on_rank0(lambda: folder.record_launch(launch_id()))
    ranks.on_all_ranks(folder.check_visible)
    if ranks.is_rank0:
        run.trackers = Trackers(recipe.trackers, folder.path, tomllib.loads(to_toml(recipe)), warn)
    at_start = recipe.evaluation.at_start and bool(inputs.held_out) and trainer.version == 0
    run.evaluation_due = ranks.on_rank0(
        lambda: (counters.evaluation_due or at_start) and not logs.has_evaluation(folder, trainer.version)
    )
    return run


def _checkpoint_to_start_from(
    folder: RunFolder,
    recipe: Recipe,
    resume: bool,
    problems: Mapping[str, Sequence[Problem]],
    grader: Grader,
    warn: Callable[[str], None],
) -> Path | None:
    """Return the checkpoint to resume from; None if there is none. Raise UserError if the run cannot start."""
    if not resume:
        check_can_begin(folder)
        return None
    checkpoint.put_back(folder.checkpoints)
    found = checkpoint_to_resume(folder, recipe, warn)
    problem_hash.check_unchanged(folder, problems, grader)
    return found


def _restore(run: Run, found: Path) -> checkpoint.Counters:
    """Load optimizer and counters from a checkpoint, and return the counters."""
    counters = checkpoint.load(found, run.trainer)
    run.n_batches = counters.n_batches
    run.policy.n_overlong = counters.n_overlong
    run.state = counters.state
    stream = run.stream.at_batch(counters.n_batches)
    if counters.position is not None:  # the checkpoint of an older version has none
        stream.pass_number, stream.n_used = counters.position
    run.stream = stream
    run.sampled_ahead = counters.sampled_ahead
    run.saved = counters.n_updates
    return counters


def _reopen(run: Run, counters: checkpoint.Counters, found: Path | None, warn: Callable[[str], None]) -> None:
    """Store the settings that have changed, rewind the logs, and remove what a killed process left."""
    write_text(run.folder.path / "config.toml", to_toml(run.recipe))
    make_folder(run.folder.path / "eval")
    logs.rewind(run.folder, run.n_batches, counters.logs, warn)
    if found is not None:
        checkpoint.tidy(found, run.recipe.keep_checkpoints)


def _connect(recipe: Recipe) -> Ranks:
    """Return the processes of this run. Raise UserError if they differ in software or recipe, or do not fit the recipe."""
    ranks = connect(recipe.distributed.timeout_s)
    if ranks.size > 1:
        check_same_software(ranks, to_toml(recipe))
    refusal = why_unsupported(recipe, ranks.size)
    if refusal:
        raise CommonError(refusal)
    if recipe.async_level:
        open_sampling_group(ranks, recipe.distributed.timeout_s)
    return ranks


def refuse_moving_role(recipe: Recipe) -> None:
    """Raise UserError if the reference would move while a method uses it."""
    if recipe.async_level:
        raise UserError(
            f"the method {recipe.method['name']} asks the reference model, which moves (training.reference_every) while "
            "later batches are sampled; set async_level = 0 or training.reference_every = 0"
        )


def check_vllm_model(run: Run) -> None:
    """Raise UserError if vLLM serves another model than the one in training."""
    if run.recipe.sampler.engine == "vllm":
        from rethink.policies.vllm.start import check_log_probs

        n_servers = max(1, len(run.recipe.sampler.urls)) * run.ranks.size
        prompts = build_prompts(run.recipe, run.recipe.seed).ask(problems_to_compare(run.problems, n_servers))
        check_log_probs(run.policy, run.recipe.sampling, prompts, run.trainer.log_probs)


def problems_to_compare(problems: Sequence[Problem], n_servers: int) -> list[Problem]:
    """Return the first problems, four for each server. If some have images, at most three have none, and those with images
    may be there more than once: so of any four, which one server may get, one has images."""
    n = 4 * n_servers
    shown = [problem for problem in problems if problem.all_images][:n]
    if not shown:
        return list(problems[:n])
    others = [problem for problem in problems if not problem.all_images][:3]
    return [*others, *islice(cycle(shown), n - len(others))]


def open_actors(recipe: Recipe, meter: Meter) -> Actors:
    """Return the actors of a method that prepares data. The policy has the start weights and is not trained."""
    policy = local_policy(recipe, open_model(recipe.model, recipe.seed), recipe.sampling)

    def role(name: Role) -> Policy:
        return MeteredPolicy(_open_role(recipe, name) or policy, meter, role=True)

    prompts = build_prompts(recipe, stable_hash(recipe.seed, "prepare"))
    return Actors(MeteredPolicy(policy, meter), prompts, VERDICT_ONLY, cache(role))


def _open_role(recipe: Recipe, name: Role) -> Policy | None:
    """Return the policy of the recipe's teacher or judge. None stands for the start weights: a teacher without a model, or
    the judge "self". Raise UserError for a judge without a model."""
    if name == "judge" and not has_model(recipe.judge):
        raise UserError('the method asks a judge, but the recipe names none: set judge.path, or judge.path = "self"')
    models = {"teacher": recipe.teacher, "judge": recipe.judge}
    if name not in models or not has_model(models[name]) or models[name].path == "self":
        return None
    return open_auxiliary_model(recipe, models[name])
