"""Methods by name, and imports that must not need torch."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from rethink.errors import UserError
from rethink.methods import METHODS, find_method
from rethink.methods.grpo import GRPO
from rethink.methods.gsr import GSR
from rethink.methods.imitate import Imitation
from rethink.methods.reflect_retry_reward import ReflectRetryReward
from rethink.methods.think_tuning import ThinkTuning
from rethink.methods.think_twice import ThinkTwice


def test_methods_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a name that finds another method, and methods that only the package can add."""
    found = [find_method(name) for name in METHODS]
    assert found == [GRPO, ThinkTwice, ReflectRetryReward, ThinkTuning, GSR, Imitation]
    assert find_method("reflect_retry_reward") is ReflectRetryReward
    module = types.ModuleType("my_methods")
    module.Mine = GRPO  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_methods", module)
    assert find_method("my_methods:Mine") is GRPO


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("grp", "unknown method 'grp': use one of grpo, think_twice, .*, imitate, or module:Class"),
        # Regression: a ValueError about an empty module name.
        (":Mine", "unknown method ':Mine'"),
        ("no_such_module:Mine", "cannot be imported: No module named 'no_such_module'"),
        ("rethink.methods.grpo:Mine", "has no attribute 'Mine'"),
    ],
)
def test_unknown_methods_are_refused(name: str, message: str) -> None:
    """Guards against a traceback for a misspelled method."""
    with pytest.raises(UserError, match=message):
        find_method(name)


IMPORT_WITHOUT_TORCH = """
import importlib, pkgutil, sys
sys.modules["torch"] = None
names = ["rethink.types", "rethink.objectives", "rethink.prompts", "rethink.recipe", "rethink.policies.fake"]
for package in ("rethink.methods", "rethink.grading", "rethink.problems", "rethink.evaluation", "rethink.strategies"):
    names += [package, *(m.name for m in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."))]
for name in names:
    importlib.import_module(name)
print(*names)
"""


def test_most_packages_import_without_torch() -> None:
    """Guards against a method that uses tensors, and a --help that takes seconds."""
    done = subprocess.run([sys.executable, "-c", IMPORT_WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = ("methods.think_twice", "problems.countdown", "evaluation.summary", "strategies.socratic")
    assert {f"rethink.{name}" for name in wanted} <= set(done.stdout.split())
