"""One-step off-policy runs equal their sequential definition, and resume without a difference."""

from __future__ import annotations

import copy
import json
import os
import signal
import threading
from collections.abc import Iterator, Sequence
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
from rethink.policies.local import LocalPolicy
from rethink.problems.rewards import grade
from rethink.recipe import Recipe
from rethink.training import one_step_off_policy
from rethink.training.batch import Batch
from rethink.training.loop import train
from rethink.training.losses import LOSSES
from rethink.training.run import Run, open_run
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


def run_sequentially(recipe: Recipe) -> tuple[Run, Seen]:
    """Run the definition of one-step off-policy, sequentially and without `training.one_step_off_policy`.

    A batch is sampled, up to its first update, from a copy of the weights before its predecessor's last update, if the
    predecessor had as many updates as expected; everything else is sampled from the newest weights."""
    run = open_run(recipe)
    seen: Seen = []
    older: LocalPolicy | None = None
    state: dict[str, Any] = {}
    n = 0
    while run.trainer.version < recipe.updates:
        expected = -(-run.trainer.version // n) if n else None
        policy = Older(older or run.policy)
        problems = run.stream.next_batch()
        seed = build_prompts(recipe, run.stream.pass_seed)
        actors = Actors(policy, seed, grade, run.role, state, more_problems=run.stream.more)
        updates = run.method.updates(actors, problems)
        lag = int(older is not None)
        count = 0
        update = next(updates, None)
        while update is not None:
            policy.policy = run.policy
            count += 1
            older = snapshot(run)
            versions = {s.version for part in update.parts for s in part.samples}
            metrics = run.trainer.apply(update, lag=lag)
            seen.append((n, run.trainer.version - 1, versions, metrics["loss"]))
            run.policy.publish(run.trainer.version)
            lag = 0
            update = next(updates, None)
        older = older if count == expected else None
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
    """Let "sample" or "train" wait until the other is over."""
    over = threading.Event()
    apply, run_to_first_update = run.trainer.apply, Batch.run_to_first_update

    def wait_for_other() -> None:
        assert over.wait(60)
        over.clear()

    def applied(update: Update, lag: int = 0) -> dict[str, float]:
        in_thread = threading.current_thread() is not threading.main_thread()
        if in_thread and waits == "train":
            wait_for_other()
        metrics = apply(update, lag=lag)
        if in_thread and waits == "sample":
            over.set()
        return metrics

    def started(batch: Batch) -> None:
        if waits == "sample":
            wait_for_other()
        run_to_first_update(batch)
        if waits == "train":
            over.set()

    run.trainer.apply = applied  # type: ignore[method-assign]
    patched.setattr(Batch, "run_to_first_update", started)


@pytest.mark.parametrize("waits", ["sample", "train"])
@pytest.mark.parametrize(
    ("method", "kind"),
    [("grpo", "qwen3"), ("think_tuning", "qwen3"), ("uneven", "qwen3"), ("think_twice", "gpt2"), ("filled", "qwen3")],
)
def test_run_equals_its_sequential_definition(
    method: str, kind: str, waits: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against samples of half-trained weights, wrong versions, another batch's state, and races."""
    plain, expected = run_sequentially(make(*METHODS[method], "updates=9", out="plain", kind=kind))
    assert sum(abs(loss) > 0 for *_, loss in expected) >= 5, "the run must learn something"
    run = open_run(make(*METHODS[method], "updates=9", OFF_POLICY, kind=kind))
    found = seen_by(run)
    force_order(run, monkeypatch, waits)
    list(train(run))
    assert found == expected
    assert same(bits(run.trainer), bits(plain.trainer))
    assert (run.n_batches, run.state, run.stream.position) == (plain.n_batches, plain.state, plain.stream.position)
    if method == "filled":
        assert len({r["n_samples"] for r in records(run)}) > 1, "some batches, but not all, are filled up"


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
    with pytest.raises(UserError, match=r"'support.runs:LateState' changes its state .* one_step_off_policy=false"):
        list(train(run))
    assert [r["batch"] for r in records(run)] == [0, 1, 2]
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
    assert (run.sampled_ahead is not None) == (run.n_batches > 1 and first_lags(whole)[run.n_batches] == 1)
    run = open_run(make(*settings), resume=True)
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
    assert run.sampled_ahead is not None
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
    assert (run.trainer.version, run.policy.version) == (3, 3)
    run = open_run(make(*settings), resume=True)
    assert run.trainer.version == 2
    list(train(run))
    assert_same(run, finished(make(*settings, out="whole")))


def test_loss_that_is_not_finite_ends_the_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a hang, the next batch's name in the message, and minutes of sampling for a failed run."""
    run = open_run(make(*METHODS["grpo"], "updates=9", OFF_POLICY, "checkpoint_every=1"))
    failed = threading.Event()
    train_update, run_to_first_update = one_step_off_policy._train, Batch.run_to_first_update
    stopped: list[int] = []

    def trained(*args: Any) -> Any:
        try:
            return train_update(*args)
        finally:
            if run.n_batches == 2:
                failed.set()

    def started(batch: Batch) -> None:
        assert run.n_batches < 2 or failed.wait(60)
        try:
            run_to_first_update(batch)
        except threads.Stopped:
            stopped.append(run.n_batches)
            raise

    spoiled = changed(LOSSES[Clip], lambda loss: loss * (NAN if run.trainer.version == 2 else 1))
    monkeypatch.setitem(LOSSES, Clip, spoiled)
    monkeypatch.setattr(Batch, "run_to_first_update", started)
    monkeypatch.setattr(one_step_off_policy, "_train", trained)
    with pytest.raises(UserError, match=r"the loss is nan .* in the 'solve' update of problem batch 2") as caught:
        list(train(run))
    assert run.problems_of_batch(2)[0].id in str(caught.value)
    assert stopped == [2], "sampling ends at the first finished group"
    assert [r["update"] for r in records(run)] == [1, 2]
    assert run.newest_checkpoint() == run.folder.checkpoints / "000002"


def test_interrupt_is_raised_after_the_update(make: Make) -> None:
    """Guards against a second Ctrl-C that is lost, or leaves a training thread running."""
    run = open_run(make(*METHODS["grpo"], "updates=5", OFF_POLICY))
    fail_sampling(run, 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        list(train(run))
    assert run.trainer.version == 3, "the current update has ended, and no other began"
    assert [r["update"] for r in records(run)] == [1, 2]
