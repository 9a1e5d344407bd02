"""What a folder may be started from: nothing is overwritten, and a run that never got to a checkpoint can begin again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.jsonl import append
from rethink.recipe import Recipe, load_recipe, to_toml
from rethink.run_folder import RunFolder
from rethink.training.run_start import RunLock, begin, check_can_begin, checkpoint_to_resume

SETTINGS = ("checkpoint_every=4",)


def recipe(*more: str) -> Recipe:
    return load_recipe(None, [*SETTINGS, *more])


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run that was killed before its first checkpoint: four updates are in its logs."""
    folder = RunFolder(tmp_path / "run")
    folder.create(to_toml(recipe()))
    for update in range(4):
        append(folder.metrics, [{"batch": update // 2, "update": update + 1, "phase": "solve"}])
        append(folder.samples, [{"batch": update // 2}])
    return folder


def write_checkpoint(folder: RunFolder, name: str, manifest: str = "{}") -> Path:
    path = folder.checkpoints / name
    path.mkdir(parents=True)
    (path / "manifest.json").write_text(manifest)
    return path


def contents(folder: RunFolder) -> dict[str, bytes]:
    return {str(p.relative_to(folder.path)): p.read_bytes() for p in sorted(folder.path.rglob("*")) if p.is_file()}


def begin_again(folder: RunFolder, now: Recipe) -> list[str]:
    warnings: list[str] = []
    check_can_begin(folder)
    begin(folder, now, {"training": [], "held-out": []}, RunLock(folder, pytest.fail), warnings.append)
    return warnings


def test_a_run_without_a_checkpoint_begins_again_with_corrected_settings(folder: RunFolder) -> None:
    """A run that crashed in a method once blocked its folder for the corrected command. Its logs are kept."""
    logged = folder.metrics.read_bytes()
    warnings = begin_again(folder, recipe("training.lr=0.5"))
    assert ["metrics.jsonl.old-1" in warnings[0], "samples.jsonl.old-1" in warnings[1]] == [True, True]
    assert (folder.path / "metrics.jsonl.old-1").read_bytes() == logged
    assert "lr = 0.5" in (folder.path / "config.toml").read_text()
    assert folder.metrics.read_bytes() == folder.samples.read_bytes() == b""


def test_a_killed_first_checkpoint_is_no_checkpoint(folder: RunFolder) -> None:
    """Guards against a folder that is blocked for ever by half a checkpoint."""
    (folder.checkpoints / ".writing-000004").mkdir(parents=True)
    check_can_begin(folder)
    warnings: list[str] = []
    assert checkpoint_to_resume(folder, recipe(), warnings.append) is None
    assert warnings == [f"{folder.path} has no checkpoint yet; starting from the beginning"]


def add_file(name: str, text: str = "") -> Callable[[RunFolder], None]:
    def add(folder: RunFolder) -> None:
        file = folder.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return add


def train_on(folder: RunFolder) -> None:
    """The next batch is in the log, so the checkpoint after update 4 has been written."""
    append(folder.metrics, [{"batch": 2, "update": 5, "phase": "solve"}])


def without_settings(name: str) -> Callable[[RunFolder], None]:
    def change(folder: RunFolder) -> None:
        for file in folder.path.iterdir():
            if file.is_file() and file.name != name:
                file.unlink()

    return change


HELD = "already holds a run or an evaluation; resume it with --resume, or choose another folder"
OCCUPIED: dict[str, tuple[Callable[[RunFolder], object], str]] = {
    "a checkpoint": (lambda folder: write_checkpoint(folder, "000004"), HELD),
    "a damaged checkpoint": (lambda folder: write_checkpoint(folder, "000004", "{"), HELD),
    "an evaluation of the run": (add_file("eval/000004.jsonl"), HELD),
    "an evaluation": (add_file("answers.jsonl"), HELD),
    "a log that continues after a checkpoint": (train_on, HELD),
    "the settings of another program": (add_file("config.toml", 'theme = "hugo"\n'), HELD),
    "settings that are no TOML": (add_file("config.toml", "theme: hugo\n"), HELD),
    "settings that are no text": (lambda f: (f.path / "config.toml").write_bytes(b"\xff\xfe"), HELD),
    "only metrics": (
        without_settings("metrics.jsonl"),
        "holds metrics.jsonl, but no config.toml; choose another folder",
    ),
    "only samples": (
        without_settings("samples.jsonl"),
        "holds samples.jsonl, but no config.toml; choose another folder",
    ),
    "a file named as the hashes of problems": (
        lambda folder: (add_file("problems.json")(folder), without_settings("problems.json")(folder)),
        "holds problems.json, but no config.toml; choose another folder",
    ),
}


@pytest.mark.parametrize("name", OCCUPIED)
def test_nothing_is_overwritten(name: str, folder: RunFolder) -> None:
    """Guards against a second run over results, checkpoints or another program's files."""
    change, message = OCCUPIED[name]
    change(folder)
    before = contents(folder)
    with pytest.raises(UserError) as caught:
        check_can_begin(folder)
    assert message in str(caught.value)
    assert contents(folder) == before


def test_a_folder_with_other_files_may_be_used(tmp_path: Path) -> None:
    """A recipe may lie in the folder of its run."""
    (tmp_path / "recipe.toml").touch()
    check_can_begin(RunFolder(tmp_path))
    check_can_begin(RunFolder(tmp_path / "new"))
    with pytest.raises(UserError, match=r"recipe\.toml is not a folder; choose another one with out=DIR"):
        check_can_begin(RunFolder(tmp_path / "recipe.toml"))


def test_a_page_does_not_keep_a_run_from_beginning_again(folder: RunFolder) -> None:
    """Guards against a folder that `rethink report` makes unusable before the first checkpoint."""
    add_file("report.html")(folder)
    check_can_begin(folder)
    assert checkpoint_to_resume(folder, recipe(), lambda _: None) is None


DAMAGED_MANIFESTS = ("{", "[]", json.dumps({"chat_template.jinja": "0"}))


@pytest.mark.parametrize("manifest", DAMAGED_MANIFESTS)
def test_resume_refuses_if_no_checkpoint_is_whole(manifest: str, folder: RunFolder) -> None:
    """A missing chat template in both checkpoints once made a resume start over and empty the logs."""
    for name in ("000004", "000008"):
        write_checkpoint(folder, name, manifest)
    before = contents(folder)
    with pytest.raises(UserError) as caught:
        checkpoint_to_resume(folder, recipe("updates=7"), pytest.fail)
    message = str(caught.value)
    assert message.startswith(f"cannot resume {folder.path}: {folder.checkpoints / '000008'} is damaged (")
    assert f"{folder.checkpoints / '000004'} is damaged (" in message
    if "jinja" in manifest:
        assert "000004 is damaged (chat_template.jinja is missing)" in message
    assert "Nothing was changed" in message
    assert contents(folder) == before


@pytest.mark.parametrize("change", [train_on, add_file("eval/000004.jsonl")])
def test_resume_refuses_if_the_checkpoints_are_gone(change: Callable[[RunFolder], None], folder: RunFolder) -> None:
    """Guards against a long run that starts over because its checkpoints were moved."""
    change(folder)
    with pytest.raises(UserError, match=r"has trained, but its checkpoints are gone from .*checkpoints: put"):
        checkpoint_to_resume(folder, recipe(), pytest.fail)


def test_other_settings_without_a_checkpoint_say_what_helps(folder: RunFolder) -> None:
    """Guards against a dead end: --resume refuses the corrected setting, and the user does not know why."""
    with pytest.raises(UserError, match=r"training.lr was 1e-06, now 0.5. It has no checkpoint yet: without --resume,"):
        checkpoint_to_resume(folder, recipe("training.lr=0.5"), pytest.fail)
    write_checkpoint(folder, "000004")
    with pytest.raises(UserError, match=r"training.lr was 1e-06, now 0.5$"):
        checkpoint_to_resume(folder, recipe("training.lr=0.5"), pytest.fail)


@pytest.mark.parametrize("text", [b"", b'out = "a', b"\xff"])
def test_damaged_settings_are_named(text: bytes, folder: RunFolder) -> None:
    """Guards against a traceback, and against the advice to begin again in a folder that is refused then."""
    (folder.path / "config.toml").write_bytes(text)
    with pytest.raises(UserError, match=r"^cannot resume from .*config\.toml: (?!.*without --resume)"):
        checkpoint_to_resume(folder, recipe(), pytest.fail)


@pytest.mark.parametrize("name", ["run", "new", "new/deep"])
def test_a_folder_that_cannot_be_written_is_refused_at_once(
    name: str, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a dry run that approves of a read-only disk."""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    path = folder.path.parent / name
    nearest = path if name == "run" else folder.path.parent
    with pytest.raises(UserError, match=f"cannot write to {nearest} "):
        check_can_begin(RunFolder(path))


def test_resuming_needs_a_writable_folder(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a resumed run that fails at its first checkpoint."""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match="cannot write to"):
        checkpoint_to_resume(folder, recipe(), pytest.fail)
