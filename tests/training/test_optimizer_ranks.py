"""The 8-bit optimizer on several ranks: bit-identical on the same number, rounded within stated bounds on another one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from support import random_models
from support import ranks_optimizer as eight_bits
from support.processes import light
from support.ranks import assert_success, run_ranks
from support.ranks_optimizer import State
from support.ranks_runs import checkpoint_weights, run_settings, train_on_ranks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("torchao") is None, reason="the extra adamw8bit is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # from torch's compiler
]

_light = pytest.fixture(scope="module", autouse=True)(light)

Results = dict[str, dict[str, Any]]

HALF_CODE = {"exp_avg": 0.00704, "exp_avg_sq": 0.0036}
"""Half of the largest gap between codes, relative to a block's largest number: (1 - 0.1) / 64 / 2 with a sign, half of that
without, plus float32's own rounding."""

SHAPES = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.mlp.up_proj.weight",
    "lm_head.weight",
]

ROUNDED = {
    "one reads two": [],
    "one reads three": ["self_attn"],
    "two reads one": ["gate_proj", "up_proj", "lm_head"],
    "three reads one": ["lm_head"],
    "three reads two": ["lm_head"],
}
"""Which averages are rounded: those in 8 bits now that were in float32, or in other blocks, before."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The same updates on one process, two and three ranks, and resumes of each other's checkpoints."""
    folder = tmp_path_factory.mktemp("eight bits")
    model = random_models.save_random_model(folder / "model", "llama", hidden_size=128, intermediate_size=97)
    folders = {name: folder / f"checkpoints of {name}" for name in ("one", "two", "three")}
    saved = {name: f / f"{eight_bits.N:06d}" for name, f in folders.items()}
    found: Results = {"one": eight_bits.train_and_resume(eight_bits.make_trainer, model, folders["one"])}
    for n, name in ((2, "two"), (3, "three")):
        others = {other: path for other, path in saved.items() if path.is_dir()}
        out = folder / name
        assert_success(run_ranks(n, eight_bits.on_ranks, model, folders[name], others, out, folder=folder / "output"))
        found[name] = torch.load(out)
    for name in ("two", "three"):
        found["one"][name] = eight_bits.full_state(eight_bits.read(eight_bits.make_trainer, saved[name]))
    return found


@pytest.mark.parametrize("n", ["one", "two", "three"])
def test_the_same_number_of_ranks_resumes_to_the_bit(n: str, results: Results) -> None:
    """Guards against checkpoints that round codes or lose steps or weights."""
    assert_equal(results[n]["read"], results[n]["written"])
    assert_equal(results[n]["resumed"], results[n]["trained"])
    assert distance(results[n]["written"], results[n]["trained"]) > 1


def test_large_shards_of_whole_blocks_have_8_bits(results: Results) -> None:
    """Guards against tests that only use float32: see `results` for the shapes."""
    bits = {n: [list(map(rank.get, SHAPES)) for rank in found["bits"]] for n, found in results.items()}
    assert bits["one"] == [[32, 8, 32, 32]]
    assert bits["two"] == [[32, 8, 32, 32], [32, 8, 8, 8]]
    assert bits["three"] == [[32, 32, 32, 8], [32, 32, 32, 8], [32, 8, 32, 32]]


@pytest.mark.parametrize("case", ROUNDED)
def test_another_number_of_ranks_reads_the_same_up_to_rounding(case: str, results: Results) -> None:
    """Guards against misplaced shards, averages that are lost where blocks differ, and rounding that is not needed."""
    a, _, b = case.split()
    got, want = results[a][b], results[b]["written"]
    assert got.keys() == want.keys()
    rounded = set()
    for name, value in want.items():
        gap = float((got[name] - value).abs().max())
        assert gap <= HALF_CODE.get(name.rpartition(" ")[2], 0.0) * float(value.abs().max()), name
        rounded |= {name.partition(" ")[0]} if gap else set()
    assert rounded == {name for name in weights(want) if any(part in name for part in ROUNDED[case])}


def test_a_run_of_two_ranks_resumes_to_the_bit(tmp_path: Path) -> None:
    """Guards against a command that refuses, or waits for a compiler, when it resumes."""
    model = random_models.save_random_model(tmp_path / "model", "llama", hidden_size=128)
    more = ("problems_per_batch=2", "training.optimizer=adamw8bit")
    settings = run_settings(tmp_path, model, *more, n_problems=4)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert_success(train_on_ranks(2, settings, whole, "updates=4"))
    assert_success(train_on_ranks(2, settings, parts, "updates=2"))
    assert_success(train_on_ranks(2, settings, parts, "updates=4", "--resume"))
    assert_equal(checkpoint_weights(whole, 4), checkpoint_weights(parts, 4))
    assert (whole / "samples.jsonl").read_bytes() == (parts / "samples.jsonl").read_bytes()


def weights(state: State) -> State:
    return {name: w for name, w in state.items() if " " not in name}


def assert_equal(a: State, b: State) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def distance(a: State, b: State) -> float:
    """Return the norm of the difference of all weights."""
    assert weights(a).keys() == weights(b).keys()
    return float(sum((b[name] - w).double().square().sum() for name, w in weights(a).items()) ** 0.5)
