"""A run: everything a recipe names, put together; new, or as it was at the last checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from transformers.utils import logging

from rethink.config import Recipe, to_toml
from rethink.demo import MODELS
from rethink.errors import UserError
from rethink.evaluate.look import TWO_LOOKS
from rethink.folder import RunFolder
from rethink.methods.actors import Actors, Method, Policy, judge
from rethink.model import LanguageModel, load_model, pick_dtype
from rethink.policies.local import LocalPolicy
from rethink.problems.source import load_problems, refuse_overlap
from rethink.prompts import Prompts
from rethink.ranks.group import CommonError, Ranks, check_same_software, start
from rethink.ranks.policy import Judge, SharedPolicy
from rethink.seeds import rng, stable_hash
from rethink.settings import ModelSource, Role
from rethink.train import checkpoint
from rethink.train.apply import Trainer
from rethink.train.meter import Meter, Metered
from rethink.types import Group, Problem, Sampling


class TrainedPolicy(Policy, Protocol):
    """The policy that is trained. `on_group` hears of each complete group while others are still being sampled."""

    n_overlong: int
    on_group: Callable[[Group], None] | None

    def publish(self, version: int) -> None:
        """The weights have changed."""
        ...

    def with_sampling(self, sampling: Sampling) -> Policy:
        """Another policy over the same weights, which samples otherwise by default."""
        ...


@dataclass
class Run:
    """What the loop works on. `n_batches` counts finished problem batches; `interrupted` asks it to stop after one."""

    recipe: Recipe
    folder: RunFolder
    method: Method
    problems: list[Problem]
    held_out: list[Problem]
    policy: TrainedPolicy
    trainer: Trainer
    n_batches: int = 0
    interrupted: bool = False
    state: dict[str, Any] = field(default_factory=dict)
    roles: dict[str, Policy] = field(default_factory=dict)
    judged_phases: set[str] = field(default_factory=set)

    def role(self, name: Literal["teacher", "initial"]) -> Policy:
        """A policy that is not trained, opened when first asked for: the start weights, or the recipe's teacher."""
        if name not in self.roles:
            teacher = self.recipe.teacher
            if name == "initial" or not (teacher.path or teacher.endpoint.url):
                self.roles[name] = self._shared(local_policy(self.recipe, self.trainer.initial, self.recipe.sampling))
            else:
                self.roles[name] = self._shared(open_role(self.recipe, teacher))
        return self.roles[name]

    @property
    def ranks(self) -> Ranks:
        """The processes that make this run."""
        return self.trainer.engine.ranks

    def judging(self, judge: Judge) -> Judge:
        """The judge, its work shared by all ranks."""
        return self.policy.judging(judge) if isinstance(self.policy, SharedPolicy) else judge

    def _shared(self, policy: Policy) -> Policy:
        return policy if self.ranks.size == 1 else SharedPolicy(policy, self.ranks)

    def pass_seed(self, batch: int) -> int:
        """The seed of everything drawn in a batch: the run's seed and the pass over the data."""
        return stable_hash(self.recipe.seed, "pass", batch // self._batches_per_pass)

    def batch(self, number: int) -> list[Problem]:
        """The problems of a batch: each pass has an order of its own; what is left of it after full batches sits out."""
        order = list(range(len(self.problems)))
        rng(self.pass_seed(number), "order").shuffle(order)
        start = number % self._batches_per_pass * self.recipe.n_problems
        return [self.problems[i] for i in order[start : start + self.recipe.n_problems]]

    def save(self) -> Path:
        """Write a checkpoint."""
        counters = checkpoint.Counters(
            self.n_batches, self.trainer.version, self.trainer.n_optimiser_steps, self.policy.n_overlong, self.state
        )
        return checkpoint.save(self.folder.checkpoints, self.trainer, counters, self.recipe.keep_checkpoints)

    def newest_checkpoint(self) -> Path | None:
        """Where the trained model lies."""
        return checkpoint.newest(self.folder.checkpoints, lambda _: None)

    @property
    def _batches_per_pass(self) -> int:
        return len(self.problems) // self.recipe.n_problems


def prepare(recipe: Recipe, *, resume: bool = False, warn: Callable[[str], None] = print) -> Run:
    """Load all that the recipe names and make (or reopen) its folder. Raises UserError before anything is written."""
    method = recipe.build_method()
    if recipe.model.dtype != "float32":
        raise UserError(
            "training keeps float32 weights, as small steps are lost in bfloat16; leave model.dtype at float32 and set "
            'training.autocast = "bfloat16"'
        )
    if recipe.evaluation.strategy not in TWO_LOOKS:
        raise UserError(
            f"in training, evaluation.strategy is {' or '.join(TWO_LOOKS)}; compare others with `rethink eval` afterwards"
        )
    problems, held_out = load_all_problems(recipe)
    ranks = _meet(recipe)
    folder = RunFolder(Path(recipe.out))
    found = ranks.first(lambda: _newest(folder, recipe, warn)) if resume else None
    policy, trainer = _open(recipe, found, ranks)
    if not resume:
        ranks.first(lambda: folder.create(to_toml(recipe)))
    run = Run(recipe, folder, method, problems, held_out, policy, trainer)
    if found is not None:
        counters = checkpoint.load(found, trainer)
        run.n_batches = counters.n_batches
        policy.n_overlong = counters.n_overlong
        run.state = counters.state
    ranks.first(lambda: folder.rewind(run.n_batches))
    policy.publish(trainer.version)
    return run


def _meet(recipe: Recipe) -> Ranks:
    """The processes of this run. Raises UserError unless they fit together, and to the recipe."""
    ranks = start(recipe.ranks.timeout_s)
    if ranks.size > 1:
        check_same_software(ranks, to_toml(recipe))
    if ranks.size > recipe.n_problems:
        raise CommonError(
            f"{ranks.size} ranks share the problems of a batch, but there are only {recipe.n_problems} (n_problems): start "
            "fewer ranks, or give n_problems at least as many"
        )
    return ranks


def _newest(folder: RunFolder, recipe: Recipe, warn: Callable[[str], None]) -> Path | None:
    """The checkpoint to go on from."""
    folder.check_same(to_toml(recipe))
    found = checkpoint.newest(folder.checkpoints, warn)
    if found is None:
        warn(f"{folder.path} has no checkpoint yet; starting at the beginning")
    return found


def _open(recipe: Recipe, found: Path | None, ranks: Ranks) -> tuple[TrainedPolicy, Trainer]:
    """Policy and trainer, with the start model's weights or those of a checkpoint."""

    def initial() -> LanguageModel:
        return open_model(recipe.model, recipe.seed)

    if ranks.size == 1:
        model = open_model(recipe.model, recipe.seed, str(found) if found else None)
        policy = local_policy(recipe, model, recipe.sampling)
        return policy, Trainer(model, recipe.training, recipe.updates, initial)
    from rethink.ranks.open import on_cpu, open_shared

    engine, shared = open_shared(
        recipe,
        found,
        ranks,
        lambda path: open_model(on_cpu(recipe).model, recipe.seed, path),
        lambda copy: local_policy(recipe, copy, recipe.sampling),
    )
    return shared, Trainer(engine.model, recipe.training, recipe.updates, initial, engine)


def load_all_problems(recipe: Recipe) -> tuple[list[Problem], list[Problem]]:
    """Training and held-out problems, which must not overlap."""
    problems = load_problems(recipe.problems, recipe.seed)
    if len(problems) < recipe.n_problems:
        raise UserError(f"a batch takes {recipe.n_problems} problems (n_problems), but there are only {len(problems)}")
    if recipe.evaluation.problems is None:
        return problems, []
    held_out = load_problems(recipe.evaluation.problems, recipe.seed, "test")
    refuse_overlap(problems, held_out)
    return problems, held_out


def open_model(source: ModelSource, seed: int, checkpoint: str | None = None) -> LanguageModel:
    """The recipe's model, or its weights as a checkpoint has them."""
    logging.disable_progress_bar()  # bars of the library's own would break up ours
    path = checkpoint or str(MODELS.get(source.path, source.path))
    device = source.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_model(
        path,
        dtype=source.dtype,
        device=device,
        template=source.template,
        template_options=source.template_options,
        random_seed=seed if source.random and checkpoint is None else None,
    )


def local_policy(recipe: Recipe, model: LanguageModel, sampling: Sampling) -> LocalPolicy:
    """A policy over the model within the recipe's limits."""
    limits = recipe.limits
    return LocalPolicy(
        model,
        sampling,
        max_prompt_tokens=limits.max_prompt_tokens,
        overlong=limits.overlong,
        cache_bytes=int(limits.cache_gib * 2**30),
        dtype=pick_dtype(limits.sampler_dtype, model),
    )


def open_actors(recipe: Recipe, meter: Meter) -> Actors:
    """The roles of a method that prepares data: the policy has the start weights, and is not trained."""
    policy = local_policy(recipe, open_model(recipe.model, recipe.seed), recipe.sampling)

    def role(name: str) -> Policy:
        other = name == "teacher" and (recipe.teacher.path or recipe.teacher.endpoint.url)
        return Metered(open_role(recipe, recipe.teacher) if other else policy, meter, "n_role_tokens")

    texts = prompts(recipe, stable_hash(recipe.seed, "prepare"))
    return Actors(Metered(policy, meter), texts, judge, cache(role))


def open_role(recipe: Recipe, source: ModelSource) -> Policy:
    """A model that is not trained, here or behind an endpoint."""
    if isinstance(source, Role) and source.endpoint.url:
        from rethink.policies.endpoint import open_endpoint

        return open_endpoint(source.endpoint, source.path, recipe.sampling, recipe.limits.overlong)
    return local_policy(recipe, open_model(source, recipe.seed), recipe.sampling)


def prompts(recipe: Recipe, seed: int) -> Prompts:
    """The recipe's texts, for samples that derive from this seed."""
    return Prompts(**asdict(recipe.prompts), seed=seed)
