"""Which guard a machine has, and what is said about a lesser one."""

from __future__ import annotations

import pytest

from rethink.grading.sandbox import kernel
from rethink.grading.sandbox.lockdown import FULL, guard, lesser_guard


@pytest.mark.parametrize(
    ("seccomp", "landlock", "words"),
    [
        (True, 6, ""),
        (True, 0, "seccomp only, so all files can be read"),
        (False, 0, "separate processes with limits only"),
    ],
)
def test_a_lesser_guard_is_said(seccomp: bool, landlock: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against users who believe that replies are locked in where the kernel cannot do it."""
    monkeypatch.setattr(kernel, "has_seccomp", lambda: seccomp)
    monkeypatch.setattr(kernel, "landlock_version", lambda: landlock)
    assert (guard() == FULL) is (words == "")
    assert words in lesser_guard()
    assert bool(lesser_guard()) is bool(words)
