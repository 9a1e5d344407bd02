"""Runs in several processes: the same run as one process, whatever their number, and whatever becomes of one of them.

Rounding: one process takes Llama's layers as fused products, ranks take the model's modules, and sums have other orders.
Measured on float32 models: monitors are apart by 1e-5 of their size, gradients by 1e-5 of a parameter's largest entry.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.utils import logging

from rethink.jsonl import Record
from rethink.models.load import load_model
from rethink.models.shards import is_sharded
from rethink.recipe import load_recipe
from rethink.training import checkpoint, loop
from rethink.training.run import open_run
from support import random_models
from support import ranks_cases as cases
from support.command_line import Rethink, in_process
from support.processes import light, wait_for
from support.ranks_start import Ended, Processes, command_line, report, together, torchrun, torchrun_forked
from support.samples import assert_same_gradient

_light = pytest.fixture(scope="module", autouse=True)(light)

MONITORS = 1e-4
"""How far numbers of a run may be apart, relative to their size."""

WEIGHTS = 3e-5
"""How far weights may be apart at the end of a run, at a learning rate of 1e-3 and weights of size 1."""

ONLY_OF_RANKS = ("n_ranks", "n_bytes_gathered")


@pytest.fixture(scope="module")
def settings(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two updates per batch of five problems, of which there are eleven; KL, several optimizer steps, evaluations."""
    folder = tmp_path_factory.mktemp("problems")
    for name, n, question in (("train", 11, "{} 7 5 -> 26"), ("test", 3, "{} 5 3 -> 21")):
        rows = [{"key": f"{name}{k}", "question": question.format(k), "answer": "26"} for k in range(n)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held_out = f"{{source = '{folder / 'test.jsonl'}', id = 'key', verifier = 'support.ranks_cases:coin'}}"
    return [
        f"model.path={model_folders['qwen3']}",
        *(
            "model.device=cpu",
            "updates=6",
            "problems_per_batch=5",
            "checkpoint_every=2",
            "keep_checkpoints=9",
            "seed=3",
        ),
        *("method={name = 'think_twice'}", "method.n_solve=4", "method.n_refine=3", "method.solve={n_steps = 2}"),
        *("method.refine={n_steps = 1, kl_coef = 0.1}", "prompts.solve={question}", "prompts.refine=again"),
        *("sampling.max_tokens=5", "training.lr=0.001", "distributed.timeout_s=100"),
        *("problems.id=key", "problems.verifier=support.ranks_cases:coin", f"problems.source={folder / 'train.jsonl'}"),
        *(f"evaluation.problems={held_out}", "evaluation.every=2", "evaluation.n=2"),
        "evaluation.sampling={temperature = 1.0, max_tokens = 5}",
    ]


def train(settings: Sequence[str], out: Path, *more: str, resume: bool = False) -> Path:
    """A run in this process, without torchrun."""
    run = open_run(load_recipe(None, [*settings, f"out={out}", *more]), resume=resume, warn=pytest.fail)
    list(loop.train(run))
    return out


def arguments(settings: Sequence[str], out: Path, *more: str) -> list[object]:
    """Those of `rethink train`: an empty recipe, all of it in settings."""
    file = out.with_suffix(".toml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("")
    return ["train", file, *settings, f"out={out}", *more]


def share(n: int, settings: Sequence[str], out: Path, *more: str, told: dict[str, str] | None = None) -> list[Ended]:
    """How n ranks of `rethink train` ended."""
    said = out.with_suffix(".said")
    return together(n, command_line, *arguments(settings, out, *more), folder=said, told=told)


def assert_well(ended: Sequence[Ended]) -> None:
    assert [e.code for e in ended] == [0] * len(ended), report(ended)


def assert_refused(ended: Sequence[Ended], *words: str) -> None:
    """Every rank ends with exit code 2, and one of them says why, in one message without a traceback."""
    assert [e.code for e in ended] == [2] * len(ended), report(ended)
    messages = [line for e in ended for line in e.text.splitlines() if line.startswith("rethink: ")]
    assert len(messages) == 1, report(ended)
    assert [word for word in words if word not in messages[0]] == [], messages[0]
    assert "Traceback" not in report(ended), report(ended)


def fails(how: str, run: Path) -> dict[str, str]:
    """The environment in which rank 1 fails."""
    return {cases.FAULT: how, cases.RUN: str(run)}


def records(out: Path) -> list[Record]:
    """What was logged, without seconds and without what only several ranks log."""
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if not k.endswith("_s") and k not in ONLY_OF_RANKS} for r in found]


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def saved(out: Path, n: int) -> dict[str, Tensor]:
    """The weights of a checkpoint, by whomever it was written."""
    module = load_model(str(out / "checkpoints" / f"{n:06d}")).module
    return {name: p.detach() for name, p in module.named_parameters()}


def gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def mean_gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return sum(float((a[name] - b[name]).abs().sum()) for name in a) / sum(w.numel() for w in a.values())


def all_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_same_run(ours: Path, theirs: Path, n: int = 6) -> None:
    """Texts, verdicts and rewards are equal; monitors and weights but for rounding. Each update is logged once."""
    assert lines(ours / "samples.jsonl") == lines(theirs / "samples.jsonl")
    for k in range(2, n + 1, 2):
        name = f"eval/{k:06d}.jsonl"
        assert lines(ours / name) == lines(theirs / name)
    assert_same_records(records(ours), records(theirs))
    assert gap(saved(ours, n), saved(theirs, n)) <= WEIGHTS


def assert_same_records(ours: Sequence[Record], theirs: Sequence[Record]) -> None:
    assert [(r["update"], r["phase"]) for r in ours] == [(r["update"], r["phase"]) for r in theirs]
    for got, want in zip(ours, theirs, strict=True):
        assert got.keys() == want.keys()
        for key, value in want.items():
            # A mismatch of sampler and trainer is rounding itself.
            near = 1e-4 if key.startswith("mismatch/") else MONITORS * 0.1
            wanted = pytest.approx(value, rel=MONITORS, abs=near) if isinstance(value, float) else value
            assert got[key] == wanted, (want["update"], key)


@pytest.fixture(scope="module")
def undisturbed(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process; its weights moved by fifty times what rounding may make of them, and every update has some
    reward and some gradient."""
    out = train(settings, tmp_path_factory.mktemp("undisturbed") / "run")
    assert gap(saved(out, 2), saved(out, 6)) > 50 * WEIGHTS
    updates = [r for r in records(out) if r["phase"] != "evaluation"]
    assert all(0 < r["reward"] < 1 and r["grad_norm"] > 0 for r in updates)
    return out


@pytest.fixture(scope="module")
def two_updates(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two ranks at its first checkpoint."""
    out = tmp_path_factory.mktemp("begun") / "run"
    assert_well(share(2, settings, out, "updates=2"))
    return out


@pytest.fixture
def begun(two_updates: Path, tmp_path: Path) -> Path:
    """A copy of it, to go on from."""
    return Path(shutil.copytree(two_updates, tmp_path / "run"))


# ---------------------------------------------------------------------------------------------------- the same run


def test_four_ranks_make_the_run_of_one_process(settings: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """Guards against another run on more processes. Of five problems one rank has two, and some updates have fewer
    micro-batches than ranks."""
    out = tmp_path / "run"
    assert_well(share(4, settings, out))
    assert_same_run(out, undisturbed)
    updates = [r for r in lines(out / "metrics.jsonl") if r["phase"] != "evaluation"]
    assert {r["n_ranks"] for r in updates} == {4}
    assert all(r["n_bytes_gathered"] > 0 for r in updates)


def test_a_run_goes_on_with_another_number_of_ranks(settings: list[str], undisturbed: Path, begun: Path) -> None:
    """Guards against checkpoints that only as many ranks can read: written by two, one process and three in turn."""
    train(settings, begun, "updates=4", resume=True)
    assert_well(share(3, settings, begun, "--resume"))
    assert [is_sharded(begun / "checkpoints" / f"{k:06d}") for k in (2, 4, 6)] == [True, False, True]
    assert_same_run(begun, undisturbed)


def test_a_killed_rank_costs_time_only(settings: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """Guards against a restart by torchrun that begins anew, trains on an update twice, or asks for --resume."""
    out = tmp_path / "run"
    given, said, told = arguments(settings, out), tmp_path / "said", fails("dies", out)
    ended = torchrun_forked(2, *given, file=said, options=["--max-restarts=1"], told=told)
    assert ended.code == 0, ended.text
    assert (out / "has failed").exists()
    assert f"model: {out / 'checkpoints' / '000006'}" in ended.text
    assert_same_run(out, undisturbed)


# ------------------------------------------------------------------------------------------------ when ranks are lost


def test_without_restarts_a_killed_rank_ends_the_run(settings: list[str], undisturbed: Path, begun: Path) -> None:
    """Guards against survivors that wait for ever, an end that looks like success, and a checkpoint that suffers."""
    before = all_in(begun / "checkpoints")
    # torchrun looks after its processes so seldom here that the survivor has to notice by itself.
    options = ["--max-restarts=0", "--monitor-interval=5"]
    ended = torchrun(2, *arguments(settings, begun, "--resume"), options=options, told=fails("dies", begun))
    assert ended.code not in (0, None), ended.text
    assert "rethink: rank 0 got no answer from the others: one has ended, or took longer than" in ended.text
    assert "the last checkpoint is untouched, resume from it with --resume" in ended.text
    assert all_in(begun / "checkpoints") == before
    assert_same_run(train(settings, begun, resume=True), undisturbed)


def test_a_rank_that_hangs_ends_the_run_in_time(settings: list[str], begun: Path) -> None:
    """Guards against a run that stands still for ever, and nobody knows why. The other ranks wait some seconds."""
    before = all_in(begun / "checkpoints")
    given = arguments(settings, begun, "--resume", "distributed.timeout_s=4")
    said = begun.with_suffix(".said")
    processes = Processes(3, command_line, *given, folder=said, told=fails("sleeps", begun))
    ended = processes.end([0, 2])
    assert (begun / "has failed").exists()
    assert [e.code for e in ended] == [2, None, 2], report(ended)
    for rank in (0, 2):
        assert f"rethink: rank {rank} got no answer from the others" in ended[rank].text, report(ended)
        assert "took longer than distributed.timeout_s" in ended[rank].text
        assert "Traceback" not in ended[rank].text
    assert all_in(begun / "checkpoints") == before


def test_a_rank_that_differs_ends_the_run(settings: list[str], tmp_path: Path) -> None:
    """Guards against ranks that train on different things: here weights that differ by 1e-9 on one of three."""
    more = ["method={name = 'support.ranks_cases:Differs'}", "method.n_solve=4"]
    ended = share(3, [s for s in settings if not s.startswith("method")], tmp_path / "run", *more)
    what = "the ranks differ in the 'solve' update of problem batch 0 (its hash): "
    assert_refused(ended, what, " on rank 0, 2; ", " on rank 1. A method must follow from its samples and seeds alone")
    run = tmp_path / "run"
    assert not (run / "checkpoints").exists()
    assert (run / "metrics.jsonl").read_text() == (run / "samples.jsonl").read_text() == "", "nothing was trained"


def test_ctrl_c_at_one_rank_stops_all_after_the_batch(settings: list[str], undisturbed: Path, begun: Path) -> None:
    """Guards against a signal that reaches ranks in different batches, and leaves them waiting for each other."""
    given = arguments(settings, begun, "--resume", "updates=1000")
    processes = Processes(2, command_line, *given, folder=begun.with_suffix(".said"))
    wait_for(lambda: (begun / "metrics.jsonl").read_bytes().count(b"\n") > 3)
    os.kill(int(processes.processes[1].pid or 0), signal.SIGINT)
    ended = processes.end()
    assert [e.code for e in ended] == [130, 130], report(ended)
    assert "to resume:" in ended[0].text
    newest = checkpoint.newest(begun / "checkpoints", pytest.fail)
    assert newest is not None
    ours, theirs = records(begun), records(undisturbed)
    assert ours[-1]["update"] == int(newest.name) >= 4
    n = min(len(ours), len(theirs))
    assert_same_records(ours[:n], theirs[:n])


def test_a_loss_that_explodes_is_told_once(settings: list[str], begun: Path) -> None:
    """Guards against ranks that go on with NaN weights, and against one message from each."""
    before = all_in(begun / "checkpoints")
    text = (begun / "config.toml").read_text().replace("lr = 0.001", "lr = 1e30")
    (begun / "config.toml").write_text(text)
    ended = share(2, settings, begun, "--resume", "training.lr=1e30")
    assert_refused(ended, "stopped: ", " of problem batch ", "is untouched; resume from it with a lower training.lr")
    assert all_in(begun / "checkpoints") == before


# ------------------------------------------------------------------------------------------------------ bad input


def test_more_ranks_than_problems_are_refused(settings: list[str], tmp_path: Path) -> None:
    """Guards against ranks that have nothing to sample, batch after batch."""
    ended = share(3, settings, tmp_path / "run", "problems_per_batch=2")
    assert_refused(ended, "3 ranks share the problems of a batch, but problems_per_batch is only 2: start fewer ranks")
    assert not (tmp_path / "run").exists()


def test_another_version_on_one_rank_is_refused(settings: list[str], tmp_path: Path) -> None:
    """Guards against nodes with different software."""
    given = arguments(settings, tmp_path / "run")
    ended = together(2, cases.other_version, 1, *given, folder=tmp_path / "said")
    assert_refused(ended, "the ranks differ in the version of rethink: ", "0.0.0 on rank 1. Install the same")
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_loaded_is_told_once(settings: list[str], tmp_path: Path) -> None:
    """Guards against the other ranks' guess that somebody has died."""
    (tmp_path / "empty").mkdir()
    ended = share(2, settings, tmp_path / "run", f"model.path={tmp_path / 'empty'}")
    assert_refused(ended, "cannot load the model")
    assert not (tmp_path / "run").exists()


REFUSED = {
    "a second start": ([], ["already holds a run; resume it with --resume, or choose another folder with out=DIR"]),
    "another method": (
        ["--resume", "method.n_solve=3"],
        ["was started with other settings: method.n_solve was 4, now 3"],
    ),
    "another model": (["--resume", "model.path=tiny"], ["was started with other settings: model.path was "]),
}


@pytest.mark.parametrize("start", REFUSED)
def test_nothing_is_overwritten(start: str, settings: list[str], begun: Path) -> None:
    """Guards against a run that is lost to a mistake on the command line."""
    more, words = REFUSED[start]
    before = all_in(begun)
    assert_refused(share(2, settings, begun, *more), *words)
    assert all_in(begun) == before


def test_a_refused_start_is_refused_after_a_restart_too(settings: list[str], begun: Path) -> None:
    """Guards against --max-restarts that makes a resume of a start which was refused."""
    before = all_in(begun)
    told = {"TORCHELASTIC_RESTART_COUNT": "1", "TORCHELASTIC_RUN_ID": "another start"}
    assert_refused(share(2, settings, begun, "updates=4", told=told), "holds a run")
    assert all_in(begun) == before


def test_going_on_needs_the_checkpoint_and_not_the_start_weights(
    settings: list[str], begun: Path, tmp_path: Path
) -> None:
    """Guards against a resume that fails, or trains another model, where the folder of the start model was changed since.
    (No KL: that would need the start weights.)"""
    folder = random_models.save_random_model(tmp_path / "model", "llama")
    config = (begun / "config.toml").read_text()
    was = settings[0].removeprefix("model.path=")
    assert was in config
    (begun / "config.toml").write_text(config.replace(was, str(folder)).replace("kl_coef = 0.1", "kl_coef = 0.0"))
    more = [f"model.path={folder}", "method.refine={n_steps = 1, kl_coef = 0.0}", "updates=4"]
    assert_well(share(2, settings, begun, "--resume", *more))
    assert saved(begun, 4).keys() == saved(begun, 2).keys()


# ----------------------------------------------------------------------------------------------------- checkpoints


def test_a_sharded_checkpoint_is_a_model_like_any_other(
    settings: list[str],
    undisturbed: Path,
    begun: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards against weights that only a run can read."""
    ours, theirs = (out / "checkpoints" / "000002" for out in (begun, undisturbed))
    assert is_sharded(ours)
    assert not is_sharded(theirs)
    assert gap(saved(begun, 2), saved(undisturbed, 2)) <= WEIGHTS
    rethink: Rethink = in_process(capsys, monkeypatch, tmp_path)
    where = next(s for s in settings if s.startswith("problems.source=")).partition("=")[2]
    given = ["--on", where, "prompts.solve={question}", "prompts.refine=again", "model.device=cpu"]
    given += ["evaluation.problems.verifier=support.ranks_cases:coin", "evaluation.problems.id=key"]
    given += ["evaluation.sampling={max_tokens = 5}"]
    for name, model in (("ours", ours), ("theirs", theirs)):
        shown = rethink("eval", model, *given, "--out", name)
        assert shown.code == 0, shown.err
    assert len(lines(tmp_path / "ours" / "answers.jsonl")) == 11
    assert lines(tmp_path / "ours" / "answers.jsonl") == lines(tmp_path / "theirs" / "answers.jsonl")


def test_a_damaged_shard_is_found(begun: Path) -> None:
    """Guards against a resume from half a checkpoint: the hashes cover the shards, too."""
    shards = sorted((begun / "checkpoints" / "000002" / "sharded").glob("*.distcp"))
    assert len(shards) == 2
    data = bytearray(shards[1].read_bytes())
    data[len(data) // 2] ^= 1
    shards[1].write_bytes(data)
    said: list[str] = []
    assert checkpoint.newest(begun / "checkpoints", said.append) is None
    assert ["sharded/__1_0.distcp has changed since it was written" in text for text in said] == [True]


UNWRITABLE: dict[str, tuple[Callable[..., None], tuple[object, ...], str]] = {
    "a file in the way": (command_line, (), "File exists"),
    "no space for the config": (cases.full_disk, ("config", 0), "No space left on device"),
    "no space for the shards of the first": (cases.full_disk, ("shards", 0), "No space left on device"),
    "no space for the shards of another": (cases.full_disk, ("shards", 1), "No space left on device"),
}


@pytest.mark.parametrize("fault", UNWRITABLE)
def test_a_checkpoint_that_cannot_be_written_ends_the_run(fault: str, settings: list[str], begun: Path) -> None:
    """Guards against a rank that waits for one whose disk is full, and against the loss of the checkpoint before."""
    target, first, reason = UNWRITABLE[fault]
    if target is command_line:
        (begun / "checkpoints" / ".writing-000004").touch()
    before = all_in(begun / "checkpoints" / "000002")
    given = arguments(settings, begun, "--resume", "updates=4", "distributed.timeout_s=20")
    ended = together(2, target, *first, *given, folder=begun.with_suffix(".said"))
    kept = f"the last good checkpoint, {begun / 'checkpoints' / '000002'}, is untouched"
    assert_refused(ended, f"cannot write the checkpoint {begun / 'checkpoints' / '000004'}: ", reason, kept)
    assert sorted(p.name for p in (begun / "checkpoints").glob("0*")) == ["000002"]
    assert all_in(begun / "checkpoints" / "000002") == before


# ------------------------------------------------------------------------------------------------------ the trainer


FLOAT32 = 1e-4
"""Gradients and log-probs: the same float32 sums in another order, and through fused products or modules."""

BFLOAT16 = 0.15
"""Products keep eight bits of a number. Measured against float32: gradients of three ranks are 0.03 to 0.07 of their norm
away, those of one process 0.02 to 0.04, and log-probs of ranks 0.06 nats."""

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "gpt2, tied": ("gpt2", {}),
    "qwen2, with biases": ("qwen2", {"num_key_value_heads": 2}),
    "phi, with a bias of the head": ("phi", {"partial_rotary_factor": 0.4}),
}

Works = dict[str, tuple[cases.Found, cases.Found]]


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Works:
    """What three ranks, and what one process, make of the same updates, by the name of the model."""
    folder = tmp_path_factory.mktemp("works")
    logging.disable_progress_bar()
    for name, (kind, changes) in KINDS.items():
        made = random_models.save_random_model(folder / name, kind, **changes)
        model = load_model(str(made))
        with torch.no_grad():
            for p in model.module.parameters():
                if p.dim() == 1:  # biases of zero would hide their absence
                    p.add_(torch.linspace(-0.3, 0.3, len(p)))
        model.module.save_pretrained(made)
    jobs: dict[str, tuple[Path, Path, dict[str, Any]]] = {
        name: (folder / name, folder / f"{name} of one", {}) for name in KINDS
    }
    jobs["bfloat16"] = (folder / "qwen3", folder / "bfloat16 of one", {"autocast": "bfloat16"})
    jobs["recompute"] = (folder / "qwen3", folder / "recompute of one", {"gradient_checkpointing": True})
    one = {name: cases.plain_work(path, early, **how) for name, (path, early, how) in jobs.items()}
    assert_well(together(3, cases.sharded_work, jobs, folder / "found", folder=folder / "said"))
    found = torch.load(folder / "found", weights_only=False)
    for name, (path, early, how) in jobs.items():
        one[name]["read back"] = cases.plain_reading(path, early.with_name(f"{name} of three"), **how)
    return {name: (found[name], one[name]) for name in jobs}


UPDATES = [
    *("clip", "kl to the initial model", "means of sequences", "imitate", "prefer", "guided", "all together"),
    *("one reply", "recomputed"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_log_probs_of_ranks_are_those_of_one_process(kind: str, works: Works) -> None:
    """Guards against scores that come back in another order, and against weights that were not gathered, or stay so."""
    got, want = (w["log-probs"] for w in works[kind])
    assert [len(x) for x in got] == [len(x) for x in want] == [5, 5, 2, 0, 0, 3]
    assert works[kind][0]["left whole"] == []
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_ranks_are_those_of_one_process(kind: str, update: str, works: Works) -> None:
    """Guards against means over ranks, denominators of one rank's share, tokens that are counted twice or not at all where
    there are fewer micro-batches than ranks ("one reply"), and monitors of one rank alone."""
    got, want = (w[update] for w in works[kind])
    assert_same_gradient(got["gradient"], want["gradient"], FLOAT32)
    assert got["numbers"].keys() == want["numbers"].keys()
    assert {"loss", "grad_norm", "lr"} <= got["numbers"].keys()
    assert got["numbers"] == pytest.approx(want["numbers"], rel=FLOAT32, abs=1e-5)
    assert want["numbers"]["grad_norm"] > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_silent_updates_and_several_steps(kind: str, works: Works) -> None:
    """Guards against an optimizer that steps without a gradient on ranks, clips a rank's share of the gradient, or that a
    checkpoint written before its first step disturbs."""
    got, want = (w["silent"]["numbers"] for w in works[kind])
    assert got == want == {"loss": 0.0, "lr": 0.0}
    got, want = (w["several"] for w in works[kind])
    for ours, theirs in zip(got, want, strict=True):
        assert ours["numbers"] == pytest.approx(theirs["numbers"], rel=FLOAT32, abs=1e-5)
        assert gap(moved(ours["weights"]), moved(theirs["weights"])) <= WEIGHTS


def moved(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without biases of keys: softmax does not see them, their gradient is rounding, and Adam takes it for a full one."""
    return {name: w for name, w in weights.items() if "k_proj.bias" not in name and "c_attn.bias" not in name}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_before_the_first_step_goes_over(kind: str, works: Works) -> None:
    """Guards against an optimizer that has counted a step nobody took: torch makes up a state where there is none. Ranks
    read what one process wrote, and one process what ranks wrote."""
    got, want = works[kind]
    for read in (got["read"], want["read back"]):
        # In the mean: Adam's first step takes a gradient that is next to nothing for a whole one. A step too many would
        # move most weights by a quarter of the learning rate, 2.6e-4.
        assert mean_gap(read, want["read"]) <= 1e-6


def test_layers_that_are_computed_again_on_ranks(works: Works) -> None:
    """Guards against layers that are computed again from weights which were dropped, or other ranks' gathering."""
    again, kept = works["recompute"][0], works["qwen3"][0]
    for update in ("clip", "prefer"):
        for name, gradient in kept[update]["gradient"].items():
            torch.testing.assert_close(again[update]["gradient"][name], gradient, rtol=1e-5, atol=1e-6)


def test_bfloat16_on_ranks_is_near_float32(works: Works) -> None:
    """Guards against a head, or sums over ranks, in bfloat16. Ranks also have the norms' weights in bfloat16."""
    exact = works["qwen3"][1]
    got, want = works["bfloat16"]
    for name in UPDATES:
        ours, theirs = (distance(x[name]["gradient"], exact[name]["gradient"]) for x in (got, want))
        assert 1e-3 < ours < BFLOAT16
        assert ours < 3 * theirs, name
    gaps = [float((a - b).abs().max()) for a, b in zip(got["log-probs"], exact["log-probs"], strict=True) if len(a)]
    assert 1e-3 < max(gaps) < BFLOAT16


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The norm of the difference over the norm."""
    assert a.keys() == b.keys()
    squares = [(float((a[k] - b[k]).square().sum()), float(b[k].square().sum())) for k in b]
    return math.sqrt(sum(x for x, _ in squares) / sum(y for _, y in squares))
