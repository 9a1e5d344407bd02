"""The 8-bit optimizer over several ranks: to the bit on as many, and but for stated rounding on any other number."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from rethink.models.load import load_model
from support import random_models
from support import ranks_optimizer_cases as cases
from support.processes import light
from support.ranks_optimizer_cases import Held
from support.ranks_start import command_line, report, together

pytestmark = [
    pytest.mark.skipif(find_spec("torchao") is None, reason='an extra: pip install "rethink-rl[adamw8bit]"'),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # what torch says about its compiler
]

_light = pytest.fixture(scope="module", autouse=True)(light)

Found = dict[str, dict[str, Any]]

CODE = {"exp_avg": 0.00704, "exp_avg_sq": 0.0036}
"""Half of the largest gap between codes, in units of a block's largest number: (1 - 0.1) / 64 / 2 with a sign, and half of
that without, and float32's own rounding."""

ROUNDED = 0.02
"""How far weights may be apart, in units of how far they have moved since averages were rounded."""

SHAPES = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.mlp.up_proj.weight",
    "lm_head.weight",
]

ROUNDS = {
    "one reads two": [],
    "one reads three": ["self_attn"],
    "two reads one": ["gate_proj", "up_proj", "lm_head"],
    "three reads one": ["lm_head"],
    "three reads two": ["lm_head"],
}
"""Which averages are rounded: in 8 bits now, and before in float32 or in other blocks."""

NUMBERS = list(ROUNDS)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What one process, two and three ranks make of the same updates, and of each other's checkpoints.

    Of attention's matrices (128 x 128) one process and two ranks have 8 bits, of three ranks the last; of the head
    (113 x 128) of two ranks the last and of three the first two, in other blocks; of gate and up (97 x 128) of two the
    last. The embedding never has.
    """
    folder = tmp_path_factory.mktemp("eight bits")
    model = random_models.save_random_model(folder / "model", "llama", hidden_size=128, intermediate_size=97)
    folders = {name: folder / f"checkpoints of {name}" for name in ("one", "two", "three")}
    saved = {name: f / f"{cases.N:06d}" for name, f in folders.items()}
    made: Found = {"one": cases.begin(cases.alone, model, folders["one"])}
    for n, name in ((2, "two"), (3, "three")):
        others = {other: path for other, path in saved.items() if path.is_dir()}
        ended = together(n, cases.shared, model, folders[name], others, folder / name, folder=folder / "said")
        assert [e.code for e in ended] == [0] * n, report(ended)
        made[name] = torch.load(folder / name)
    for name in ("two", "three"):
        made["one"][name] = cases.go_on(cases.alone, saved[name])
    return made


@pytest.mark.parametrize("n", ["one", "two", "three"])
def test_as_many_ranks_go_on_to_the_bit(n: str, found: Found) -> None:
    """Guards against codes that a checkpoint rounds, and steps or weights that it forgets."""
    assert_equal(found[n]["again"]["read"], found[n]["written"])
    assert_equal(found[n]["again"]["trained"], found[n]["trained"])
    assert apart(found[n]["written"], found[n]["trained"]) > 1


def test_shards_have_8_bits_where_they_are_large_and_whole(found: Found) -> None:
    """Guards against a test of float32 alone: see `found` for the shapes."""
    bits = {n: [list(map(rank.get, SHAPES)) for rank in found[n]["bits"]] for n in ("one", "two", "three")}
    assert bits["one"] == [[32, 8, 32, 32]]
    assert bits["two"] == [[32, 8, 32, 32], [32, 8, 8, 8]]
    assert bits["three"] == [[32, 32, 32, 8], [32, 32, 32, 8], [32, 8, 32, 32]]


@pytest.mark.parametrize("case", NUMBERS)
def test_another_number_of_ranks_reads_the_same_but_for_rounding(case: str, found: Found) -> None:
    """Guards against shards in the wrong places, and averages that are lost where blocks differ. What had 8 bits and has
    float32 now, or 8 bits in blocks at the same places, is not rounded: of two ranks one process takes all as it is."""
    a, _, b = case.split()
    got, want = found[a][b]["read"], found[b]["written"]
    assert got.keys() == want.keys()
    rounded = set()
    for name, value in want.items():
        gap = float((got[name] - value).abs().max())
        limit = CODE.get(name.rpartition(" ")[2], 0.0) * float(value.abs().max())
        assert gap <= limit, name
        rounded |= {name.partition(" ")[0]} if gap else set()
    assert rounded == {name for name in weights(want) if any(part in name for part in ROUNDS[case])}


@pytest.mark.parametrize("case", NUMBERS)
def test_another_number_of_ranks_goes_on_alike(case: str, found: Found) -> None:
    """Guards against a state that looks well and is not used, a learning rate out of its schedule, steps counted anew."""
    a, _, b = case.split()
    moved = apart(found[b]["written"], found[b]["trained"])
    assert 0 < apart(found[a][b]["trained"], found[b]["trained"]) < ROUNDED * moved


def test_a_run_of_two_ranks_goes_on_to_the_bit(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Guards against a command that refuses, or waits for a compiler, where it goes on from a checkpoint."""
    rows = [{"key": f"p{k}", "question": f"{k} 7 5 -> 26", "answer": "26"} for k in range(4)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = random_models.save_random_model(tmp_path / "model", "llama", hidden_size=128)
    (tmp_path / "empty.toml").write_text("")

    def train(out: str, *more: object) -> None:
        settings = [
            *(
                f"model.path={model}",
                "model.device=cpu",
                f"out={tmp_path / out}",
                "problems_per_batch=2",
                "checkpoint_every=1",
            ),
            *("method={name = 'grpo'}", "method.n_solve=4", "prompts.solve={question}", "sampling.max_tokens=5"),
            *(
                "problems.id=key",
                "problems.verifier=support.ranks_cases:coin",
                f"problems.source={tmp_path / 'train.jsonl'}",
            ),
            *("training.optimizer=adamw8bit", "training.lr=0.001", "distributed.timeout_s=100"),
        ]
        given = ["train", tmp_path / "empty.toml", *settings, *more]
        ended = together(2, command_line, *given, folder=tmp_path / "said")
        assert [e.code for e in ended] == [0, 0], report(ended)

    train("whole", "updates=4")
    train("parts", "updates=2")
    train("parts", "updates=4", "--resume")
    whole, parts = (load_model(str(tmp_path / out / "checkpoints" / "000004")).module for out in ("whole", "parts"))
    assert_equal(dict(whole.named_parameters()), dict(parts.named_parameters()))
    assert (tmp_path / "whole" / "samples.jsonl").read_bytes() == (tmp_path / "parts" / "samples.jsonl").read_bytes()


def weights(held: Held) -> Held:
    return {name: w for name, w in held.items() if " " not in name}


def assert_equal(a: Held, b: Held) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def apart(a: Held, b: Held) -> float:
    """The norm of all weights' differences."""
    assert weights(a).keys() == weights(b).keys()
    return float(sum((b[name] - w).double().square().sum() for name, w in weights(a).items()) ** 0.5)
