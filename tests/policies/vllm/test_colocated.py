"""The command and environment of a colocated vLLM server, and a server that does not start."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rethink.errors import UserError
from rethink.policies.vllm import colocated
from rethink.policies.vllm.colocated import ColocatedModel, start_colocated
from rethink.settings import Sampler

ON_CPU = ColocatedModel("a/model", torch.device("cpu"), torch.float32, 128)
ON_GPU = ColocatedModel("a/model", torch.device("cuda", 1), torch.bfloat16, 64, random=True)
SETTINGS = Sampler(gpu_memory=0.3, timeout_s=20.0, cache_gib=0.5)


def test_a_server_sees_one_device_and_no_torchrun() -> None:
    """Guards against servers of all ranks on the first GPU or in the trainer's process group, and without dev mode."""
    given = {"PATH": "x", "RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "3", "TORCHELASTIC_RUN_ID": "4"}
    environment = colocated.server_environment(ON_GPU, given)
    assert environment.items() >= {"PATH": "x", "CUDA_VISIBLE_DEVICES": "1", "VLLM_SERVER_DEV_MODE": "1"}.items()
    assert not environment.keys() & (given.keys() - {"PATH"})
    of_some = colocated.server_environment(ON_GPU, {**given, "CUDA_VISIBLE_DEVICES": "4,6"})
    assert of_some["CUDA_VISIBLE_DEVICES"] == "6"
    assert "CUDA_VISIBLE_DEVICES" not in colocated.server_environment(ON_CPU, given)


def test_a_server_has_the_settings_of_training() -> None:
    """Guards against raw log-probs, weights that cannot be replaced, and more memory than the recipe allows."""
    line = " ".join(colocated.server_command(ON_GPU, SETTINGS, "/socket"))
    assert '"backend": "ipc"' in line
    assert "--gpu-memory-utilization 0.3 --enable-sleep-mode" in line
    assert "--load-format dummy" in line
    line = " ".join(colocated.server_command(ON_CPU, SETTINGS, "/socket"))
    assert '"backend": "rethink-files"' in line
    assert f"--kv-cache-memory-bytes {2**29}" in line
    assert "--logprobs-mode processed_logprobs" in line
    assert "--enable-sleep-mode" not in line
    assert "--enable-lora" not in line
    assert "--load-format auto" in line


def test_a_server_for_an_adapter() -> None:
    """Guards against a server without the routes to load adapters, or one whose output layer is wrapped."""
    model = replace(ON_CPU, max_lora_rank=16, lora_modules=["q_proj", "v_proj"])
    line = " ".join(colocated.server_command(model, SETTINGS, "/socket"))
    assert "--enable-lora --max-lora-rank 16 --lora-target-modules q_proj v_proj --" in line
    key = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
    assert colocated.server_environment(model, {}).get(key) == "1"
    assert key not in colocated.server_environment(ON_CPU, {})


@pytest.mark.slow
def test_a_server_that_does_not_start_shows_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against waiting for a process that has ended, and an error that only a log file has."""
    failing = [sys.executable, "-c", "print('no memory left'); exit(3)"]
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: str(tmp_path))
    monkeypatch.setattr(colocated, "server_command", lambda *_: failing)
    with pytest.raises(UserError, match=r"vLLM did not start; .*\nno memory left"):
        start_colocated(ON_CPU, SETTINGS)
    assert not tmp_path.exists()
