"""A run that was killed, stopped or extended, and then resumed, equals a run that was never stopped."""

from __future__ import annotations

import itertools
import math
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import rethink
from rethink.build import build_prompts
from rethink.errors import UserError
from rethink.evaluation.answers import read_answers
from rethink.evaluation.evaluate import evaluate
from rethink.jsonl import Record
from rethink.recipe import Recipe, load_recipe
from rethink.run_folder import START
from rethink.training import loop, update_log
from rethink.training.run import Run, open_run
from support.command_line import command_line
from support.processes import exit_code, light, start, wait_for
from support.runs import THINK_TWICE, records, run_settings, write_problems
from support.trained import bits, same

pytestmark = pytest.mark.slow

_light = pytest.fixture(scope="module", autouse=True)(light)

UPDATES, EVERY = 12, 4


@pytest.fixture(scope="module")
def settings(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Settings of a run with two updates per batch, three batches per pass and a checkpoint every four updates."""
    common = run_settings(write_problems(tmp_path_factory.mktemp("data")))
    more = (f"model.path={model_folders['qwen3']}", f"updates={UPDATES}", f"checkpoint_every={EVERY}")
    return [*common, *THINK_TWICE, *more]


def recipe_for(settings: list[str], out: Path, *more: str) -> Recipe:
    return load_recipe(None, [*settings, f"out={out}", *more])


@pytest.fixture(scope="module")
def undisturbed(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never stopped, in which nearly every update has changed the weights."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run = open_run(recipe_for(settings, out))
    seen = [bits(run.trainer)]
    for _ in loop.train(run):
        seen.append(bits(run.trainer))
    assert sum(not same(a, b) for a, b in itertools.pairwise(seen)) > UPDATES - 3
    return out


def optimizer_state(out: Path) -> dict[str, torch.Tensor]:
    state = torch.load(out / "checkpoints" / f"{UPDATES:06d}" / "optimizer.pt", weights_only=True)["state"]
    return {f"{i}.{key}": value for i, found in state.items() for key, value in found.items()}


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, optimizer, metrics and samples are equal, bit for bit; each update is logged once."""
    last = [out / "checkpoints" / f"{UPDATES:06d}" / "model.safetensors" for out in (a, b)]
    assert last[0].read_bytes() == last[1].read_bytes()
    ours, theirs = (optimizer_state(out) for out in (a, b))
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert [record["update"] for record in records(a)] == list(range(1, UPDATES + 1))
    assert records(a) == records(b)
    assert (a / "samples.jsonl").read_bytes() == (b / "samples.jsonl").read_bytes()


def resume(recipe: Recipe) -> tuple[Run, list[str]]:
    """Resume a run; return it and the warnings."""
    warnings: list[str] = []
    run = open_run(recipe, resume=True, warn=warnings.append)
    return run, warnings


def resume_to_the_end(recipe: Recipe) -> list[str]:
    run, warnings = resume(recipe)
    list(loop.train(run))
    return warnings


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_update(recipe: Recipe, n: int) -> None:
    """Die once update n is trained and logged."""
    for record in loop.train(open_run(recipe)):
        if record["update"] == n:
            die()


def die_inside_update(recipe: Recipe, n: int) -> None:
    """Die after the first optimizer step of update n."""
    run = open_run(recipe)
    step = run.trainer.optimizer.step

    def stepped(*args: Any, **kwargs: Any) -> None:
        step(*args, **kwargs)
        if run.trainer.version == n - 1:
            die()

    run.trainer.optimizer.step = stepped  # type: ignore[method-assign, assignment]
    list(loop.train(run))


def die_inside_checkpoint(recipe: Recipe, n: int) -> None:
    """Die while the checkpoint after update n is written: it has weights but no complete optimizer state."""
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
    """Die when the checkpoint after update n is complete but not renamed."""
    rename = Path.rename

    def renamed(path: Path, target: Path) -> Path:
        if path.name == f".writing-{n:06d}":
            die()
        return rename(path, target)

    Path.rename = renamed  # type: ignore[method-assign,assignment]
    list(loop.train(open_run(recipe)))


MOMENTS = {
    "in the first batch": (die_after_update, 1, None),
    "between the two updates of a batch": (die_after_update, 7, 4),
    "between the optimizer steps of an update": (die_inside_update, 9, 8),
    "while a checkpoint is written": (die_inside_checkpoint, 8, 4),
    "before a checkpoint is renamed": (die_before_the_rename, 12, 8),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_resume_after_a_kill(moment: str, settings: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """Guards against updates that are repeated, lost or sampled differently, and against half-written checkpoints."""
    target, n, last_checkpoint = MOMENTS[moment]
    recipe = recipe_for(settings, tmp_path / "run")
    assert exit_code(start(target, recipe, n)) == -signal.SIGKILL
    run, warnings = resume(recipe)
    assert run.trainer.version == (last_checkpoint or 0)
    assert warnings == (
        [] if last_checkpoint else [f"{tmp_path / 'run'} has no checkpoint yet; starting from the beginning"]
    )
    list(loop.train(run))
    assert_same_run(tmp_path / "run", undisturbed)


def n_logged(out: Path) -> int:
    file = out / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def test_resume_from_an_older_checkpoint(settings: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """Guards against log lines of abandoned updates when the newest checkpoint is damaged."""
    recipe = recipe_for(settings, tmp_path / "run")
    assert exit_code(start(die_after_update, recipe, 9)) == -signal.SIGKILL
    damaged = tmp_path / "run" / "checkpoints" / "000008"
    (damaged / "model.safetensors").write_bytes(b"")
    assert ["000008 is damaged" in text for text in resume_to_the_end(recipe)] == [True]
    assert_same_run(tmp_path / "run", undisturbed)


def test_resume_after_a_stop(settings: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """Guards against a stop that changes the run: `interrupted` ends it after the batch, with a checkpoint."""
    recipe = recipe_for(settings, tmp_path / "run")
    run = open_run(recipe)
    for record in loop.train(run):
        run.interrupted = record["update"] >= 5  # in the middle of the third batch
    assert (run.trainer.version, run.n_batches) == (6, 3)
    assert run.newest_checkpoint() == tmp_path / "run" / "checkpoints" / "000006"
    assert resume_to_the_end(recipe) == []
    assert_same_run(tmp_path / "run", undisturbed)


def test_finished_run_can_be_extended(settings: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """Guards against an extended run that differs from one planned long, and one batch too many in a finished run."""
    list(loop.train(open_run(recipe_for(settings, tmp_path / "run", "updates=6", "checkpoint_every=50"))))
    for _ in range(2):
        assert resume_to_the_end(recipe_for(settings, tmp_path / "run")) == []
        assert_same_run(tmp_path / "run", undisturbed)


def test_ctrl_c_finishes_the_batch_and_prints_how_to_resume(settings: list[str], tmp_path: Path) -> None:
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
    command = next(line for line in shown.splitlines() if line.strip().startswith("rethink train"))
    assert shlex.split(command) == ["rethink", *arguments, "--resume"]
    run, warnings = resume(load_recipe(None, given))
    assert (run.trainer.version, warnings) == (last["update"], [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_does_what_ctrl_c_does(number: int, settings: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """SIGTERM once lost all updates since the last checkpoint. A run folder is enough to resume."""
    out = tmp_path / "run"
    (tmp_path / "recipe.toml").write_text("")
    arguments = ["train", str(tmp_path / "recipe.toml"), *settings, "checkpoint_every=1000", f"out={out}"]
    process = start(command_line, *arguments, output=tmp_path / "output")
    wait_for(lambda: n_logged(out) >= 1)
    assert process.pid is not None
    os.kill(process.pid, number)
    assert exit_code(process) == 128 + number
    shown = (tmp_path / "output").read_text()
    assert "press Ctrl-C again to stop at once, which loses everything: there is no checkpoint yet" in shown
    assert exit_code(start(command_line, "train", str(out), "--resume", output=tmp_path / "output")) == 0
    assert_same_run(out, undisturbed)


def test_a_second_resume_is_refused(settings: list[str], tmp_path: Path) -> None:
    """Two resumes of one run once both trained, and the log had their updates twice."""
    out = tmp_path / "run"
    first = start(keep_training, recipe_for(settings, out, "updates=1000"))
    wait_for(lambda: n_logged(out) >= 1)
    before = (out / "config.toml").read_bytes()
    for resumes in (True, False):
        with pytest.raises(UserError, match=f"run is in use by process {first.pid} on "):
            open_run(recipe_for(settings, out, "updates=2000"), resume=resumes)
    assert (out / "config.toml").read_bytes() == before
    first.kill()
    assert exit_code(first) == -signal.SIGKILL
    resume(recipe_for(settings, out, "updates=1000"))


def keep_training(recipe: Recipe) -> None:
    list(loop.train(open_run(recipe)))


def test_other_problems_are_refused(settings: list[str], tmp_path: Path) -> None:
    """A problem file that was rewritten once trained on under the same ids."""
    source = tmp_path / "problems.jsonl"
    original = Path(next(s for s in settings if s.startswith("problems.source=")).partition("=")[2]).read_text()
    source.write_text(original)
    recipe = recipe_for(settings, tmp_path / "run", "updates=2", f"problems.source={source}")
    list(loop.train(open_run(recipe)))
    source.write_text(original.replace("7 5 ->", "7 4 ->"))
    with pytest.raises(UserError, match=r"the training problems have changed .*: other questions\. Restore them"):
        open_run(recipe, resume=True)
    source.write_text(original)
    resume(recipe)


EVALUATED = (
    "evaluation.problems={source = 'countdown', split = 'test', limit = 3}",
    "evaluation.every=4",
    "evaluation.sampling.max_tokens=5",
    "checkpoint_every=1000",
)


def die_in_evaluation(recipe: Recipe, n: int) -> None:
    """Die in the evaluation after update n."""
    evaluate = update_log.evaluate_held_out

    def dies(run: Run) -> Record:
        if run.trainer.version == n:
            die()
        return evaluate(run)

    setattr(loop, "evaluate_held_out", dies)  # noqa: B010
    list(loop.train(open_run(recipe)))


def test_a_kill_in_an_evaluation_loses_no_update(settings: list[str], tmp_path: Path) -> None:
    """The loop once evaluated before it saved: eight updates were lost. The evaluation is made up for, once."""
    list(loop.train(open_run(recipe_for(settings, tmp_path / "whole", *EVALUATED))))
    recipe = recipe_for(settings, tmp_path / "run", *EVALUATED)
    assert exit_code(start(die_in_evaluation, recipe, 8)) == -signal.SIGKILL
    run, warnings = resume(recipe)
    assert (run.trainer.version, run.evaluation_due, warnings) == (8, True, [])
    run.interrupted = True
    assert list(loop.train(run)) == []
    run, _ = resume(recipe)
    list(loop.train(run))
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    run, _ = resume(recipe)
    assert (run.evaluation_due, list(loop.train(run))) == (False, [])
    names = [sorted(p.name for p in (tmp_path / name / "checkpoints").iterdir()) for name in ("run", "whole")]
    assert names == [["000012"], ["000012"]]


def test_the_start_model_is_evaluated_once(settings: list[str], tmp_path: Path) -> None:
    """Guards against a start evaluation that is lost or made twice on resume, that blocks the folder of a run without a
    checkpoint, or that changes what is trained."""
    at_start = (*EVALUATED, "evaluation.at_start=true")
    list(loop.train(open_run(recipe_for(settings, tmp_path / "without", *EVALUATED))))
    recipe = recipe_for(settings, tmp_path / "run", *at_start)
    assert exit_code(start(die_in_evaluation, recipe, 0)) == -signal.SIGKILL
    for _ in range(2):  # it begins again, and evaluates again
        assert exit_code(start(die_after_update, recipe, 1)) == -signal.SIGKILL
    first = (tmp_path / "run" / START).read_bytes()
    run, warnings = resume(recipe)
    assert (run.evaluation_due, run.trainer.version) == (False, 0)
    assert warnings == [f"{tmp_path / 'run'} has no checkpoint yet; starting from the beginning"]
    list(loop.train(run))
    logged = records(tmp_path / "run")
    assert (logged[0]["phase"], logged[0]["update"], logged[0]["batch"]) == ("evaluation", 0, -1)
    assert logged[1:] == records(tmp_path / "without")
    assert (tmp_path / "run" / START).read_bytes() == first
    policy = rethink.load_policy(recipe.model.path, sampling=recipe.evaluation.sampling)
    again = evaluate(policy, run.held_out, recipe.evaluation, prompts=build_prompts(recipe, recipe.seed))
    stored = read_answers(tmp_path / "run" / START)
    assert [[step.text for step in one.steps] for one in stored] == [[step.text for step in one.steps] for one in again]


def save_often_and_die(recipe: Recipe, n: int) -> None:
    """Save after each batch, however long that takes; die once update n is logged."""
    setattr(loop, "SAVING_FRAC", math.inf)  # noqa: B010
    die_after_update(recipe, n)


def test_saving_by_time_changes_no_numbers(settings: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """Guards against a clock that changes samples, weights, or which checkpoints stay."""
    recipe = recipe_for(settings, tmp_path / "run", "checkpoint_minutes=1e-9")
    assert exit_code(start(save_often_and_die, recipe, 11)) == -signal.SIGKILL
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["000004", "000008", "000010"]
    run, _ = resume(recipe)
    assert run.trainer.version == 10
    list(loop.train(run))
    assert_same_run(tmp_path / "run", undisturbed)
    names = [sorted(p.name for p in (out / "checkpoints").iterdir()) for out in (tmp_path / "run", undisturbed)]
    assert names == [["000008", "000012"], ["000008", "000012"]]


# The guidance is on in batches 0 to 4 of six: a resumed run that counts from 0 would be guided to its end.
GUIDED = [
    *("method={name = 'think_tuning'}", "method.n_solve=29", "method.feedback=again", "method.n_guided=5"),
    *("method.max_feedback_tokens=5", 'method.separator=" "', "sampling.max_tokens=11", "method.last_fraction=0.25"),
    *("updates=6", "checkpoint_every=2"),
]


def test_state_of_the_method_is_restored(settings: list[str], tmp_path: Path) -> None:
    """Guards against state that is lost, counted twice for a repeated batch, or not in the checkpoint."""
    list(loop.train(open_run(recipe_for(settings, tmp_path / "whole", *GUIDED))))
    n_guided = [record["n_role_tokens"] for record in records(tmp_path / "whole")]
    assert n_guided[4] > 0 == n_guided[5]
    recipe = recipe_for(settings, tmp_path / "run", *GUIDED)
    assert exit_code(start(die_after_update, recipe, 5)) == -signal.SIGKILL
    run, _ = resume(recipe)
    assert run.state == {"n_batches": 4}
    list(loop.train(run))
    assert run.state == {"n_batches": 6}
    a, b = (load_file(tmp_path / name / "checkpoints" / "000006" / "model.safetensors") for name in ("whole", "run"))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert records(tmp_path / "run") == records(tmp_path / "whole")


@pytest.mark.parametrize("key", ["evaluation.sampling", "evaluation.refine_sampling"])
def test_replies_that_fill_the_model_are_refused_before_training(key: str, tmp_path: Path) -> None:
    """Guards against a trained model that is lost because its evaluation is refused."""
    recipe = load_recipe("demo-grpo", [f"out={tmp_path / 'run'}", f"{key}.max_tokens=128"])
    with pytest.raises(UserError, match=rf"^{key}\.max_tokens = 128 leaves no room for a prompt in the model's 128"):
        open_run(recipe)
    assert not (tmp_path / "run").exists()
