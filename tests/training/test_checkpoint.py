"""Checkpoints: complete or absent, restored bit for bit, and never lost when the next one fails."""

from __future__ import annotations

import errno
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from rethink.errors import UserError
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.objectives import Imitate, Update
from rethink.settings import Training
from rethink.training import checkpoint
from rethink.training.checkpoint import Counters
from rethink.training.trainer import Trainer
from support.processes import exit_code, light, start
from support.samples import reply_of

_light = pytest.fixture(scope="module", autouse=True)(light)


def trainer_of(model: LanguageModel) -> Trainer:
    return Trainer(model, Training(lr=0.01), 100, lambda: model)


def train(trainer: Trainer, n: int = 1) -> None:
    for _ in range(n):
        part = Imitate((reply_of(5 + trainer.version % 3),), (1.0,))
        trainer.apply(Update("imitate", (part,), on_policy=False))


def save(folder: Path, trainer: Trainer, keep: int = 3) -> Path:
    counters = Counters(trainer.version, trainer.version, trainer.n_optimizer_steps, 5)
    return checkpoint.save(folder, trainer, counters, keep)


def reopened(path: Path) -> tuple[Trainer, Counters]:
    trainer = trainer_of(load_model(str(path)))
    return trainer, checkpoint.load(path, trainer)


def tensors(trainer: Trainer) -> dict[str, Tensor]:
    """Weights and the optimizer's moments and counts, by name."""
    found = {name: p.detach() for name, p in trainer.model.module.named_parameters()}
    for i, state in trainer.optimizer.state_dict()["state"].items():
        found |= {f"{i}.{key}": value for key, value in state.items()}
    return found


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert {k: v.dtype for k, v in a.items()} == {k: v.dtype for k, v in b.items()}
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.fixture
def trained(qwen: LanguageModel) -> Trainer:
    trainer = trainer_of(qwen)
    train(trainer, 2)
    return trainer


@pytest.fixture
def folder(trained: Trainer, tmp_path: Path) -> Path:
    """Checkpoints 2 and 3."""
    save(tmp_path / "c", trained)
    train(trained)
    save(tmp_path / "c", trained)
    return tmp_path / "c"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_round_trip_is_bit_for_bit(trained: Trainer, tmp_path: Path) -> None:
    """Guards against moments, counts, weights or method state that are rounded, missing or reordered."""
    before = {k: v.clone() for k, v in tensors(trained).items()}
    state = {"n_batches": 7, "rates": [0.5, 0.25], "seen": {"p3": None}}
    path = checkpoint.save(tmp_path, trained, Counters(2, 2, 2, 5, state), 3)
    again, counters = reopened(path)
    assert counters == Counters(n_batches=2, n_updates=2, n_optimizer_steps=2, n_overlong=5, state=state)
    assert (again.version, again.n_optimizer_steps) == (2, 2)
    assert sum(".exp_avg" in k for k in before) == 2 * len(trained.parameters)
    assert_equal(tensors(again), before)
    train(trained, 3)
    train(again, 3)
    assert_equal(tensors(again), tensors(trained))


def test_checkpoint_is_an_ordinary_model_folder(trained: Trainer, tmp_path: Path) -> None:
    """Guards against checkpoints that transformers cannot read, or only their owner, and files that the manifest misses."""
    path = save(tmp_path, trained)
    loaded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    ours = dict(trained.model.module.named_parameters())
    assert [n for n, p in loaded.named_parameters() if not torch.equal(p, ours[n])] == []
    assert AutoTokenizer.from_pretrained(path).encode("3 * 7") == trained.model.chat.tokenizer.encode("3 * 7")
    listed = json.loads((path / "manifest.json").read_text())
    assert {*listed, "manifest.json"} == {p.relative_to(path).as_posix() for p in path.rglob("*")}
    (tmp_path / "fresh").touch()
    assert {p.stat().st_mode for p in path.iterdir()} == {(tmp_path / "fresh").stat().st_mode}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGES: list[tuple[str, Callable[[Path], None], str]] = [
    ("model.safetensors", truncate, "model.safetensors has changed"),
    ("optimizer.pt", flip_a_bit, "optimizer.pt has changed"),
    ("optimizer.pt", Path.unlink, "optimizer.pt is missing"),
    ("manifest.json", Path.unlink, "no readable manifest.json"),
    ("manifest.json", truncate, "no readable manifest.json"),
]


def test_newest_skips_damaged_checkpoints_with_a_warning(folder: Path, tmp_path: Path) -> None:
    """Guards against a resume from half a file, and against no warning about it."""
    for k, (name, damage, reason) in enumerate(DAMAGES):
        copy = tmp_path / str(k)
        shutil.copytree(folder, copy)
        damage(copy / "000003" / name)
        warnings: list[str] = []
        assert checkpoint.newest(copy, warnings.append) == copy / "000002"
        assert len(warnings) == 1
        assert f"checkpoint {copy / '000003'} is damaged ({reason}" in warnings[0]


def test_newest_is_found_by_number(folder: Path, tmp_path: Path) -> None:
    """Guards against alphabetical order, other things in the folder, and an error where there is no folder."""
    for name in (".writing-000004", "best", "000009.bak"):
        (folder / name).mkdir()
    (folder / "000008").touch()
    assert checkpoint.newest(folder, pytest.fail) == folder / "000003"
    assert checkpoint.newest(tmp_path / "no", pytest.fail) is None


def test_leftovers_of_a_crash_are_overwritten_and_old_checkpoints_deleted(folder: Path, trained: Trainer) -> None:
    """Guards against files of an aborted attempt in the next checkpoint, and against deleting the wrong ones."""
    left = folder / ".writing-000004"
    left.mkdir()
    (left / "stray").write_text("x")
    train(trained)
    assert names(save(folder, trained, keep=2)) == names(folder / "000003")
    assert names(folder) == ["000003", "000004"]


def test_damaged_newer_checkpoint_does_not_replace_the_one_just_written(folder: Path, trained: Trainer) -> None:
    """With keep = 1, the damaged newer checkpoint used to be kept, and the one just written deleted."""
    train(trained)
    truncate(save(folder, trained) / "model.safetensors")
    again, _ = reopened(folder / "000002")
    train(again)
    path = save(folder, again, keep=1)
    assert path == folder / "000003"
    assert checkpoint.newest(folder, lambda _: None) == path


def save_interim(folder: Path, trainer: Trainer, keep: int) -> Path:
    counters = Counters(trainer.version, trainer.version, trainer.n_optimizer_steps, 5, interim=True)
    return checkpoint.save(folder, trainer, counters, keep)


def test_interim_checkpoints_do_not_change_which_ones_stay(folder: Path, trained: Trainer) -> None:
    """Saving by time must not push out those that the user asked for: the next checkpoint replaces an interim one."""
    train(trained)
    save_interim(folder, trained, keep=2)
    assert names(folder) == ["000002", "000003", "000004"]
    assert checkpoint.newest(folder, pytest.fail) == folder / "000004"
    train(trained)
    save_interim(folder, trained, keep=2)
    assert names(folder) == ["000002", "000003", "000005"]
    train(trained)
    save(folder, trained, keep=2)
    assert names(folder) == ["000003", "000006"]


def test_a_checkpoint_of_the_same_update_is_removed_after_its_successor_is_there(
    folder: Path, trained: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a batch without updates, the checkpoint was removed before its successor had its name: killed there, a run that
    keeps one checkpoint lost everything. The successor was also an interim one, which the next checkpoint removes."""
    present: list[list[str]] = []
    rmtree = shutil.rmtree

    def watched(path: Path, ignore_errors: bool = False) -> None:
        if path.name.startswith(".removing"):
            present.append(sorted(set(names(folder)) - {path.name}))
        rmtree(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(shutil, "rmtree", watched)
    save_interim(folder, trained, keep=1)
    assert present == [["000002", "000003"], ["000003"]]
    train(trained)
    save_interim(folder, trained, keep=1)
    assert names(folder) == ["000003", "000004"]


def test_a_failed_rename_loses_no_checkpoint(folder: Path, trained: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a good checkpoint under a hidden name, which the message does not know and the next one removes."""
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name.startswith(".writing"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(UserError, match=r"the last good checkpoint, .*000003, is untouched"):
        save_interim(folder, trained, keep=1)
    assert "000003" in names(folder)


def test_a_run_killed_between_two_renames_has_its_checkpoint(folder: Path, trained: Trainer) -> None:
    """Guards against a resume from an older checkpoint, or from none: the newest one had a hidden name for a moment."""
    (folder / "000003").rename(folder / ".removing-000003-0a")
    (folder / "000002").rename(folder / ".removing-000002-0b")
    checkpoint.put_back(folder)
    assert checkpoint.newest(folder, lambda _: None) == folder / "000003"
    (folder / "000003" / "counters.json").unlink()
    (folder / "000003").rename(folder / ".removing-000003-0a")
    checkpoint.put_back(folder)
    assert not (folder / "000003").exists()  # it is damaged


def test_what_a_killed_process_left_is_tidied(folder: Path, trained: Trainer) -> None:
    """Killed while old checkpoints were removed, one more than in an undisturbed run once stayed."""
    train(trained)
    current = save(folder, trained, keep=9)
    for name in (".writing-000007", ".removing-000001"):
        (folder / name).mkdir()
        (folder / name / "rest").touch()
    (folder / "best").mkdir()
    checkpoint.tidy(current, keep=2)
    assert names(folder) == ["000003", "000004", "best"]


def test_of_a_linked_checkpoint_only_the_link_is_removed(folder: Path, trained: Trainer, tmp_path: Path) -> None:
    """A checkpoint that was moved to another disk once ended the run with a traceback."""
    elsewhere = (folder / "000002").rename(tmp_path / "elsewhere")
    (folder / "000002").symlink_to(elsewhere)
    train(trained)
    save(folder, trained, keep=2)
    assert names(folder) == ["000003", "000004"]
    assert (elsewhere / "manifest.json").is_file()
    (folder / "000005").symlink_to(elsewhere)
    train(trained)
    assert not save(folder, trained, keep=2).is_symlink()


WRITE_ERRORS: list[tuple[Exception, str]] = [
    (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    (OSError(errno.EROFS, "Read-only file system", "/a/b"), "Read-only file system"),
    (Exception("No space left on device (os error 28)"), "No space left on device"),  # tokenizers
    (SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"), "Disk quota exceeded"),
    (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 704 vs 598"), "(is the disk full?)"),
    (RuntimeError("PytorchStreamWriter failed writing file data/2: file write failed"), "(is the disk full?)"),
]


@pytest.mark.parametrize(("error", "cause"), WRITE_ERRORS)
def test_write_errors_are_one_message_without_raw_text(
    error: Exception, cause: str, folder: Path, trained: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up while the tokenizer is written was once a traceback, others the raw text of a library."""

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(trained.model.chat.tokenizer, "save_pretrained", fail)
    train(trained)
    with pytest.raises(UserError) as caught:
        save(folder, trained)
    message = str(caught.value)
    assert message.startswith(f"cannot write the checkpoint {folder / '000004'}: ")
    assert message.endswith(f"{cause}; the last good checkpoint, {folder / '000003'}, is untouched")
    assert not any(raw in message for raw in ("os error", "enforce", "Pytorch", "Errno"))
    assert names(folder) == ["000002", "000003"]


def test_other_errors_keep_their_traceback(folder: Path, trained: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a mistake in our code that looks like a full disk."""

    def fail(*arguments: object) -> None:
        raise KeyError("a mistake")

    monkeypatch.setattr(trained.model.chat.tokenizer, "save_pretrained", fail)
    train(trained)
    with pytest.raises(KeyError, match="a mistake"):
        save(folder, trained)


def save_with_file_size_limit(folder: Path, limit_bytes: int) -> None:
    """Save in a process where no file may grow beyond the limit, as if the disk were full."""
    trainer, _ = reopened(folder / "000003")
    train(trainer)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    try:
        save(folder, trainer, keep=1)
    except UserError as err:
        (folder.parent / "message").write_text(str(err))


@pytest.mark.slow
@pytest.mark.parametrize("limit_bytes", [1000, 60_000])
def test_real_write_errors_are_handled(folder: Path, limit_bytes: int) -> None:
    """Guards against other exceptions than expected from safetensors (1,000 bytes) and torch (60,000: weights fit)."""
    sizes = [(folder / "000003" / name).stat().st_size for name in ("model.safetensors", "optimizer.pt")]
    assert 1000 < sizes[0] < 60_000 < sizes[1]
    assert exit_code(start(save_with_file_size_limit, folder, limit_bytes)) == 0
    assert "000003, is untouched" in (folder.parent / "message").read_text()
    assert names(folder) == ["000002", "000003"]
    assert reopened(folder / "000003")[0].version == 3


def test_files_are_synced_before_the_rename(folder: Path, trained: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a rename that reaches the disk before the files do."""
    events: list[str] = []
    rename = Path.rename

    def renamed(path: Path, target: Path) -> Path:
        events.append("rename")
        return rename(path, target)

    monkeypatch.setattr(checkpoint, "_sync", lambda path: events.append(path.name))
    monkeypatch.setattr(Path, "rename", renamed)
    train(trained)
    path = save(folder, trained)
    assert set(names(path)) <= set(events[: events.index("rename")])
    assert events[-1] == folder.name


@pytest.mark.parametrize(
    ("state", "fault"),
    [
        ({"seen": {"p1"}}, r"keep actors\.state\['seen'\], a set"),
        ({"pair": [1, (2, 3)]}, r"keep actors\.state\['pair'\]\[1\], a tuple"),
        ({"by number": {3: "x"}}, r"keep the key 3 of actors\.state\['by number'\]"),
        ({"mean": torch.tensor(0.5)}, r"keep actors\.state\['mean'\], a Tensor"),
    ],
)
def test_state_that_json_would_change_is_refused(state: dict[str, Any], fault: str) -> None:
    """Guards against a traceback at the first checkpoint, and against tuples that are lists and numbers that are text as
    keys, but only in a resumed run."""
    with pytest.raises(UserError, match=fault):
        checkpoint.require_plain(state)


def test_plain_state_is_what_json_restores() -> None:
    """Guards against plain data that is refused: nested, empty, None, and all kinds of numbers."""
    state = {"a": [1, 2.5, True, None, "x", float("inf")], "b": {"c": [], "d": [{"e": [[1], "f"]}]}, "": 10**30}
    checkpoint.require_plain(state)
    assert json.loads(json.dumps(state)) == state
