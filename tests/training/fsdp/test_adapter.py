"""LoRA on several ranks: the run of one process, and checkpoints that any number of ranks can read.

Rounding differs as in `support.ranks_runs`: one process trains fused factors of Llama's layers, ranks those of `peft`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import logging

from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.models.shards import is_sharded
from rethink.plan.memory import MemorySettings, kept_items
from rethink.plan.meta_model import build_meta_model
from rethink.policies.local import LocalPolicy
from rethink.prompts import Prompts
from rethink.training.export import export
from rethink.types import Problem, Sampling
from support import random_models, ranks_faults
from support.coins import coin
from support.fake_vllm import computing_server
from support.processes import light
from support.ranks import assert_refused, assert_success, run_ranks
from support.ranks_runs import (
    BFLOAT16,
    FLOAT32,
    MONITORS,
    WEIGHTS,
    arguments,
    assert_same_records,
    file_contents,
    lines,
    max_gap,
    mean_gap,
    records,
    relative_distance,
    run_settings,
    train,
    train_on_ranks,
)
from support.ranks_trainer import LORA_UPDATES, Found, Job, apply_in_one_process, apply_on_ranks, read_in_one_process
from support.samples import assert_same_gradient

pytest.importorskip("peft", reason="the extra peft is not installed")

pytestmark = pytest.mark.slow

_light = pytest.fixture(scope="module", autouse=True)(light)

WEIGHTS_FILE, *CONFIGS = "adapter_model.safetensors", "adapter_config.json", "adapter_base.json"


# The trainer.

JOBS = ("qwen3", "gpt2, some layers")

Results = dict[str, tuple[Found, Found]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """By the name of the job: the results of the same updates on three ranks and in one process."""
    folder = tmp_path_factory.mktemp("results")
    logging.disable_progress_bar()
    for kind in ("qwen3", "gpt2"):
        random_models.save_random_model(folder / kind, kind)
    rounded = load_model(str(folder / "qwen3"), dtype="bfloat16")
    rounded.module.float().save_pretrained(folder / "rounded")
    rounded.chat.tokenizer.save_pretrained(folder / "rounded")
    checkpointing = {"gradient_checkpointing": True}
    jobs = {
        "qwen3": Job(folder / "qwen3", folder / "a", "all-linear"),
        "gpt2, some layers": Job(folder / "gpt2", folder / "b", ("c_attn", "c_fc")),
        "bfloat16 base": Job(folder / "qwen3", folder / "c", "all-linear", "bfloat16", checkpointing),
        "rounded base": Job(folder / "rounded", folder / "d", "all-linear"),
    }
    in_one = {name: apply_in_one_process(job) for name, job in jobs.items()}
    on_ranks = {name: job for name, job in jobs.items() if name != "rounded base"}
    assert_success(run_ranks(3, apply_on_ranks, on_ranks, folder / "found", folder=folder / "output"))
    found = torch.load(folder / "found", weights_only=False)
    for name, job in on_ranks.items():
        in_one[name]["after reading ranks"] = read_in_one_process(job)
    return {name: (found.get(name, {}), in_one[name]) for name in jobs}


@pytest.mark.parametrize("job", JOBS)
def test_updates_equal_those_of_one_process(job: str, results: Results) -> None:
    """Guards against an adapter that is left out or scaled differently, gradients of one rank's share or of the base, and a
    base that moves (by weight decay, say)."""
    got, want = results[job]
    assert got["not sharded"] == []
    for a, b in zip(got["log-probs"], want["log-probs"], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=FLOAT32)
    for update in LORA_UPDATES:
        assert got[update]["gradient"].keys() == want["trained"]
        assert_same_gradient(got[update]["gradient"], want[update]["gradient"], FLOAT32)
        assert got[update]["metrics"] == pytest.approx(want[update]["metrics"], rel=FLOAT32, abs=1e-5)
        assert want[update]["metrics"]["grad_norm"] > 0.1
    ours, theirs = got["steps"][-1], want["steps"][-1]
    assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=FLOAT32, abs=1e-5)
    assert max_gap(ours["weights"], theirs["weights"]) <= WEIGHTS
    moved = {name for name, w in want["start"].items() if not torch.equal(ours["weights"][name], w)}
    assert moved == want["trained"]
    assert max_gap(ours["weights"], want["start"]) > 10 * WEIGHTS


@pytest.mark.parametrize("job", JOBS)
def test_checkpoints_before_the_first_step_are_interchangeable(job: str, results: Results) -> None:
    """Guards against an optimizer that counts a step that was not taken, on ranks or in one process."""
    got, want = results[job]
    for weights in (got["after reading"], want["after reading ranks"]):
        assert mean_gap(weights, want["after reading"]) <= 1e-6


@pytest.mark.parametrize("job", JOBS)
def test_published_weights_are_merged(job: str, results: Results) -> None:
    """Guards against `peft`'s names, factors of one shard, and a sampler that gets the base; tied weights come once."""
    got, want = results[job]
    assert [name for name, _ in got["merged"]] == [name for name, _ in want["merged"]]
    assert got["shapes"] == [(name, tuple(weight.shape)) for name, weight in want["merged"]]
    assert got["meta_model"] == [(name, shape, "meta") for name, shape in got["shapes"]]
    for (name, ours), (_, theirs) in zip(got["merged"], want["merged"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(("job", "dtype"), [("qwen3", "float32"), ("bfloat16 base", "bfloat16")])
def test_the_plan_counts_the_bytes_of_ranks(job: str, dtype: str, results: Results) -> None:
    """Guards against a base that has moments, is whole on each rank, or has another dtype than the plan says."""
    got, want = results[job]
    items = kept_items(build_meta_model(want["config"], dtype, 3), MemorySettings(n_gpus=3, rank=3, base=dtype))
    assert got["bytes"] == (3 * items["weights"], 3 * items["optimizer, adamw"])


def test_a_bfloat16_base_on_ranks(results: Results) -> None:
    """Guards against an adapter, a head or sums over ranks in bfloat16, and recomputed layers without their base weights.
    Compared with the same rounded base in float32; merged weights are not rounded again."""
    (got, want), exact = results["bfloat16 base"], results["rounded base"][1]
    weights = got["steps"][-1]["weights"]
    assert {name for name, w in weights.items() if w.dtype == torch.float32} == want["trained"]
    assert {w.dtype for name, w in weights.items() if name not in want["trained"]} == {torch.bfloat16}
    for update in LORA_UPDATES:
        assert {g.dtype for g in got[update]["gradient"].values()} == {torch.float32}
        ours, theirs = (relative_distance(x[update]["gradient"], exact[update]["gradient"]) for x in (got, want))
        assert 1e-3 < ours < BFLOAT16
        assert ours < 3 * theirs, update
    gaps = [float((a - b).abs().max()) for a, b in zip(got["log-probs"], exact["log-probs"], strict=True) if len(a)]
    assert 1e-3 < max(gaps) < BFLOAT16
    for (name, ours), (_, theirs) in zip(got["merged"], exact["merged"], strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-6, msg=name)


# Runs.


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_models.save_random_model(tmp_path_factory.mktemp("base") / "base", "qwen3")


@pytest.fixture(scope="module")
def settings(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    more = ("problems_per_batch=3", "training.lr=0.01", "lora.rank=3", "distributed.timeout_s=300")
    return run_settings(tmp_path_factory.mktemp("settings"), base, *more, n_problems=7)


def adapter(out: Path, n: int) -> dict[str, Tensor]:
    return load_file(out / "checkpoints" / f"{n:06d}" / WEIGHTS_FILE)


def moments(out: Path, n: int) -> dict[str, Tensor]:
    """Return the optimizer's moments and steps in a checkpoint."""
    state = torch.load(out / "checkpoints" / f"{n:06d}" / "optimizer.pt", weights_only=True)["state"]
    return {f"{i} {key}": value for i, entries in state.items() for key, value in entries.items()}


@pytest.fixture(scope="module")
def one_process_run(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process; its adapter moves by far more than rounding."""
    out = train(settings, tmp_path_factory.mktemp("one") / "run")
    assert max_gap(adapter(out, 2), adapter(out, 6)) > 50 * WEIGHTS
    assert all(0 < r["reward"] < 1 and r["grad_norm"] > 0 for r in records(out))
    return out


@pytest.fixture(scope="module")
def two_updates(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two ranks at its first checkpoint."""
    out = tmp_path_factory.mktemp("two") / "run"
    assert_success(train_on_ranks(2, settings, out, "updates=2"))
    return out


@pytest.fixture
def begun(two_updates: Path, tmp_path: Path) -> Path:
    """A copy of it, to resume."""
    return Path(shutil.copytree(two_updates, tmp_path / "run"))


def test_two_ranks_one_process_and_three_ranks_in_turn(settings: list[str], one_process_run: Path, begun: Path) -> None:
    """Guards against an adapter or moments that are lost between numbers of ranks, and samples of other weights than are
    trained: of the base, say."""
    train(settings, begun, "updates=4", resume=True)
    assert_success(train_on_ranks(3, settings, begun, "--resume"))
    assert [r.get("n_ranks") for r in lines(begun / "metrics.jsonl")] == [2, 2, None, None, 3, 3]
    assert lines(begun / "samples.jsonl") == lines(one_process_run / "samples.jsonl")
    assert_same_records(records(begun), records(one_process_run))
    kl = [r["kl_to_initial_nats"] for r in records(begun) if r["phase"] == "refine"]
    assert kl[-1] > 10 * MONITORS, "the start model is not the trained one"
    for n in (2, 4, 6):
        assert max_gap(adapter(begun, n), adapter(one_process_run, n)) <= WEIGHTS
        assert max_gap(moments(begun, n), moments(one_process_run, n)) <= WEIGHTS
    gaps = [r["mismatch/log_prob_gap_max"] for r in records(begun) if "mismatch/log_prob_gap_max" in r]
    assert len(gaps) == 6
    assert max(gaps) < 1e-4  # float32 sums in another order


def test_ranks_write_the_files_of_one_process(two_updates: Path, one_process_run: Path) -> None:
    """Guards against checkpoints that contain the base, or have a separate format for ranks."""
    ours, theirs = (out / "checkpoints" / "000002" for out in (two_updates, one_process_run))
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())
    assert not is_sharded(ours)
    for name in CONFIGS:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    kept, wanted = (torch.load(p / "optimizer.pt", weights_only=True) for p in (ours, theirs))
    assert kept["param_groups"] == wanted["param_groups"]


def test_an_adapter_of_ranks_is_exported_and_sampled(
    two_updates: Path, one_process_run: Path, base: Path, tmp_path: Path
) -> None:
    """Guards against an export or an evaluation of the base."""
    exported = []
    for name, out in (("ours", two_updates), ("theirs", one_process_run)):
        export(str(out / "checkpoints" / "000002"), tmp_path / name)
        exported.append(load_file(tmp_path / name / "model.safetensors"))
    assert max_gap(*exported) <= WEIGHTS
    assert max_gap(exported[0], weights_of(base)) > 50 * WEIGHTS
    checkpoint = load_model(str(two_updates / "checkpoints" / "000002"))
    assert checkpoint.base is not None
    assert replies(checkpoint) == replies(load_model(str(tmp_path / "ours"))) != replies(checkpoint.base)


def weights_of(folder: Path) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in load_model(str(folder)).module.named_parameters()}


def replies(model: LanguageModel) -> list[tuple[int, ...]]:
    asks = Prompts(solve="{question}").ask([Problem("p", "3 7 5 -> 26", "", coin)])
    return [s.ids for group in LocalPolicy(model, Sampling(max_tokens=7)).sample(asks, 20) for s in group]


def test_vllm_gets_merged_weights_from_ranks(
    settings: list[str], base: Path, qwen: LanguageModel, tmp_path: Path
) -> None:
    """Guards against names that vLLM does not know, and a server that samples from the base."""
    out = tmp_path / "run"
    with computing_server(qwen) as server:
        more = ("sampler.engine=vllm", f'sampler.urls=["{server.url}"]', "updates=4")
        assert_success(train_on_ranks(2, settings, out, *more))
    assert max_gap(server.weights, weights_of(base)) > 50 * WEIGHTS
    gaps = [r["mismatch/log_prob_gap_max"] for r in records(out)]
    assert len(gaps) == 4
    assert max(gaps) < 1e-4


# Refusals.

RESUMES: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "all weights": (["lora.rank=0"], ["lora.rank was 3, now 0", "resume with the same lora.rank"]),
    "another base": ([], ["was trained on other weights than its base has now"]),
    "an edited config": (["lora.rank=0"], ["the run's checkpoint holds an adapter, but lora.rank = 0 trains"]),
}


@pytest.mark.parametrize("case", RESUMES)
def test_an_adapter_resumes_only_as_it_began(case: str, settings: list[str], base: Path, begun: Path) -> None:
    """Guards against an adapter that is resumed as something else, or on another base; nothing is overwritten."""
    more, words = RESUMES[case]
    config, weights = begun / "config.toml", base / "model.safetensors"
    original = weights.read_bytes()
    if case == "an edited config":
        config.write_text(config.read_text().replace("rank = 3", "rank = 0"))
    if case == "another base":
        save_file({name: 1.1 * w for name, w in load_file(weights).items()}, weights, metadata={"format": "pt"})
    before = contents_but_config(begun)
    try:
        assert_refused(train_on_ranks(2, settings, begun, "--resume", *more, "updates=2"), *words)
    finally:
        weights.write_bytes(original)
    assert contents_but_config(begun) == before


def contents_but_config(run: Path) -> dict[str, bytes]:
    """Return the files of a run except config.toml, which is updated (its folder, its updates) before the checks."""
    return {name: data for name, data in file_contents(run).items() if name != "config.toml"}


def test_a_run_on_all_weights_does_not_resume_as_an_adapter(settings: list[str], tmp_path: Path) -> None:
    """Guards against an adapter on a sharded checkpoint, with the optimizer state of other weights."""
    out = tmp_path / "run"
    assert_success(train_on_ranks(2, settings, out, "lora.rank=0", "updates=1"))
    config = (out / "config.toml").read_text()
    (out / "config.toml").write_text(config.replace("rank = 0", "rank = 3"))
    before = contents_but_config(out)
    exits = train_on_ranks(2, settings, out, "--resume", "updates=1")
    assert_refused(exits, "the run's checkpoint holds all weights, but")
    assert contents_but_config(out) == before


STARTS: dict[str, tuple[Sequence[str], str]] = {
    "no such layer": (["lora.targets=mlp"], "lora.targets: the model has no linear layer mlp"),
    "8-bit optimizer": (["training.optimizer=adamw8bit"], "several ranks train adapters with AdamW only"),
    "an adapter": ([], "is an adapter; merge it first (rethink export"),
}


@pytest.mark.parametrize("case", STARTS)
def test_unfit_models_are_refused_once(case: str, settings: list[str], two_updates: Path, tmp_path: Path) -> None:
    """Guards against an error of rank 0 for which the others wait; nothing is written."""
    more, words = STARTS[case]
    start = [f"model.path={two_updates / 'checkpoints' / '000002'}"] if case == "an adapter" else []
    assert_refused(train_on_ranks(2, settings, tmp_path / "run", *start, *more), words)
    assert not (tmp_path / "run").exists()


def test_an_adapter_that_cannot_be_written_ends_the_run(settings: list[str], begun: Path) -> None:
    """Guards against ranks that wait for rank 0, whose disk is full, and the loss of the checkpoint before."""
    before = file_contents(begun / "checkpoints")
    given = arguments(settings, begun, "--resume", "updates=4", "distributed.timeout_s=20")
    exits = run_ranks(2, ranks_faults.full_disk, "adapter", 0, *given, folder=begun.with_suffix(".output"))
    kept = f"the last good checkpoint, {begun / 'checkpoints' / '000002'}, is untouched"
    assert_refused(exits, f"cannot write the checkpoint {begun / 'checkpoints' / '000004'}: ", "No space left", kept)
    assert file_contents(begun / "checkpoints") == before
