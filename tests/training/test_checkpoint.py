"""Checkpoints: whole or not there, restored bit for bit, and never lost to a failure of the next one."""

from __future__ import annotations

import errno
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from rethink.errors import UserError
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.objectives import Imitate, Update
from rethink.policies.local import LocalPolicy
from rethink.problems import countdown
from rethink.prompts import Prompts
from rethink.settings import Training
from rethink.training import checkpoint
from rethink.training.checkpoint import Counters
from rethink.training.trainer import Trainer
from rethink.types import Problem, Sampling
from support.processes import exit_code, light, start

GOLD = "3 7 5 -> 26"
REPLIES = ["3 * 7 = 21 ; 21 + 5 = 26", "7 - 3 = 4", "5 ? 7 + 3 = 10"]


_light = pytest.fixture(scope="module", autouse=True)(light)


def trainer_of(model: LanguageModel) -> Trainer:
    return Trainer(model, Training(lr=0.01), 100, lambda: model)


def imitation(trainer: Trainer, reply: str) -> Update:
    problem = Problem("p", GOLD, GOLD, countdown.verify)
    policy = LocalPolicy(trainer.model, Sampling(max_tokens=7))
    policy.publish(trainer.version)
    sample = policy.transcribe(Prompts(solve="{question}").ask([problem])[0], reply)
    return Update("imitate", (Imitate((sample,), (1.0,)),))


def train(trainer: Trainer, n: int = 1) -> None:
    for _ in range(n):
        trainer.apply(imitation(trainer, REPLIES[trainer.version % 3]))


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
    assert a.keys() == b.keys()
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


def test_a_round_trip_is_bit_for_bit(trained: Trainer, tmp_path: Path) -> None:
    """Guards against moments, counts or weights that are rounded, missing or in another order after a resume."""
    before = {k: v.clone() for k, v in tensors(trained).items()}
    again, counters = reopened(save(tmp_path, trained))
    assert counters == Counters(n_batches=2, n_updates=2, n_optimizer_steps=2, n_overlong=5)
    assert (again.version, again.n_optimizer_steps) == (2, 2)
    assert sum(".exp_avg" in k for k in before) == 2 * len(trained.parameters)
    assert_equal(tensors(again), before)
    train(trained, 3)
    train(again, 3)
    assert_equal(tensors(again), tensors(trained))


def test_what_a_method_remembers_is_restored(trained: Trainer, tmp_path: Path) -> None:
    """Guards against a schedule that begins anew, and against checkpoints that an older release wrote without it."""
    state = {"n_batches": 7, "rates": [0.5, 0.25], "seen": {"p3": None}}
    path = checkpoint.save(tmp_path, trained, Counters(2, 2, 2, 5, state), 3)
    assert reopened(path)[1].state == state
    older = json.loads((path / "counters.json").read_text())
    del older["state"]
    (path / "counters.json").write_text(json.dumps(older))
    assert reopened(path)[1] == Counters(2, 2, 2, 5, {})


def test_a_checkpoint_is_an_ordinary_model_folder(trained: Trainer, tmp_path: Path) -> None:
    """Guards against checkpoints that only we can read."""
    path = save(tmp_path, trained)
    loaded = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    ours = dict(trained.model.module.named_parameters())
    assert [n for n, p in loaded.named_parameters() if not torch.equal(p, ours[n])] == []
    assert AutoTokenizer.from_pretrained(path).encode("3 * 7") == trained.model.chat.tokenizer.encode("3 * 7")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGES = {
    "truncated weights": (lambda c: truncate(c / "model.safetensors"), "model.safetensors has changed"),
    "a flipped bit of the weights": (lambda c: flip_a_bit(c / "model.safetensors"), "model.safetensors has changed"),
    "a flipped bit of the optimizer": (lambda c: flip_a_bit(c / "optimizer.pt"), "optimizer.pt has changed"),
    "no optimizer": (lambda c: (c / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    "no manifest": (lambda c: (c / "manifest.json").unlink(), "no readable manifest.json"),
    "half a manifest": (lambda c: truncate(c / "manifest.json"), "no readable manifest.json"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(folder: Path, kind: str) -> None:
    """Guards against a resume from half a file, and against silence about it."""
    damage, reason = DAMAGES[kind]
    damage(folder / "000003")
    warnings: list[str] = []
    assert checkpoint.newest(folder, warnings.append) == folder / "000002"
    assert len(warnings) == 1
    assert f"checkpoint {folder / '000003'} is damaged ({reason}" in warnings[0]


def test_the_newest_is_found_by_number(folder: Path) -> None:
    """Guards against alphabetical order and against other things in the folder: what a crash left, notes, files."""
    for name in (".writing-000004", "best", "000009.bak"):
        (folder / name).mkdir()
    (folder / "000008").touch()
    warnings: list[str] = []
    assert checkpoint.newest(folder, warnings.append) == folder / "000003"
    assert warnings == []


def test_there_may_be_none(tmp_path: Path) -> None:
    """Guards against an error where there is no folder yet."""
    assert checkpoint.newest(tmp_path / "no", pytest.fail) is None


def test_what_a_crash_left_is_written_over(folder: Path, trained: Trainer) -> None:
    """Guards against files of an aborted attempt inside the next checkpoint of that number."""
    left = folder / ".writing-000004"
    left.mkdir()
    (left / "stray").write_text("x")
    train(trained)
    assert names(save(folder, trained)) == names(folder / "000003")
    assert not left.exists()


def test_only_the_newest_are_kept(folder: Path, trained: Trainer) -> None:
    """Guards against a full disk, and against pruning the wrong ones."""
    train(trained)
    save(folder, trained, keep=2)
    assert names(folder) == ["000003", "000004"]


def test_a_damaged_newer_one_does_not_cost_the_one_just_written(folder: Path, trained: Trainer) -> None:
    """With keep = 1, a damaged newer checkpoint was once kept as the newest, and the one just written was dropped."""
    train(trained)
    truncate(save(folder, trained) / "model.safetensors")
    again, _ = reopened(folder / "000002")
    train(again)
    path = save(folder, again, keep=1)
    assert path == folder / "000003"
    assert checkpoint.newest(folder, lambda _: None) == path


def test_a_full_disk_leaves_the_older_ones(folder: Path, trained: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a traceback, and against pruning or renaming before the new one is whole."""

    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    train(trained)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(UserError) as caught:
            save(folder, trained, keep=1)
    assert "No space left on device" in str(caught.value)
    assert f"the last good checkpoint, {folder / '000003'}, is untouched" in str(caught.value)
    assert names(folder) == ["000002", "000003"]
    assert reopened(folder / "000003")[0].version == 3
    assert save(folder, trained) == folder / "000004"


def test_a_full_disk_at_the_first_checkpoint(trained: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a message that promises a checkpoint where there is none."""

    def full(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="there is no earlier checkpoint"):
        save(tmp_path / "c", trained)
    assert names(tmp_path / "c") == []


def save_with_little_room(folder: Path, limit_bytes: int) -> None:
    """In a process of its own: no file may grow beyond the limit, as if the disk were full."""
    trainer, _ = reopened(folder / "000003")
    train(trainer)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    try:
        save(folder, trainer, keep=1)
    except UserError as err:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        (folder.parent / "message").write_text(str(err))


@pytest.mark.parametrize("limit_bytes", [1000, 60_000])
def test_files_that_really_cannot_be_written(folder: Path, limit_bytes: int) -> None:
    """Guards against errors of another kind than the ones we thought of: the writers of safetensors (1,000 bytes) and
    of torch (60,000, between the sizes of weights and optimizer) meet a real limit."""
    sizes = [(folder / "000003" / name).stat().st_size for name in ("model.safetensors", "optimizer.pt")]
    assert 1000 < sizes[0] < 60_000 < sizes[1]
    assert exit_code(start(save_with_little_room, folder, limit_bytes)) == 0
    assert "000003, is untouched" in (folder.parent / "message").read_text()
    assert names(folder) == ["000002", "000003"]
    assert reopened(folder / "000003")[0].version == 3


def test_the_disk_is_told_before_the_name(folder: Path, trained: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a rename that reaches the disk before the files do: all are synced, then the folder is renamed."""
    events: list[str] = []
    sync, rename = checkpoint._sync, Path.rename

    def synced(path: Path) -> None:
        events.append(path.name)
        sync(path)

    def renamed(path: Path, target: Path) -> Path:
        events.append("rename")
        return rename(path, target)

    monkeypatch.setattr(checkpoint, "_sync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    train(trained)
    path = save(folder, trained)
    written = set(names(path))
    before = events[: events.index("rename")]
    assert written <= set(before)
    assert events[-1] == folder.name


def every_name(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        yield path.relative_to(folder).as_posix()


def test_the_manifest_names_every_file(folder: Path) -> None:
    """Guards against files that nobody checks."""
    listed = json.loads((folder / "000003" / "manifest.json").read_text())
    assert {*listed, "manifest.json"} == set(every_name(folder / "000003"))
    assert {"model.safetensors", "optimizer.pt", "counters.json", "config.json", "tokenizer.json"} <= set(listed)
