"""Small models of several architectures, made on the spot; nothing is ever downloaded."""

from __future__ import annotations

import copy
import gc
import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # also in processes that tests start: several run at once

from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path

import anyio.lowlevel
import hypothesis
import pytest
import torch

from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from support.fake_endpoint import FakeEndpoint
from support.random_models import SHAPES, save_random_model

# The models here are so small that a second thread costs more than it gives, above all on a busy machine.
torch.set_num_threads(1)

# Shells ignore Ctrl-C in background jobs, and processes inherit that, but some tests send it to processes that they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# No test is timed: machines are shared.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# These run vLLM itself, in an environment of its own: `make test-vllm`.
collect_ignore_glob = [] if find_spec("vllm") else ["with_vllm/*"]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import and collect without the garbage collector: it would go over all modules again and again. Later it leaves them
    out."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_random_model(tmp_path_factory.mktemp(kind), kind) for kind in SHAPES}


@pytest.fixture(scope="session")
def loaded(model_folders: dict[str, Path]) -> dict[str, LanguageModel]:
    """To be copied, which takes a sixth of the time of another load."""
    return {kind: load_model(str(folder)) for kind, folder in model_folders.items()}


@pytest.fixture(params=list(SHAPES))
def any_model(request: pytest.FixtureRequest, loaded: dict[str, LanguageModel]) -> LanguageModel:
    return copy.deepcopy(loaded[request.param])


@pytest.fixture
def qwen(loaded: dict[str, LanguageModel]) -> LanguageModel:
    return copy.deepcopy(loaded["qwen3"])


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real problems and replies; tests/README.md says what is in it and where it comes from."""
    folder = os.environ.get("RETHINK_TEST_DATA")
    if not folder:
        pytest.skip("RETHINK_TEST_DATA names no folder with real problems and replies (tests/README.md)")
    if not Path(folder).is_dir():
        pytest.fail(f"RETHINK_TEST_DATA names no folder: {folder}")
    return Path(folder)


@pytest.fixture(scope="session")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real model with 135 million parameters, as a GGUF file; tests/README.md says where it comes from."""
    folder = os.environ.get("RETHINK_TEST_MODELS")
    if not folder:
        pytest.skip("RETHINK_TEST_MODELS names no folder with real models (tests/README.md)")
    file = Path(folder) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not file.is_file():
        pytest.skip(f"there is no {file} (benchmarks/real/get_models.py fetches it)")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield file


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    """A server on loopback that behaves like an OpenAI endpoint."""
    with FakeEndpoint().running() as server:
        yield server


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits before requests to an endpoint are made again, which then take no time."""
    found: list[float] = []
    checkpoint = anyio.lowlevel.checkpoint

    async def sleep(seconds: float) -> None:
        found.append(seconds)
        await checkpoint()

    monkeypatch.setattr("rethink.policies.endpoint.sender.asyncio.sleep", sleep)
    return found
