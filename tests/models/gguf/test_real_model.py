"""A real model in a GGUF file, SmolLM2-135M: it answers, trains and is exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import rethink
from rethink.models.load import load_model
from rethink.policies.local import LocalPolicy
from rethink.training.export import export
from rethink.types import Message, Sampling
from support.samples import make_prompt

pytest.importorskip("gguf", reason="the extra gguf is not installed")
pytestmark = pytest.mark.slow

QUESTION = (Message("user", "What is the capital of France?"),)


@pytest.fixture
def cache() -> None:
    """In place of an empty cache for each test: `smollm` has one for all of them."""


def test_it_answers_as_transformers_does(smollm: Path) -> None:
    """Guards against a template, an end token, a rope or an order of rows that is not the model's."""
    model = load_model(str(smollm))
    assert model.fused
    ids = list(model.chat.encode(QUESTION))
    rendered = model.chat.tokenizer.decode(ids)
    assert rendered.endswith("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    assert model.chat.tokenizer.decode(list(model.chat.stop_ids)) == "<|im_end|>"
    with torch.no_grad():
        expected = model.module.generate(torch.tensor([ids]), max_new_tokens=30, do_sample=False)[0, len(ids) :]
    policy = LocalPolicy(model, Sampling(temperature=0.0, max_tokens=30))
    ((sample,),) = policy.sample([replace(make_prompt(), messages=QUESTION)], 1)
    assert list(sample.ids) == expected.tolist()
    assert "Paris" in sample.text


def test_it_trains_and_is_exported(smollm: Path, tmp_path: Path) -> None:
    """Guards against frozen weights, and against an export that the library refuses to write or that does not open."""
    rows = [{"question": f"Name a number below {n}.", "answer": "3"} for n in (5, 6, 7, 8)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [
        f"model.path={smollm}",
        f"out={tmp_path / 'run'}",
        f"problems.source={tmp_path / 'p.jsonl'}",
        "problems.verifier=support.coins:coin",
        "method.name=grpo",
        "method.n_solve=4",
        "updates=2",
        "problems_per_batch=2",
        "sampling.max_tokens=12",
        "training.lr=1e-4",
    ]
    told: list[str] = []
    run = rethink.open_run(rethink.load_recipe(None, settings), warn=told.append)
    records = [record for record in rethink.train(run) if record["phase"] == "solve"]
    assert told[0].startswith(f"{smollm}: weights dequantized from Q4_1")
    assert len(records) == 2
    export(str(tmp_path / "run"), tmp_path / "exported", "float32")
    trained, start = (dict(load_model(str(p)).module.named_parameters()) for p in (tmp_path / "exported", smollm))
    assert trained.keys() == start.keys()
    moved = [name for name in start if not torch.equal(trained[name], start[name])]
    assert len(moved) == len(start)
    assert all(bool(((trained[name] - start[name]).abs() < 1e-3).all()) for name in start)
