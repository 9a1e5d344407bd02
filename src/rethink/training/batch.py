"""A problem batch: its problems, the actors that its method uses, and its updates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

from rethink.build import build_prompts
from rethink.distributed import CommonError
from rethink.methods.actors import Actors
from rethink.methods.run_method import run_method
from rethink.objectives import Update
from rethink.policies.base import Policy
from rethink.training.meter import Meter, MeteredPolicy
from rethink.training.problem_stream import ProblemStream
from rethink.training.run import Run
from rethink.training.update_hash import update_hash
from rethink.types import Group

Metrics = dict[str, float]


class Batch:
    """Problem batch `number` of a run. Iterating over `updates` runs the method; train on each before taking the next.

    It takes its problems from a copy of the stream. `policy` replaces the run's policy, and `wrap_role(name, policy)` the
    policies that are not trained. `wait` is called before anything but the policies is used. `n_overlong` is the number of
    over-long prompts so far, when the last update was ready."""

    def __init__(
        self,
        run: Run,
        number: int,
        state: dict[str, Any],
        stream: ProblemStream,
        policy: Policy | None = None,
        wrap_role: Callable[[str, Policy], Policy] = lambda name, policy: policy,
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        self.run = run
        self.number = number
        self.stream = copy.copy(stream)
        self.problems = self.stream.next_batch()
        self.state = state
        self.meter = Meter()
        self.n_overlong = 0
        self._wrap_role = wrap_role
        self._wait = wait
        metered = MeteredPolicy(policy or run.policy, self.meter)
        actors = Actors(
            metered,
            build_prompts(run.recipe, self.stream.pass_seed),
            self._grade,
            self._role,
            state,
            run.ranks.sampling_group,
            self.stream.more,
        )
        self.updates = self._counted(run_method(run.method, actors, self.problems))

    def run_to_first_update(self) -> None:
        """Run the method up to its first update, and keep that as the first of `updates`."""
        first = next(self.updates, None)
        if first is not None:
            self.updates = chain([first], self.updates)

    def train(self, update: Update, lag: int = 0) -> Metrics:
        """Train on one of the updates and return its metrics. Its samples are `lag` updates older than the weights.

        Raise CommonError if the loss or a weight is not finite, for a sample that the model has too few positions for, or
        if ranks have different updates."""
        run, trainer = self.run, self.run.trainer
        refuse_overlong(update, trainer.model.max_positions)
        description = f"the {update.name!r} update of problem batch {self.number}"
        if run.ranks.size > 1:
            advice = "The updates of a method must depend on samples and seeds alone"
            run.ranks.require_equal(f"{description} (its hash)", update_hash(update), advice)
        try:
            with self.meter.stage("update_s"):
                numbers = trainer.apply(update, lag=lag)
                trainer.optimizer.zero_grad()  # gradients would take as much memory as the weights during sampling
                if not trainer.engine.all_finite():
                    raise FloatingPointError("a weight is no longer a finite number")
        except FloatingPointError as err:
            ids = ", ".join(problem.id for problem in self.problems[:3])
            raise CommonError(f"stopped: {err} in {description} ({ids}, ...). {self._what_next()}") from err
        return numbers

    def _counted(self, updates: Iterator[Update]) -> Iterator[Update]:
        """Yield the updates, each after it has set `n_overlong`."""
        for i, update in enumerate(updates):
            if i:
                self._wait()
            self.n_overlong = self.run.policy.n_overlong
            yield update

    def _what_next(self) -> str:
        """Return what to do after numbers that are not finite. A resumed run would come to the same ones."""
        run = self.run
        if run.saved is None:
            return "There is no checkpoint yet: begin again with a lower training.lr"
        last = run.folder.checkpoints / f"{run.saved:06d}"
        before, path = "Start", str(last)
        if run.recipe.lora.rank:
            before, path = f"Call `rethink export {last} --out MODEL`, and then start", "MODEL"
        return (
            f"The last checkpoint, {last}, is untouched, but a resumed run would end in the same way. {before} a new run "
            f"from its weights with a lower training.lr: model.path={path} out=DIR training.lr=..."
        )

    def _grade(self, groups: Sequence[Group]) -> list[Group]:
        self._wait()
        with self.meter.stage("grade_s"):
            return self.run.grader(groups)

    def _role(self, name: Any) -> Policy:
        self._wait()
        return MeteredPolicy(self._wrap_role(name, self.run.role(name)), self.meter, role=True)


def refuse_overlong(update: Update, positions: int | None) -> None:
    """Raise CommonError for a sample that the model has too few positions for. Sampled ones fit; given ones may not."""
    if positions is None:
        return
    for part in update.parts:
        for sample in (*part.samples, *getattr(part, "teacher_samples", ())):
            n = len(sample.prompt_ids) + len(sample.ids)
            if n > positions:
                raise CommonError(
                    f"the {sample.prompt.phase} reply of problem {sample.problem.id} has {n} tokens with its prompt, more "
                    f"than the model's {positions} positions; leave it out, or shorten it"
                )


class Synchronous:
    """The ordinary schedule: sample, train, sample, train. `SamplingAhead` overlaps them."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def next_batch(self) -> Batch:
        return Batch(self.run, self.run.n_batches, self.run.state, self.run.stream)

    def train(self, batch: Batch, update: Update) -> Metrics:
        self.run.policy.release_memory()
        metrics = batch.train(update)
        self.run.policy.publish(self.run.trainer.version)
        return metrics

    def finish_batch(self, batch: Batch) -> None:
        self.run.stream = batch.stream

    def close(self) -> None:
        return
