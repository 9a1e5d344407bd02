"""One batch ahead: the run is the one that a plain loop makes with samples that are one update old, and nothing is lost."""

from __future__ import annotations

import copy
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rethink.build import build_prompts
from rethink.errors import UserError
from rethink.jsonl import Record
from rethink.methods.actors import Actors
from rethink.methods.groups import Objective
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.objectives import Clip, PolicyGradient, Update
from rethink.policies.base import PolicyWrapper
from rethink.policies.local import LocalPolicy
from rethink.problems.rewards import Grader, grade
from rethink.recipe import Recipe, load_recipe
from rethink.settings import Training
from rethink.training.batch import Batch
from rethink.training.loop import train
from rethink.training.losses import LOSSES
from rethink.training.monitor import alarms
from rethink.training.run import Run, open_run
from rethink.training.trainer import Trainer
from rethink.types import Group, Problem, Prompt, Sampling
from support.coins import coin
from support.processes import exit_code, light, start
from support.samples import as_sampled, make_trainer, reply_of
from support.trained import changed

_light = pytest.fixture(scope="module", autouse=True)(light)

AHEAD = "one_step_off_policy=true"
SMALL_OBJECTIVE = Objective(n_steps=2)


@dataclass(frozen=True)
class Uneven:
    """One or two updates per batch, by what it remembers: 1 2 2 1 2 2 ..."""

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        turn = actors.state["turn"] = actors.state.get("turn", -1) + 1
        for name in ("first", "second")[: 2 if turn % 3 else 1]:
            groups = actors.grade(actors.policy.sample(actors.prompts.ask(problems), 3))
            yield SMALL_OBJECTIVE.update(name, groups)


@dataclass(frozen=True)
class Belated:
    """Remembers something after its last update, once: when the third batch ends."""

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        actors.state["n"] = actors.state.get("n", 0) + 1
        groups = actors.grade(actors.policy.sample(actors.prompts.ask(problems), 3))
        yield SMALL_OBJECTIVE.update("only", groups)
        if actors.state["n"] == 3:
            actors.state["late"] = True


METHODS = {
    "grpo": ["method.name=grpo", "method.n_solve=5", "method.solve.n_steps=2"],
    "think_twice": ["method.name=think_twice", "method.n_solve=5", "method.n_refine=3", "method.solve.n_steps=2"],
    "reflect": ["method.name=reflect_retry_reward", "method.n_reflect=3", "method.n_tries=2"],
    "think_tuning": [
        *("method.name=think_tuning", "method.n_solve=13", "method.feedback=again", "method.n_guided=3"),
        *("method.max_feedback_tokens=5", 'method.separator=" "', "sampling.max_tokens=11"),
    ],
    "uneven": ["method.name=test_lookahead:Uneven"],
}


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "problems.jsonl"
    rows = [{"key": f"p{n}", "question": f"{n} 7 5 -> 26", "answer": "26", "reply": f"{n} + 7"} for n in range(7)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


Make = Callable[..., Recipe]


@pytest.fixture
def make(model_folders: dict[str, Path], problems: Path, tmp_path: Path) -> Make:
    """A recipe for a random model of a kind, in a folder of its own; three batches per pass over seven problems."""

    def recipe(*more: str, out: str = "run", kind: str = "qwen3") -> Recipe:
        settings = [
            *(f"model.path={model_folders[kind]}", "model.device=cpu", "problems_per_batch=2", "checkpoint_every=1000"),
            *(f"problems.source={problems}", "problems.id=key", "problems.verifier=support.coins:coin"),
            *("prompts.solve={question}", "prompts.refine=again", "prompts.reflect=why", "prompts.retry=again"),
            *("sampling.max_tokens=5", "training.lr=0.003", "seed=3", f"out={tmp_path / out}"),
        ]
        return load_recipe(None, [*settings, *more])

    return recipe


def bits(trainer: Trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.parameters]


def same(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def records(run: Run | Path) -> list[Record]:
    """What was logged, without the seconds that it took."""
    folder = run if isinstance(run, Path) else run.folder.path
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.endswith("_s")} for line in lines]


def finished(recipe: Recipe) -> Run:
    run = open_run(recipe)
    list(train(run))
    return run


def assert_same(a: Run, b: Run) -> None:
    """Bit for bit: weights, optimizer, log, counters and what methods remember."""
    assert same(bits(a.trainer), bits(b.trainer))
    ours, theirs = (run.trainer.optimizer.state_dict()["state"] for run in (a, b))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[i][name], theirs[i][name]) for i in ours for name in ours[i])
    assert records(a) == records(b)
    assert a.folder.samples.read_bytes() == b.folder.samples.read_bytes()
    assert (a.n_batches, a.state, a.sampled_ahead) == (b.n_batches, b.state, b.sampled_ahead)
    assert a.policy.n_overlong == b.policy.n_overlong


# ------------------------------------------------------------------------------------------- against a plain loop


class Older(PolicyWrapper):
    """A policy that is first another one."""


def snapshot(run: Run) -> LocalPolicy:
    """A policy with a copy of the present weights."""
    present = run.policy
    assert isinstance(present, LocalPolicy)
    model = replace(present.model, module=copy.deepcopy(present.model.module))
    policy = LocalPolicy(model, run.recipe.sampling, dtype=present.dtype)
    policy.publish(run.trainer.version)
    return policy


Seen = list[tuple[int, int, set[int], float]]
"""Batch, version of the trainer, versions of the samples, and loss, update by update."""


def one_after_the_other(recipe: Recipe) -> tuple[Run, Seen]:
    """The definition: a batch whose predecessor had as many updates as were expected is sampled, up to its first update,
    from a copy of the weights before the predecessor's last update; all else from the newest. One thread, one thing at a
    time, and nothing of `training.one_step_off_policy`."""
    run = open_run(recipe)
    seen: Seen = []
    older: LocalPolicy | None = None
    state: dict[str, Any] = {}
    n = 0
    while run.trainer.version < recipe.updates:
        expected = -(-run.trainer.version // n) if n else None
        policy = Older(older or run.policy)
        seed = build_prompts(recipe, run.pass_seed(n))
        updates = run.method.updates(Actors(policy, seed, grade, run.role, state), run.problems_of_batch(n))
        lag = int(older is not None)
        count = 0
        update = next(updates, None)
        while update is not None:
            policy.policy = run.policy
            count += 1
            older = snapshot(run)
            versions = {s.version for part in update.parts for s in part.samples}
            numbers = run.trainer.apply(update, lag=lag)
            seen.append((n, run.trainer.version - 1, versions, numbers["loss"]))
            run.policy.publish(run.trainer.version)
            lag = 0
            update = next(updates, None)
        older = older if count == expected else None
        n += 1
    run.state, run.n_batches = state, n
    return run, seen


def seen_by(run: Run) -> Seen:
    """The same, while the run goes on."""
    found: Seen = []
    apply = run.trainer.apply

    def applied(update: Update, lag: int = 0) -> dict[str, float]:
        versions = {s.version for part in update.parts for s in part.samples}
        version = run.trainer.version
        numbers = apply(update, lag=lag)
        found.append((run.n_batches, version, versions, numbers["loss"]))
        return numbers

    run.trainer.apply = applied  # type: ignore[method-assign]
    return found


Order = Callable[[Run], None]


def train_first(run: Run, patched: pytest.MonkeyPatch) -> None:
    """The batch ahead is only begun when the update beside it is over."""
    order(run, patched, waits="sample")


def sample_first(run: Run, patched: pytest.MonkeyPatch) -> None:
    """The update beside the batch ahead only starts when that is sampled."""
    order(run, patched, waits="train")


def as_it_comes(run: Run, patched: pytest.MonkeyPatch) -> None:
    """Both at once."""


def order(run: Run, patched: pytest.MonkeyPatch, waits: str) -> None:
    over = threading.Event()
    apply, begin = run.trainer.apply, Batch.run_to_first_update

    def await_other() -> None:
        assert over.wait(60)
        over.clear()

    def applied(update: Update, lag: int = 0) -> dict[str, float]:
        beside = threading.current_thread() is not threading.main_thread()
        if beside and waits == "train":
            await_other()
        numbers = apply(update, lag=lag)
        if beside and waits == "sample":
            over.set()
        return numbers

    def begun(batch: Batch) -> None:
        if waits == "sample":
            await_other()
        begin(batch)
        if waits == "train":
            over.set()

    run.trainer.apply = applied  # type: ignore[method-assign]
    patched.setattr(Batch, "run_to_first_update", begun)


@pytest.mark.parametrize("schedule", [train_first, sample_first])
@pytest.mark.parametrize(("method", "kind"), [*((method, "qwen3") for method in METHODS), ("think_twice", "gpt2")])
def test_the_run_equals_one_thing_after_the_other(
    method: str, kind: str, schedule: Any, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against samples of half-trained weights, of another version than they say, of another batch's state, and
    against a result that depends on which of both threads is faster. Fused weights, and a model that runs from its own
    parameters."""
    plain, expected = one_after_the_other(make(*METHODS[method], "updates=9", out="plain", kind=kind))
    assert sum(abs(loss) > 0 for *_, loss in expected) >= 5, "a run that learns nothing proves nothing"
    run = open_run(make(*METHODS[method], "updates=9", AHEAD, kind=kind))
    found = seen_by(run)
    schedule(run, monkeypatch)
    list(train(run))
    assert found == expected
    assert same(bits(run.trainer), bits(plain.trainer))
    assert (run.n_batches, run.state) == (plain.n_batches, plain.state)


def test_versions_and_lag_by_hand(make: Make) -> None:
    """Guards against a lag that is not recorded, or recorded of the wrong update. Batch 0 says how many updates to expect,
    batch 1 is sampled after it; from batch 2 on each first update has samples of the version before."""
    for method, lags in (("grpo", [0, 0, 1, 1, 1, 1]), ("think_twice", [0, 0, 0, 0, 1, 0])):
        run = open_run(make(*METHODS[method], "updates=6", AHEAD, out=method))
        found = seen_by(run)
        list(train(run))
        assert [version - v for _, version, (v,), _ in found] == lags
        assert [r["lag_updates"] for r in records(run)] == lags
        logged = [json.loads(line) for line in run.folder.samples.read_text().splitlines()]
        newest = {r["batch"]: r["update"] for r in reversed(records(run))}  # the first update of each batch
        first = {s["batch"]: s["version"] for s in reversed(logged)}
        assert [newest[b] - 1 - first[b] for b in sorted(first)] == lags[:: 1 if method == "grpo" else 2]


def test_more_updates_than_expected_drop_what_was_sampled(make: Make) -> None:
    """Guards against samples that are two updates old, and against their cost going unseen. Updates per batch 1 2 2 1 2 2:
    expected are -, 1, 2, 2, 2, 2, so that the batch sampled beside batch 1's first update is dropped, batch 3 is sampled
    ahead, and batch 4 is not."""
    run = open_run(make(*METHODS["uneven"], "updates=9", AHEAD))
    list(train(run))
    assert [(r["batch"], r["lag_updates"]) for r in records(run)] == [
        *((0, 0), (1, 0), (1, 0), (2, 0), (2, 0), (3, 1), (4, 0), (4, 0), (5, 1), (5, 0)),
    ]
    tokens = {(r["batch"], r["phase"]): r["n_sampled_tokens"] for r in records(run)}
    n_samples = 2 * 3
    assert tokens[1, "second"] > n_samples * 5, "its own samples, at most 5 tokens each, and those that were dropped"
    assert all(n <= n_samples * 5 for key, n in tokens.items() if key != (1, "second"))


def test_a_method_that_remembers_too_late_is_refused(make: Make) -> None:
    """Guards against a batch that goes on from what the method remembered too early, in silence."""
    run = open_run(make("method.name=test_lookahead:Belated", "updates=9", AHEAD))
    with pytest.raises(UserError, match=r"'test_lookahead:Belated' changes its state .* one_step_off_policy=false"):
        list(train(run))
    assert [r["batch"] for r in records(run)] == [0, 1, 2]
    off = finished(make("method.name=test_lookahead:Belated", "updates=9", out="off"))
    assert off.state == {"n": 9, "late": True}


def test_replies_that_are_given_are_trained_as_ever(make: Make) -> None:
    """Guards against a version that matters where nothing is sampled: imitation is the same with and without."""
    settings = ("method.name=imitate", "problems.reply=reply", "updates=5")
    on, off = finished(make(*settings, AHEAD)), finished(make(*settings, out="off"))
    assert same(bits(on.trainer), bits(off.trainer))
    assert not same(bits(off.trainer), bits(open_run(make(*settings, out="start")).trainer))


def test_nothing_runs_ahead_by_default(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a default that changes runs: no second thread, no lag, no new number in the log or the checkpoint."""

    def never(*args: object) -> None:
        raise AssertionError("something ran ahead")

    monkeypatch.setattr(Batch, "run_to_first_update", never)
    monkeypatch.setattr(LocalPolicy, "frozen_weights", never)
    run = finished(make(*METHODS["think_twice"], "updates=6"))
    assert not any("lag" in key for r in records(run) for key in r)
    assert all("mismatch/kl" in r for r in records(run) if r["loss"])
    newest = run.newest_checkpoint()
    assert newest is not None
    assert json.loads((newest / "counters.json").read_text())["sampled_ahead"] is None


# ------------------------------------------------------------------------------------------------- beside each other


def test_sampling_and_training_overlap(make: Make) -> None:
    """Guards against a lookahead that only moves work: each waits, while under way, until the other is under way too."""
    run = open_run(make(*METHODS["grpo"], "updates=4", AHEAD))
    training, sampling = threading.Event(), threading.Event()
    sample, apply = run.policy.groups, run.trainer.apply
    met: list[str] = []

    def sampled(asked: Sequence[Prompt], *args: Any) -> Any:
        if run.n_batches:  # batch 1 itself is sampled when batch 0 is over, so this is the batch after
            sampling.set()
            met.append(f"sampled {training.wait(1 if len(met) == 0 else 60)}")
        return sample(asked, *args)

    def applied(update: Update, lag: int = 0) -> dict[str, float]:
        if threading.current_thread() is not threading.main_thread():
            training.set()
            met.append(f"trained {sampling.wait(60)}")
        numbers = apply(update, lag=lag)
        sampling.clear()
        return numbers

    run.policy.groups = sampled  # type: ignore[method-assign,assignment]
    run.trainer.apply = applied  # type: ignore[method-assign]
    list(train(run))
    assert met.count("trained True") == 3
    assert met.count("sampled True") == 3


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gpt2"])
def test_held_weights_do_not_follow_the_parameters(kind: str, model_folders: dict[str, Path]) -> None:
    """Guards against embeddings, norms and heads that are still the parameters themselves, in any of both forms."""
    # A copy lies at other addresses than what was read from a file, and some products then round otherwise.
    model = copied(load_model(str(model_folders[kind])))
    policy = LocalPolicy(model, Sampling(max_tokens=7))
    asked = build_prompts(Recipe(), 5).ask([Problem("p", "1 2", "3", coin)])
    before = policy.sample(asked, 5)
    with policy.frozen_weights():
        with torch.no_grad():
            for parameter in model.module.parameters():
                parameter.add_(0.3 * torch.ones_like(parameter))
        assert policy.sample(asked, 5) == before
    assert policy.sample(asked, 5) != before
    with pytest.raises(AssertionError), policy.frozen_weights():
        policy.publish(1)


def test_a_copy_is_a_copy_of_all(any_model: LanguageModel) -> None:
    """Guards against one tensor that is forgotten: nothing in copied weights lies in a parameter's memory."""
    taken = {p.untyped_storage().data_ptr() for p in any_model.module.parameters()}
    weights = any_model.weights(copy=True)
    tensors = [t for t in (*weights.head, *_tensors(weights)) if t is not None]
    assert len(tensors) > 10
    assert not any(t.untyped_storage().data_ptr() in taken for t in tensors)
    near = [t for t in _tensors(any_model.weights()) if t.untyped_storage().data_ptr() in taken]
    assert near, "without `copy` some are the parameters themselves, which is why it is needed"


def _tensors(weights: Any) -> list[torch.Tensor]:
    if hasattr(weights, "layers"):
        return [
            t
            for t in (weights.embedding, weights.norm, *(x for layer in weights.layers for x in layer))
            if t is not None
        ]
    return list(weights.module.parameters())


# ------------------------------------------------------------------------------------------------------- the trainer


def test_the_trainer_accepts_exactly_the_lag_it_is_told(qwen: LanguageModel) -> None:
    """Guards against a lag that excuses every old sample, and against drafts that slip in behind it."""
    trainer = make_trainer(qwen)
    trainer.version = 3
    part = PolicyGradient((reply_of(2, version=2), reply_of(3, version=2)), (1.0, -1.0))
    mixed = replace(part, samples=(part.samples[0], reply_of(3, version=3)))
    before = bits(trainer)
    for wrong, lag in ((part, 0), (part, 2), (mixed, 1), (mixed, 0)):
        with pytest.raises(ValueError, match=f"for a policy of version 3{f' with a lag of {lag}' if lag else ''};"):
            trainer.apply(Update("test", (wrong,)), lag=lag)
    assert same(bits(trainer), before)
    trainer.apply(Update("test", (part,)), lag=1)
    assert trainer.version == 4


@pytest.mark.parametrize("settings", [{}, {"old_log_probs": "recomputed"}])
def test_a_lag_changes_no_gradient_and_raises_no_alarm(qwen: LanguageModel, settings: dict[str, str]) -> None:
    """Guards against an objective that knows of the lag: the ratio corrects, to the log-probs that the samples have.
    Against alarms, too: log-probs that are half a nat off are a fault without a lag, and the policy's way with one."""
    samples = tuple(as_sampled(qwen.module, reply_of(n), (0.5, -0.5)) for n in (3, 5, 7))
    found = []
    for lag in (0, 1):
        trainer = Trainer(copied(qwen), Training(lr=0.01, **settings), 9, lambda: qwen)  # type: ignore[arg-type]
        trainer.version = 1
        old = tuple(replace(s, version=1 - lag) for s in samples)
        numbers = trainer.apply(Update("test", (PolicyGradient(old, (1.0, -0.5, 0.25)),)), lag=lag)
        found.append((bits(trainer), numbers))
    (now, plain), (late, lagged) = found
    assert same(now, late)
    assert len(alarms(plain)) == 2
    assert alarms(lagged) == []
    renamed = {key.replace("lag/", "mismatch/"): value for key, value in lagged.items()}
    assert renamed == plain


def copied(model: LanguageModel) -> LanguageModel:
    return replace(model, module=copy.deepcopy(model.module))


# ---------------------------------------------------------------------------------------- resumed, stopped, made longer

RESUMED = ("think_twice", "think_tuning", "uneven")


@pytest.fixture(scope="module")
def wholes() -> dict[str, Run]:
    """Runs that nobody disturbed, by method, each made once."""
    return {}


def whole_run(wholes: dict[str, Run], method: str, make: Make) -> Run:
    if method not in wholes:
        wholes[method] = finished(make(*METHODS[method], "updates=10", AHEAD, out="whole"))
    return wholes[method]


def after(run: Run, n: int) -> Iterator[Record]:
    """The run up to the record of update n, and then left alone, as by a kill."""
    for record in train(run):
        yield record
        if record["update"] == n:
            return


@pytest.mark.parametrize("method", RESUMED)
@pytest.mark.parametrize("n", [1, 6, 7])
def test_a_run_that_was_left_resumes_to_the_same_end(method: str, n: int, make: Make, wholes: dict[str, Run]) -> None:
    """Guards against a batch that is sampled from other weights after a resume than it would have been. Checkpoints after
    every batch: what was sampled ahead is in each of them from batch 1 on."""
    recipe = make(*METHODS[method], "updates=10", AHEAD, "checkpoint_every=1")
    list(after(open_run(recipe), n))
    run = open_run(recipe, resume=True, warn=lambda _: None)
    assert run.trainer.version <= n - 1, "the batch under way is lost"
    list(train(run))
    assert_same(run, whole_run(wholes, method, make))


@pytest.mark.parametrize("method", RESUMED)
@pytest.mark.parametrize("n", [1, 4, 5, 6])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(method: str, n: int, make: Make, wholes: dict[str, Run]) -> None:
    """Guards against a Ctrl-C that costs the samples of the next batch, counts a method's batches twice, or changes what
    follows; the moment of the stop must not matter."""
    settings = (*METHODS[method], "updates=10", AHEAD)
    whole = whole_run(wholes, method, make)
    run = open_run(make(*settings))
    for record in train(run):
        run.interrupted = record["update"] >= n
    assert n <= run.trainer.version <= n + 1
    if method == "think_tuning":
        assert run.state == {"n_batches": run.n_batches}
    assert (run.sampled_ahead is not None) == (run.n_batches > 1 and whole_lags(whole)[run.n_batches] == 1)
    run = open_run(make(*settings), resume=True)
    list(train(run))
    assert_same(run, whole)


def whole_lags(run: Run) -> dict[int, int]:
    """The lag of each batch's first update."""
    return {r["batch"]: r["lag_updates"] for r in reversed(records(run))}


def test_a_finished_run_can_be_made_longer(make: Make, wholes: dict[str, Run]) -> None:
    """Guards against a longer run that differs from one that was planned long, and a checkpoint's age that matters."""
    settings = (*METHODS["think_twice"], AHEAD)
    finished(make(*settings, "updates=6"))
    run = open_run(make(*settings, "updates=10", "checkpoint_every=2"), resume=True)
    list(train(run))
    assert_same(run, whole_run(wholes, "think_twice", make))


def test_evaluations_and_checkpoints_do_not_change_the_run(make: Make, problems: Path, tmp_path: Path) -> None:
    """Guards against an evaluation that samples from held weights, or a batch ahead that is sampled anew after one."""
    other = tmp_path / "held_out.jsonl"
    other.write_text(json.dumps({"key": "h", "question": "9 9 9 -> 27", "answer": "27"}) + "\n")
    settings = (*METHODS["think_twice"], "updates=8", AHEAD)
    held_out = [f"evaluation.problems.{key}" for key in (f"source={other}", "id=key", "verifier=support.coins:coin")]
    held_out += ["evaluation.every=2", "evaluation.sampling.max_tokens=5", "checkpoint_every=2"]
    plain, watched = finished(make(*settings, out="plain")), finished(make(*settings, *held_out))
    assert same(bits(plain.trainer), bits(watched.trainer))
    assert [r for r in records(watched) if r["phase"] != "evaluation"] == records(plain)
    assert len(records(watched)) == 8 + 4


def die_while_sampling_ahead(recipe: Recipe, n: int) -> None:
    """SIGKILL when the batch after batch n is being sampled beside its last update."""
    run = open_run(recipe)
    begin = Batch.run_to_first_update

    def begun(batch: Batch) -> None:
        if run.n_batches == n:
            os.kill(os.getpid(), signal.SIGKILL)
        begin(batch)

    Batch.run_to_first_update = begun  # type: ignore[method-assign,assignment]
    list(train(run))


def test_killed_while_sampling_ahead(make: Make, wholes: dict[str, Run]) -> None:
    """Guards against anything of a batch ahead that outlives a crash."""
    settings = (*METHODS["think_twice"], "updates=10", AHEAD, "checkpoint_every=2")
    assert exit_code(start(die_while_sampling_ahead, make(*settings), 3)) == -signal.SIGKILL
    run = open_run(make(*settings), resume=True)
    assert run.n_batches == 3
    assert run.sampled_ahead is not None
    list(train(run))
    assert_same(run, whole_run(wholes, "think_twice", make))


def test_samples_of_other_problems_are_refused(make: Make) -> None:
    """Guards against replies that are put below other prompts when the data has changed under a run."""
    recipe = make(*METHODS["grpo"], "updates=3", AHEAD)
    finished(recipe)
    run = open_run(replace(recipe, updates=4), resume=True)
    run.problems.reverse()
    with pytest.raises(UserError, match="the checkpoint holds samples of the next batch, but for other prompts"):
        list(train(run))


# ------------------------------------------------------------------------------------------------------------ failures


def failing(run: Run, at_batch: int, error: BaseException) -> None:
    """Sampling of the batch after this one fails."""
    sample = run.policy.groups

    def sampled(asked: Sequence[Prompt], *args: Any) -> Any:
        if run.n_batches == at_batch and any(p.problem in run.problems_of_batch(at_batch + 1) for p in asked):
            raise error
        return sample(asked, *args)

    run.policy.groups = sampled  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize("schedule", [train_first, as_it_comes])
def test_a_failure_in_sampling_surfaces_as_itself(schedule: Any, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an error that is swallowed, renamed, or takes the update beside it along; a resumed run goes on from
    the last checkpoint as if it had not been."""
    settings = (*METHODS["grpo"], "updates=5", AHEAD, "checkpoint_every=2")
    run = open_run(make(*settings))
    failing(run, 2, RuntimeError("out of cache"))
    with monkeypatch.context() as patched:
        schedule(run, patched)
        with pytest.raises(RuntimeError, match=r"^out of cache$"):
            list(train(run))
    assert [r["update"] for r in records(run)] == [1, 2, 3]
    assert (run.trainer.version, run.policy.version) == (3, 3)
    run = open_run(make(*settings), resume=True)
    assert run.trainer.version == 2
    list(train(run))
    assert_same(run, finished(make(*settings, out="whole")))


@pytest.mark.parametrize("schedule", [sample_first, as_it_comes])
def test_a_loss_that_is_not_finite_ends_the_run_with_its_own_batch(
    schedule: Any, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a hang, a batch's name that is the next one's, and a run that goes on."""
    run = open_run(make(*METHODS["grpo"], "updates=9", AHEAD, "checkpoint_every=1"))
    nan = float("nan")
    spoiled = changed(LOSSES[Clip], lambda loss: loss * (nan if run.trainer.version == 3 else 1))
    monkeypatch.setitem(LOSSES, Clip, spoiled)
    with monkeypatch.context() as patched:
        schedule(run, patched)
        with pytest.raises(UserError, match=r"the loss is nan .* in the 'solve' update of problem batch 3") as caught:
            list(train(run))
    assert run.problems_of_batch(3)[0].id in str(caught.value)
    assert [r["update"] for r in records(run)] == [1, 2, 3]
    newest = run.newest_checkpoint()
    assert newest is not None
    assert newest.name == "000003"


def test_sampling_ends_early_when_training_has_failed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against minutes of sampling for a run that is over: it ends at the first group that is complete."""
    run = open_run(make(*METHODS["grpo"], "updates=9", AHEAD))
    failed = threading.Event()
    begin, apply = Batch.run_to_first_update, run.trainer.apply
    graded: list[int] = []

    class Counting(Grader):
        def __call__(self, groups: Sequence[Group]) -> list[Group]:
            graded.append(len(groups))
            return super().__call__(groups)

    def applied(update: Update, lag: int = 0) -> dict[str, float]:
        numbers: dict[str, float] = {}
        try:
            numbers = apply(update, lag=lag)
        finally:
            if run.n_batches == 2:
                threading.Timer(0.2, failed.set).start()  # when the failure has been noticed
        return numbers

    def begun(batch: Batch) -> None:
        if run.n_batches == 2:
            assert failed.wait(60)
            run.grader = Counting()
        begin(batch)

    nan = float("nan")
    spoiled = changed(LOSSES[Clip], lambda loss: loss * (nan if run.trainer.version == 2 else 1))
    monkeypatch.setitem(LOSSES, Clip, spoiled)
    monkeypatch.setattr(Batch, "run_to_first_update", begun)
    run.trainer.apply = applied  # type: ignore[method-assign]
    with pytest.raises(UserError, match="problem batch 2"):
        list(train(run))
    assert graded == []


def test_an_interrupt_comes_through_when_the_update_has_ended(make: Make) -> None:
    """Guards against a second Ctrl-C that leaves a thread behind which still trains, or is lost."""
    run = open_run(make(*METHODS["grpo"], "updates=5", AHEAD))
    failing(run, 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        list(train(run))
    assert run.trainer.version == 3, "the update under way has ended, and nothing else began"
    assert [r["update"] for r in records(run)] == [1, 2]
