"""`import rethink`: fast, complete, and with examples that run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import rethink

MODULES = ["rethink", "rethink.errors", *sorted({getattr(rethink, name).__module__ for name in rethink.__all__})]
SLOW = [module for module in MODULES if module.startswith("rethink.training")]
FAST = [module for module in MODULES if module not in SLOW]


def test_import_loads_no_heavy_package() -> None:
    """Guards against an import of seconds: no torch, no transformers, no numpy before something is used."""
    heavy = {"torch", "transformers", "numpy", "pydantic", "datasets"}
    program = f"import rethink, sys; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (shown.stdout, shown.stderr) == ("[]\n", "")


def test_every_name_is_there_and_nothing_else() -> None:
    """Guards against names that are listed in one place alone: for users, for the import, for type checkers."""
    source = Path(rethink.__file__).read_text()
    for name in rethink.__all__:
        assert getattr(rethink, name).__name__ == name
        assert source.count(f'"{name}"') == 2
    assert {name for name in dir(rethink) if not name.startswith("_")} == set(rethink.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rethink.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_functions_stay_functions_after_their_packages_are_imported() -> None:
    """Guards against a subpackage of the same name that takes a function's place once it is imported."""
    for name in rethink.__all__:
        assert not isinstance(getattr(rethink, name), ModuleType)
        assert importlib.util.find_spec(f"rethink.{name}") is None


MISTAKES = {
    "overrides must be a list of settings": lambda: rethink.load_recipe("demo-grpo", "updates=2"),
    "open_run needs a recipe": lambda: rethink.open_run("demo-grpo"),  # type: ignore[arg-type]
    "gold must be text, not 5": lambda: rethink.grade("5", gold=5),  # type: ignore[arg-type]
    "evaluate needs a policy": lambda: rethink.evaluate("tiny", []),  # type: ignore[arg-type]
    "must be a dataclass": lambda: rethink.load_recipe(None, ["method.name=fractions:Fraction"]).build_method(),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_says_what_is_expected(message: str) -> None:
    """Guards against an AttributeError from the depths for an argument of another type."""
    with pytest.raises(rethink.UserError, match=message):
        MISTAKES[message]()


@pytest.mark.parametrize("name", rethink.__all__)
def test_every_name_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(rethink, name))


@pytest.mark.parametrize("module", [*FAST, *(pytest.param(module, marks=pytest.mark.slow) for module in SLOW)])
def test_examples_in_docstrings_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against examples that have gone stale."""
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


def test_most_names_have_an_example() -> None:
    """Guards against a public API without examples. Without one are errors, and what needs a server."""
    without = {name for name in rethink.__all__ if ">>>" not in (inspect.getdoc(getattr(rethink, name)) or "")}
    assert without <= {"UserError", "Endpoint", "EndpointPolicy"}
