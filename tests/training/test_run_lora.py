"""Runs with LoRA: the base does not change, a resumed run equals an undisturbed one, wrong settings are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rethink.errors import UserError
from rethink.models.load import load_model
from rethink.training.loop import train
from rethink.training.run import Run, open_run
from support.command_line import Rethink, assert_one_message, in_process
from support.lora_runs import contents, last_checkpoint, model, recipe_for, settings, tokens, undisturbed
from support.processes import light
from support.runs import records
from support.trained import bits, same

__all__ = ["model", "settings", "undisturbed"]

pytestmark = pytest.mark.slow

pytest.importorskip("peft", reason="the extra peft is not installed")


_light = pytest.fixture(scope="module", autouse=True)(light)


def test_base_does_not_change(undisturbed: Run, model: Path) -> None:
    """Guards against weights that are trained or merged in place: they equal the file's, bit for bit."""
    trained = [name for name, p in undisturbed.trainer.model.module.named_parameters() if p.requires_grad]
    assert {name.split(".")[-3] for name in trained} == {"lora_A", "lora_B"}
    base = undisturbed.trainer.model.base
    assert base is not None
    stored = load_file(model / "model.safetensors")
    for name, p in base.module.named_parameters():
        assert torch.equal(p, stored[name] if name in stored else stored[name.removeprefix("transformer.")])
    assert undisturbed.trainer.initial is base


def test_sampler_and_trainer_agree(undisturbed: Run) -> None:
    """Guards against a sampler with older weights or the base's, and a KL to another model than the start."""
    found = records(undisturbed.folder.path)
    assert len(found) == 8
    # float32 sums in another order
    assert max(r["mismatch/log_prob_gap_max"] for r in found if "mismatch/log_prob_gap_max" in r) < 1e-4
    kl = [r["kl_to_reference_nats"] for r in found if r["phase"] == "solve"]
    assert kl[0] == 0
    assert kl[-1] > 1e-4


def test_resumed_run_equals_an_undisturbed_one(
    undisturbed: Run, settings: list[str], model: Path, tmp_path: Path
) -> None:
    """Guards against an adapter that starts again, loses its moments, or continues on the wrong base."""
    list(train(open_run(recipe_for(settings, model, tmp_path / "run", "updates=4"))))
    run = open_run(recipe_for(settings, model, tmp_path / "run"), resume=True, warn=pytest.fail)
    assert run.trainer.version == 4
    list(train(run))
    ours, theirs = last_checkpoint(tmp_path / "run"), last_checkpoint(undisturbed.folder.path)
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())
    for name in ("adapter_model.safetensors", "adapter_config.json", "adapter_base.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    a, b = (torch.load(p / "optimizer.pt", weights_only=True)["state"] for p in (ours, theirs))
    assert all(torch.equal(a[i][key], b[i][key]) for i in b for key in b[i])
    assert records(tmp_path / "run") == records(undisturbed.folder.path)


def test_checkpoint_is_the_adapter_alone(undisturbed: Run) -> None:
    """Guards against checkpoints of the size of the base, unlisted files, and an evaluation of the base."""
    path = last_checkpoint(undisturbed.folder.path)
    names = {p.name for p in path.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "adapter_base.json", "tokenizer.json"} <= names
    assert not {"model.safetensors", "config.json"} & names
    assert set(json.loads((path / "manifest.json").read_text())) == names - {"manifest.json"}
    stored = load_file(path / "adapter_model.safetensors")
    assert sum(t.numel() for t in stored.values()) == sum(p.numel() for p in undisturbed.trainer.parameters)
    assert tokens(load_model(str(path)), undisturbed) == tokens(undisturbed.trainer.model, undisturbed)
    assert tokens(undisturbed.trainer.initial, undisturbed) != tokens(undisturbed.trainer.model, undisturbed)


@pytest.fixture
def rethink(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rethink:
    return in_process(capsys, monkeypatch, tmp_path)


def test_lora_rank_cannot_change(
    rethink: Rethink, settings: list[str], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Guards against a LoRA run that resumes as a full one, or the other way round, also after an edit of config.toml."""
    (tmp_path / "recipe.toml").write_text("")
    given = [*settings, f"model.path={model_folders['qwen3']}", "updates=2"]
    for out, began, wrong in (("a", "3", "0"), ("b", "0", "3")):
        assert rethink("train", "recipe.toml", *given, f"out={out}", f"lora.rank={began}").code == 0
        before = contents(tmp_path / out)
        found = rethink("train", "recipe.toml", *given, f"out={out}", f"lora.rank={wrong}", "updates=4", "--resume")
        assert_one_message(found, f"lora.rank was {began}, now {wrong}", "resume with the same lora.rank")
        assert contents(tmp_path / out) == before
        config = tmp_path / out / "config.toml"
        config.write_text(config.read_text().replace(f"rank = {began}", f"rank = {wrong}"))
        before = {p: data for p, data in contents(tmp_path / out).items() if p != config}
        found = rethink("train", "recipe.toml", *given, f"out={out}", f"lora.rank={wrong}", "updates=4", "--resume")
        assert_one_message(found, "the run's checkpoint holds", "resume with the run's own lora.rank")
        assert {p: data for p, data in contents(tmp_path / out).items() if p != config} == before


WRONG = {
    "lora.rank=-1": "lora.rank must be at least 0",
    "lora.alpha=inf": "lora.alpha must be finite",
    'lora.targets=["q_proj", "qq_proj"]': "qq_proj",
    "lora.targets=mlp": "no linear layer named 'mlp'",
    "model.random=true": "model.random initializes them at random",
}


def test_wrong_settings_are_refused(
    rethink: Rethink, settings: list[str], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Guards against wrong settings that are accepted; nothing is written."""
    (tmp_path / "recipe.toml").write_text("")
    for setting, message in WRONG.items():
        given = [*settings, f"model.path={model_folders['qwen3']}", "out=run", setting]
        assert_one_message(rethink("train", "recipe.toml", *given), message)
        assert not (tmp_path / "run").exists()


def test_adapter_is_refused_as_model(undisturbed: Run, settings: list[str], tmp_path: Path) -> None:
    """Guards against an adapter on an adapter, and a full run that trains only an adapter."""
    adapter = last_checkpoint(undisturbed.folder.path)
    for rank in ("0", "3"):
        with pytest.raises(UserError, match=r"is an adapter; merge it first \(rethink export"):
            open_run(recipe_for(settings, adapter, tmp_path / "run", f"lora.rank={rank}"))
        assert not (tmp_path / "run").exists()


def test_bfloat16_base(settings: list[str], model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Guards against a refusal: with LoRA only the adapter needs float32."""
    recipe = recipe_for(settings, model_folders["qwen3"], tmp_path / "run", "model.dtype=bfloat16", "updates=2")
    run = open_run(recipe)
    before = bits(run.trainer)
    found = [r for r in train(run) if r["phase"] != "evaluation"]
    assert {p.dtype for p in run.trainer.parameters} == {torch.float32}
    assert not same(before, bits(run.trainer))
    assert all(r["mismatch/prob_gap"] < 0.05 for r in found if "mismatch/prob_gap" in r)
