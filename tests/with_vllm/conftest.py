"""A random model, and two servers of it for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from support.random_models import save_random_model
from with_vllm.serving import Served


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model: a head size that vLLM's CPU attention supports, positions for several cache blocks of 128 tokens."""
    shape = {"hidden_size": 64, "intermediate_size": 97, "head_dim": 32, "max_position_embeddings": 512}
    return save_random_model(tmp_path_factory.mktemp("vllm"), "qwen3", **shape, num_key_value_heads=2)


@pytest.fixture(scope="session")
def pair(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Served]]:
    """Two servers of the random model, started at the same time: most of the start is imports."""
    started = [Served(folder, tmp_path_factory.mktemp("server") / "log") for _ in range(2)]
    yield started
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def served(pair: list[Served]) -> Served:
    return pair[0].wait()


@pytest.fixture
def model(folder: Path) -> LanguageModel:
    return load_model(str(folder))
