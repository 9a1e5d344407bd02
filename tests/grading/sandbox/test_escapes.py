"""Replies that try to get out of the sandbox, in workers for built-in tasks and for users' functions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rethink.grading.sandbox.kernel import has_seccomp, landlock_version
from support import escapes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (has_seccomp() and landlock_version()), reason="needs Landlock and seccomp"),
]


@pytest.fixture(scope="module", params=[True, False], ids=["user", "built-in"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[escapes.Prison]:
    home = tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id_rsa").write_text("a key")
    (home / ".netrc").write_text("a password")
    (home / "project" / "src").mkdir(parents=True)
    (home / "project" / ".env").write_text("another key")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HOME", str(home))
        patched.setenv("ESCAPE_API_KEY", "sk-secret")
        patched.chdir(home / "project" / "src")
        with escapes.prison(tmp_path_factory.mktemp("place"), for_users=request.param) as found:
            yield found


@pytest.mark.parametrize("name", escapes.ATTEMPTS)
def test_escapes(name: str, place: escapes.Prison) -> None:
    """Guards the machine and later verdicts against replies that run code."""
    assert place.attempt(name) == ""


HARMLESS = (
    "write a file",
    "delete a file",
    "read a key",
    "read the environment",
    "connect",
    "change the mode of a file",
)


@pytest.mark.parametrize("name", HARMLESS)
def test_without_the_lock_escapes_work(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the test above: these attempts are real."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_rsa").write_text("a key")
    monkeypatch.setenv("HOME", str(tmp_path))
    code = escapes.TASK_WORKER.replace("worker.TASKS[", "worker.Lockdown.apply = lambda *a: None\nworker.TASKS[")
    key = "import os; os.environ['ESCAPE_API_KEY'] = 'sk-secret'\n" if name == "read the environment" else ""
    monkeypatch.setattr(escapes, "TASK_WORKER", key + code)
    with escapes.prison(tmp_path, for_users=False) as unlocked:
        assert "it worked" in unlocked.attempt(name)


@pytest.mark.parametrize("for_users", [True, False])
def test_without_landlock_the_rest_holds(for_users: bool, tmp_path: Path) -> None:
    """Guards the lesser guard of older kernels: no network and no writing, also for users' functions."""
    older = f"""
worker.kernel.landlock_version = lambda: 0
prepare = worker.Lockdown.prepare
worker.Lockdown.prepare = lambda *_: prepare({for_users})
worker.TASKS["""
    code = escapes.TASK_WORKER.replace("worker.TASKS[", older.strip(), 1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(escapes, "TASK_WORKER", code)
        with escapes.prison(tmp_path, for_users=False) as place:
            for name in ("write a file", "delete a file", "connect", "kill the worker", "a child that stays"):
                assert place.attempt(name) == "", name
