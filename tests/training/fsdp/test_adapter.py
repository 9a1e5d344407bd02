"""LoRA on several ranks: the run of one process, and checkpoints that any number of ranks can read.

Rounding differs as in `support.ranks_runs`: one process trains fused factors of Llama's layers, ranks those of `peft`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.models.sharded_weights import is_sharded
from support import random_models, ranks_faults
from support.fake_vllm import computing_server
from support.processes import light
from support.ranks import assert_refused, assert_success, run_ranks
from support.ranks_runs import (
    MONITORS,
    WEIGHTS,
    arguments,
    assert_same_records,
    begun,
    file_contents,
    lines,
    max_gap,
    records,
    run_settings,
    train,
    train_on_ranks,
    two_updates,
)

pytest.importorskip("peft", reason="the extra peft is not installed")

__all__ = ["begun", "two_updates"]

pytestmark = pytest.mark.slow

_light = pytest.fixture(scope="module", autouse=True)(light)

WEIGHTS_FILE, *CONFIGS = "adapter_model.safetensors", "adapter_config.json", "adapter_base.json"


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


def test_two_ranks_one_process_and_three_ranks_in_turn(settings: list[str], one_process_run: Path, begun: Path) -> None:
    """Guards against an adapter or moments that are lost between numbers of ranks, and samples of the base."""
    train(settings, begun, "updates=4", resume=True)
    assert_success(train_on_ranks(3, settings, begun, "--resume"))
    assert [r.get("n_ranks") for r in lines(begun / "metrics.jsonl")] == [2, 2, None, None, 3, 3]
    assert lines(begun / "samples.jsonl") == lines(one_process_run / "samples.jsonl")
    assert_same_records(records(begun), records(one_process_run))
    kl = [r["kl_to_reference_nats"] for r in records(begun) if r["phase"] == "refine"]
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


def weights_of(folder: Path) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in load_model(str(folder)).module.named_parameters()}


@pytest.mark.parametrize("transfer", ["adapter", "merged"])
def test_vllm_gets_the_adapter_from_ranks(
    transfer: str, settings: list[str], base: Path, qwen: LanguageModel, tmp_path: Path
) -> None:
    """Guards against names that vLLM does not know, a server that samples from the base, and ranks that gather other
    tensors than rank 0."""
    out = tmp_path / "run"
    with computing_server(qwen) as server:
        modules = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
        server.lora = {"max_lora_rank": 8, "lora_dtype": "torch.float32", "target_modules": modules}
        given = f"sampler.transfer={transfer}"
        more = ("sampler.engine=vllm", f'sampler.urls=["{server.url}"]', given, "updates=4")
        assert_success(train_on_ranks(2, settings, out, *more))
        assert ("/update_weights" in server.events) == (transfer == "merged")
        assert ("/v1/load_lora_adapter" in server.events) == (transfer == "adapter")
    assert max_gap(server.weights, weights_of(base)) > 50 * WEIGHTS
    gaps = [r["mismatch/log_prob_gap_max"] for r in records(out)]
    assert len(gaps) == 4
    assert max(gaps) < 1e-4


def test_an_adapter_resumes_only_as_it_began(settings: list[str], begun: Path) -> None:
    """Guards against an adapter that is resumed as something else, and one message per rank; nothing is overwritten."""
    config = begun / "config.toml"
    config.write_text(config.read_text().replace("rank = 3", "rank = 0"))
    before = file_contents(begun / "checkpoints")
    exits = train_on_ranks(2, settings, begun, "--resume", "lora.rank=0", "updates=2")
    assert_refused(exits, "the run's checkpoint holds an adapter, but lora.rank = 0 trains")
    assert file_contents(begun / "checkpoints") == before


def test_an_adapter_is_refused_once_as_the_base(settings: list[str], two_updates: Path, tmp_path: Path) -> None:
    """Guards against an error of rank 0 for which the others wait; nothing is written."""
    start = f"model.path={two_updates / 'checkpoints' / '000002'}"
    assert_refused(
        train_on_ranks(2, settings, tmp_path / "run", start), "is an adapter; merge it first (rethink export"
    )
    assert not (tmp_path / "run").exists()


def test_an_adapter_that_cannot_be_written_ends_the_run(settings: list[str], begun: Path) -> None:
    """Guards against ranks that wait for rank 0, whose disk is full, and the loss of the checkpoint before."""
    before = file_contents(begun / "checkpoints")
    given = arguments(settings, begun, "--resume", "updates=4", "distributed.timeout_s=20")
    exits = run_ranks(2, ranks_faults.full_disk, "adapter", 0, *given, folder=begun.with_suffix(".output"))
    kept = f"the last good checkpoint, {begun / 'checkpoints' / '000002'}, is untouched"
    assert_refused(exits, f"cannot write the checkpoint {begun / 'checkpoints' / '000004'}: ", "No space left", kept)
    assert file_contents(begun / "checkpoints") == before
