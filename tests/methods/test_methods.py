"""Methods by name, and imports that must not need torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rethink.errors import UserError
from rethink.methods import METHODS, Needs, find_method, needs_of

UNKNOWN = {
    # Regression: a ValueError about an empty module name.
    ":Mine": "unknown method ':Mine'",
    "no_such_module:Mine": "cannot be imported: No module named 'no_such_module' in the current folder,",
    "rethink.methods.grpo:Mine": "has no attribute 'Mine'",
}


@pytest.mark.parametrize(("name", "message"), UNKNOWN.items())
def test_unknown_methods_are_refused(name: str, message: str) -> None:
    """Guards against a traceback for a misspelled method."""
    with pytest.raises(UserError, match=message):
        find_method(name)


class Bare:
    """A user's class that declares nothing."""


def test_what_methods_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a method that must be listed elsewhere to be checked, and one that must declare everything."""
    monkeypatch.setitem(METHODS, "bare", Bare)
    assert needs_of("bare") == Needs(later_phases=(), asks_teacher=False, samples=True)
    assert needs_of("gsr") == Needs(asks_teacher=True, samples=False)
    assert needs_of("imitate") == Needs(samples=False)
    assert needs_of("think_tuning") == Needs(asks_teacher=True)
    assert needs_of("reflect_retry_reward") == Needs(("reflect", "retry"))


IMPORT_WITHOUT_TORCH = """
import importlib, pkgutil, sys
sys.modules["torch"] = None
names = ["rethink.types", "rethink.objectives", "rethink.prompts", "rethink.recipe", "rethink.policies.fake"]
for package in ("rethink.methods", "rethink.grading", "rethink.problems", "rethink.evaluation", "rethink.strategies"):
    names += [package, *(m.name for m in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."))]
for name in names:
    importlib.import_module(name)
"""


def test_most_packages_import_without_torch() -> None:
    """Guards against a method that uses tensors, and a --help that takes seconds."""
    done = subprocess.run([sys.executable, "-c", IMPORT_WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
