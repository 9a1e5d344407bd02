"""The demo of the other methods, in miniature."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rethink import recipe
from rethink.commands.demo import OTHERS, run_demo
from rethink.errors import UserError


def with_limits(*limits: str) -> Callable[..., Any]:
    """`load_recipe` with fewer problems."""
    return lambda file, settings: recipe.load_recipe(file, [*settings, *limits])


def test_all_methods_from_the_same_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Guards against a method of the demo that does not run: GSR brings its teacher, GRPO, and prepares its data."""
    monkeypatch.setattr("rethink.commands.demo.load_recipe", with_limits("evaluation.problems.limit=5"))
    monkeypatch.setattr("rethink.commands.prepare.load_recipe", with_limits("problems.limit=200"))
    run_demo(3, tmp_path / "d", 2, [*OTHERS])
    summary = json.loads((tmp_path / "d" / "summary.json").read_text())
    assert list(summary)[:5] == ["start", "grpo", *OTHERS]
    assert (tmp_path / "d" / "gsr.parquet").is_file()
    assert (tmp_path / "d" / "gsr.md").is_file()
    for name in ("grpo", *OTHERS):
        config_text = (tmp_path / "d" / name / "config.toml").read_text()
        assert 'path = "tiny-talk"' in config_text
    assert "think_tuning" in capsys.readouterr().out


def test_unknown_methods_are_named(tmp_path: Path) -> None:
    """Guards against a demo that trains for a minute before it says so."""
    with pytest.raises(UserError, match="not 'gspo'"):
        run_demo(0, tmp_path / "d", 2, ["grpo", "gspo"])
    assert not (tmp_path / "d").exists()


def test_no_method_stands_for_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the README's demo: GRPO and ThinkTwice from the first stage of the tiny model."""
    seen: list[str] = []

    def stop(recipe: recipe.Recipe, file: Path) -> dict[str, Any]:
        seen.append(recipe.model.path)
        raise UserError("enough")

    monkeypatch.setattr("rethink.commands.demo.evaluate_start", stop)
    methods: Sequence[Sequence[str]] = ([], ["think_twice"], ["gsr"])
    for n, names in enumerate(methods):
        with pytest.raises(UserError, match="enough"):
            run_demo(0, tmp_path / str(n), 2, names)
    assert seen == ["tiny", "tiny", "tiny-talk"]
