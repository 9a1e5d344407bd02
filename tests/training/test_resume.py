"""A run that was killed, stopped or blown up, and then resumed, equals the run that nobody disturbed."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rethink import cli
from rethink.build import build_prompts
from rethink.errors import UserError
from rethink.jsonl import Record
from rethink.models.load import load_model
from rethink.objectives import Clip
from rethink.policies.local import LocalPolicy
from rethink.recipe import Recipe, load_recipe
from rethink.training import checkpoint, loop
from rethink.training.losses import LOSSES
from rethink.training.run import Run, open_run
from rethink.types import Group, Prompt, Sample, Sampling
from support.processes import exit_code, light, start, wait_for
from support.trained import changed

_light = pytest.fixture(scope="module", autouse=True)(light)

UPDATES, EVERY = 12, 4


@pytest.fixture(scope="module")
def settings(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two updates per batch, three batches per pass over seven problems."""
    file = tmp_path_factory.mktemp("data") / "problems.jsonl"
    rows = [{"key": f"p{n}", "question": f"{n} 7 5 -> 26", "answer": "26"} for n in range(7)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        f"model.path={model_folders['qwen3']}",
        *("model.device=cpu", f"updates={UPDATES}", "problems_per_batch=2", f"checkpoint_every={EVERY}"),
        *("method.name=think_twice", "method.n_solve=5", "method.n_refine=3", "method.solve.n_steps=2"),
        *(
            f"problems.source={file}",
            "problems.id=key",
            "problems.verifier=support.coins:coin",
            "prompts.solve={question}",
        ),
        *("prompts.refine=again", "sampling.max_tokens=5", "training.lr=0.003", "seed=3"),
    ]


def recipe_for(settings: list[str], out: Path, *more: str) -> Recipe:
    return load_recipe(None, [*settings, f"out={out}", *more])


@pytest.fixture(scope="module")
def undisturbed(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the run that nobody disturbed; nearly every update has changed its weights."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run = open_run(recipe_for(settings, out))
    seen = [weights(run)]
    for _ in loop.train(run):
        seen.append(weights(run))
    assert sum(not all(map(torch.equal, a, b)) for a, b in itertools.pairwise(seen)) > UPDATES - 3
    return out


def weights(run: Run) -> list[torch.Tensor]:
    return [p.detach().clone() for p in run.trainer.parameters]


def records(out: Path) -> list[Record]:
    """What was logged, without the seconds that it took."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.endswith("_s")} for line in lines]


def optimizer(out: Path, n: int) -> dict[str, torch.Tensor]:
    state = torch.load(out / "checkpoints" / f"{n:06d}" / "optimizer.pt", weights_only=True)["state"]
    return {f"{i}.{key}": value for i, found in state.items() for key, value in found.items()}


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, optimizer, metrics and samples are equal, bit for bit; each update is logged once."""
    last = [out / "checkpoints" / f"{UPDATES:06d}" / "model.safetensors" for out in (a, b)]
    assert last[0].read_bytes() == last[1].read_bytes()
    ours, theirs = (optimizer(out, UPDATES) for out in (a, b))
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert [record["update"] for record in records(a)] == list(range(1, UPDATES + 1))
    assert records(a) == records(b)
    assert (a / "samples.jsonl").read_bytes() == (b / "samples.jsonl").read_bytes()


def resume(recipe: Recipe) -> tuple[Run, list[str]]:
    warnings: list[str] = []
    run = open_run(recipe, resume=True, warn=warnings.append)
    return run, warnings


def go_on(recipe: Recipe) -> list[str]:
    """Resume to the end; returns the warnings."""
    run, warnings = resume(recipe)
    list(loop.train(run))
    return warnings


# ------------------------------------------------------------------------------------------------------- killed


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_update(recipe: Recipe, n: int) -> None:
    """SIGKILL once update n is applied and logged."""
    for record in loop.train(open_run(recipe)):
        if record["update"] == n:
            die()


def die_inside_update(recipe: Recipe, n: int) -> None:
    """SIGKILL after the first of the optimizer steps of update n."""
    run = open_run(recipe)
    step = run.trainer.optimizer.step

    def stepped(*args: Any, **kwargs: Any) -> None:
        step(*args, **kwargs)
        if run.trainer.version == n - 1:
            die()

    run.trainer.optimizer.step = stepped  # type: ignore[method-assign, assignment]
    list(loop.train(run))


def die_inside_checkpoint(recipe: Recipe, n: int) -> None:
    """SIGKILL while the checkpoint after update n is written: the weights are there, the optimizer is not."""
    run = open_run(recipe)
    write = torch.save

    def save(state: object, file: Path) -> None:
        if run.trainer.version == n:
            file.write_bytes(b"half an optimi")
            die()
        write(state, file)

    torch.save = save  # type: ignore[assignment]
    list(loop.train(run))


def die_before_the_rename(recipe: Recipe, n: int) -> None:
    """SIGKILL when the checkpoint after update n is written but has not got its name."""
    rename = Path.rename

    def renamed(path: Path, target: Path) -> Path:
        if path.name == f".writing-{n:06d}":
            die()
        return rename(path, target)

    Path.rename = renamed  # type: ignore[method-assign,assignment]
    list(loop.train(open_run(recipe)))


MOMENTS = {
    "in the first batch": (die_after_update, 1, None),
    "between two batches, before any checkpoint": (die_after_update, 2, None),
    "between the two updates of a batch": (die_after_update, 7, 4),
    "between the optimizer steps of an update": (die_inside_update, 9, 8),
    "while the first checkpoint is written": (die_inside_checkpoint, 4, None),
    "while a later checkpoint is written": (die_inside_checkpoint, 8, 4),
    "before a checkpoint gets its name": (die_before_the_rename, 12, 8),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_resumes_to_the_same_end(
    moment: str, settings: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    """Guards against work that is repeated, lost or drawn anew after a crash, and against half-written checkpoints."""
    target, n, last_checkpoint = MOMENTS[moment]
    recipe = recipe_for(settings, tmp_path / "run")
    assert exit_code(start(target, recipe, n)) == -signal.SIGKILL
    run, warnings = resume(recipe)
    assert run.trainer.version == (last_checkpoint or 0)
    assert warnings == (
        [] if last_checkpoint else [f"{tmp_path / 'run'} has no checkpoint yet; starting at the beginning"]
    )
    list(loop.train(run))
    assert_same_run(tmp_path / "run", undisturbed)


def train_on(recipe: Recipe) -> None:
    list(loop.train(open_run(recipe)))


def n_logged(out: Path) -> int:
    file = out / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


@pytest.mark.parametrize("n", [3, 6])
def test_a_run_killed_from_outside_resumes_to_the_same_end(
    n: int, settings: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    """Guards against moments that nobody thought of: the kill comes when it comes, soon after line n of the metrics."""
    recipe = recipe_for(settings, tmp_path / "run")
    process = start(train_on, recipe)
    wait_for(lambda: n_logged(tmp_path / "run") >= n)
    process.kill()
    assert exit_code(process) == -signal.SIGKILL
    go_on(recipe)
    assert_same_run(tmp_path / "run", undisturbed)


def test_killed_twice(settings: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """Guards against a resume that cannot itself be resumed."""
    recipe = recipe_for(settings, tmp_path / "run")
    assert exit_code(start(die_after_update, recipe, 5)) == -signal.SIGKILL
    run, _ = resume(recipe)
    for record in loop.train(run):
        if record["update"] == 9:
            break
    assert go_on(recipe) == []
    assert_same_run(tmp_path / "run", undisturbed)


# ------------------------------------------------------------------------------------------------------ stopped


def test_two_batches_and_four_equal_six(settings: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """Guards against a stop that changes the run: `interrupted` ends it after the batch under way, with a checkpoint."""
    recipe = recipe_for(settings, tmp_path / "run")
    run = open_run(recipe)
    for record in loop.train(run):
        run.interrupted = record["update"] >= 5  # in the middle of the third batch
    assert (run.trainer.version, run.n_batches) == (6, 3)
    assert run.newest_checkpoint() == tmp_path / "run" / "checkpoints" / "000006"
    assert go_on(recipe) == []
    assert_same_run(tmp_path / "run", undisturbed)


# The schedule is on in batches 0 to 4 of six: a resumed run that counted anew would be guided to its end.
GUIDED = [
    *("method={name = 'think_tuning'}", "method.n_solve=29", "method.feedback=again", "method.n_guided=5"),
    *(
        "method.max_feedback_tokens=5",
        'method.separator=" "',
        "sampling.max_tokens=11",
        "updates=6",
        "checkpoint_every=2",
    ),
]


@pytest.mark.parametrize(("n", "last_checkpoint"), [(1, 0), (3, 2), (5, 4)])
def test_a_method_with_state_resumes_where_it_was(
    n: int, last_checkpoint: int, settings: list[str], tmp_path: Path
) -> None:
    """Guards against state that is lost, counted twice for a batch that is repeated, or not in the checkpoint."""
    whole = recipe_for(settings, tmp_path / "whole", *GUIDED)
    calls = asked_in(open_run(whole))
    assert [len(n_asked) for n_asked in calls] == [1] * 5 + [0]
    assert sum(map(sum, calls)) > 5, "few replies of a random model are finished, and so eligible"
    recipe = recipe_for(settings, tmp_path / "run", *GUIDED)
    assert exit_code(start(die_after_update, recipe, n)) == -signal.SIGKILL
    run, _ = resume(recipe)
    assert run.state == ({"n_batches": last_checkpoint} if last_checkpoint else {})
    assert asked_in(run) == calls[last_checkpoint:]
    assert run.state == {"n_batches": 6}
    a, b = (load_file(tmp_path / name / "checkpoints" / "000006" / "model.safetensors") for name in ("whole", "run"))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert records(tmp_path / "run") == records(tmp_path / "whole")


def asked_in(run: Run) -> list[list[int]]:
    """Run to the end; for each batch, how many replies the teacher was asked about in each call."""
    teacher = run.role("teacher")
    found: list[int] = []
    groups = teacher.groups

    def counted(prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> Iterator[tuple[int, Group]]:
        found.append(len(prompts))
        return groups(prompts, n, sampling)

    teacher.groups = counted  # type: ignore[method-assign]
    per_batch = []
    for _ in loop.train(run):
        per_batch.append(found[:])
        found.clear()
    return per_batch


def test_a_finished_run_can_be_made_longer(settings: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """Guards against a longer run that differs from one that was planned long."""
    short = recipe_for(settings, tmp_path / "run", "updates=6", "checkpoint_every=50")
    list(loop.train(open_run(short)))
    assert go_on(recipe_for(settings, tmp_path / "run")) == []
    assert_same_run(tmp_path / "run", undisturbed)


def test_resuming_a_finished_run_changes_nothing(settings: list[str], undisturbed: Path) -> None:
    """Guards against one batch too many."""
    before = {p: p.read_bytes() for p in sorted(undisturbed.rglob("*")) if p.is_file()}
    assert go_on(recipe_for(settings, undisturbed)) == []
    assert {p: p.read_bytes() for p in sorted(undisturbed.rglob("*")) if p.is_file()} == before


def test_a_damaged_checkpoint_costs_time_only(settings: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """Guards against a resume from an older checkpoint that leaves lines of the abandoned updates in the log."""
    recipe = recipe_for(settings, tmp_path / "run")
    assert exit_code(start(die_after_update, recipe, 9)) == -signal.SIGKILL
    damaged = tmp_path / "run" / "checkpoints" / "000008"
    (damaged / "model.safetensors").write_bytes(b"")
    assert ["000008 is damaged" in text for text in go_on(recipe)] == [True]
    assert_same_run(tmp_path / "run", undisturbed)


def command_line(*arguments: str) -> None:
    sys.argv = ["rethink", *arguments]
    cli.main()


def test_ctrl_c_finishes_the_batch_and_says_how_to_go_on(settings: list[str], tmp_path: Path) -> None:
    """Guards against a Ctrl-C that loses work: exit code 130, a whole batch, a checkpoint, and a command to paste."""
    (tmp_path / "recipe.toml").write_text("")
    given = [*settings, "updates=1000", f"out={tmp_path / 'run'}", "prompts.system=be brief"]
    arguments = ["train", str(tmp_path / "recipe.toml"), *given]
    process = start(command_line, *arguments, output=tmp_path / "output")
    wait_for(lambda: n_logged(tmp_path / "run") >= 1)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert exit_code(process) == 130
    shown = (tmp_path / "output").read_text()
    last = records(tmp_path / "run")[-1]
    assert last["phase"] == "refine"
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()][-1:] == [f"{last['update']:06d}"]
    assert "finishing the current problem batch" in shown
    command = next(line for line in shown.splitlines() if line.strip().startswith("rethink train"))
    assert shlex.split(command) == ["rethink", *arguments, "--resume"]
    run, warnings = resume(load_recipe(None, given))
    assert (run.trainer.version, warnings) == (last["update"], [])


# ----------------------------------------------------------------------------------------------- after a resume


def test_first_samples_after_a_resume_come_from_the_resumed_weights(settings: list[str], undisturbed: Path) -> None:
    """Guards against samples of the base weights (huggingface/trl#3185): their log-probs are the checkpoint's."""
    run, _ = resume(recipe_for(settings, undisturbed))
    asked = build_prompts(run.recipe, 5).ask(run.problems[:2])
    ours = run.policy.sample(asked, 3)
    trained = str(undisturbed / "checkpoints" / f"{UPDATES:06d}")
    fresh, base = (LocalPolicy(load_model(path), run.recipe.sampling) for path in (trained, run.recipe.model.path))
    assert tokens(ours) == tokens(fresh.sample(asked, 3))
    assert tokens(ours) != tokens(base.sample(asked, 3))
    assert {s.version for group in ours for s in group} == {UPDATES}
    for sample, scored_T in zip(flat(ours), run.trainer.log_probs(flat(ours)), strict=True):
        # float32 sums in another order (cached decoding against one forward pass)
        assert scored_T.tolist() == pytest.approx(sample.log_probs, abs=1e-4)


def flat(groups: list[Group]) -> list[Sample]:
    return [s for group in groups for s in group]


def tokens(groups: list[Group]) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    return [(s.ids, s.log_probs) for s in flat(groups)]


def test_the_initial_model_of_a_resumed_run_is_the_start(settings: list[str], undisturbed: Path) -> None:
    """Guards against a KL term that is taken to the checkpoint instead of the weights the run began with."""
    run, _ = resume(recipe_for(settings, undisturbed))
    start_weights = load_file(Path(run.recipe.model.path) / "model.safetensors")
    initial = dict(run.trainer.initial.module.named_parameters())
    assert all(torch.equal(initial[name], value) for name, value in start_weights.items())


# --------------------------------------------------------------------------------------------------- blown up


@pytest.fixture
def four_updates(settings: list[str], tmp_path: Path) -> Iterator[Recipe]:
    """A recipe whose folder has a checkpoint after update 4; afterwards that one is still the newest, and whole."""
    list(loop.train(open_run(recipe_for(settings, tmp_path / "run", "updates=4"))))
    last = tmp_path / "run" / "checkpoints" / "000004"
    before = {p.name: p.read_bytes() for p in last.iterdir()}
    yield recipe_for(settings, tmp_path / "run")
    assert checkpoint.newest(tmp_path / "run" / "checkpoints", pytest.fail) == last
    assert {p.name: p.read_bytes() for p in last.iterdir()} == before


def explosion(run: Run) -> str:
    with pytest.raises(UserError) as caught:
        list(loop.train(run))
    return str(caught.value)


def test_a_loss_that_is_not_finite_names_its_batch(four_updates: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a run that goes on with NaN weights, or saves them."""
    run, _ = resume(four_updates)
    monkeypatch.setitem(LOSSES, Clip, changed(LOSSES[Clip], lambda loss: loss * float("nan")))
    message = explosion(run)
    assert "the loss is nan" in message
    assert "'solve' update of problem batch 2" in message
    assert run.problems_of_batch(2)[0].id in message
    assert f"The last checkpoint in {run.folder.checkpoints} is untouched; resume from it with a lower" in message


def test_a_weight_that_is_not_finite_ends_the_run(four_updates: Recipe) -> None:
    """Guards against samples of a broken model that are graded as if nothing had happened."""
    run, _ = resume(four_updates)
    with torch.no_grad():
        run.trainer.parameters[0].fill_(float("nan"))
    assert "its weights hold NaN" in explosion(run)


def test_an_absurd_learning_rate_ends_the_run(settings: list[str], tmp_path: Path) -> None:
    """Guards against weights that overflow without a word: the first steps of 1e30 make the next loss undefined."""
    run = open_run(recipe_for(settings, tmp_path / "run", "training.lr=1e30"))
    assert "of problem batch 0" in explosion(run)
    assert run.newest_checkpoint() is None
