"""Exported models: equal to the run's, readable by others, and never written over something else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rethink.errors import UserError
from rethink.models.bundled import TINY_MODEL
from rethink.models.load import load_model
from rethink.training.export import export, find_model
from rethink.training.loop import train
from rethink.training.run import Run, open_run
from rethink.training.trainer import Trainer
from support.command_line import assert_one_message, in_process
from support.hub_server import TOKEN, HubServer, use_hub
from support.lora_runs import contents, last_checkpoint, model, recipe_for, sampled, settings, tokens, undisturbed
from support.processes import light

__all__ = ["model", "settings", "undisturbed"]

pytestmark = pytest.mark.slow

pytest.importorskip("peft", reason="the extra peft is not installed")


_light = pytest.fixture(scope="module", autouse=True)(light)


def test_export_equals_the_adapter(undisturbed: Run, tmp_path: Path) -> None:
    """Guards against an export without the adapter, with GPT-2's layout wrong, or that needs this library or peft."""
    found = export(str(undisturbed.folder.path), tmp_path / "whole", "float32")
    assert found == last_checkpoint(undisturbed.folder.path)
    names = {p.name for p in (tmp_path / "whole").iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "README.md"} <= names
    assert not {name for name in names if name.startswith(("adapter", "optimizer", "counters", "manifest", "."))}
    samples = sampled(undisturbed.policy, undisturbed)
    whole = load_model(str(tmp_path / "whole"))
    assert whole.base is None
    scorer = Trainer(whole, undisturbed.recipe.training, 1, lambda: whole)
    ours, theirs = (trainer.log_probs(samples) for trainer in (scorer, undisturbed.trainer))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)  # the same merged weights
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    words = AutoTokenizer.from_pretrained(tmp_path / "whole")
    assert words.chat_template == undisturbed.trainer.model.chat.tokenizer.chat_template
    start = dict(undisturbed.trainer.initial.module.named_parameters())
    moved = [name for name, p in plain.named_parameters() if not torch.equal(p, start[name])]
    assert len(moved) == len(undisturbed.trainer.parameters) // 2
    # The run has not changed: it can be exported while it trains.
    assert tokens(load_model(str(found)), undisturbed) == tokens(undisturbed.trainer.model, undisturbed)


def test_export_in_bfloat16(undisturbed: Run, tmp_path: Path) -> None:
    """Guards against rounding before the adapter is merged."""
    path = str(last_checkpoint(undisturbed.folder.path))
    export(path, tmp_path / "float32", "float32")
    (tmp_path / "bfloat16").mkdir()  # an empty folder may be there
    export(path, tmp_path / "bfloat16")
    exact, rounded = (load_file(tmp_path / name / "model.safetensors") for name in ("float32", "bfloat16"))
    assert exact.keys() == rounded.keys()
    assert all(torch.equal(rounded[name], exact[name].bfloat16()) for name in exact)
    assert json.loads((tmp_path / "bfloat16" / "config.json").read_text())["dtype"] == "bfloat16"


def test_export_of_a_full_checkpoint(settings: list[str], model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Guards against an export that only works for adapters."""
    run = open_run(recipe_for(settings, model_folders["qwen3"], tmp_path / "run", "lora.rank=0", "updates=2"))
    list(train(run))
    export(str(tmp_path / "run"), tmp_path / "whole", "float32")
    ours, theirs = (
        load_file(p / "model.safetensors") for p in (tmp_path / "whole", tmp_path / "run" / "checkpoints" / "000002")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not (tmp_path / "whole" / "optimizer.pt").exists()


def test_export_overwrites_nothing(undisturbed: Run, tmp_path: Path) -> None:
    """Guards against writing into a folder in use, and leaving half a folder on failure."""
    source = str(undisturbed.folder.path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "full", tmp_path / "full" / "notes", tmp_path / "file", undisturbed.folder.path):
        before = contents(tmp_path)
        with pytest.raises(UserError, match="choose another --out DIR"):
            export(source, out)
        assert contents(tmp_path) == before
    for wrong in (str(tmp_path / "nowhere"), str(tmp_path / "full")):
        with pytest.raises(UserError):
            export(wrong, tmp_path / "out")
    damaged = tmp_path / "damaged"
    shutil.copytree(last_checkpoint(undisturbed.folder.path), damaged)
    (damaged / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"is damaged \(adapter_model.safetensors has changed"):
        export(str(damaged), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged", "file", "full"]


def test_export_on_the_command_line(
    undisturbed: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Guards against a command that exports something else, or overwrites."""
    rethink, source = in_process(capsys, monkeypatch, tmp_path), undisturbed.folder.path
    done = rethink("export", source, "--out", "whole")
    assert (done.code, (tmp_path / "whole" / "model.safetensors").is_file()) == (0, True), done.err
    assert f"exported {last_checkpoint(undisturbed.folder.path)} to whole, in bfloat16" in done.err
    before = contents(tmp_path / "whole")
    assert rethink("export", source, "--out", "whole").code == 0  # as after a kill at the very end
    other = rethink("export", source, "--out", "whole", "--dtype", "float32")
    assert_one_message(other, "holds another model; choose another --out DIR")
    assert contents(tmp_path / "whole") == before
    assert [file.name for file in tmp_path.iterdir()] == ["whole"]
    assert_one_message(rethink("export", source, "--out", "w", "--dtype", "int8"), "float32 or bfloat16, not 'int8'")
    assert_one_message(rethink("export", source), "--out DIR", "--push NAME")
    assert_one_message(rethink("export", source, "--out", "w", "--private"), "--private is for --push NAME")


# The library sends files in a way that its HTTP client calls old.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_export_pushes_what_it_writes(
    undisturbed: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Guards against a push of something else than --out writes, a folder that is left behind, files that only their owner
    can read, and a model that is exported for minutes before the hub refuses."""
    rethink, source = in_process(capsys, monkeypatch, tmp_path), undisturbed.folder.path
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with HubServer().running() as hub:
        use_hub(monkeypatch, hub.url)
        done = rethink("export", source, "--push", "model", "--private")
        assert (done.code, done.out, hub.private) == (0, f"{hub.url}/someone/model\n", {"someone/model": True}), (
            done.err
        )
        assert list(tmp_path.iterdir()) == []
        assert rethink("export", source, "--push", "team/model", "--out", "kept").code == 0
        assert_one_message(
            rethink("export", source, "--push", "model", "--out", "w"), "already has files", "--exist-ok"
        )
    kept = {path.name: data for path, data in contents(tmp_path / "kept").items()}
    assert hub.files["team/model"] == {".gitattributes": b"", **kept}
    renamed = {name: data.replace(b"team/model", b"someone/model") for name, data in hub.files["team/model"].items()}
    assert hub.files["someone/model"] == renamed
    assert b"someone/model" in renamed["README.md"]
    assert not any(TOKEN.encode() in data for data in renamed.values())
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
    (tmp_path / "fresh").touch()
    modes = {file.stat().st_mode for file in (tmp_path / "kept").iterdir()}
    assert modes == {(tmp_path / "fresh").stat().st_mode}


def test_what_is_exported() -> None:
    """Guards against a look-up on the hub of a model of the package, or of a mistyped folder."""
    assert find_model("tiny", pytest.fail) == TINY_MODEL
    with pytest.raises(UserError, match="there is no model folder runs/a/b"):
        find_model("runs/a/b", pytest.fail)
