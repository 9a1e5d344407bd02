"""Training runs on one process and on several ranks: settings, and comparisons of what they wrote."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from rethink.jsonl import Record
from rethink.models.load import load_model
from rethink.recipe import load_recipe
from rethink.training import loop
from rethink.training.run import open_run
from support.command_line import command_line
from support.ranks import RankExit, assert_success, run_ranks

MONITORS = 1e-4
"""The largest difference of a run's metrics, relative to their size. Measured: 1e-5, as sums have other orders and one
process multiplies by Llama's fused matrices."""

WEIGHTS = 3e-5
"""The largest difference of weights at the end of a run, at a learning rate of 1e-3 and weights of size 1."""

FLOAT32 = 1e-4
"""Gradients and log-probs: the same float32 sums in another order, and through fused products or modules."""

BFLOAT16 = 0.15
"""Products keep eight bits of a number. Measured against float32: gradients of three ranks are 0.03 to 0.07 of their norm
away, those of one process 0.02 to 0.04, and log-probs of ranks 0.06 nats."""

ONLY_OF_RANKS = ("n_ranks", "n_bytes_gathered")


def run_settings(folder: Path, model: Path, *more: str, n_problems: int = 11) -> list[str]:
    """Return settings of six ThinkTwice updates, two per batch, with a KL term; write the problems into the folder."""
    return [
        *(f"model.path={model}", "model.device=cpu", "updates=6", "problems_per_batch=5", "checkpoint_every=2"),
        *("keep_checkpoints=9", "seed=3", "training.lr=0.001", "sampling.max_tokens=5", "distributed.timeout_s=100"),
        *("method={name = 'think_twice'}", "method.n_solve=4", "method.n_refine=3", "method.solve={n_steps = 2}"),
        *("method.refine={n_steps = 1, kl_coef = 0.1}", "prompts.solve={question}", "prompts.refine=again"),
        *("problems.id=key", "problems.verifier=support.ranks_faults:coin"),
        f"problems.source={_write_problems(folder / 'train.jsonl', n_problems, '{} 7 5 -> 26')}",
        *more,
    ]


def evaluation_settings(folder: Path) -> list[str]:
    """Return settings of an evaluation on three held-out problems after every batch."""
    file = _write_problems(folder / "test.jsonl", 3, "{} 5 3 -> 21")
    return [
        f"evaluation.problems={{source = '{file}', id = 'key', verifier = 'support.ranks_faults:coin'}}",
        *("evaluation.every=2", "evaluation.n=2", "evaluation.sampling={temperature = 1.0, max_tokens = 5}"),
    ]


def _write_problems(file: Path, n: int, question: str) -> Path:
    rows = [{"key": f"{file.stem}{k}", "question": question.format(k), "answer": "26"} for k in range(n)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def train(settings: Sequence[str], out: Path, *more: str, resume: bool = False) -> Path:
    """Train in this process, without torchrun; return the run's folder."""
    run = open_run(load_recipe(None, [*settings, f"out={out}", *more]), resume=resume, warn=pytest.fail)
    list(loop.train(run))
    return out


def arguments(settings: Sequence[str], out: Path, *more: str) -> list[object]:
    """Return the arguments of `rethink train`: an empty recipe, and everything in settings."""
    file = out.with_suffix(".toml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("")
    return ["train", file, *settings, f"out={out}", *more]


def train_on_ranks(
    n: int, settings: Sequence[str], out: Path, *more: str, env: Mapping[str, str] | None = None
) -> list[RankExit]:
    """Run `rethink train` on n ranks and return how each ended."""
    return run_ranks(n, command_line, *arguments(settings, out, *more), folder=out.with_suffix(".output"), env=env)


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


def records(out: Path) -> list[Record]:
    """Return the run's metrics without times and without those that only several ranks log."""
    found = lines(out / "metrics.jsonl")
    return [{k: v for k, v in r.items() if not k.endswith("_s") and k not in ONLY_OF_RANKS} for r in found]


def update_records(out: Path) -> list[Record]:
    return [r for r in records(out) if r["phase"] != "evaluation"]


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def checkpoint_weights(out: Path, n: int) -> dict[str, Tensor]:
    """Return the weights in a checkpoint, of one process or of ranks."""
    module = load_model(str(out / "checkpoints" / f"{n:06d}")).module
    return {name: p.detach() for name, p in module.named_parameters()}


def max_gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def mean_gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return sum(float((a[name] - b[name]).abs().sum()) for name in a) / sum(w.numel() for w in a.values())


def relative_distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return the norm of the difference over the norm of b."""
    assert a.keys() == b.keys()
    squares = [(float((a[k] - b[k]).square().sum()), float(b[k].square().sum())) for k in b]
    return math.sqrt(sum(x for x, _ in squares) / sum(y for _, y in squares))


def file_contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_same_run(ours: Path, theirs: Path, n: int = 6) -> None:
    """Assert equal texts, verdicts and rewards, and metrics and weights that differ only by rounding."""
    assert lines(ours / "samples.jsonl") == lines(theirs / "samples.jsonl")
    for k in range(2, n + 1, 2):
        name = f"eval/{k:06d}.jsonl"
        (got, got_log_probs), (want, log_probs) = (read_evaluation(run / name) for run in (ours, theirs))
        assert got == want
        assert got_log_probs == pytest.approx(log_probs, abs=1e-3)
    assert_same_records(records(ours), records(theirs))
    assert max_gap(checkpoint_weights(ours, n), checkpoint_weights(theirs, n)) <= WEIGHTS


def read_evaluation(file: Path) -> tuple[list[Record], list[float | None]]:
    """Return the answers of an evaluation without the log-probs of replies, and these."""
    answers = lines(file)
    log_probs: list[float | None] = []
    for answer in answers:
        for step in answer["steps"]:
            log_probs.append(step.pop("log_prob"))
    return answers, log_probs


def assert_same_records(ours: Sequence[Record], theirs: Sequence[Record]) -> None:
    assert [(r["update"], r["phase"]) for r in ours] == [(r["update"], r["phase"]) for r in theirs]
    for got, want in zip(ours, theirs, strict=True):
        assert got.keys() == want.keys()
        for key, value in want.items():
            # A mismatch of sampler and trainer is itself rounding.
            near = 1e-4 if key.startswith("mismatch/") else MONITORS * 0.1
            expected = pytest.approx(value, rel=MONITORS, abs=near) if isinstance(value, float) else value
            assert got[key] == expected, (want["update"], key)
