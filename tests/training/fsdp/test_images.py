"""Training on images in several processes: the run of one process, on any kind of positions and attention."""

from __future__ import annotations

import json
import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from rethink.distributed import connect, shutdown
from rethink.images import FIRST_ID
from rethink.models.forward.embedding import tower_parameters
from rethink.models.load import load_model
from rethink.models.sharded_weights import is_sharded
from rethink.settings import Training
from rethink.training.fsdp.shard_model import build, empty_replica, load_weights
from rethink.types import Message
from support.images import image, png
from support.processes import light
from support.ranks import assert_success, run_ranks
from support.ranks_runs import (
    WEIGHTS,
    assert_same_records,
    checkpoint_weights,
    lines,
    max_gap,
    records,
    run_settings,
    train,
    train_on_ranks,
)
from support.vision_models import save_vision_model

pytestmark = pytest.mark.slow

_light = pytest.fixture(scope="module", autouse=True)(light)

FAMILIES = {
    "Qwen2.5-VL": ("training.gradient_checkpointing=true",),
    "Qwen3-VL": (),
    "Gemma 3": (),
    "LLaVA": ("lora.rank=3", "training.lr=0.01"),
}
SHOWN = {"red": (50, 40), "blue": (40, 50), "green": (90, 30), "purple": (500, 120), "black": (20, 20)}
"""Colors and sizes: in Qwen-VL, of grids that are high, wide and of one row."""


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions with one image, with two, and without any."""
    folder = tmp_path_factory.mktemp("problems")
    rows = [
        {"key": "none", "question": "1+1?", "answer": "2", "images": []},
        {"key": "two", "question": "Is <image> like <image>?", "answer": "no", "images": ["red.png", "green.png"]},
    ]
    for color, size in SHOWN.items():
        (folder / f"{color}.png").write_bytes(png(color, size))
        rows.append({"key": color, "question": "What color?", "answer": color, "images": [f"{color}.png"]})
    file = folder / "problems.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_of_two_ranks_is_that_of_one_process(name: str, problems: Path, tmp_path: Path) -> None:
    """Guards against ranks that train or sample without their images, at other positions or with other vectors, and
    checkpoints without tower or processor."""
    if name == "LLaVA":
        pytest.importorskip("peft", reason="the extra peft is not installed")
    model = save_vision_model(tmp_path / "model", name)
    changes = (f"problems.source={problems}", "updates=4", "problems_per_batch=4", "n_logged_samples=99")
    settings = run_settings(tmp_path, model, *changes, *FAMILIES[name])
    theirs = train(settings, tmp_path / "one")
    ours = tmp_path / "ranks"
    assert_success(train_on_ranks(2, settings, ours))
    assert lines(ours / "samples.jsonl") == lines(theirs / "samples.jsonl")
    assert_same_records(records(ours), records(theirs))
    assert all(record["grad_norm"] > 0 for record in records(ours))
    weights, start = (checkpoint_weights(run, 4) for run in (ours, theirs)), load_model(str(model)).module
    assert max_gap(*weights) <= WEIGHTS
    checkpoint = ours / "checkpoints" / "000004"
    assert is_sharded(checkpoint) == (name != "LLaVA")
    again = load_model(str(checkpoint))
    assert again.image_vectors is not None
    for own, first in zip(tower_parameters(again.module), tower_parameters(start), strict=True):
        assert torch.equal(own, first)


def share_tower(folder: Path) -> None:
    """On two ranks: assert that each holds the tower once, for trainer, sampler and reference, with the whole model's
    vectors."""
    ranks, device = connect(300), torch.device("cpu")
    whole = load_model(str(folder))
    load = partial(load_model, str(folder))
    engine, meta_model = build(ranks, load, Training(), device, load)
    replica = empty_replica(meta_model, device, torch.bfloat16, engine.model)
    load_weights(replica, engine.named_weights())
    tower = tower_parameters(engine.model.module)
    for own, sampled, first in zip(
        tower, tower_parameters(replica.module), tower_parameters(whole.module), strict=True
    ):
        assert own is sampled
        assert torch.equal(own, first)
    for in_float32 in (False, True):  # the start model, and the reference that moves
        reference = engine.start_model(in_float32)
        for own, shared in zip(tower, tower_parameters(reference.scorer.module), strict=True):
            assert own is shared
        reference.mix(engine.named_weights(), 0.5)
        assert reference.weights().image_vectors is engine.model.image_vectors
    for own, first in zip(tower, tower_parameters(whole.module), strict=True):
        assert torch.equal(own, first)
    trained = [p for p in engine.model.module.parameters() if p.requires_grad]
    assert all(isinstance(p, DTensor) for p in trained)
    assert len(trained) + len(tower) == len(list(whole.module.parameters()))
    assert engine.model.image_vectors is replica.image_vectors
    assert replica.image_vectors is not None
    assert whole.image_vectors is not None
    shown = image("green", (90, 30))
    assert torch.equal(replica.image_vectors.vectors(shown), whole.image_vectors.vectors(shown))
    prompt = (Message("user", "What color?", (shown,)),)
    assert replica.chat.encode(prompt) == whole.chat.encode(prompt)
    shutdown()


def test_a_rank_holds_the_tower_once(tmp_path: Path) -> None:
    """Guards against a tower that is gathered for each image, or held by trainer, sampler and reference each."""
    folder = save_vision_model(tmp_path / "model", "Qwen3-VL")
    assert_success(run_ranks(2, share_tower, folder, folder=tmp_path / "output"))


def test_vectors_are_not_sent(tmp_path: Path) -> None:
    """Guards against a model that cannot be sent to other ranks once it has seen an image, or is sent with its vectors."""
    model = load_model(str(save_vision_model(tmp_path, "Qwen2.5-VL")))
    prompt = (Message("user", "What color?", (image(),)),)
    ids = model.chat.encode(prompt)
    assert max(ids) >= FIRST_ID
    assert model.image_vectors is not None
    found = model.image_vectors.vectors(image())
    again = pickle.loads(pickle.dumps(model))
    assert again.image_vectors.module is again.module
    assert (again.image_vectors.n_computed, again.image_vectors.both_ways) == (0, model.image_vectors.both_ways)
    assert again.chat.encode(prompt) == ids
    assert torch.equal(again.image_vectors.vectors(image()), found)
