"""The comparison of samplers on a real model, with the shipped tiny model: equal work, arithmetic, and resuming."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from real import engine_rethink, engine_transformers, sampling
from real.result_files import Row, append_row, read_rows
from real.sampling import Plan, prompts
from real.sampling_table import bytes_per_step, layers_and_head, table
from real.sampling_worker import Engine, Replies, measure
from rethink.models import bundled
from support.gguf_files import random_module, write_gguf

FOLDER = Path(bundled.resolve("tiny"))


def job(**changes: Any) -> dict[str, Any]:
    return {"folder": str(FOLDER), "dtype": "float32", "threads": 1, **changes}


@pytest.mark.parametrize("module", [engine_rethink, engine_transformers])
def test_replies_have_the_asked_length_and_are_the_models(module: Any) -> None:
    """Guards against end tokens that end replies, and against prompts that an engine changes: both continue greedily as
    the model itself does, token by token."""
    words = AutoTokenizer.from_pretrained(FOLDER)
    asked = [words.encode(f"<user> {question} <reply>") for question in ("3 7 5 -> 26", "2 9 4 -> 22", "1 8 6 -> 14")]
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    wanted = [list(prompt) for prompt in asked]
    for _ in range(29):
        with torch.no_grad():
            logits = model(torch.tensor(wanted)).logits[:, -1]
        for ids, token in zip(wanted, logits.argmax(-1).tolist(), strict=True):
            ids.append(token)
    found = module.open_engine(job()).generate(asked, 29, greedy=True)
    assert found.ids == [ids[len(asked[0]) :] for ids in wanted]
    assert any(model.config.eos_token_id in ids[:-1] for ids in found.ids), "no reply went on after an end token"
    assert 0 < found.first_s < found.total_s
    assert found.n_after_first == 3 * 28


@pytest.mark.parametrize("module", [engine_rethink, engine_transformers])
def test_sampled_replies_differ_from_call_to_call(module: Any) -> None:
    """Guards against timing greedy replies, whose rows may be equal, in place of sampled ones."""
    engine = module.open_engine(job())
    asked = prompts(FOLDER, 2, 11, seed=5)
    first, second = (engine.generate(asked, 23, greedy=False).ids for _ in range(2))
    assert first != second
    assert {len(ids) for ids in (*first, *second)} == {23}


def test_prompts_have_equal_lengths_and_differ() -> None:
    """Guards against prompts that share a prefix cache, or that need padding."""
    asked = prompts(FOLDER, 5, 37, seed=1)
    assert [len(ids) for ids in asked] == [37] * 5
    assert len({tuple(ids) for ids in asked}) == 5
    assert asked == prompts(FOLDER, 5, 37, seed=1) != prompts(FOLDER, 5, 37, seed=2)


class FakeEngine(Engine):
    version = "1"

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths

    def generate(self, prompts: Any, n_tokens: int, *, greedy: bool) -> Replies:
        return Replies([[0] * n for n in self.lengths], first_s=2.0, total_s=5.0, n_after_first=18)


def test_rates_by_hand() -> None:
    """Guards against rates over the wrong seconds: 3 replies of 8 tokens in 5 s, of which 18 tokens are 6 steps in 3 s."""
    found = measure(FakeEngine([8, 8, 8]), [[1], [2], [3]], 8)
    assert found["tokens_per_s"] == pytest.approx(24 / 5)
    assert found["steps_per_s"] == pytest.approx(6 / 3)
    assert found["peak_bytes"] > 2**20
    with pytest.raises(ValueError, match=r"\[8, 7, 8\]"):
        measure(FakeEngine([8, 7, 8]), [[1], [2], [3]], 8)


def row(engine: str, rows: int, number: int, tokens_per_s: float) -> Row:
    about = {"engine": engine, "version": "1.0", "rows": str(rows), "round": str(number)}
    timed = {
        "first_token_s": "0.5",
        "tokens_per_s": str(tokens_per_s),
        "steps_per_s": "3",
        "bytes_per_step": str(2 * 10**9),
    }
    return {**about, **timed, "peak_bytes": str(3 * 2**30)}


def test_the_table_has_medians_and_ratios() -> None:
    """Guards against means, ratios the wrong way round, and engines of another batch size."""
    some = [row("rethink", 8, number, rate) for number, rate in enumerate((10, 40, 30))]
    some += [row("transformers", 8, 0, 20), row("llama", 1, 0, 7)]
    lines = table(some).splitlines()[2:]
    assert lines == [
        "| 1 | llama.cpp 1.0 | 0.50 | 7.0 | - | 6.0 | 3.00 | 1 |",
        "| 8 | rethink 1.0 | 0.50 | 30.0 | 1.50 | 6.0 | 3.00 | 3 |",
        "| 8 | `generate` 1.0 | 0.50 | 20.0 | 1.00 | 6.0 | 3.00 | 1 |",
    ]


def test_bytes_of_a_step_by_hand(tmp_path: Path) -> None:
    """Guards against counting an embedding that is only looked up, or leaving out the output layer."""
    tensors = {"model.embed_tokens.weight": torch.zeros(7, 2), "model.layers.0.attn_output.weight": torch.zeros(3, 5)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert bytes_per_step("transformers", tmp_path, None, "bfloat16") == 2 * (15 + 14)
    assert bytes_per_step("rethink", tmp_path, None, "bfloat16") == 2 * 15 + 4 * 14
    save_file({**tensors, "lm_head.weight": torch.zeros(11, 2)}, tmp_path / "model.safetensors")
    assert bytes_per_step("vllm", tmp_path, None, "float32") == 4 * (15 + 22)
    assert layers_and_head({"token_embd.weight": 3, "output.weight": 5, "blk.0.attn_output.weight": 7}) == (7, 5)


def plan(tmp_path: Path, **changes: Any) -> Plan:
    found: dict[str, Any] = {
        "name": "tiny",
        "folder": FOLDER,
        "gguf": None,
        "dtype": "float32",
        "pythons": {"rethink": "python", "transformers": "python"},
        "rows": [1, 3],
        "rounds": 2,
        "prompt_tokens": 11,
        "reply_tokens": 7,
        "threads": 1,
        "run": "today",
        "deadline": time.time() + 1000,
    }
    return Plan(**{**found, **changes})


FOUND = {"first_token_s": 0.1, "total_s": 0.2, "tokens_per_s": 3.0, "steps_per_s": 4.0, "peak_bytes": 5}


def test_only_what_is_missing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against measuring again, against rounds in which one engine is always first, and against rows of other runs
    that count as this one's."""
    out = tmp_path / "rows.csv"
    asked: list[tuple[str, int, list[int]]] = []

    def work(some: Plan, engine: str, number: int, missing: list[int]) -> Any:
        asked.append((engine, number, missing))
        yield {"version": "1.0", "start": [1, 2]}
        for rows in missing:
            yield {"rows": rows, **FOUND}

    monkeypatch.setattr(sampling, "work", work)
    other = plan(tmp_path, run="yesterday")
    append_row(out, sampling.new_row(other, "rethink", "1.0", 0, {"rows": 3, **FOUND}))
    mine = plan(tmp_path)
    append_row(out, sampling.new_row(mine, "rethink", "1.0", 0, {"rows": 3, **FOUND}))
    assert sampling.run(mine, out) == set()
    assert asked == [
        ("rethink", 0, [1]),
        ("transformers", 0, [1, 3]),
        ("transformers", 1, [1, 3]),
        ("rethink", 1, [1, 3]),
    ]
    asked.clear()
    assert sampling.run(mine, out) == set()
    assert sampling.run(plan(tmp_path, run="late", deadline=0.0), out) == set()
    assert asked == []
    assert len(sampling.rows_of(mine, out)) == 8
    assert len(read_rows(out)) == 9


@pytest.mark.slow
def test_workers_write_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Guards against workers that cannot be started, and against a failing engine that costs the others their rows."""
    file, out = tmp_path / "small.gguf", tmp_path / "rows.csv"
    write_gguf(file, random_module("qwen2"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sizes = ["--rows", "1", "3", "--rounds", "1", "--prompt-tokens", "11", "--reply-tokens", "5", "--threads", "1"]
    with pytest.raises(SystemExit, match="failed: llama"):
        sampling.main([str(file), *sizes, "--llama-python", "/bin/false", "--out", str(out)])
    found = {(row["engine"], row["rows"]): row for row in read_rows(out)}
    assert set(found) == {(engine, n) for engine in ("rethink", "transformers") for n in ("1", "3")}
    assert all(float(row["total_s"]) > float(row["first_token_s"]) > 0 for row in found.values())
    shown = capfd.readouterr().out
    assert "small.gguf (weights" in shown
    starts = [line.rpartition("with ")[2] for line in shown.splitlines() if "greedily" in line]
    assert len(starts) == 2
    assert json.loads(starts[0]) == json.loads(starts[1])
