"""The comparison with TRL: both sides get the same model, prompts and adapter, and our check of TRL's samples is right."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import our_worker
import real_workload
import vs_trl
from peak_memory import children, peak_bytes
from real_workload import C_LORA, C
from rethink.models.load import load_model
from rethink.training.run import open_run
from rethink.types import Message
from workloads import A, prompts


def test_without_options_the_random_models_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a plain call that asks for a real model, and against a real workload that starts without one."""
    given = vs_trl.parse([])
    assert (given.workload, given.model) == (["A", "B"], None)
    with pytest.raises(SystemExit):
        vs_trl.parse(["--workload", "A", "C-lora"])
    assert "C needs --model" in capsys.readouterr().err


def test_a_gguf_file_needs_a_place_for_its_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against half a gigabyte in a folder that nobody has named."""
    file = tmp_path / "model.gguf"
    file.touch()
    with pytest.raises(SystemExit):
        vs_trl.parse(["--workload", "C", "--model", str(file)])
    assert "C needs --cache" in capsys.readouterr().err
    assert vs_trl.parse(["--workload", "C", "--model", str(tmp_path)]).cache is None


def test_random_workloads_are_what_they_were(tmp_path: Path) -> None:
    """Guards against another model or other prompts in A, whose older figures would no longer compare."""
    found = vs_trl.settings(vs_trl.Plan(A, 2), tmp_path, None)
    assert found["prompts"] == prompts(A, 2)
    assert found["prompts"][:1] == [f"<user> {found['questions'][0]} <reply>"]
    assert (found["model"], found["lora_rank"], found["accumulation"]) == (str(tmp_path), 0, 1)
    assert (tmp_path / "model.safetensors").is_file()


def test_problems_in_words_differ_and_repeat() -> None:
    """Guards against the same prompt twice in an update, and against other prompts in the next run."""
    asked = real_workload.questions(50)
    assert len(set(asked)) == 50
    assert asked[:7] == real_workload.questions(7)
    assert asked[:7] != real_workload.questions(7, seed=1)


@pytest.mark.slow
def test_prompts_of_the_real_model_have_about_150_tokens(smollm: Path, tmp_path: Path) -> None:
    """Guards against prompts of another length than the page says, or that TRL splits into other tokens than we do."""
    folder = real_workload.plain_folder(smollm, tmp_path / "cache")
    asked = real_workload.questions(20)
    chat = load_model(str(folder)).chat
    ours = [list(chat.encode((Message("user", text),))) for text in asked]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert ours == [tokenizer.encode(text) for text in real_workload.rendered(folder, asked)]
    assert 140 <= statistics.fmean(map(len, ours)) <= 160


@pytest.mark.slow
def test_a_file_is_dequantized_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against sides that start from other weights, against a second copy in the cache, and against minutes at each
    start."""
    pytest.importorskip("gguf", reason="the extra gguf is not installed")
    from support.gguf_files import random_module, write_gguf

    file = write_gguf(tmp_path / "small.gguf", random_module("llama"), "Q4_1")
    cache = tmp_path / "new" / "cache"
    folder = real_workload.plain_folder(file, cache)
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", None)
        assert real_workload.plain_folder(file, cache) == real_workload.plain_folder(folder, tmp_path) == folder
    assert [part.name for part in cache.iterdir() if part.is_dir()] == ["small-float32"]
    module = AutoModelForCausalLM.from_pretrained(folder)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    wanted = load_model(str(file)).module.state_dict()
    assert all(torch.equal(p, wanted[name]) for name, p in module.state_dict().items())


def drawn(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what TRL's worker reports of one update: random replies, about half of them right."""
    draw = random.Random(3)
    n = settings["n_problems"] * settings["n_samples"]
    found = {
        "prompts": [prompt for prompt in settings["prompts"] for _ in range(settings["n_samples"])][:n],
        "ids": [[draw.randrange(2, 100) for _ in range(draw.randint(2, 11))] for _ in range(n)],
        "rewards": [float(draw.random() < 0.5) for _ in range(n)],
    }
    (folder / "drawn.json").write_text(json.dumps(found))
    return found


def plain_gradient_norm(module: Any, tokenizer: Any, found: dict[str, Any], n_samples: int) -> float:
    """Return the norm of TRL's gradient at a ratio of 1, one sequence at a time: the mean over all tokens of the advantage
    times the log-prob, where an advantage is a reward less its group's mean, over its standard deviation."""
    rewards = torch.tensor(found["rewards"]).view(-1, n_samples)
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, keepdim=True)).flatten()
    n_tokens = sum(map(len, found["ids"]))
    for prompt, ids, advantage in zip(found["prompts"], found["ids"], advantages, strict=True):
        asked = tokenizer.encode(prompt)
        log_probs = module(input_ids=torch.tensor([asked + ids])).logits[0, len(asked) - 1 : -1].log_softmax(-1)
        (-advantage * log_probs[range(len(ids)), ids].sum() / n_tokens).backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return float(torch.stack([g.norm() for g in gradients]).norm())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("rank", [0, 3])
def test_the_check_computes_the_gradient_of_trls_samples(
    rank: int, model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against a check that trains other tokens, advantages or another adapter than the other side has. A tiny model
    stands for C's; the other side is plain autograd, through `peft`'s layers with the adapter that the worker wrote."""
    if rank:
        peft = pytest.importorskip("peft", reason="the extra peft is not installed")
    workload = replace(C, n_problems=3, n_samples=5, max_tokens=11, lora_rank=rank)
    model = model_folders["llama"]
    settings = vs_trl.settings(vs_trl.Plan(workload, 1), tmp_path, model)
    settings["questions"] = ["1 2 3", "4 5", "6 7 8 9"]  # words that the tiny tokenizer knows
    settings["prompts"] = real_workload.rendered(model, settings["questions"])
    (tmp_path / "workload.json").write_text(json.dumps(settings))
    found = drawn(tmp_path, settings)

    our_worker.check(tmp_path, tmp_path / "drawn.json")
    said = json.loads(capsys.readouterr().out.splitlines()[-1])

    tokenizer = AutoTokenizer.from_pretrained(model)
    module = AutoModelForCausalLM.from_pretrained(model)
    if rank:
        our_worker.write_adapter(open_run(our_worker.recipe(tmp_path, "again")), tmp_path)
        module = peft.PeftModel.from_pretrained(module, tmp_path / "adapter", is_trainable=True)
    wanted = plain_gradient_norm(module, tokenizer, found, 5)
    assert said["grad_norm"] == pytest.approx(wanted, rel=1e-4)  # float32 sums in another order
    assert said["prompt_tokens"] == pytest.approx(statistics.fmean(len(tokenizer.encode(p)) for p in found["prompts"]))


def test_other_prompt_tokens_end_the_check(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Guards against a comparison in which the two sides answer different prompts."""
    settings: dict[str, Any] = {
        "n_samples": 2,
        "max_tokens": 5,
        "prompts": ["<user> 1 2 <reply>"],
        "questions": ["1 3"],
    }
    (tmp_path / "workload.json").write_text(json.dumps(settings))
    found = {"prompts": settings["prompts"] * 2, "ids": [[5], [6]], "rewards": [0.0, 1.0]}
    with pytest.raises(SystemExit, match="other tokens than TRL's"):
        our_worker.drawn_groups(tmp_path, found, load_model(str(model_folders["qwen3"])).chat)


@pytest.mark.parametrize(("workload", "rank"), [(C, 0), (C_LORA, 16)])
def test_our_recipe_is_that_of_the_workload(
    workload: Any, rank: int, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Guards against a side that trains all weights beside an adapter, or in another dtype, and against time spent on
    checkpoints, which TRL does not write."""
    model = model_folders["llama"]
    settings = vs_trl.settings(vs_trl.Plan(workload, 2), tmp_path, model)
    (tmp_path / "workload.json").write_text(json.dumps(settings))
    recipe = our_worker.recipe(tmp_path, "run")
    assert (recipe.lora.rank, recipe.lora.targets) == (rank, "all-linear")
    assert (recipe.model.path, recipe.model.dtype, recipe.sampler.dtype) == (str(model), "float32", "float32")
    assert (recipe.training.autocast, recipe.checkpoint_minutes) == ("none", 0)
    assert len(settings["prompts"]) == 2 * recipe.problems_per_batch == 4


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_memory_that_was_freed_counts_and_children_too() -> None:
    """Guards against the memory that a process holds now in place of its peak, and against graders that do not count."""
    size = 100_000_000
    code = f"held = bytearray(b'x') * {size}; del held; print('ready', flush=True); input()"
    parent = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {code!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
held = bytearray(b"x") * {size}
del held
print("ready", flush=True)
input()
child.communicate(b"\\n")
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    (child,) = children(process.pid)
    found, below = peak_bytes(process.pid), peak_bytes(child)
    assert process.pid in children(os.getpid())
    process.communicate("\n")
    assert found is not None
    assert below is not None
    assert size < below < 1.5 * size
    assert 2 * size < found < 3 * size
    assert peak_bytes(process.pid) is None
