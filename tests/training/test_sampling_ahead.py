"""Runs that sample ahead equal their sequential definition, and resume without a difference."""

from __future__ import annotations

import copy
import json
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from rethink import threads
from rethink.build import build_prompts
from rethink.errors import UserError
from rethink.jsonl import Record
from rethink.methods.actors import Actors
from rethink.objectives import Clip, Objective, Update
from rethink.policies.base import PolicyWrapper
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.problems.rewards import grade
from rethink.recipe import Recipe
from rethink.training.batch import Batch
from rethink.training.loop import train
from rethink.training.losses import LOSSES
from rethink.training.run import Run, open_run
from rethink.training.sampling_ahead import SamplingAhead
from rethink.types import Problem, Prompt
from support.processes import exit_code, light, start
from support.runs import OFF_POLICY, THINK_TWICE, Make, assert_same, finished, first_lags, make, problems, records
from support.trained import bits, changed, same

__all__ = ["make", "problems"]

pytestmark = pytest.mark.slow


_light = pytest.fixture(scope="module", autouse=True)(light)


NAN = float("nan")

METHODS = {
    "grpo": ["method.name=grpo", "method.n_solve=5", "method.solve.n_steps=2"],
    "think_twice": [*THINK_TWICE],
    "think_tuning": [
        *("method.name=think_tuning", "method.n_solve=13", "method.feedback=again", "method.n_guided=3"),
        *("method.max_feedback_tokens=5", 'method.separator=" "', "sampling.max_tokens=11"),
    ],
    "uneven": ["method.name=support.runs:Uneven"],
    "filled": [
        *("method.name=grpo", "method.n_solve=2", "method.fill_rounds=2", "method.solve.n_steps=1"),
        "method.solve.zero_std_groups=drop",
    ],
}


class Older(PolicyWrapper):
    """Samples from another policy first, then from its own."""


def snapshot(run: Run) -> LocalPolicy:
    """Return a policy with a copy of the current weights."""
    present = run.policy
    assert isinstance(present, LocalPolicy)
    model = replace(present.model, module=copy.deepcopy(present.model.module))
    policy = LocalPolicy(model, run.recipe.sampling, dtype=present.dtype)
    policy.publish(run.trainer.version)
    return policy


Seen = list[tuple[int, int, set[int], float]]
"""Batch, version of the trainer, versions of the samples, and loss, by update."""


def run_sequentially(recipe: Recipe, level: int) -> tuple[Run, Seen]:
    """Run the definition of `async_level`, sequentially and without `training.sampling_ahead`.

    At the update that should be the last one of its batch, the present weights are copied for those of the next `level`
    batches that have no copy yet; another update of the batch drops them. A batch is sampled, up to its first update, from
    its copy, and everything else from the newest weights."""
    run = open_run(recipe)
    seen: Seen = []
    copies: dict[int, LocalPolicy] = {}
    state: dict[str, Any] = {}
    n = 0
    while run.trainer.version < recipe.updates:
        expected = -(-run.trainer.version // n) if n else None
        policy = Older(copies.pop(n, run.policy))
        lag = run.trainer.version - policy.version
        problems = run.stream.next_batch()
        seed = build_prompts(recipe, run.stream.pass_seed)
        actors = Actors(policy, seed, grade, run.role, state, more_problems=run.stream.more)
        updates = run.method.updates(actors, problems)
        new: list[int] = []
        count = 0
        update = next(updates, None)
        while update is not None:
            policy.policy = run.policy
            count += 1
            for number in new:
                del copies[number]
            new = [number for number in range(n + 1, n + 1 + level) if number not in copies and count == expected]
            copies.update(dict.fromkeys(new, snapshot(run)))
            versions = {s.version for part in update.parts for s in part.samples}
            metrics = run.trainer.apply(update, lag=lag)
            seen.append((n, run.trainer.version - 1, versions, metrics["loss"]))
            run.policy.publish(run.trainer.version)
            lag = 0
            update = next(updates, None)
        n += 1
    run.state, run.n_batches = state, n
    return run, seen


def seen_by(run: Run) -> Seen:
    """Return the same of a run, filled while it trains."""
    found: Seen = []
    apply = run.trainer.apply

    def applied(update: Update, lag: int = 0) -> dict[str, float]:
        versions = {s.version for part in update.parts for s in part.samples}
        version = run.trainer.version
        metrics = apply(update, lag=lag)
        found.append((run.n_batches, version, versions, metrics["loss"]))
        return metrics

    run.trainer.apply = applied  # type: ignore[method-assign]
    return found


def force_order(run: Run, patched: pytest.MonkeyPatch, waits: str) -> None:
    """Let "sample" or "train", of each update during which a round of sampling begins, wait until the other is over."""
    rounds: dict[int, threading.Event] = {}  # of each batch
    begun: list[threading.Event] = []
    begin_round, apply, run_to_first_update = SamplingAhead._begin_round, run.trainer.apply, Batch.run_to_first_update

    def begin(self: SamplingAhead, batch: Batch) -> None:
        over = threading.Event()
        for number in range(batch.number + 1 + len(self._queue), batch.number + 1 + run.recipe.async_level):
            rounds[number] = over
        begun.append(over)
        begin_round(self, batch)

    def applied(update: Update, lag: int = 0) -> dict[str, float]:
        over = begun.pop() if begun else None
        assert over is None or waits == "sample" or over.wait(60)
        metrics = apply(update, lag=lag)
        if over is not None and waits == "sample":
            over.set()
        return metrics

    def started(batch: Batch) -> None:
        over = rounds[batch.number]
        assert waits == "train" or over.wait(60)
        run_to_first_update(batch)
        if waits == "train" and rounds.get(batch.number + 1) is not over:
            over.set()

    run.trainer.apply = applied  # type: ignore[method-assign]
    patched.setattr(SamplingAhead, "_begin_round", begin)
    patched.setattr(Batch, "run_to_first_update", started)


@pytest.mark.parametrize("waits", ["sample", "train"])
@pytest.mark.parametrize(
    ("method", "kind", "level"),
    [
        *(("grpo", "qwen3", 1), ("think_tuning", "qwen3", 1), ("uneven", "qwen3", 1), ("think_twice", "gpt2", 1)),
        *(("filled", "qwen3", 1), ("filled", "qwen3", 2), ("uneven", "qwen3", 2), ("think_twice", "qwen3", 3)),
    ],
)
def test_run_equals_its_sequential_definition(
    method: str, kind: str, level: int, waits: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against samples of half-trained weights, wrong versions, another batch's state, and races."""
    plain, expected = run_sequentially(make(*METHODS[method], "updates=9", out="plain", kind=kind), level)
    assert sum(abs(loss) > 0 for *_, loss in expected) >= 5, "the run must learn something"
    run = open_run(make(*METHODS[method], "updates=9", f"async_level={level}", kind=kind))
    found = seen_by(run)
    force_order(run, monkeypatch, waits)
    list(train(run))
    assert found == expected
    assert same(bits(run.trainer), bits(plain.trainer))
    assert (run.n_batches, run.state, run.stream.position) == (plain.n_batches, plain.state, plain.stream.position)
    assert len(run.sampled_ahead) == level
    if method == "filled":
        assert len({r["n_samples"] for r in records(run)}) > 1, "some batches, but not all, are filled up"


class FakeTrained(FakePolicy):
    """A policy whose weights are a number. Each call of `groups` finds an over-long prompt."""

    n_overlong = 0

    def __init__(self) -> None:
        super().__init__(lambda prompt, index, version: "26" if index else "1")
        self.weights = 0
        self.before_groups = deque[
            threading.Event
        ]()  # each call to `groups` in the other thread waits for the next one

    def publish(self, version: int) -> None:
        assert self.weights == version, "published while the weights change"
        super().publish(version)

    def groups(self, *args: Any) -> Any:
        if threading.current_thread() is not threading.main_thread() and self.before_groups:
            assert self.before_groups.popleft().wait(60)
        self.n_overlong += 1
        return super().groups(*args)

    @contextmanager
    def frozen_weights(self) -> Iterator[None]:
        yield

    def release_memory(self) -> None:
        return


@dataclass(frozen=True)
class Repeated:
    """A method with `n` updates per batch, all sampled from the policy."""

    n: int = 1

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        for k in range(self.n):
            yield Objective().update(f"update {k}", actors.rollout(actors.prompts.ask(problems), 3))


def fake_run(make: Make, *settings: str, n: int = 1) -> tuple[Run, FakeTrained]:
    """Return a run without a model. Its updates only count."""
    run = open_run(make(f"method.name={__name__}:Repeated", f"method.n={n}", *settings))
    policy = FakeTrained()
    run.policy = policy  # type: ignore[assignment]

    def applied(update: Update, lag: int = 0) -> dict[str, float]:
        run.trainer._check_versions(update, lag)
        run.trainer.before_step()
        policy.weights += 1
        run.trainer.version += 1
        return {"loss": 0.0, "lr": 0.1}

    run.trainer.apply = applied  # type: ignore[method-assign]
    return run, policy


VERSIONS = {  # of the samples of each batch's first update, with one and with two updates per batch, by hand
    (0, 1): [0, 1, 2, 3, 4, 5, 6],
    (1, 1): [0, 1, 1, 2, 3, 4, 5],
    (2, 1): [0, 1, 1, 1, 2, 3, 4],
    (3, 1): [0, 1, 1, 1, 1, 2, 3],
    (0, 2): [0, 2, 4, 6, 8, 10, 12],
    (1, 2): [0, 2, 3, 5, 7, 9, 11],
    (2, 2): [0, 2, 3, 3, 5, 7, 9],
    (3, 2): [0, 2, 3, 3, 3, 5, 7],
}


@pytest.mark.parametrize(("level", "n"), VERSIONS)
def test_versions_that_sample_each_batch(level: int, n: int, make: Make) -> None:
    """Guards against staleness that grows or depends on timing, at the start of a run too, and a metric that hides it."""
    run, _ = fake_run(make, f"async_level={level}", f"updates={7 * n}", n=n)
    found = seen_by(run)
    list(train(run))
    expected = VERSIONS[level, n]
    if n == 1:
        assert [r["n_overlong"] for r in records(run)] == list(range(1, 8)), "those of later batches do not count yet"
        assert [ahead["n_overlong"] for ahead in run.sampled_ahead] == list(range(8, 8 + level))
    assert [versions for _, _, versions, _ in found[::n]] == [{version} for version in expected]
    assert all(versions == {version} for k, (_, version, versions, _) in enumerate(found) if k % n)
    if level:
        lags = [k * n - version for k, version in enumerate(expected)]
        assert [r["lag_updates"] for r in records(run)[::n]] == lags
        assert max(lags) == lags[-1] == 1 + (level - 1) * n
        assert {r["lag_updates"] for k, r in enumerate(records(run)) if k % n} <= {0}
        assert [ahead["version"] for ahead in run.sampled_ahead] == [*range(7 * n - 1 - (level - 1) * n, 7 * n, n)]


def test_training_goes_on_while_a_batch_is_sampled(make: Make) -> None:
    """Guards against a second batch ahead that saves nothing. Batch 4 is sampled, with the weights before the refinement
    of batch 2, until the first update of batch 3 has been trained."""
    run, policy = fake_run(make, "async_level=2", "updates=12", n=2)
    over = threading.Event()
    no_wait = threading.Event()
    no_wait.set()
    policy.before_groups.extend([no_wait, no_wait, over])
    for record in train(run):
        if (record["batch"], record["phase"]) == (3, "update 0"):
            over.set()
    assert over.is_set()
    assert not policy.before_groups


def test_training_waits_for_the_next_batch_alone(make: Make) -> None:
    """Regression: where all batches ahead came with one update, as at the start and after a discarded batch, training
    waited for all of them. Batch 3 is sampled until the first update of batch 2 has been trained."""
    run, policy = fake_run(make, "async_level=2", "updates=12", n=2)
    over, no_wait = threading.Event(), threading.Event()
    no_wait.set()
    policy.before_groups.extend([no_wait, over])
    for record in train(run):
        if (record["batch"], record["phase"]) == (2, "update 0"):
            over.set()
    assert over.is_set()
    assert [r["lag_updates"] for r in records(run)[::2]] == [0, 0, 1, 3, 3, 3]


def test_gradients_are_computed_while_the_batch_before_is_sampled(make: Make) -> None:
    """Guards against weights that change before the thread has them. Batch 4 is sampled until update 3 has its gradient:
    only its optimizer step waits, for batch 5 to begin."""
    run, policy = fake_run(make, "async_level=2", "updates=7")
    has_gradient, no_wait = threading.Event(), threading.Event()
    no_wait.set()
    policy.before_groups.extend([no_wait, no_wait, has_gradient])
    apply = run.trainer.apply

    def applied(update: Update, lag: int = 0) -> dict[str, float]:
        if run.trainer.version == 3:
            has_gradient.set()
        return apply(update, lag=lag)

    run.trainer.apply = applied  # type: ignore[method-assign]
    list(train(run))
    assert [r["lag_updates"] for r in records(run)] == [0, 0, 1, 2, 2, 2, 2]


def test_more_updates_than_expected_discard_the_next_batch(make: Make) -> None:
    """Guards against samples that are two updates old, and their cost going unseen. 1 2 2 1 2 2 updates per batch."""
    run = open_run(make(*METHODS["uneven"], "updates=9", OFF_POLICY))
    list(train(run))
    assert [(r["batch"], r["lag_updates"]) for r in records(run)] == [
        *((0, 0), (1, 0), (1, 0), (2, 0), (2, 0), (3, 1), (4, 0), (4, 0), (5, 1), (5, 0)),
    ]
    tokens = {(r["batch"], r["phase"]): r["n_sampled_tokens"] for r in records(run)}
    n_samples = 2 * 3
    assert tokens[1, "second"] > n_samples * 5, "its own samples, at most 5 tokens each, and the discarded ones"
    assert all(n <= n_samples * 5 for key, n in tokens.items() if key != (1, "second"))


def test_state_changed_after_the_last_update_is_refused(make: Make) -> None:
    """Guards against a batch that silently continues from outdated state."""
    run = open_run(make("method.name=support.runs:LateState", "updates=9", OFF_POLICY))
    with pytest.raises(UserError, match=r"'support.runs:LateState' changes its state .* last update .* async_level=0"):
        list(train(run))
    assert [r["batch"] for r in records(run)] == [0, 1, 2]
    run = open_run(make("method.name=support.runs:LateState", "updates=9", "async_level=2", out="two"))
    with pytest.raises(UserError, match=r"changes its state .* after the first update .* a lower async_level"):
        list(train(run))
    off = finished(make("method.name=support.runs:LateState", "updates=9", out="off"))
    assert off.state == {"n": 9, "late": True}


@dataclass(frozen=True)
class LateProblems:
    """A method that draws problems after its last update."""

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        yield Objective().update("only", actors.rollout(actors.prompts.ask(problems), 3))
        actors.more_problems(1)


def test_problems_drawn_after_the_last_update_are_refused(make: Make) -> None:
    """Guards against problems that are trained twice: the next batch was sampled from the position before."""
    run = open_run(make(f"method.name={__name__}:LateProblems", "updates=9", OFF_POLICY))
    with pytest.raises(UserError, match=r"draws problems \(actors.more_problems\) after the last update"):
        list(train(run))


RESUMED = ("think_twice", "think_tuning", "uneven", "filled")


@pytest.fixture(scope="module")
def wholes() -> dict[str, Run]:
    """Undisturbed runs by method, each made once."""
    return {}


def whole_run(wholes: dict[str, Run], method: str, make: Make) -> Run:
    if method not in wholes:
        wholes[method] = finished(make(*METHODS[method], "updates=10", OFF_POLICY, out="whole"))
    return wholes[method]


def train_until(run: Run, n: int) -> Iterator[Record]:
    """Train up to the record of update n, then abandon the run, as a kill does."""
    for record in train(run):
        yield record
        if record["update"] == n:
            return


@pytest.mark.parametrize("method", RESUMED)
@pytest.mark.parametrize("n", [1, 6])
def test_resume_after_a_kill(method: str, n: int, make: Make, wholes: dict[str, Run]) -> None:
    """Guards against a batch sampled from other weights after a resume."""
    recipe = make(*METHODS[method], "updates=10", OFF_POLICY, "checkpoint_every=1")
    list(train_until(open_run(recipe), n))
    run = open_run(recipe, resume=True, warn=lambda _: None)
    assert run.trainer.version <= n - 1, "the current batch is lost"
    list(train(run))
    assert_same(run, whole_run(wholes, method, make))


@pytest.mark.parametrize("method", RESUMED)
@pytest.mark.parametrize("n", [1, 5])
def test_resume_after_a_stop(method: str, n: int, make: Make, wholes: dict[str, Run]) -> None:
    """Guards against a Ctrl-C that loses the samples of the next batch, or counts a method's batches twice."""
    settings = (*METHODS[method], "updates=10", OFF_POLICY)
    whole = whole_run(wholes, method, make)
    run = open_run(make(*settings))
    for record in train(run):
        run.interrupted = record["update"] >= n
    assert n <= run.trainer.version <= n + 1
    if method == "think_tuning":
        assert run.state == {"n_batches": run.n_batches}
    assert bool(run.sampled_ahead) == (run.n_batches > 1 and first_lags(whole)[run.n_batches] == 1)
    run = open_run(make(*settings), resume=True)
    list(train(run))
    assert_same(run, whole)


@pytest.mark.parametrize("method", ["think_twice", "uneven", "filled"])
def test_resume_with_two_batches_ahead(method: str, make: Make) -> None:
    """Guards against a recording that is lost, or belongs to another batch, at any place: stopped after each batch, and
    killed after an update in the middle."""
    settings = (*METHODS[method], "updates=10", "async_level=2")
    whole = finished(make(*settings, out="whole"))
    n_ahead = set[int]()
    for n in range(1, whole.n_batches):
        run = open_run(make(*settings, out=f"stopped{n}"))
        for _ in train(run):
            run.interrupted = run.n_batches + 1 >= n
        assert run.n_batches == n
        n_ahead.add(len(run.sampled_ahead))
        run = open_run(make(*settings, out=f"stopped{n}"), resume=True)
        list(train(run))
        assert_same(run, whole)
    assert {0, 2} <= n_ahead
    recipe = make(*settings, "checkpoint_every=1")
    list(train_until(open_run(recipe), 7))
    run = open_run(recipe, resume=True, warn=lambda _: None)
    list(train(run))
    assert_same(run, whole)


def test_evaluations_and_checkpoints_do_not_change_the_run(make: Make, problems: Path, tmp_path: Path) -> None:
    """Guards against an evaluation that samples from frozen weights, or a batch that is sampled again after one."""
    other = tmp_path / "held_out.jsonl"
    other.write_text(json.dumps({"key": "h", "question": "9 9 9 -> 27", "answer": "27"}) + "\n")
    settings = (*METHODS["think_twice"], "updates=8", OFF_POLICY)
    held_out = [f"evaluation.problems.{key}" for key in (f"source={other}", "id=key", "verifier=support.coins:coin")]
    held_out += ["evaluation.every=2", "evaluation.sampling.max_tokens=5", "checkpoint_every=2"]
    plain, watched = finished(make(*settings, out="plain")), finished(make(*settings, *held_out))
    assert same(bits(plain.trainer), bits(watched.trainer))
    assert [r for r in records(watched) if r["phase"] != "evaluation"] == records(plain)
    assert len(records(watched)) == 8 + 4


def die_while_sampling(recipe: Recipe, n: int) -> None:
    """Die while the batch after batch n is sampled."""
    run = open_run(recipe)
    run_to_first_update = Batch.run_to_first_update

    def started(batch: Batch) -> None:
        if run.n_batches == n:
            os.kill(os.getpid(), signal.SIGKILL)
        run_to_first_update(batch)

    Batch.run_to_first_update = started  # type: ignore[method-assign,assignment]
    list(train(run))


def test_resume_after_a_kill_while_sampling(make: Make, wholes: dict[str, Run]) -> None:
    """Guards against anything of an unfinished batch that survives a crash."""
    settings = (*METHODS["think_twice"], "updates=10", OFF_POLICY, "checkpoint_every=2")
    assert exit_code(start(die_while_sampling, make(*settings), 3)) == -signal.SIGKILL
    run = open_run(make(*settings), resume=True)
    assert run.n_batches == 3
    assert len(run.sampled_ahead) == 1
    list(train(run))
    assert_same(run, whole_run(wholes, "think_twice", make))


def fail_sampling(run: Run, at_batch: int, error: BaseException) -> None:
    """Make sampling of the next batch fail."""
    sample = run.policy.groups

    def sampled(asked: Sequence[Prompt], *args: Any) -> Any:
        if run.n_batches == at_batch and any(p.problem in run.problems_of_batch(at_batch + 1) for p in asked):
            raise error
        return sample(asked, *args)

    run.policy.groups = sampled  # type: ignore[method-assign,assignment]


def test_error_in_sampling_is_raised_after_the_update(make: Make) -> None:
    """Guards against an error that is lost, renamed, or stops the concurrent update."""
    settings = (*METHODS["grpo"], "updates=5", OFF_POLICY, "checkpoint_every=2")
    run = open_run(make(*settings))
    fail_sampling(run, 2, RuntimeError("out of cache"))
    with pytest.raises(RuntimeError, match=r"^out of cache$"):
        list(train(run))
    assert [r["update"] for r in records(run)] == [1, 2, 3]
    assert run.trainer.version == 3
    run = open_run(make(*settings), resume=True)
    assert run.trainer.version == 2
    list(train(run))
    assert_same(run, finished(make(*settings, out="whole")))


def test_error_in_sampling_is_raised_before_batches_that_are_ready(make: Make) -> None:
    """Guards against updates of batches that are ahead, after which a run that cannot go on would end."""
    run, policy = fake_run(make, "async_level=3", "updates=9")
    failed = threading.Event()
    apply, numbers = run.trainer.apply, iter(range(2, 9))

    def sampled(*args: Any) -> Any:
        if threading.current_thread() is not threading.main_thread() and next(numbers) == 6:
            failed.set()
            raise RuntimeError("out of cache")
        return FakePolicy.groups(policy, *args)

    def applied(update: Update, lag: int = 0) -> dict[str, float]:
        if run.trainer.version == 3:
            assert failed.wait(60)
            schedule: Any = run.trainer.before_step.__self__  # type: ignore[attr-defined]
            wait(schedule._rounds)
        return apply(update, lag=lag)

    policy.groups = sampled  # type: ignore[method-assign]
    run.trainer.apply = applied  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"^out of cache$"):
        list(train(run))
    assert [r["update"] for r in records(run)] == [1, 2, 3, 4], "batches 4 and 5 are ready"


def stopped_sampling(run: Run, patched: pytest.MonkeyPatch) -> list[int]:
    """Let the sampling that begins with batch 2 go on only when the run is about to end. Return what it fills with the
    number of each batch whose sampling is stopped."""
    closing, stopped = threading.Event(), list[int]()
    close, run_to_first_update = threads.Background.close, Batch.run_to_first_update

    def closed(self: threads.Background) -> None:
        closing.set()
        close(self)

    def started(batch: Batch) -> None:
        assert run.n_batches < 2 or closing.wait(60)
        try:
            run_to_first_update(batch)
        except threads.Stopped:
            stopped.append(batch.number)
            raise

    patched.setattr(threads.Background, "close", closed)
    patched.setattr(Batch, "run_to_first_update", started)
    return stopped


def test_loss_that_is_not_finite_ends_the_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a hang, the next batch's name in the message, and minutes of sampling for a failed run."""
    run = open_run(make(*METHODS["grpo"], "updates=9", OFF_POLICY, "checkpoint_every=1"))
    stopped = stopped_sampling(run, monkeypatch)

    def spoil(loss: Any) -> Any:
        if run.trainer.version < 2:
            return loss
        run.trainer.before_step()  # waits until the other thread has begun
        return loss * NAN

    monkeypatch.setitem(LOSSES, Clip, changed(LOSSES[Clip], spoil))
    with pytest.raises(UserError, match=r"the loss is nan .* in the 'solve' update of problem batch 2") as caught:
        list(train(run))
    assert run.problems_of_batch(2)[0].id in str(caught.value)
    assert stopped == [3], "sampling ends at the first finished group"
    assert [r["update"] for r in records(run)] == [1, 2]
    assert run.newest_checkpoint() == run.folder.checkpoints / "000002"


@pytest.mark.parametrize("level", [1, 2])
def test_interrupt_ends_sampling(level: int, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a second Ctrl-C that waits for all samples, or leaves the sampling thread running."""
    run = open_run(make(*METHODS["grpo"], "updates=5", f"async_level={level}"))
    stopped = stopped_sampling(run, monkeypatch)
    apply = run.trainer.apply

    def applied(update: Update, lag: int = 0) -> dict[str, float]:
        if run.trainer.version == 2:
            run.trainer.before_step()  # waits until the other thread has begun
            raise KeyboardInterrupt
        return apply(update, lag=lag)

    run.trainer.apply = applied  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        list(train(run))
    assert stopped == [2 + level]
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("rethink-background")]
    assert [r["update"] for r in records(run)] == [1, 2]
