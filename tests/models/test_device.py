"""Defaults by device: bfloat16, cache sizes, and the C library's memory settings."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from rethink.models import device
from rethink.models.language_model import LanguageModel, pick_dtype
from rethink.models.load import load_model
from rethink.policies.local import LocalPolicy, policy
from rethink.settings import Training
from rethink.training.trainer import Trainer
from rethink.types import Sampling
from support.samples import make_prompt, no_initial

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _clear_caches() -> Iterator[None]:
    """Clear what was found out about the machine, before and after each test."""
    for found in (device._cpu_flags, device.keep_freed_memory):
        found.cache_clear()
    yield
    for found in (device._cpu_flags, device.keep_freed_memory):
        found.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    """Replace /proc/cpuinfo; None = the file does not exist."""

    def read(file: Path, *args: Any, **options: Any) -> str:
        if text is None:
            raise FileNotFoundError(file)
        return text

    monkeypatch.setattr(Path, "read_text", read)


INTEL = "processor\t: 0\nmodel name\t: some\nflags\t\t: fpu sse2 avx512f {}\nbugs\t\t: none\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd {}\n"


@pytest.mark.parametrize(
    ("text", "hidden_size", "expected"),
    [
        (INTEL.format("avx512_bf16"), 256, True),
        (INTEL.format("amx_bf16 amx_tile"), 4096, True),
        (INTEL.format("avx512_bf16"), 255, False),  # too small to gain
        (INTEL.format("avx512_vnni"), 4096, False),  # emulated
        (ARM.format("bf16"), 256, True),
        (None, 4096, False),  # not Linux
    ],
)
def test_bfloat16_on_a_cpu(monkeypatch: pytest.MonkeyPatch, text: str | None, hidden_size: int, expected: bool) -> None:
    """Guards against emulated bfloat16, seven times slower than float32, and a crash without /proc."""
    pretend(monkeypatch, text)
    assert device.prefers_bfloat16(CPU, hidden_size) is expected


@pytest.mark.parametrize("supported", [True, False])
def test_bfloat16_on_a_gpu(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    """Guards against a GPU that only emulates bfloat16, and a limit on the hidden size there."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or supported
    )
    assert device.prefers_bfloat16(torch.device("cuda"), 20) is supported


def test_pick_dtype(qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an "auto" that is constant, and a named dtype that is overridden."""
    pretend(monkeypatch, INTEL.format("amx_bf16"))
    assert not device.prefers_bfloat16(torch.device("meta"), 4096)
    for hidden_size, wanted in ((device.MIN_HIDDEN_SIZE, torch.bfloat16), (20, torch.float32)):
        monkeypatch.setattr(LanguageModel, "hidden_size", hidden_size)
        assert pick_dtype("auto", qwen) == wanted
        assert pick_dtype("none", qwen) == pick_dtype("float32", qwen) == torch.float32
        assert pick_dtype("bfloat16", qwen) == torch.bfloat16
        assert Trainer(qwen, Training(), 1, no_initial).dtype == wanted
        assert Trainer(qwen, Training(autocast="none"), 1, no_initial).dtype == torch.float32


def test_mallopt_is_called_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against options that do not reach the library, or are set for every model."""
    library = Mock()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(sys, "platform", "linux")
    device.keep_freed_memory()
    device.keep_freed_memory()
    calls = [call.args for call in library.mallopt.call_args_list]
    assert sorted(option for option, _ in calls) == [-3, -2, -1]  # mmap threshold, top pad, trim threshold
    assert all(0 < value < 2**31 for _, value in calls), "mallopt takes an int of the C library"


@pytest.mark.parametrize("found", [OSError("libc.so.6: cannot open shared object file"), object()])
def test_models_load_without_glibc(monkeypatch: pytest.MonkeyPatch, model_folders: dict[str, Path], found: Any) -> None:
    """Guards against a model that cannot be loaded where there is no C library, or none with mallopt."""
    monkeypatch.setattr(ctypes, "CDLL", Mock(side_effect=[found]))
    assert load_model(str(model_folders["llama"])).fused
    monkeypatch.setattr(sys, "platform", "darwin")
    device.keep_freed_memory.cache_clear()
    device.keep_freed_memory()


GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("free", "reserved", "allocated", "expected"),
    [
        (70, 9, 3, 30),  # there is room: what else is on the GPU makes no difference
        (50, 0, 0, 30),
        (20, 0, 0, 14),
        (10, 12, 2, 14),  # torch holds ten that nothing needs
        (0, 5, 5, 0),
    ],
)
def test_default_cache_size_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, free: int, reserved: int, allocated: int, expected: int
) -> None:
    """Guards against more than a third of a GPU, or more than is free."""
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * gib, 90 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved * gib)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: allocated * gib)
    assert device.cache_bytes(GPU) == pytest.approx(expected * gib, abs=1)


def test_default_cache_size_on_a_cpu(qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against reading the free memory only once: it changes from batch to batch."""
    assert device.cache_bytes(CPU) == 2**30
    asked: list[torch.device] = []

    def almost_nothing(device: torch.device) -> int:
        asked.append(device)
        return 1

    monkeypatch.setattr(policy, "cache_bytes", almost_nothing)
    policy_by_default = LocalPolicy(qwen, Sampling(max_tokens=4))
    for n in (1, 2):
        assert [len(group) for group in policy_by_default.sample([make_prompt("a"), make_prompt("b")], 2)] == [2, 2]
        assert asked == [CPU] * n
